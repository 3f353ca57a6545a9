"""A rank: the process that holds some stages and does what the schedule says.

What it is told is a word and a few numbers (`supervisor.py`); what it computes with lies in its own
memory; what it exchanges with its neighbours goes by its lanes. It prepares once: builds its part of
the model, makes the plans of its stages, opens its lanes. Then every step is the same.
"""

from collections.abc import Callable
from typing import Any

from baremetal import comm
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.executor import Executor, RankRecord
from baremetal.pipeline.job import Job
from baremetal.pipeline.lanes import step_seed
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage
from baremetal.schedules.times import step_durations


class Worker:
    """What a rank can be told to do.

    Args:
        rank: which one.
        job: the whole run.
        address: where the run's memory is.
    """

    def __init__(self, rank: int, job: Job, address: comm.Address) -> None:
        self.rank, self.job = rank, job
        links = {} if job.link is None else dict.fromkeys(self._ways_out(), job.link)
        self._endpoint = comm.Endpoint(address, rank, links)
        self._board = Board(self._endpoint.memory, job.ranks)
        self._stages: dict[int, Stage] = {}
        self._executor: Executor | None = None
        self._step = 0

    def _ways_out(self) -> list[tuple[int, int]]:
        return [(self.rank, other) for other in range(self.job.ranks) if other != self.rank]

    def prepare(self) -> None:
        """Build this rank's stages and make everything ready for the first step."""
        self._board.say(self.rank, State.PREPARING, 0)
        job = self.job
        runners: dict[int, StageRunner] = {}
        for number in job.stages_of(self.rank):
            stage = Stage(job.builder.model(), job.parts[number])
            self._stages[number] = stage
            runners[number] = self._runner(stage, number)
        self._executor = Executor(
            job.wiring, self.rank, runners, self._endpoint.senders, self._endpoint.receivers,
            self._board, self._charge(), job.host_overhead_ps,
        )  # fmt: skip
        self._board.say(self.rank, State.IDLE, 0)

    def _runner(self, stage: Stage, number: int) -> StageRunner:
        job = self.job
        if job.eager or not stage.model.is_static:
            return EagerStage(stage)
        shape = job.samples, job.context
        return CapturedStage.for_schedule(stage, shape, job.schedule, number)

    def _charge(self) -> list[int] | None:
        """What each of this rank's steps is charged, in ps; None: what is measured."""
        job = self.job
        if job.charge == "measured":
            return None
        durations = step_durations(job.wiring.flat, job.times, job.stragglers)
        first = job.wiring.flat.first_step
        return durations[first[self.rank] : first[self.rank + 1]].tolist()

    def step(self, batch: Batch, origin_ns: int) -> RankRecord:
        """The pipeline phase of a training step: forward and backward of every microbatch."""
        assert self._executor is not None
        clock = comm.VirtualClock() if self.job.clock == "virtual" else comm.WallClock(origin_ns)
        self._endpoint.begin_phase(step_seed(self.job.seed, batch.step))
        record = self._executor.run(batch, clock)
        self._board.say(self.rank, State.IDLE, batch.step)
        return record

    def gradients(self) -> dict[int, dict[str, Any]]:
        """By stage, the gradients of its parameters (to look at)."""
        return {
            number: {
                name: None if p.grad is None else p.grad.numpy()
                for name, p in stage.named_parameters()
            }
            for number, stage in self._stages.items()
        }


def run_worker(rank: int, setup: tuple[Job, comm.Address], serve: Callable[[Any], None]) -> None:
    """What a rank's process runs."""
    serve(Worker(rank, *setup))
