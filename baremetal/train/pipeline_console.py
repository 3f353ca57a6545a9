"""What a person sees of a run in stages: who holds what, the ranks getting ready, a report.

Before the first step: how the model was cut, the schedule, the modelled chip and link. While the
ranks prepare, what they say of themselves stands in front of the bar. After the first step, with
--verbose, every message of it. At the end: the last step on the modelled machine, in figures, in
the terminal, and in two files of the run folder:

    timeline.png     the step as a picture
    timeline.json    the same for https://ui.perfetto.dev: a track for each rank and each link
"""

import shutil
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.machine import Chip, Link
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.job import Job
from baremetal.pipeline.messages import message_lines
from baremetal.pipeline.partition import balance
from baremetal.pipeline.report import report, report_text, speed
from baremetal.pipeline.run import PipelineRun
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.terminal import draw_text
from baremetal.schedules.timeline import Timeline
from baremetal.trace import (
    format_bytes,
    format_percent,
    format_rate,
    format_seconds,
    supports_colour,
    write_perfetto,
)
from baremetal.train.console import Console
from baremetal.train.pipelined import PipelineTrainer
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import StepReport, Trainer

PS_PER_S = 10**12
PICTURE, TRACE = "timeline.png", "timeline.json"
FEW = 150  # messages; with more of them, arrows would hide the picture
NARROW, WIDE = 60, 160  # characters of a line, whatever the terminal says


class PipelineConsole(Console):
    """Shows a run whose steps are done by the ranks of a pipeline.

    Args:
        trainer, run, quiet: as for `Console`.
    """

    def __init__(self, trainer: Trainer, run: RunFolder, quiet: bool = False) -> None:
        super().__init__(trainer, run, quiet)
        assert isinstance(trainer, PipelineTrainer)
        self.pipeline = trainer
        self.pipeline.watch = self._on_preparing
        self._ranks: PipelineRun | None = None  # once they have done a step
        self._step_times_s: list[float] = []

    # ------------------------------------------------------------ before

    def introduce(self) -> None:
        """The cut, the schedule, the chip, the link."""
        job = self.pipeline.job
        rank_of = job.schedule.rank_of
        self.say(f"\n{balance(job.parts, job.block_costs, job.balanced_in, rank_of)}\n")
        for line in (schedule_line(job), *machine_lines(job)):
            self.say(line)
        self.say("")

    def _on_preparing(self, board: Board) -> None:
        """Several processes import, build, compile and plan: say how far they are."""
        self.show(preparing_text(board, self.pipeline.job.ranks))

    # ------------------------------------------------------------ during

    def on_step(self, report: StepReport) -> None:
        """See `Console.on_step`."""
        first = not self._step_times_s
        self._step_times_s.append(report.time_s)
        if first:
            self.show("")
        self._ranks = self.pipeline.ranks  # after a restart: the new ones
        super().on_step(report)
        if first and self.trainer.config.verbose and self.pipeline.last is not None:
            for line in message_lines(self.pipeline.job, self.pipeline.last.executed):
                self.say(line)

    # ------------------------------------------------------------ after

    def conclude(self) -> dict[str, Any]:
        """The report of the last step; its files in the run folder."""
        last, job, ranks = self.pipeline.last, self.pipeline.job, self._ranks
        if last is None or ranks is None:
            return {}
        simulated = ranks.simulate(last)
        found = report(job, last.executed, simulated, ranks.times, ranks.memory)
        found |= speed(
            job, simulated.makespan_ps, self.trainer.config.tokens_per_step,
            self.flops_per_step, self._step_time_s(),
        )  # fmt: skip
        found["step"] = last.number + 1
        found["files"] = self._draw(last.executed, last.number + 1)
        width = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
        where = "the modelled machine" if job.clock == "virtual" else "a clock on the wall"
        self.say(f"\nstep {last.number + 1} on {where}\n")
        self.say(draw_text(last.executed, width, supports_colour(sys.stdout)))
        self.say(f"\n{report_text(found)}")
        for what, path in found["files"].items():
            self.say(f"{what + ':':<18}{path}")
        return {"pipeline": found}

    def _step_time_s(self) -> float | None:
        """What a step takes here: the median, without the first, which prepares."""
        later = self._step_times_s[1:]
        return statistics.median(later) if later else None

    def _draw(self, timeline: Timeline, step: int) -> dict[str, str]:
        from baremetal.schedules.picture import draw_picture
        from baremetal.schedules.tracks import to_trace

        job, folder = self.pipeline.job, self.run.path
        title = f"{self.run.path.name}, step {step}: {_title(job)} on {_machine(job)}"
        arrows = timeline.wiring.messages <= FEW
        written = {}
        try:
            trace = write_perfetto(to_trace(timeline), folder / TRACE)
            written["trace"] = str(trace)
            written["picture"] = str(draw_picture(timeline, folder / PICTURE, title, arrows=arrows))
        except BaremetalError as error:  # the weights are saved: no reason to fail
            self.say(f"warning: no timeline: {error}")
        return written


# ---------------------------------------------------------------- in a line each


def schedule_line(job: Job) -> str:
    """Its name, sizes and paper."""
    schedule = job.schedule
    generator = SCHEDULES.get(schedule.name)
    paper = "" if generator is None else f" ({generator.paper})"
    chunks = f", {schedule.chunks} stages each" if schedule.chunks > 1 else ""
    return (
        f"schedule  {_title(job)}: {job.ranks} ranks{chunks}, {schedule.microbatches} microbatches "
        f"of {job.samples} x {job.context} tokens{paper}"
    )


def machine_lines(job: Job) -> list[str]:
    """The modelled chip and link, and what a message and its transfer amount to."""
    lines = [_chip_line(job, job.chip)] if job.charge == "roofline" and job.chip else []
    if job.charge == "unit" and job.times is not None:
        rows = zip("FIW", job.times.by_kind().tolist(), strict=False)
        each = ", ".join(f"{kind} {_range(row)}" for kind, row in rows)
        lines.append(f"charge    {each} on a stage, as given")
    if job.charge == "measured":
        lines.append("charge    what this computer takes, measured")
    return [*lines, _link_line(job, job.link)]


def _range(times_ps: Sequence[int]) -> str:
    ends = [format_seconds(time_ps / PS_PER_S) for time_ps in (min(times_ps), max(times_ps))]
    return " to ".join(dict.fromkeys(ends))


def _chip_line(job: Job, chip: Chip) -> str:
    peak, memory = format_rate(chip.peak(job.precision)), format_rate(chip.memory_rate_Bps, "B/s")
    return (
        f"chip      {chip.name}: {format_percent(float(chip.efficiency))} of {peak} in "
        f"{job.precision}, {format_percent(float(chip.memory_efficiency))} of {memory}"
    )


def _link_line(job: Job, link: Link | None) -> str:
    if link is None:
        return "link      none: messages are there at once"
    rate = "unlimited" if link.bandwidth_bps is None else format_rate(link.bandwidth_bps, "b/s")
    latency, arrives = (
        format_seconds(time_ps / PS_PER_S)
        for time_ps in (link.latency_ps, link.transfer_ps(job.message_bytes))
    )
    return (
        f"link      {link.name}: {rate}, {latency}; a message of {format_bytes(job.message_bytes)} "
        f"({job.dtype}) is there after {arrives}"
    )


def preparing_text(board: Board, ranks: int) -> str:
    """What the ranks say of themselves, in a few words; nothing once all are ready."""
    states = [board.status(rank) for rank in range(ranks)]
    starting = sum(each.state is State.STARTING for each in states)
    if starting:
        return f"starting {ranks} processes ({ranks - starting} are up)"
    preparing = sum(each.state is State.PREPARING for each in states)
    if not preparing:
        return ""
    # A preparing rank counts one for beginning, and one for each kernel.
    kernels = max(each.begun - 1 for each in states)
    ready = ranks - preparing
    return f"preparing {ranks} ranks: {kernels} kernels compiled or loaded ({ready} ready)"


def _title(job: Job) -> str:
    generator = SCHEDULES.get(job.schedule.name)
    return job.schedule.name if generator is None else generator.title


def _machine(job: Job) -> str:
    by = {"unit": "unit times", "measured": "measured times"}
    chip = by.get(job.charge, "" if job.chip is None else job.chip.name)
    return f"{chip}, {'ideal links' if job.link is None else job.link.name}"
