"""A pipeline run: the ranks, as one thing that can be told to do a step.

Made from a job by the process that trains; it starts the ranks, has them prepare, decides what
every action is charged, and from then on a step is one call. Whatever goes wrong, the ranks and
their memory are gone afterwards (`supervisor.py`).

    with PipelineRun(job) as run:
        result = run.step(batch, rate=1e-3)
        result.loss, result.executed.makespan_ps
        run.simulate(result).makespan_ps            # the same number
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from baremetal import comm
from baremetal.kernels.cost import Cost
from baremetal.pipeline.board import Board
from baremetal.pipeline.costs import roofline_times
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.evaluation import RankEvaluation, fill_batch, mean_loss
from baremetal.pipeline.executed import executed_timeline
from baremetal.pipeline.faults import charge_faults
from baremetal.pipeline.job import Job
from baremetal.pipeline.lanes import step_seed
from baremetal.pipeline.launcher import started_by_mpi
from baremetal.pipeline.memory import StageMemory
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.runner import Batch
from baremetal.pipeline.supervisor import Supervisor
from baremetal.pipeline.words import describe_action, rank_name
from baremetal.pipeline.worker import StepResult, run_worker
from baremetal.schedules import Kind
from baremetal.schedules.forward_only import SLOTS
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.slots import reused_slots
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import Times, step_durations
from baremetal.schedules.wiring import Lane, Wiring

Watch = Callable[[Board], None]


class PipelineStep(NamedTuple):
    """What a step came to.

    Attributes:
        number: of the step, from 0.
        losses: (microbatches,) float64; their sum is the batch's mean in nats per token.
        gradient_norm: before clipping.
        is_finite: the weights were updated.
        executed: who did what when, on the modelled clock.
        computed_s: by rank, real seconds spent computing.
    """

    number: int
    losses: np.ndarray
    gradient_norm: float
    is_finite: bool
    executed: Timeline
    computed_s: list[float]


class PipelineEvaluation(NamedTuple):
    """What an evaluation of a batch came to.

    Attributes:
        loss: the batch's mean in nats per token.
        losses: (B, T), of each token; 0 where no target is.
        executed: who did what when, on the modelled clock, on which it began at 0.
    """

    loss: float
    losses: np.ndarray
    executed: Timeline


class Ranks(Protocol):
    """All ranks as one: `ProcessRanks`, `MpiRanks`."""

    def call(self, method: str, *args: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Call a method of the ranks' workers."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Work between commands that the death of a rank ends."""

    def finishing(self) -> AbstractContextManager[Any]:
        """A part of it that had better be finished."""

    def call_each(self, method: str, args: Sequence[tuple]) -> list[Any]:
        """Call a method of all ranks' workers, each with arguments of its own."""

    def close(self) -> None:
        """End them."""


class ProcessRanks(Supervisor):
    """The ranks as processes of this computer, with the memory that they share."""

    def __init__(self, job: Job, limits: Limits | None, watch: Watch) -> None:
        self.exchange = comm.Exchange(job.layout)
        try:
            board = Board(self.exchange.board.memory, job.ranks)
            setups = [(job, self.exchange.address)] * job.ranks
            describe = partial(describe_action, job.schedule)
            names = [rank_name(job.schedule, rank) for rank in range(job.ranks)]
            super().__init__(run_worker, setups, board, describe, limits, names=names)
            self.on_wait = lambda: watch(board)
        except BaseException:
            self.exchange.close()
            raise

    def close(self) -> None:
        """End the processes, and give their memory back."""
        try:
            super().close()
        finally:
            self.exchange.close()


def make_ranks(job: Job, limits: Limits | None, watch: Watch) -> Ranks:
    """Start the ranks, or, where `mpiexec` has started them, lead them."""
    if started_by_mpi():
        from baremetal.pipeline.mpi_ranks import MpiRanks

        return MpiRanks(job, limits)
    return ProcessRanks(job, limits, watch)


class PipelineRun:
    """The ranks of a job.

    Args:
        job: what they do.
        limits: patience.
        watch: called with the board every now and then while the ranks are waited for.

    Attributes:
        ranks: the processes.
        times: what each kind of action of each stage is charged; None if that is measured.
        launch_costs: by stage and kind of action, FLOP and bytes of every launch.
        memory: by stage, what it holds.

    Raises:
        RankError: a rank could not start or prepare.
        CommError: there is no room for their memory.
    """

    def __init__(
        self, job: Job, limits: Limits | None = None, watch: Watch = lambda board: None
    ) -> None:
        self.job = job
        self.ranks = make_ranks(job, limits, watch)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "PipelineRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the ranks, and give their memory back."""
        self.ranks.close()

    def _prepare(self) -> None:
        self.launch_costs: dict[int, Mapping[Kind, Sequence[Cost]]] = {}
        for found in self.ranks.call("prepare"):
            self.launch_costs |= found
        self.times = self._times()
        table = evaluation_table = None
        if self.times is not None:
            table = self._table(self.job.wiring, self.times)
            forwards = self.times.forward_ps[: self.job.evaluation.schedule.stages]
            none = (0,) * len(forwards)
            evaluation_table = self._table(self.job.evaluation, Times(forwards, none, none))
        self.ranks.call("charge", table, evaluation_table)
        self.memory: dict[int, StageMemory] = {}
        for held in self.ranks.call("memory"):
            self.memory |= held
        self._reuses = reused_slots(self.job.wiring, self._slots)

    def _table(self, wiring: Wiring, times: Times) -> list[list[int]]:
        """By rank, what its steps are charged, in ps."""
        durations = step_durations(wiring.flat, times, self.job.stragglers)
        return [part.tolist() for part in np.split(durations, wiring.flat.first_step[1:-1])]

    @property
    def _slots(self) -> dict[Lane, int]:
        """How many messages each lane of the schedule holds."""
        return dict(zip(self.job.wiring.lanes, self.job.lane_slots, strict=True))

    def _times(self) -> Times | None:
        """What the stages' actions are charged; None if that is measured."""
        job = self.job
        if job.charge == "measured":
            return None
        if job.charge == "unit":
            if job.times is None:
                raise PipelineError("unit charges need times: of F, I and W")
            return job.times
        if job.chip is None:
            raise PipelineError("a roofline needs a chip: give one (--chip)")
        by_stage = [self.launch_costs[stage] for stage in range(job.schedule.stages)]
        return roofline_times(by_stage, job.chip, job.precision)

    # ------------------------------------------------------------ steps

    def step(self, batch: Batch, rate: float) -> PipelineStep:
        """One step of training.

        Raises:
            RankError: a rank failed; the run is over.
        """
        results: list[StepResult] = self.ranks.call("step", batch, rate, time.monotonic_ns())
        records = [result.record for result in results]
        return PipelineStep(
            number=batch.step,
            losses=results[0].losses,
            gradient_norm=max(result.gradient_norm for result in results),
            is_finite=all(result.is_finite for result in results),
            executed=executed_timeline(self.job.wiring, records, self._reuses),
            computed_s=[record.computed_ns / 1e9 for record in records],
        )

    def evaluate(self, inputs: np.ndarray, targets: np.ndarray, step: int) -> PipelineEvaluation:
        """The loss of a batch, forward alone (`evaluation.py`); training goes on as if it were not.

        Args:
            inputs, targets: (B, T) token ids, as many sequences as a step trains on, or fewer.
            step: how many steps of training there were.

        Raises:
            PipelineError: a batch of another size.
            RankError: a rank failed; the run is over.
        """
        wiring = self.job.evaluation
        batch = fill_batch(inputs, targets, self.job, step)
        found: list[RankEvaluation] = self.ranks.call("evaluate", batch, time.monotonic_ns())
        by_token = next(each.losses for each in found if each.losses is not None)
        losses = by_token.reshape(-1, self.job.context)[: len(inputs)]
        records = [each.record for each in found]
        executed = executed_timeline(wiring, records, reused_slots(wiring, SLOTS))
        return PipelineEvaluation(mean_loss(losses, targets), losses, executed)

    def simulate(self, step: PipelineStep) -> Timeline:
        """The simulator's account of a step that was executed, from the same durations and links.

        With measured charges it replays what was recorded.
        """
        simulator = Simulator(
            self.job.wiring,
            link=self.job.link,
            size_bytes=self.job.message_bytes,
            slots=self._slots,
            host_overhead_ps=self.job.host_overhead_ps,
            seed=step_seed(self.job.seed, step.number),
        )
        if self.job.link is not None:
            charge_faults(
                simulator, self.job.faults, step.number, self.job.link, self.job.message_bytes
            )
        if self.times is None:
            return simulator.play(step.executed.duration_ps)
        return simulator.play(self.times, self.job.stragglers)

    # ------------------------------------------------------------ state

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The whole model's weights and optimiser state, gathered from all ranks."""
        weights: dict[str, np.ndarray] = {}
        optimizer: dict[str, np.ndarray] = {}
        for part in self.ranks.call("state"):
            weights |= part[0]
            optimizer |= part[1]
        return weights, optimizer

    def load(
        self, weights: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray] | None
    ) -> None:
        """Give every rank its part of a whole model's weights and optimiser state."""
        parts = []
        for weight_names, state_names in self.ranks.call("names"):
            own = {name: weights[name] for name in weight_names if name in weights}
            state = None
            if optimizer is not None:
                state = {name: optimizer[name] for name in state_names if name in optimizer}
            parts.append((own, state))
        self.ranks.call_each("load", parts)
