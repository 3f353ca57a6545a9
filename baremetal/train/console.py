"""What a person sees of a run: a bar while it goes, a few lines that stay, a picture, a sample."""

import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from baremetal.data.track import Item
from baremetal.errors import BaremetalError
from baremetal.kernels.limits import measure_matmul_rate
from baremetal.kernels.native.compiler import COMPILING
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import StepReport, Trainer

LOG_EVERY = 10  # steps between rows of the metrics file; evaluations get rows of their own
SMOOTHING = 0.95  # of the loss and speed shown in the bar: single steps jump about


class Console:
    """Shows a run and writes its metrics file.

    Args:
        trainer: what runs.
        run: where metrics and pictures go.
        quiet: print nothing but warnings (for --json).
    """

    def __init__(self, trainer: Trainer, run: RunFolder, quiet: bool = False) -> None:
        self.trainer = trainer
        self.run = run
        self.peak_flops = 0.0  # measured by `measure_peak`
        self.quiet = quiet
        self.flops_per_step = (
            trainer.model.flops_per_token(trainer.config.context) * trainer.config.tokens_per_step
        )
        # Time in steps, summed over the parts of a run that was resumed.
        self.training_time_s = max((row["time_s"] for row in run.rows()), default=0.0)
        self.last_val_loss: float | None = None
        self.last_report: StepReport | None = None
        self._losses: list[float] = []  # since the last row
        self._smooth_loss: float | None = None
        self._smooth_time_s: float | None = None
        self._kernels = 0
        self._doing = ""
        self._bar: Any = None

    def __enter__(self) -> "Console":
        self._bar = tqdm(
            total=self.trainer.config.steps,
            initial=self.trainer.step,
            unit="step",
            disable=self.quiet,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(COMPILING.listen(self._on_kernel))
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()
        self._bar.close()

    def _on_kernel(self, name: str) -> None:
        """The first step waits for its kernels: say so, and for which."""
        self._kernels += 1
        kernel = name.removesuffix("_body")
        self.show(f"compiling kernels ({self._kernels}: {kernel})")

    def show(self, doing: str) -> None:
        """Write what is being done in front of the bar; nothing when it is done."""
        if doing != self._doing:
            self._doing = doing
            self._bar.set_description_str(doing)

    def introduce(self) -> None:
        """Say what is special about this kind of run, before it begins: nothing here."""

    def conclude(self) -> dict[str, Any]:
        """Say what came of that, and return its figures: none here."""
        return {}

    def measure_peak(self) -> None:
        """Measure this machine's matrix-product rate: what the bar's percentage is of."""
        self.peak_flops = measure_matmul_rate(budget_s=0.1)

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if not self.quiet:
            tqdm.write(line, file=sys.stdout)

    def on_step(self, report: StepReport) -> None:
        """Move the bar and log; the first step gets a line of its own."""
        self.last_report = report
        self.training_time_s += report.time_s
        self._losses.append(report.train_loss)
        first = self._smooth_loss is None
        self._smooth_loss = _smoothed(self._smooth_loss, report.train_loss)
        # The first step compiles; it says nothing about speed.
        self._smooth_time_s = None if first else _smoothed(self._smooth_time_s, report.time_s)
        if first:
            self.say(f"step {report.step:>6}  train loss {report.train_loss:.4f}")
            if self.trainer.captured is not None:
                self.say(f"plan    {self.trainer.captured.plan.summary()}")
        if report.skipped:
            self.say(
                f"step {report.step:>6}  skipped: gradients overflowed at a loss scale of "
                f"{report.loss_scale:,.0f}; the next one is tried with half of it"
            )
        if self._kernels:
            self._kernels = 0
            self.show("")
        self._bar.update(1)
        self._bar.set_postfix_str(self._postfix(report), refresh=False)
        if report.step % LOG_EVERY == 0 and not self.trainer.evaluates_at(report.step):
            self._log(report, None)

    def went_back(self, step: int, why: str) -> None:
        """The run goes on from an earlier step: say why, and forget what will be done again."""
        self.say(why)
        self._losses.clear()
        self._bar.n = step
        self._bar.refresh()

    def _postfix(self, report: StepReport) -> str:
        text = f"loss {self._smooth_loss:.3f}, lr {report.learning_rate:.1e}"
        if self._smooth_time_s is None:
            return text
        tokens_per_s = self.trainer.config.tokens_per_step / self._smooth_time_s
        rate = self.flops_per_step / self._smooth_time_s
        return (
            f"{text}, {tokens_per_s / 1e3:.1f}k tok/s, {rate / 1e9:.0f} GFLOP/s = "
            f"{rate / self.peak_flops:.0%} of matmul rate"
        )

    def on_evaluation(self, report: StepReport, val_loss: float, time_s: float) -> None:
        """Print and log an evaluation, and draw the curve again."""
        self.last_val_loss = val_loss
        self.training_time_s += time_s
        self._kernels = 0
        self.show("")
        train_loss = self._log(report, val_loss)
        bits = self.trainer.data.bits_per_byte(val_loss)
        self.say(
            f"step {report.step:>6}  train loss {train_loss:.4f}  "
            f"val loss {val_loss:.4f}  ({bits:.3f} bits per byte)"
        )
        try:
            draw_loss(self.run)
        except BaremetalError as error:
            self.say(f"warning: no picture: {error}")

    def _log(self, report: StepReport, val_loss: float | None) -> float:
        """Append a row; its training loss is the mean since the row before, and is returned."""
        train_loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        bits = None if val_loss is None else self.trainer.data.bits_per_byte(val_loss)
        step_time_s = self._smooth_time_s or report.time_s
        self.run.log(
            {
                "step": report.step,
                "parameters": self.trainer.model.num_parameters(),
                "train_loss": train_loss,
                "val_loss": val_loss,
                "bits_per_byte": bits,
                "learning_rate": report.learning_rate,
                "gradient_norm": None if report.skipped else report.gradient_norm,
                "loss_scale": report.loss_scale,
                "tokens_per_s": self.trainer.config.tokens_per_step / step_time_s,
                "flops_per_s": self.flops_per_step / step_time_s,
                "matmul_share": self.flops_per_step / step_time_s / self.peak_flops,
                "time_s": self.training_time_s,
                "written_at": time.time(),
            }
        )
        return train_loss


def bar_when_slow(items: Sequence[Item], what: str, *, at_once: bool = False) -> Iterable[Item]:
    """Pass items on, with a bar that appears after a second and vanishes at the end."""
    return tqdm(
        items, what, delay=0 if at_once else 1, leave=False, dynamic_ncols=True, file=sys.stderr
    )


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else SMOOTHING * before + (1 - SMOOTHING) * value


def draw_loss(run: RunFolder) -> Path | None:
    """Draw training and validation loss of a run; None while there is nothing to draw."""
    from baremetal.trace.curves import Line, line_plot

    rows = list(run.rows())
    evaluated = [row for row in rows if row["val_loss"] is not None]
    if not evaluated:
        return None
    steps, losses = [row["step"] for row in rows], [row["train_loss"] for row in rows]
    lines = [
        Line("train", steps, losses, group="train", smooth=5),
        Line(
            "validation",
            [row["step"] for row in evaluated],
            [row["val_loss"] for row in evaluated],
            group="validation",
            markers=True,
        ),
    ]
    return line_plot(
        lines, run.picture, title=run.path.name, x_label="step", y_label="loss (nats per token)"
    )
