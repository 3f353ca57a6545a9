"""`baremetal scale`: the machine on which a small pipeline behaves like a full-size one.

The arithmetic is in `pipeline/scale.py`; here are options, files and tables. Three files are
written: the chip, the link, and a configuration that trains the small model on them:

    baremetal scale --full gpt-3 --stages 4 --schedule zb-v --out scaled
    baremetal train --config scaled/train.toml
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from baremetal.data.track import untracked
from baremetal.errors import BaremetalError
from baremetal.machine import find_chip, find_link
from baremetal.machine.catalogue import Entry
from baremetal.machine.describe import as_toml
from baremetal.machine.units import DURATION
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.full_size import FULL_SIZES, FullSize, StageCost, full_size_stages
from baremetal.pipeline.job import Job
from baremetal.pipeline.scale import (
    Pipeline,
    Ratio,
    compared,
    machine_numbers,
    outcome,
    scaled_down,
    shape_numbers,
    stretched_times,
)
from baremetal.pipeline.stage_plan import CapturedStage
from baremetal.schedules.times import Times
from baremetal.trace import Column, format_bytes, format_count, format_seconds, table
from baremetal.trace.files import write_atomically
from baremetal.train.build import build_data, build_model
from baremetal.train.config import TrainConfig
from baremetal.train.console import bar_when_slow
from baremetal.train.pipelined import make_job

PS_PER_S = 10**12
VALUE_BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "mxfp8": 1}
STATE_BYTES = 16  # of a parameter in mixed precision with Adam: 2 + 2 + 4 + 4 + 4


@dataclass(frozen=True)
class ScaleOptions:
    """Scale a machine down so that a small pipeline behaves on it like a full-size one.

    Prints the numbers without a unit of both, and writes the scaled chip, link and a
    configuration: `baremetal train --config scaled/train.toml` runs on it.
    """

    full: Literal["gpt-3", "llama-70b", "llama-405b"] = "gpt-3"
    """The full-size model."""
    full_layers: int = 0
    """Its blocks, if not as many as published."""
    full_context: int = 0
    """Tokens of its samples, if not as many as published."""
    full_samples: int = 1
    """Samples in its microbatches."""
    full_chips: int = 8
    """Chips that share the work of each of its stages evenly; what they tell each other is not
    counted."""
    chip: str = "gb300"
    """The full-size chip ('baremetal machine list'), or a TOML file."""
    link: str = "800g"
    """The full-size link between stages, or a TOML file."""
    modelled_precision: str = "bf16"
    """In which the chip computes, and in which values are stored and sent."""

    stages: int = 4
    """How many processes the model is divided among; of both models."""
    schedule: str = "1f1b"
    """Who works when."""
    microbatches: int = 8
    """How many pieces a batch is cut into."""
    chunks: int = 0
    """Stages per process; 0 means what the schedule has by itself."""

    model: Literal["gpt", "llama"] = "gpt"
    """The small model: its architecture."""
    layers: int = 8
    """Its blocks."""
    heads: int = 4
    """Its attention heads."""
    width: int = 128
    """Size of each position's vector."""
    context: int = 64
    """Tokens of its samples."""
    batch: int = 16
    """Samples in its batch."""
    data: str = "pydoc"
    """Its text; see 'baremetal train --help'."""
    tokenizer: str = "char"
    """Its tokenizer."""

    stretch: str = "1"
    """How many times as long everything takes on the scaled machine."""
    out: str = "scaled"
    """Folder for chip.toml, link.toml and train.toml."""
    json: bool = False
    """Print one JSON object."""


def scale(given: ScaleOptions) -> dict[str, Any]:
    """Do it; returns all figures.

    Raises:
        BaremetalError: something that is asked for is unknown, or does not go together.
    """
    stretch = _stretch(given.stretch)
    job = _small_job(given)
    stages = _small_stages(job)
    full = _full_pipeline(given, job)
    scaled = scaled_down(full, stages, job.message_bytes, stretch)
    files = _write(given, full, scaled, stretch)
    strict = scaled.play(stretched_times(full, stretch))
    unscaled = replace(scaled, chip=full.chip, link=full.link)
    full_outcome = outcome(full.play())
    return {
        "models": _models(given, job),
        "full": _described(full),
        "scaled": _described(scaled),
        "unscaled": machine_numbers(unscaled) | outcome(unscaled.play()),
        "machine": _rows(compared(machine_numbers(full), machine_numbers(scaled))),
        "shape": _rows(compared(shape_numbers(full), shape_numbers(scaled))),
        "outcome": _rows(compared(full_outcome, outcome(scaled.play()))),
        "outcome_with_full_size_times": _rows(compared(full_outcome, outcome(strict))),
        "state_of_capacity": {
            "full": _state_share(full, STATE_BYTES),
            "scaled": _state_share(scaled, STATE_BYTES),
        },
        "files": files,
    }


def _stretch(text: str) -> Fraction:
    try:
        stretch = Fraction(text)
    except (ValueError, ZeroDivisionError):
        stretch = Fraction(0)
    if stretch <= 0:
        raise BaremetalError(f"--stretch '{text}': expected a number above 0, such as 1 or 0.001")
    return stretch


# ---------------------------------------------------------------- both pipelines


def _small_job(given: ScaleOptions) -> Job:
    names = (
        "stages", "schedule", "microbatches", "chunks", "model", "layers", "heads", "width",
        "context", "batch", "data", "tokenizer", "chip", "link", "modelled_precision",
    )  # fmt: skip
    if given.stages < 2:
        raise BaremetalError(f"--stages {given.stages}: expected at least 2")
    config = TrainConfig(**{name: getattr(given, name) for name in names})
    data = build_data(config)
    return make_job(config, build_model(config, data.tokenizer.vocab_size))


def _small_stages(job: Job) -> list[StageCost]:
    """What the ranks of the small run will be charged for."""
    stages = build_stages(job.builder.model, job.parts, range(job.schedule.stages))
    runners = build_runners(stages, job.schedule, (job.samples, job.context))
    found = []
    for number in range(job.schedule.stages):
        runner = runners[number]
        assert isinstance(runner, CapturedStage)  # gpt and llama are
        found.append(StageCost.of(runner))
    return found


def _full_pipeline(given: ScaleOptions, job: Job) -> Pipeline:
    chip, link = find_chip(given.chip), find_link(given.link)
    precision = given.modelled_precision
    chip.peak(precision)  # says which there are
    if precision not in VALUE_BYTES:
        raise BaremetalError(
            f"--modelled-precision {precision}: expected one of {', '.join(VALUE_BYTES)}"
        )
    if given.full_chips < 1 or given.full_samples < 1:
        raise BaremetalError(
            f"--full-chips {given.full_chips} --full-samples {given.full_samples}: expected at "
            "least 1 of each"
        )
    full, value_bytes = _full_size(given), VALUE_BYTES[precision]
    track = untracked if given.json else bar_when_slow
    _, costs = full_size_stages(full, job.schedule, track)
    values = full.samples * full.context * full.width
    return Pipeline(
        schedule=job.schedule,
        stages=[cost.stored(value_bytes, given.full_chips) for cost in costs],
        message_bytes=values * value_bytes // given.full_chips,
        chip=chip,
        link=link,
        precision=precision,
    )


def _full_size(given: ScaleOptions) -> FullSize:
    full = FULL_SIZES[given.full]
    return replace(
        full,
        layers=given.full_layers or full.layers,
        context=given.full_context or full.context,
        samples=given.full_samples,
    )


# ---------------------------------------------------------------- files


def _write(
    given: ScaleOptions, full: Pipeline, scaled: Pipeline, stretch: Fraction
) -> dict[str, str]:
    folder = Path(given.out)
    about = f"{full.chip.name} scaled down for --model {given.model} --width {given.width}."
    chip = Entry("chip", scaled.chip, (), about)
    link = Entry("link", scaled.link, (), f"{full.link.name} scaled down with it.")
    chip_path, link_path = folder / "chip.toml", folder / "link.toml"
    config = {
        "stages": given.stages, "schedule": given.schedule, "microbatches": given.microbatches,
        "chunks": given.chunks, "model": given.model, "layers": given.layers,
        "heads": given.heads, "width": given.width, "context": given.context,
        "batch": given.batch, "data": given.data, "tokenizer": given.tokenizer,
        "chip": chip_path.as_posix(), "link": link_path.as_posix(),
        "modelled_precision": given.modelled_precision,
        "unit_times": _unit_times(stretched_times(full, stretch)),
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
    comment = "# unit_times are the full size's: --charge unit takes them\n"
    texts = {
        "chip": (chip_path, as_toml(chip)),
        "link": (link_path, as_toml(link)),
        "config": (folder / "train.toml", comment + "".join(lines)),
    }
    return {
        what: str(write_atomically(path, text.encode("utf-8")))
        for what, (path, text) in texts.items()
    }


def _unit_times(times: Times) -> str:
    kinds = (times.forward_ps, times.input_gradient_ps, times.weight_gradient_ps)
    return ", ".join("/".join(map(DURATION.show, each)) for each in kinds)


# ---------------------------------------------------------------- figures


def _described(pipeline: Pipeline) -> dict[str, Any]:
    chip, link = pipeline.chip, pipeline.link
    flops, moved, kept = pipeline.total()
    return {
        "chip": chip.name,
        "flops": chip.peak(pipeline.precision),
        "memory_rate_Bps": chip.memory_rate_Bps,
        "usable_memory_bytes": chip.usable_memory_bytes,
        "link": link.name,
        "bandwidth_bps": link.bandwidth_bps,
        "latency_ps": link.latency_ps,
        "parameters": sum(pipeline.stages[stage].parameters for stage in pipeline.schedule.paths[0])
        // len(pipeline.schedule.ranks),
        "work_s": float(pipeline.work_ps) / PS_PER_S,
        "microbatch_flops": flops,
        "microbatch_bytes_moved": moved,
        "microbatch_bytes_kept": kept,
        "message_bytes": pipeline.message_bytes,
    }


def _models(given: ScaleOptions, job: Job) -> dict[str, str]:
    """Both in words, with what is assumed."""
    full, chips = _full_size(given), given.full_chips
    assumed = f", {chips} chips a stage (what these tell each other is not counted)"
    return {
        "full": f"{given.full}: {full.layers} layers, width {full.width}, microbatches of "
        f"{full.samples} x {full.context} tokens{assumed if chips > 1 else ''}; {full.source}",
        "scaled": f"{given.model}: {given.layers} layers, width {given.width}, microbatches of "
        f"{job.samples} x {job.context} tokens",
    }


def _rows(ratios: Sequence[Ratio]) -> list[dict[str, Any]]:
    return [{**ratio._asdict(), "residue": ratio.residue} for ratio in ratios]


def _state_share(pipeline: Pipeline, parameter_bytes: int) -> float:
    """Weights, gradients and optimiser of the fullest rank, as a part of its chip's memory."""
    by_rank = [0] * len(pipeline.schedule.ranks)
    for stage, rank in enumerate(pipeline.schedule.rank_of):
        by_rank[rank] += pipeline.stages[stage].parameters
    return max(by_rank) * parameter_bytes / pipeline.chip.usable_memory_bytes


def scale_text(found: dict[str, Any]) -> str:
    """The same for people."""
    strict = {row["name"]: row for row in found["outcome_with_full_size_times"]}
    outcomes = [
        {**row, "strict": strict[row["name"]]["scaled"], "left": strict[row["name"]]["residue"]}
        for row in found["outcome"]
    ]
    shares = [*_head("what comes of it"), Column("strict", "with full-size times", ".6f")]
    shares.append(Column("left", "residue", ".1e"))
    before = [{"name": name, "unscaled": value} for name, value in found["unscaled"].items()]
    chip, link = found["full"]["chip"], found["full"]["link"]
    unscaled = [Column("name", "the small model unscaled", align="<")]
    unscaled.append(Column("unscaled", f"on {chip}, {link}", ".6f"))
    share = found["state_of_capacity"]
    config = found["files"]["config"]
    return "\n".join(
        [
            *(f"{which:<7} {words}" for which, words in found["models"].items()),
            "",
            table(_sizes(found), [Column("what", "", align="<"), "full size", "scaled"]),
            "",
            table(found["machine"], _head("of the machine: equal by construction")),
            "",
            table(found["shape"], _head("of the model's shape: no machine changes it")),
            "",
            table(outcomes, shares),
            "",
            table(before, unscaled),
            "",
            f"(Weights, gradients and Adam's state, {STATE_BYTES} B a parameter, take "
            f"{share['full']:.2f} of a full-size chip's memory",
            f"and {share['scaled']:.2f} of a scaled one's: they do not scale as activations do.)",
            "",
            *(f"wrote {path}" for path in found["files"].values()),
            f"run it:  baremetal train --config {config}",
            f"     or  baremetal train --config {config} --charge unit    (with full-size times)",
        ]
    )


def _head(title: str) -> list[Column | str]:
    return [Column("name", title, align="<"), *_numbers("full size", "scaled")]


def _numbers(full: str, scaled: str) -> list[Column]:
    return [
        Column("full", full, ".6f"), Column("scaled", scaled, ".6f"),
        Column("residue", "residue", ".1e"),
    ]  # fmt: skip


def _sizes(found: dict[str, Any]) -> list[dict[str, str]]:
    """Both pipelines with their units."""
    forms = {
        "parameters": ("parameters on a rank", format_count),
        "microbatch_flops": ("FLOP of a microbatch", lambda n: format_count(n, "FLOP")),
        "microbatch_bytes_moved": ("bytes it moves", format_bytes),
        "microbatch_bytes_kept": ("bytes it keeps", format_bytes),
        "message_bytes": ("a message", format_bytes),
        "flops": ("chip", lambda n: format_count(n, "FLOP/s")),
        "memory_rate_Bps": ("its memory's rate", lambda n: format_count(n, "B/s")),
        "usable_memory_bytes": ("its memory", format_bytes),
        "bandwidth_bps": ("link", lambda n: format_count(n, "b/s") if n else "unlimited"),
        "latency_ps": ("its latency", lambda n: format_seconds(n / PS_PER_S)),
        "work_s": ("work of a rank on a microbatch", format_seconds),
    }
    return [
        {
            "what": title,
            "full size": form(found["full"][key]),
            "scaled": form(found["scaled"][key]),
        }
        for key, (title, form) in forms.items()
    ]


def run_scale(given: ScaleOptions) -> None:
    """The verb."""
    found = scale(given)
    print(json.dumps(found, indent=2) if given.json else scale_text(found))
