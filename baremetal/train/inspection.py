"""`baremetal inspect`: a training step laid open, before anybody waits for a training run.

One step is captured and then looked at from five sides, each a file in one folder:

    plan.txt       every launch: its kernel, FLOPs and bytes, and where its operands lie
    step.py        the same as a program, sizes and addresses in it: what --native compiles
    arena.png      the memory: address against time
    roofline.png   every kernel's rate against what this machine could do at its intensity
    step.json      the step as a timeline, for https://ui.perfetto.dev
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baremetal.capture import arena_plot
from baremetal.capture.fusion import FusionRow, fusion_table
from baremetal.data.track import untracked
from baremetal.errors import BaremetalError
from baremetal.kernels.limits import measure_limits
from baremetal.nn.block import Recompute
from baremetal.trace import (
    RooflinePoint,
    format_bytes,
    format_count,
    roofline_plot,
    summarise,
    summary_table,
    write_perfetto,
)
from baremetal.train.config import ModelName, OptimizerName, PrecisionName, TrainConfig
from baremetal.train.console import bar_when_slow
from baremetal.train.recomputation import compare_policies, comparison_table
from baremetal.train.trainer import Trainer

OWN = ("compare_fusions", "compare_recompute", "folder", "json")  # no training run has these


@dataclass(frozen=True)
class InspectConfig:
    """Capture one training step and show what it consists of."""

    data: str = "pydoc"
    """Corpus: it decides the vocabulary; see 'baremetal train --help'."""
    tokenizer: str = "char"
    """'char', 'byte', 'bpe:SIZE' or the path of a tokenizer.json."""
    model: ModelName = "gpt"
    """Architecture: gpt or llama (a mixture of experts cannot be captured)."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    kv_heads: int = 0
    """Key-value heads for llama; 0 means as many as heads."""
    width: int = 128
    """Size of each position's vector."""
    context: int = 64
    """Tokens per sample."""
    dropout: float = 0.0
    """Probability of zeroing an activation (gpt only)."""
    recompute: Recompute = "none"
    """What backward computes again to save memory: nothing, cheap activations, or whole blocks."""
    batch: int = 12
    """Samples per microbatch."""
    accumulate: int = 1
    """Microbatches per step."""
    optimizer: OptimizerName = "adamw"
    """Which update rule."""
    fuse: str = "all"
    """Fusions: all, none, or names with commas between; see 'baremetal train --help'."""
    compare_fusions: bool = False
    """Also time the step with and without each fusion, in turn."""
    compare_recompute: bool = False
    """Also time a step under each --recompute, side by side: memory, FLOP and time of each."""
    precision: PrecisionName = "float32"
    """How the blocks' linear layers store their matrices."""
    folder: str = "inspection"
    """Where the files go (made if need be; files of the same names are replaced)."""
    json: bool = False
    """Print one JSON object."""

    def train_config(self) -> TrainConfig:
        """The same as a training run of one step."""
        options = {k: v for k, v in vars(self).items() if k not in OWN}
        return TrainConfig(**options, steps=1)


def inspect_step(config: InspectConfig) -> dict[str, Any]:
    """Capture, measure, and write the five files.

    Returns:
        A JSON-able object: `plan` (counts and bytes), `kernels` (the summary's rows), `limits` of
        this machine, `recompute` (the comparison of policies, or None), `savings` by fusion,
        `fusions` (the step with and without each, if asked for) and `files`.

    Raises:
        BaremetalError: the model cannot be captured, or the folder cannot be made.
    """
    folder = Path(config.folder)
    trainer = Trainer(config.train_config())
    if trainer.captured is None:
        raise BaremetalError(
            f"--model {config.model} cannot be captured, its routers choose in Python: inspect gpt "
            "or llama, or profile a step with baremetal.profile()"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaremetalError(f"--folder {folder}: cannot be made ({error.strerror})") from None
    trainer.train_step()
    plan = trainer.captured.plan
    trace = trainer.captured.measure()
    limits = measure_limits()
    summary = summarise(trace, peak_flops=limits.peak_flops, bandwidth_Bps=limits.bandwidth_Bps)
    files = [
        _write_text(folder / "plan.txt", plan.text() + "\n"),
        _write_text(folder / "step.py", trainer.captured.source),
        arena_plot(plan, folder / "arena.png", _title(config)),
        roofline_plot(_points(summary), *limits, folder / "roofline.png", _title(config)),
        write_perfetto(trace, folder / "step.json"),
    ]
    comparison = None
    if config.compare_recompute:
        track = untracked if config.json else bar_when_slow
        comparison = compare_policies(trainer.config, trainer.data, track=track)
    compared = trainer.captured.compare_fusions() if config.compare_fusions else []
    memory = plan.memory
    return {
        "plan": {
            "launches": len(plan.launches),
            "buffers": memory.buffers,
            "total_bytes": memory.total_bytes,
            "planned_bytes": memory.planned_bytes,
            "bound_bytes": memory.bound_bytes,
            "flops": plan.cost.flops,
            "bytes": plan.cost.size_bytes,
        },
        "kernels": summary,
        "limits": limits._asdict(),
        "recompute": comparison,
        "savings": [saving._asdict() for saving in plan.savings],
        "fusions": [row._asdict() for row in compared],
        "files": [str(path) for path in files],
    }


def inspection_text(result: dict[str, Any]) -> str:
    """What a person reads of it."""
    plan = result["plan"]
    comparison = result["recompute"]
    return "\n".join(
        [
            f"one step: {plan['launches']} launches, {format_count(plan['flops'], 'FLOP')}, "
            f"{format_bytes(plan['bytes'])} moved",
            f"memory: {plan['buffers']} buffers, {format_bytes(plan['total_bytes'])} in all, "
            f"{format_bytes(plan['planned_bytes'])} as planned, "
            f"{format_bytes(plan['bound_bytes'])} at least",
            *(
                f"{row['fusion']}: {row['launches']} launches, "
                f"{format_bytes(row['size_bytes'])} of traffic saved"
                for row in result["savings"]
            ),
            "",
            summary_table(result["kernels"]),
            "",
            *_over_the_roof(result["kernels"]),
            *([] if comparison is None else [comparison_table(comparison), ""]),
            *_comparison(result["fusions"]),
            *(f"written: {path}" for path in result["files"]),
        ]
    )


def _over_the_roof(summary: dict[str, Any]) -> list[str]:
    """What it means that a kernel seems faster than the machine, if one does."""
    if all((row["roofline"] or 0.0) <= 1.0 for row in summary["rows"]):
        return []
    return [
        "more than 100 % of the roofline: it met its operands in the caches, which are faster than",
        "the memory that the roof is measured at",
        "",
    ]


def _comparison(rows: list[dict[str, Any]]) -> list[str]:
    """The table of fusions, if there is one."""
    return [fusion_table([FusionRow(**row) for row in rows]), ""] if rows else []


def _title(config: InspectConfig) -> str:
    in_bits = "" if config.precision == "float32" else f", {config.precision}"
    return (
        f"One step of {config.model}: {config.layers} layers, width {config.width}, "
        f"context {config.context}, batch {config.batch}{in_bits}"
    )


def _points(summary: dict[str, Any]) -> list[RooflinePoint]:
    """The kernels that compute something, as points of the roofline."""
    return [
        RooflinePoint.measured(row["name"], row["flops"], row["bytes"], row["self_s"])
        for row in summary["rows"]
        if row["flops"] and row["bytes"] and row["self_s"] > 0
    ]


def _write_text(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BaremetalError(f"{path}: cannot be written ({error.strerror})") from None
    return path
