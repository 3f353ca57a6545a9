"""The training loop.

One step:

    for each microbatch:   loss = model.loss(inputs, targets);  loss.backward()
    clip the gradient by its global norm, and close the gate if anything is not finite
    update the weights

and around it: the learning rate, evaluation, checkpoints, a stop in order. Everything the next
step depends on is in the checkpoint (weights, optimiser, position in the data; the dropout bits
and the learning rate are functions of the step), so a resumed run continues bit for bit.

The arithmetic of a step is one function of the step's tokens, from the first gather to the last
weight. It is captured: run through Python once, and from then on replayed from a plan (`capture/`),
with the same bits; with `--native` the plan is compiled into one function. What changes from step
to step lies in buffers that the plan reads: tokens, learning rate, dropout's step, the count of
tokens. A mixture of experts routes in Python and cannot be captured; it runs eagerly, as everything
does with `--eager`.

With `--precision` the linear layers store their matrices in few bits within the step
(`nn/precision.py`); the weights that the optimiser holds and checkpoints keep are float32. A
dynamic loss scale (`optim/loss_scale.py`) may give a step up: its gate stays closed, the weights
stay as they are, and the next step takes the next batch with half the scale.

Gradient accumulation divides every microbatch's loss by the count of tokens in the whole step,
not in the microbatch: the sum of the parts is then exactly the large batch's mean, also where
some targets are ignored.
"""

import functools
import math
import operator
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from baremetal.autograd import Tensor, no_grad
from baremetal.capture import Captured, Level, capture
from baremetal.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from baremetal.data import TextData, Tokenizer
from baremetal.errors import BaremetalError
from baremetal.nn import DropoutState, LanguageModel, use_precision
from baremetal.nn.language_model import IGNORE_INDEX
from baremetal.optim import LossScale, Optimizer, learning_rate
from baremetal.train.blame import ONLY_IN_THE_NORM, find_first_non_finite
from baremetal.train.build import build_data, build_model, build_optimizer
from baremetal.train.config import TrainConfig
from baremetal.train.run_folder import RunFolder
from baremetal.train.weights import sizes_to_json, weights_of


class NonFiniteError(BaremetalError):
    """The loss or the gradient became NaN or infinite; the weights were not touched."""


@dataclass
class StepReport:
    """What one step came to.

    Attributes:
        step: steps done, this one included.
        train_loss: mean loss of the step in nats per token, before the update.
        learning_rate: the rate used.
        gradient_norm: global norm before clipping.
        time_s: duration of the step in seconds (evaluation and saving not counted).
        loss_scale: what the loss was multiplied by before backward.
        skipped: the scale was too large, gradients overflowed, and the weights were left alone.
    """

    step: int
    train_loss: float
    learning_rate: float
    gradient_norm: float
    time_s: float
    loss_scale: float = 1.0
    skipped: bool = False


class Trainer:
    """A run: model, optimiser, data and where they stand.

    Args:
        config: what to do.
        run: where to write; None writes nothing (for benchmarks and tests).
        model, data: built from the configuration unless given.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder | None = None,
        *,
        data: TextData | None = None,
        model: LanguageModel | None = None,
    ) -> None:
        self.config = config
        self.run_folder = run
        self.data = build_data(config) if data is None else data
        vocab_size = self.data.tokenizer.vocab_size
        self.model = build_model(config, vocab_size) if model is None else model
        self.model.recompute = config.recompute
        use_precision(self.model, config.precision)
        self.optimizer: Optimizer = build_optimizer(config, self.model)
        self.loss_scale = LossScale(self.optimizer, config.fixed_loss_scale)
        self.sampler = self.data.sampler(config.batch, config.seed, config.sampler)
        self.step = 0
        self.best_val_loss = math.inf
        # A step's tokens, one microbatch after the other, and how many of them count.
        self._inputs = np.empty((config.accumulate, config.batch, config.context), np.int64)
        self._targets = np.empty_like(self._inputs)
        self._total = np.zeros(1, np.float64)
        captures = self.model.is_static and not config.eager
        self._is_finite, self._norm = True, 0.0  # of the last step
        self.captured: Captured | None = None
        if captures:
            level: Level = "native" if config.native else "replay"
            named = self.optimizer.named_memory
            self.captured = capture(self._arithmetic, level=level, named=named, fuse=config.fuse)

    # ------------------------------------------------------------ one step

    def train_step(self) -> StepReport:
        """Do one step.

        Raises:
            NonFiniteError: with the step and the first layer where it appeared.
        """
        start = time.perf_counter()
        config = self.config
        rate = learning_rate(
            self.step,
            peak=config.learning_rate,
            steps=config.steps,
            schedule=config.decay,
            warmup=config.warmup,
            final=config.final_rate,
        )
        scale = self.loss_scale.value
        first_sample = self.sampler.samples_seen
        for part in range(config.accumulate):
            self.sampler.next_batch(out=(self._inputs[part], self._targets[part]))
        self._total[0] = config.tokens_per_step
        loss = self.do_step(self._inputs, self._targets, rate)
        skipped = not self._is_finite
        if skipped and not self.loss_scale.forgives(loss, scale):
            self._explain_non_finite(first_sample, scale)
        self.step += 1
        time_s = time.perf_counter() - start
        return StepReport(self.step, loss, rate, self._norm, time_s, scale, skipped)

    def do_step(self, inputs: np.ndarray, targets: np.ndarray, rate: float) -> float:
        """The step's arithmetic; its mean loss.

        Args:
            inputs, targets: (parts, B, T) token ids.
            rate: learning rate.
        """
        self.optimizer.learning_rate = rate
        if self._dropout is not None:
            self._dropout.set(step=self.step)
        run = self._arithmetic if self.captured is None else self.captured
        loss = sum(part.item() for part in run(inputs, targets))
        self._is_finite = self.optimizer.last_step_was_finite
        self._norm = self.optimizer.gradient_norm
        return loss

    def gather(self) -> None:
        """Have the newest weights in `model`: here they always are."""

    def close(self) -> None:
        """Let go of what the run holds besides memory: nothing here."""

    def _arithmetic(self, inputs: np.ndarray, targets: np.ndarray) -> list[Tensor]:
        """Everything a step computes, by launches alone: (parts, B, T) tokens to (parts) losses."""
        self.optimizer.zero_grad()
        losses = []
        for part in range(self.config.accumulate):
            if self._dropout is not None:
                self._dropout.begin_microbatch(part * self.config.batch)
            loss = self.model.loss(inputs[part], targets[part], total=self._total)
            loss.backward(self.loss_scale.cotangent)
            losses.append(loss.detach())
        # Their sum is as finite as they are, and closes the gate if it is not.
        self.optimizer.clip(self.config.clip, functools.reduce(operator.add, losses))
        self.optimizer.step()
        self.loss_scale.adjust()
        return losses

    @property
    def _dropout(self) -> DropoutState | None:
        """The model's dropout state, if it has dropout."""
        return getattr(self.model, "dropout_state", None)

    def _explain_non_finite(self, first_sample: int, scale: float) -> None:
        """Run the step's microbatches again, one by one, to find the culprit; then give up."""
        where = "but not when the step was repeated"
        self.model.recompute = "none"  # the same numbers, each of them computed once
        for part in range(self.config.accumulate):
            number = first_sample // self.config.batch + part
            batch = self.sampler.batch_at(number)
            if self._dropout is not None:
                self._dropout.set(step=self.step, first_sample=part * self.config.batch)
            forward = functools.partial(self._scaled_loss, *batch, scale=scale)
            with np.errstate(all="ignore"):
                where = find_first_non_finite(self.model, forward)
            if where != ONLY_IN_THE_NORM:
                break
        raise NonFiniteError(
            f"step {self.step + 1}: the loss or gradient is no longer finite; it first appeared "
            f"{where}; the weights are untouched. {self._advice()}"
        )

    def _scaled_loss(self, inputs: np.ndarray, targets: np.ndarray, *, scale: float) -> Tensor:
        """The loss as backward saw it."""
        loss = self.model.loss(inputs, targets)
        return loss if scale == 1.0 else loss * scale

    def _refuse_non_finite_evaluation(self, val_loss: float) -> None:
        """Every step was finite, and yet the model has become useless: stop, and do not save it."""
        if not math.isfinite(val_loss):
            raise NonFiniteError(
                f"step {self.step}: the validation loss is no longer finite, though every training "
                f"step was: the last update overflowed; it is not saved. {self._advice()}"
            )

    def _refuse_non_finite_weights(self) -> None:
        """A finite gradient times a huge rate can overflow: such weights are never saved."""
        for name, parameter in self.model.named_parameters():
            if not np.isfinite(parameter.data).all():
                raise NonFiniteError(
                    f"step {self.step}: the update made weights of {name} infinite or NaN; they "
                    f"are not saved. {self._advice()}"
                )

    def _advice(self) -> str:
        folder = None if self.run_folder is None else self.run_folder.checkpoints
        last = None if folder is None or not folder.is_dir() else latest_checkpoint(folder)
        advice = "Lower --learning-rate, or lengthen --warmup"
        if self.config.fixed_loss_scale not in (None, 1.0):
            advice += ", or lower --loss-scale"
        found = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
        return f"{found}. {advice}"

    # ------------------------------------------------------------ evaluation

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation follows this step."""
        return step == self.config.steps or step % self.config.eval_every == 0

    def evaluate(self) -> float:
        """Mean validation loss in nats per token over the same evenly spread batches."""
        self.model.eval()
        losses, counts = 0.0, 0
        try:
            with no_grad():
                batches = self.data.evaluation_batches(self.config.batch, self._eval_batches())
                for inputs, targets in batches:
                    counted = int((targets != IGNORE_INDEX).sum())
                    losses += self.batch_loss(inputs, targets) * counted
                    counts += counted
        finally:
            self.model.train()
        return losses / counts

    def batch_loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Of a batch that is not trained on, (B, T): the mean in nats per token."""
        return float(self.model.loss(inputs, targets).item())

    def _eval_batches(self) -> int:
        """As many batches as asked for, as far as the validation text reaches."""
        windows = (len(self.data.validation) - 1) // self.config.context
        return max(min(self.config.eval_batches, windows // self.config.batch), 1)

    # ------------------------------------------------------------ the whole run

    def fit(
        self,
        *,
        on_step: Callable[[StepReport], None] = lambda report: None,
        on_evaluation: Callable[[StepReport, float, float], None] = lambda report, loss, time_s: (
            None
        ),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train until the last step or until asked to stop; evaluates and saves on the way.

        `on_step` and `on_evaluation` are told of each, the latter with the validation loss and the
        seconds it took (for the bar and the metrics file).
        """
        while self.step < self.config.steps:
            report = self.train_step()
            last = self.step == self.config.steps
            stopping = should_stop()
            on_step(report)
            improved, val_loss = False, None
            if self.evaluates_at(self.step):
                start = time.perf_counter()
                val_loss = self.evaluate()
                evaluation_s = time.perf_counter() - start
                self._refuse_non_finite_evaluation(val_loss)
                improved = val_loss < self.best_val_loss
                self.best_val_loss = min(val_loss, self.best_val_loss)
            if last or stopping or improved or self.step % self.config.checkpoint_every == 0:
                self.save(best=improved)
            if val_loss is not None:  # after saving: a picture must not cost a checkpoint
                on_evaluation(report, val_loss, evaluation_s)
            if stopping:
                return

    # ------------------------------------------------------------ state

    def save(self, best: bool = False) -> None:
        """Write a checkpoint of this moment (if there is a run folder)."""
        if self.run_folder is None:
            return
        self._refuse_non_finite_weights()
        save_checkpoint(
            self.run_folder.checkpoints,
            self.step,
            tensors=self.tensors(),
            state=self.state(),
            keep=self.config.keep,
            best=best,
        )

    def tensors(self) -> dict[str, dict[str, np.ndarray]]:
        """What a checkpoint holds, by group: of the model, the optimiser, the loss scale."""
        tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.loss_scale.is_dynamic:
            tensors["loss_scale"] = self.loss_scale.state_dict()
        return tensors

    def state(self) -> dict[str, Any]:
        """Everything but the tensors: configuration, sizes, sampler, tokenizer, best loss."""
        return {
            "config": asdict(self.config),
            "sizes": sizes_to_json(self.model.config),
            "sampler": self.sampler.state_dict(),
            "tokenizer": self.data.tokenizer.to_json(),
            "corpus": self.data.corpus_fingerprint,
            "best_val_loss": self.best_val_loss,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of this run, bit for bit.

        Raises:
            BaremetalError: it was saved from another text, shape or optimiser.
        """
        if checkpoint.state["corpus"] != self.data.corpus_fingerprint:
            raise BaremetalError(
                f"checkpoint {checkpoint.path} was trained on another text than "
                f"'{self.data.corpus_name}' is now (the fingerprints differ): give the text it was "
                "trained on, or start anew from its weights with --from"
            )
        self.model.load_state_dict(checkpoint.tensors["model"])
        self.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
        self.loss_scale.load_state_dict(checkpoint.tensors.get("loss_scale", {}))
        self.sampler.load_state_dict(checkpoint.state["sampler"])
        self.step = checkpoint.step
        self.best_val_loss = checkpoint.state["best_val_loss"]


def load_model(checkpoint: Checkpoint) -> tuple[LanguageModel, Tokenizer]:
    """The model and the tokenizer of a checkpoint."""
    weights = weights_of(checkpoint)
    return weights.build_model(), weights.tokenizer
