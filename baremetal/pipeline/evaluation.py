"""Evaluation through the pipeline: microbatches flow down the stages, and nothing comes back.

    rank 0    F0 F1 F2 F3
    rank 1       F0 F1 F2 F3 --> the loss of every token, (B, T) for each microbatch

The weights stay where they are. What is executed is a schedule like any other, of forwards alone
(`schedules/forward_only.py`), by the same executor, over lanes of its own: a step of training has
its clock, its links and its message numbers to itself, whatever was evaluated before it.

The number. In one process the loss of a batch is a sum over its tokens, divided once. A sum of
floats depends on how it is grouped, so adding up the microbatches' means would give another number
in the last digits. Therefore the last stage hands over the losses of single tokens, and they are
summed as the single process sums them, by the same kernel (`mean_loss`). The losses themselves have
the same bits if a product of matrices has, for few rows as for many. Our own products have
(`kernels/native/gemm.py`: large ones in float32, on processors with long vectors). BLAS chooses its
kernels by the number of rows, too: a token's loss may then differ in its last digit.

A stage runs through Python here, off the tape, as the single process evaluates: no activation
outlives the next one, no gradient has memory. A plan would save the time of Python, which is little
beside a forward, and cost every start of a run its making, and every rank another arena.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from baremetal import comm
from baremetal.autograd import Tensor, no_grad, ops
from baremetal.kernels.cost import Cost
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.executor import Charge, Executor, RankRecord
from baremetal.pipeline.job import Job
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind


class ForwardStage(StageRunner):
    """Runs the forwards of one stage in evaluation mode.

    Args:
        stage: which; whoever trains it may go on doing so in between.
        shape: (B, T) of a microbatch.

    Attributes:
        token_losses: (microbatches, B, T), at the last stage: in nats, 0 where no target is.
    """

    def __init__(self, stage: Stage, shape: tuple[int, int]) -> None:
        super().__init__(stage)
        self.token_losses = np.zeros((0, *shape), stage.dtype)
        # One is enough: what comes in is used before the next comes.
        self._x = np.empty(stage.activation_shape(*shape), stage.dtype)

    @property
    def launch_costs(self) -> Mapping[Kind, Sequence[Cost]]:
        """Not known: a forward is charged what it is in training."""
        return {}

    def begin_step(self, batch: Batch) -> None:
        super().begin_step(batch)
        if self.stage.part.is_last:
            self.token_losses = np.zeros(batch.targets.shape, self.stage.dtype)

    def activation_in(self, microbatch: int) -> np.ndarray:
        return self._x

    def _forward(
        self,
        microbatch: int,
        outside: tuple[list[np.ndarray], list[np.ndarray]],
        send_slot: np.ndarray | None,
    ) -> np.ndarray:
        tokens, targets = outside
        y = self.stage.evaluate(tokens[0] if tokens else self._x)
        for wanted in targets:
            losses = self.token_losses[microbatch]
            losses[...] = token_losses(y, wanted)
            self.losses[microbatch] = losses.sum(dtype=np.float64) / max(self.batch.tokens, 1)
        return y

    def gradient_in(self, microbatch: int) -> np.ndarray:
        self._refuse()

    def _input_gradient(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        self._refuse()

    def _weight_gradient(self, microbatch: int) -> None:
        self._refuse()

    def _backward(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PipelineError(
            f"{self.stage}: a backward in an evaluation, which keeps nothing for it: train with an "
            "EagerStage or a CapturedStage"
        )


def token_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The cross-entropy of every token in nats: logits (B, T, V), targets (B, T) -> (B, T)."""
    with no_grad():
        found = ops.cross_entropy(
            Tensor(logits), targets, ignore_index=IGNORE_INDEX, reduction="none"
        )
    return found.data


def mean_loss(losses: np.ndarray, targets: np.ndarray) -> float:
    """What `LanguageModel.loss` says of a batch, from the losses of its tokens.

    Args:
        losses: (B, T), of the whole batch, in the order of its sequences.
        targets: (B, T).
    """
    counted = losses.dtype.type(max(int((targets != IGNORE_INDEX).sum()), 1))
    with no_grad():
        total = Tensor(losses.reshape(-1)).sum()
    return float(total.data / counted)


def fill_batch(inputs: np.ndarray, targets: np.ndarray, job: Job, step: int) -> Batch:
    """Sequences as the microbatches of a job; where they are too few, the rest counts nothing.

    Args:
        inputs, targets: (B, T).
        job: how many microbatches there are, and of what shape.
        step: how many steps of training there were.

    Raises:
        PipelineError: no sequences, more than the microbatches hold, or of another length.
    """
    microbatches = job.schedule.microbatches
    room = microbatches * job.samples
    sequences = len(inputs)
    if not 1 <= sequences <= room or inputs.shape[1:] != (job.context,):
        raise PipelineError(
            f"a batch of shape {inputs.shape} to evaluate: expected 1 to {room} sequences of "
            f"{job.context} tokens ({microbatches} microbatches of {job.samples})"
        )
    shape = microbatches, job.samples, job.context
    tokens = np.zeros((room, job.context), np.int64)
    wanted = np.full_like(tokens, IGNORE_INDEX)
    tokens[:sequences], wanted[:sequences] = inputs, targets
    return Batch(tokens.reshape(shape), wanted.reshape(shape), step)


class RankEvaluation(NamedTuple):
    """What a rank says of an evaluation.

    Attributes:
        record: when it did what.
        losses: (microbatches, B, T) by token, where it has the last stage; None elsewhere.
    """

    record: RankRecord
    losses: np.ndarray | None


class Evaluator:
    """One rank's part in evaluations.

    Args:
        job: the run.
        rank: whose part.
        stages: of this rank, by number; those of them that evaluate.
        senders, receivers: its ends of all the run's lanes, by number.
        board: to say what is being done.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        stages: Mapping[int, Stage],
        senders: Mapping[int, comm.Sender],
        receivers: Mapping[int, comm.Receiver],
        board: Board,
    ) -> None:
        self._rank, self._board = rank, board
        wiring, first = job.evaluation, job.first_evaluation_lane
        shape = job.samples, job.context
        self._runners = {
            number: ForwardStage(stage, shape)
            for number, stage in stages.items()
            if number < wiring.schedule.stages
        }
        numbers = range(len(wiring.lanes))
        self._executor = Executor(
            wiring, rank, self._runners,
            {lane: senders[first + lane] for lane in numbers if first + lane in senders},
            {lane: receivers[first + lane] for lane in numbers if first + lane in receivers},
            board, None, job.host_overhead_ps, first_action=len(job.schedule.ranks[rank]),
        )  # fmt: skip

    def charge(self, durations_ps: Charge) -> None:
        """From now on this rank's forwards are charged these, in ps; None: what is measured."""
        self._executor.charge = durations_ps

    def run(self, batch: Batch, clock: comm.Clock) -> RankEvaluation:
        """All forwards of a batch.

        Raises:
            AbortedError: the run was ended while this rank waited.
            CommError: a message was damaged or lost for good.
        """
        record = self._executor.run(batch, clock)
        self._board.say(self._rank, State.IDLE, batch.step)
        last = [runner for runner in self._runners.values() if runner.stage.part.is_last]
        return RankEvaluation(record, last[0].token_losses if last else None)
