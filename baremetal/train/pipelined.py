"""Training through a pipeline: the same loop, whose step is done by several processes.

Everything around a step stays where it is, in this process: data, learning rate, metrics,
checkpoints, a stop in order. The ranks hold the weights, and evaluate with them: validation text
goes through the stages as a batch does, forward alone (`pipeline/evaluation.py`).

To save and to sample, the weights are gathered here. A checkpoint is then the same file as a single
process would write, and can be resumed at any number of stages, or at none. And text is drawn token
by token, each from the one before: through p stages every token would wait for p hops, one rank
would compute at a time while p - 1 wait, and each would need a key-value cache. A pipeline gains
nothing there. At the end of a run, when it draws its sample, the weights are here in any case: they
have just been saved.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from baremetal.checkpoint import Checkpoint
from baremetal.data import TextData
from baremetal.errors import BaremetalError
from baremetal.machine import find_chip, find_link
from baremetal.machine.chip import Chip
from baremetal.machine.link import Link
from baremetal.machine.units import DURATION
from baremetal.nn import LanguageModel
from baremetal.optim import Optimizer
from baremetal.pipeline.copies import holders
from baremetal.pipeline.costs import UNITS, block_costs
from baremetal.pipeline.faults import (
    PROCESS_FAULTS,
    Fault,
    WrongMessage,
    check_faults,
    faults_after,
    parse_faults,
)
from baremetal.pipeline.job import Job
from baremetal.pipeline.launcher import started_by_mpi
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.run import PipelineRun, PipelineStep, Watch
from baremetal.pipeline.runner import cut_batch
from baremetal.schedules import SCHEDULES, Schedule, ScheduleError
from baremetal.schedules.auto_options import AUTOMATIC, chunks_of
from baremetal.schedules.check import check_schedule
from baremetal.schedules.options import Sizes
from baremetal.schedules.options import chosen_schedule as schedule_of
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import Wiring
from baremetal.train.automatic import automatic_schedule
from baremetal.train.build import build_model, build_optimizer, model_of
from baremetal.train.config import TrainConfig
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import StepReport, Trainer


@dataclass(frozen=True)
class RankBuilder:
    """What a rank makes its model and optimisers with; sent to its process."""

    config: TrainConfig
    vocab_size: int

    def model(self) -> LanguageModel:
        """The whole model, with its initial values."""
        model = build_model(self.config, self.vocab_size)
        model.recompute = self.config.recompute
        return model

    def optimizer(self, model: LanguageModel) -> Optimizer:
        """One for the trainable parameters of a model or of a part of one."""
        return build_optimizer(self.config, model)


def make_job(config: TrainConfig, model: LanguageModel) -> Job:
    """The pipeline that a configuration asks for.

    Raises:
        BaremetalError: something of it is unknown, or does not go together.
    """
    shape = config.batch // config.microbatches, config.context
    link, stragglers = chosen_link(config), _stragglers(config, config.stages)
    rehearsed, costs = _rehearsed(config, model), None
    if config.schedule in AUTOMATIC:
        stages = config.stages * max(chunks_of(config.schedule, config.chunks), 1)
        times = _unit_times(config, stages) if config.charge == "unit" else None
        schedule, costs = automatic_schedule(
            config, rehearsed, times, _chip(config), link, stragglers
        )
    else:
        schedule = chosen_schedule(config)
    wiring = check_schedule(schedule, config.slots or None).wiring
    # That there are enough blocks is known before their costs, which take a while.
    parts_of_stages(schedule, [1.0] * len(model.blocks))
    faults = _faults(config, wiring)
    costs = costs or block_costs(rehearsed, shape, config.balance)
    parts = parts_of_stages(schedule, costs)
    return Job(
        schedule=schedule,
        parts=parts,
        builder=RankBuilder(config, model.config.vocab_size),
        every=holders(model, parts),
        sizes={name: parameter.size for name, parameter in model.named_parameters()},
        samples=shape[0],
        context=config.context,
        width=config.width,
        clock=config.clock,
        charge="measured" if config.clock == "wall" else config.charge,
        times=_unit_times(config, schedule.stages),
        chip=_chip(config),
        link=link,
        slots=config.slots or None,
        host_overhead_ps=DURATION.parse(config.host_overhead),
        stragglers=stragglers,
        seed=config.seed,
        eager=config.eager,
        threads=config.threads or 1,
        precision=config.modelled_precision,
        clip=config.clip,
        block_costs=costs,
        balanced_in=UNITS[config.balance],
        faults=faults,
    )


def chosen_schedule(config: TrainConfig) -> Schedule:
    """The schedule by its name or from its file, for the configured sizes.

    Raises:
        ScheduleError: unknown, outside its domain, or a file for other sizes.
    """
    given = Sizes(config.schedule)  # a file says its sizes itself
    if config.schedule in SCHEDULES:
        given = Sizes(config.schedule, config.stages, config.microbatches, config.chunks or None)
    schedule = schedule_of(given)
    found = len(schedule.ranks), schedule.microbatches
    if found != (config.stages, config.microbatches):
        raise ScheduleError(
            f"--schedule {config.schedule} is for {found[0]} stages and {found[1]} microbatches, "
            f"but --stages {config.stages} --microbatches {config.microbatches} were given"
        )
    return schedule


def chosen_link(config: TrainConfig) -> Link:
    """The link by its name or from its file, slower and less regular if that is asked for.

    Raises:
        BaremetalError: unknown, or no link can be so.
    """
    link = find_link(config.link).degraded(Fraction(str(config.degrade)))
    if not config.jitter:
        return link
    return replace(link, jitter_ps=DURATION.parse(config.jitter))


def _faults(config: TrainConfig, wiring: Wiring) -> tuple[Fault, ...]:
    faults = parse_faults(config.fault)
    check_faults(faults, wiring)
    for fault in faults:
        if fault.step >= config.steps:
            raise BaremetalError(f"--fault '{fault}': the run has {config.steps} steps (--steps)")
    if started_by_mpi() and config.restart:
        raise BaremetalError(
            "--restart under mpiexec: whoever fails there ends all processes, also the one that "
            "would start others; go on with --resume, or leave mpiexec away"
        )
    if started_by_mpi() and any(isinstance(fault, WrongMessage) for fault in faults):
        raise BaremetalError(
            f"--fault '{config.fault:.80}' under mpiexec: MPI's messages do not go wrong on "
            f"purpose, only processes do ({', '.join(PROCESS_FAULTS)}); leave mpiexec away"
        )
    return faults


def _chip(config: TrainConfig) -> Chip:
    """The modelled chip, one that computes in the precision that is asked for."""
    chip = find_chip(config.chip)
    if config.charge == "roofline":
        chip.peak(config.modelled_precision)
    return chip


def _rehearsed(config: TrainConfig, model: LanguageModel) -> LanguageModel:
    """A model to measure on: of the same sizes, needed for nothing else."""
    return model_of(model.config, config.seed)


def _unit_times(config: TrainConfig, stages: int) -> Times:
    """Times of F, I and W: each one for all stages, or one for every stage with slashes between."""
    kinds = [text.split("/") for text in config.unit_times.split(",")]
    if len(kinds) != 3 or any(len(texts) not in (1, stages) for texts in kinds):
        raise BaremetalError(
            f"--unit-times '{config.unit_times:.80}': expected three times, of F, I and W, such as "
            f"'1 ms, 1 ms, 1 ms'; each may be {stages} times, one for every stage, with "
            "slashes between"
        )
    each = [tuple(DURATION.parse(text.strip()) for text in texts) for texts in kinds]
    return Times(*(times * (stages // len(times)) for times in each))


def _stragglers(config: TrainConfig, ranks: int) -> dict[int, float]:
    """Factors by rank from '2:1.5, 3:1.1'."""
    found = {}
    for part in filter(None, config.straggler.replace(" ", "").split(",")):
        rank, _, factor = part.partition(":")
        if not (rank.isdigit() and int(rank) < ranks and _is_factor(factor)):
            raise BaremetalError(
                f"--straggler '{part}': expected a rank of 0 to {ranks - 1} and a factor, "
                "such as 2:1.5"
            )
        found[int(rank)] = float(factor)
    return found


def _is_factor(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


class PipelineTrainer(Trainer):
    """A run whose steps are done by the ranks of a pipeline.

    Args:
        config, run, data, model: as for `Trainer`.

    Attributes:
        job: what the ranks do.
        last: what the last step came to, with its timeline.
        watch: see `PipelineRun`.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder | None = None,
        *,
        data: TextData | None = None,
        model: LanguageModel | None = None,
    ) -> None:
        super().__init__(config, run, data=data, model=model)
        self.captured = None  # the stages have plans of their own
        self.job = make_job(config, self.model)
        self.last: PipelineStep | None = None
        self.watch: Watch = lambda board: None
        self._ranks: PipelineRun | None = None
        self._is_initial = model is None  # the ranks draw the same weights from the seed
        self._is_gathered = True  # what is here is what the ranks have
        self._reached = -1  # the last step that was begun

    @property
    def ranks(self) -> PipelineRun:
        """The processes; started when they are first needed."""
        if self._ranks is None:
            limits = Limits(hang_s=self.config.hang_limit)
            job = replace(self.job, first_step=self.step)
            self._ranks = PipelineRun(job, limits, self.watch)
            if not self._is_initial:
                self._ranks.load(self.model.state_dict(), self.optimizer.state_dict())
        return self._ranks

    def start(self) -> None:
        """Start the processes now."""
        _ = self.ranks

    def close(self) -> None:
        """End the processes."""
        if self._ranks is not None:
            self._ranks.close()

    def fit(self, **callbacks: Any) -> None:
        """See `Trainer.fit`. A rank that dies ends it, whatever this process is doing.

        Raises:
            RankError: a rank failed.
        """
        with self.ranks.ranks.interruptible():
            super().fit(**callbacks)

    def do_step(self, inputs: np.ndarray, targets: np.ndarray, rate: float) -> float:
        """One step by all ranks; the batch's mean loss."""
        batch = cut_batch(inputs[0], targets[0], self.config.microbatches, self.step)
        self._is_gathered, self._reached = False, self.step
        self.last = self.ranks.step(batch, rate)
        self._is_finite, self._norm = self.last.is_finite, self.last.gradient_norm
        return float(sum(self.last.losses.tolist()))

    def gather(self) -> None:
        """See `Trainer.gather`: bring the ranks' weights and optimiser state here."""
        if self._is_gathered:
            return
        weights, state = self.ranks.state()
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        self._is_gathered = True

    def batch_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """See `Trainer.batch_loss`: through the ranks, with the weights that they have."""
        return self.ranks.evaluate(inputs, targets, self.step).loss

    def save(self, best: bool = False) -> None:
        """See `Trainer.save`."""
        self.gather()
        ranks = self._ranks
        with nullcontext() if ranks is None else ranks.ranks.finishing():
            super().save(best)

    def restore(self, checkpoint: Checkpoint) -> None:
        """See `Trainer.restore`."""
        super().restore(checkpoint)
        self._is_initial = False
        if self._ranks is not None:
            self._ranks.load(self.model.state_dict(), self.optimizer.state_dict())

    def start_again(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint with new processes; what has failed on purpose does not again."""
        self.close()
        self._ranks = None
        self.job = replace(self.job, faults=faults_after(self.job.faults, self._reached))
        self.restore(checkpoint)
        self._is_gathered = True

    def _explain_non_finite(self, first_sample: int, scale: float) -> None:
        self.gather()
        super()._explain_non_finite(first_sample, scale)


__all__ = ["PipelineTrainer", "RankBuilder", "StepReport", "chosen_schedule", "make_job"]
