"""A rank: the process that holds some stages and does what the schedule says.

What it is told is a word and a few numbers (`supervisor.py`); what it computes with lies in its own
memory; what it exchanges with its neighbours goes by its lanes. It prepares once: builds its part
of the model, makes the plans of its stages, opens its lanes. Then every step is the same:

    the schedule's actions      forward, backward, gradients added up       (modelled time)
    sums over stages            copies of one parameter, norms, losses
    update                      each stage's optimiser, with one clip factor for all
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from baremetal import comm
from baremetal.autograd import CPU
from baremetal.kernels.cost import Cost
from baremetal.machine.link import Link
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.compiling import tell_of_compiling
from baremetal.pipeline.evaluation import Evaluator, RankEvaluation
from baremetal.pipeline.executor import Executor, RankRecord
from baremetal.pipeline.faults import message_faults, process_faults
from baremetal.pipeline.job import Job
from baremetal.pipeline.lanes import step_seed
from baremetal.pipeline.memory import StageMemory, stage_memory
from baremetal.pipeline.rank_exchange import RankExchange
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.update import Update
from baremetal.schedules import Kind

if TYPE_CHECKING:
    from baremetal.comm.mpi import MpiEndpoint


class StepResult(NamedTuple):
    """What a rank says of a step.

    Attributes:
        record: when it did what.
        losses: (microbatches,) float64, of all stages: their sum is the batch's mean.
        gradient_norm: over the whole model, before clipping.
        is_finite: the weights were updated.
    """

    record: RankRecord
    losses: np.ndarray
    gradient_norm: float
    is_finite: bool


class Worker:
    """What a rank can be told to do.

    Args:
        rank: which one.
        job: the whole run.
        endpoint: its ends of the run's lanes, in shared memory or over MPI.

    Attributes:
        board: where it says what it does.
    """

    def __init__(self, rank: int, job: Job, endpoint: "comm.Endpoint | MpiEndpoint") -> None:
        self.rank, self.job = rank, job
        self._endpoint = endpoint
        self.board = Board(endpoint.board.memory, job.ranks)
        self._stages: dict[int, Stage] = {}
        self._runners: dict[int, StageRunner] = {}

    # ------------------------------------------------------------ once

    def prepare(self) -> dict[int, Mapping[Kind, Sequence[Cost]]]:
        """Build this rank's stages and make everything ready for the first step.

        Returns:
            By stage, what each launch of each kind of action costs.
        """
        from baremetal.kernels.native.compiler import COMPILING

        def on_kernel(_: str) -> None:  # counted on the board: whoever waits for us can see it
            self.board.say(self.rank, State.PREPARING, 0)

        self.board.say(self.rank, State.PREPARING, 0)
        with COMPILING.listen(on_kernel):
            costs = self._prepare()
        # Not before: to find out costs may load kernels, and each of them is told of above.
        self.board.say(self.rank, State.IDLE, 0)
        return costs

    def _prepare(self) -> dict[int, Mapping[Kind, Sequence[Cost]]]:
        from baremetal.kernels.native.pool import POOL

        job, endpoint = self.job, self._endpoint
        POOL.set_threads(job.threads)
        self._count = self.board.count_of(self.rank)
        POOL.count_in(self._count)
        tell_of_compiling(lambda begins: self.board.compiling(self.rank, begins))
        self._stages = build_stages(job.builder.model, job.parts, job.stages_of(self.rank))
        # The optimisers come before the runners: their memory is part of the plans.
        optimizers = {
            number: job.builder.optimizer(stage.model)
            for number, stage in self._stages.items()
            if stage.trainable()
        }
        shape = job.samples, job.context
        self._runners = build_runners(self._stages, job.schedule, shape, eager=job.eager)
        exchange = RankExchange(
            job.sums, self.rank, job.schedule.rank_of, endpoint.senders, endpoint.receivers,
            first_lane=len(job.wiring.lanes),
        )  # fmt: skip
        self._update = Update(self._stages, optimizers, job.every, job.schedule.stages, exchange)
        self._executor = Executor(
            job.wiring, self.rank, self._runners, endpoint.senders, endpoint.receivers,
            self.board, None, job.host_overhead_ps,
        )  # fmt: skip
        self._executor.before_action = process_faults(job.faults, job.wiring, self.rank)
        self._evaluator = Evaluator(
            job, self.rank, self._stages, endpoint.senders, endpoint.receivers, self.board
        )
        return {number: runner.launch_costs for number, runner in self._runners.items()}

    def memory(self) -> dict[int, StageMemory]:
        """By stage, the bytes that it holds."""
        optimizers = self._update.optimizers
        return {
            number: stage_memory(stage, self._runners[number], optimizers.get(number))
            for number, stage in self._stages.items()
        }

    def charge(
        self,
        durations_ps: Sequence[Sequence[int]] | None,
        evaluation_ps: Sequence[Sequence[int]] | None,
    ) -> None:
        """From now on each rank's steps are charged these, in ps; None: what is measured."""
        self._executor.charge = None if durations_ps is None else durations_ps[self.rank]
        self._evaluator.charge(None if evaluation_ps is None else evaluation_ps[self.rank])

    # ------------------------------------------------------------ every step

    def step(self, batch: Batch, rate: float, origin_ns: int) -> StepResult:
        """One step of training.

        Args:
            batch: its tokens.
            rate: learning rate.
            origin_ns: of `time.monotonic_ns`: when the step began, for a wall clock.
        """
        clock = self._begin_phase(batch, origin_ns)
        with CPU.listen(self._note_launch):
            return self._do_step(batch, rate, clock)

    def evaluate(self, batch: Batch, origin_ns: int) -> RankEvaluation:
        """The losses of a batch, forward alone; arguments as for `step`."""
        clock = self._begin_phase(batch, origin_ns)
        with CPU.listen(self._note_launch):
            evaluation = self._evaluator.run(batch, clock)
        self._endpoint.drain()
        return evaluation

    def _begin_phase(self, batch: Batch, origin_ns: int) -> comm.Clock:
        """A new clock, and links that are free."""
        job = self.job
        self._endpoint.begin_phase(step_seed(job.seed, batch.step))
        return comm.VirtualClock() if job.clock == "virtual" else comm.WallClock(origin_ns)

    def _do_step(self, batch: Batch, rate: float, clock: comm.Clock) -> StepResult:
        job, number = self.job, batch.step
        self._update.zero_grad()
        record = self._executor.run(batch, clock)
        self.board.say(self.rank, State.UPDATING, number)
        for optimizer in self._update.optimizers.values():
            optimizer.learning_rate = rate
        losses = {stage: runner.losses for stage, runner in self._runners.items()}
        every_loss = self._update.clip(job.clip, losses)
        self._update.step()
        self._endpoint.drain()
        self.board.say(self.rank, State.IDLE, number)
        first = next(iter(self._update.optimizers.values()), None)
        norm = 0.0 if first is None else first.gradient_norm
        return StepResult(record, every_loss, norm, first is None or first.last_step_was_finite)

    def _note_launch(
        self, run: Callable[[], None], kernel: Any, arrays: tuple, attributes: dict
    ) -> None:
        """A launch from Python: a sign of progress, as those from a plan are."""
        run()
        self._count[0] += 1

    # ------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Copies of this rank's weights and of its optimisers' state, by name."""
        weights = {
            name: parameter.data.copy()
            for stage in self._stages.values()
            for name, parameter in stage.named_parameters()
        }
        state = {name: array.copy() for name, array in self._update.state_dict().items()}
        return weights, state

    def counts(self) -> comm.Counts:
        """What has happened to this rank's messages."""
        return self._endpoint.counts

    def names(self) -> tuple[list[str], list[str]]:
        """What `load` wants: the names of this rank's weights and of its optimisers' state."""
        weights = {name: None for stage in self._stages.values() for name in stage.state_dict()}
        return [*weights], [*self._update.state_dict()]

    def load(
        self, weights: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray] | None
    ) -> None:
        """Take this rank's weights and optimiser state (`names`; more does no harm)."""
        for stage in self._stages.values():
            stage.load_state_dict(weights)
        if optimizer is not None:
            self._update.load_state_dict(optimizer)


def run_worker(rank: int, setup: tuple[Job, comm.Address], serve: Callable[[Any], None]) -> None:
    """What a rank's process runs."""
    job, address = setup
    wrong = message_faults(job.faults, job.wiring, job.first_step)
    endpoint = comm.Endpoint(address, rank, links_from(rank, job), faults=wrong)
    serve(Worker(rank, job, endpoint))


def links_from(rank: int, job: Job) -> dict[tuple[int, int], Link]:
    """The modelled links that lead away from a rank."""
    if job.link is None:
        return {}
    return {(rank, other): job.link for other in range(job.ranks) if other != rank}
