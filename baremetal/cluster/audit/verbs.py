"""`baremetal audit`: the claim of 10x, held against published runs and the model.

Four questions, each answered from rows with a source or from the model's prediction of one:

    1. How far is the best published run from its chip's peak?          1 / MFU
    2. How much does the framework matter, JAX against another?         published pairs
    3. Where is the missing time, and what would each part give?         the ceiling product
    4. What would have to be true for 10x?                               the baseline it needs
"""

import json
from dataclasses import dataclass
from typing import Any

from baremetal.cluster.audit.ceiling import ceiling
from baremetal.cluster.audit.frameworks import pairs
from baremetal.cluster.audit.headroom import Best, best_rows
from baremetal.cluster.errors import ClusterError
from baremetal.cluster.validation.predicted import judge
from baremetal.cluster.validation.tables import read_table, table_names
from baremetal.machine.catalogue import find_cluster
from baremetal.trace import Column, format_percent, table


@dataclass(frozen=True)
class AuditOptions:
    """Audit a claimed speed-up: headroom over published runs, by part, and what it would need."""

    claim: float = 10.0
    """Times faster, as claimed."""
    chip: str = "GB300"
    """Whose best rows are taken apart."""
    json: bool = False
    """Print one JSON object."""


def run_audit(given: AuditOptions) -> None:
    """Audit, and print.

    Raises:
        ClusterError: a claim that is none, or a chip without rows.
    """
    document = audit(given.claim, given.chip)
    print(json.dumps(document, indent=2) if given.json else as_text(document))


def audit(claim: float, chip: str) -> dict[str, Any]:
    """All figures of the audit, as plain values.

    Raises:
        ClusterError: a claim that is none, or a chip without rows.
    """
    if not claim > 1:
        raise ClusterError(f"--claim {claim}: expected more than 1, such as 10")
    runs = [run for name in table_names() for run in read_table(name)]
    best = best_rows(runs)
    taken_apart = [each for each in best if each.chip.casefold() == chip.casefold()]
    if not taken_apart:
        chips = ", ".join(sorted({each.chip for each in best}))
        raise ClusterError(f"--chip {chip}: no published rows; there are rows of {chips}")
    return {
        "claim": claim,
        "best": [_best(each) for each in best],
        "frameworks": [
            {"model": pair.jax.model, "precision": pair.jax.precision, "jax": pair.jax.cluster,
             "other": pair.other.cluster, "jax_tokens_per_s_per_gpu": pair.jax_rate,
             "other_tokens_per_s_per_gpu": pair.other_rate, "ratio": pair.ratio,
             "source": pair.jax.source}
            for pair in pairs(runs)
        ],
        "ceilings": [_ceiling(each) for each in taken_apart],
        "needs": [_needs(each, claim) for each in taken_apart],
    }  # fmt: skip


def _best(best: Best) -> dict[str, Any]:
    return {
        "chip": best.chip, "precision": best.precision, "experts": best.sparse,
        "model": best.run.model, "cluster": best.run.cluster, "mfu": best.mfu,
        "tflops_per_gpu": best.tflops_per_gpu, "headroom": best.headroom, "rows": best.rows,
        "note": best.run.note, "source": best.run.source,
    }  # fmt: skip


def _ceiling(best: Best) -> dict[str, Any]:
    judged = judge(best.run)
    prediction = judged.prediction
    peak = find_cluster(best.run.cluster).chip.peak(best.run.precision)
    factors = ceiling(prediction.breakdown_s, best.tflops_per_gpu * 1e12 * best.run.step_s / peak)
    return {
        "model": best.run.model, "cluster": best.run.cluster, "precision": best.precision,
        "published_s": best.run.step_s, "predicted_s": prediction.step_time_s,
        "factors": [vars(factor) for factor in factors],
    }  # fmt: skip


def _needs(best: Best, claim: float) -> dict[str, Any]:
    """The baseline's MFU that a claim needs, if the claimant were as good as the best published."""
    return {
        "precision": best.precision, "experts": best.sparse, "best_mfu": best.mfu,
        "baseline_mfu_if_claimant_is_best_published": best.mfu / claim,
        "baseline_mfu_if_claimant_is_perfect": 1 / claim,
    }  # fmt: skip


def as_text(document: dict[str, Any]) -> str:
    """The same as people read it."""
    parts = [_best_text(document["best"]), _frameworks_text(document["frameworks"])]
    parts += [_ceiling_text(each) for each in document["ceilings"]]
    return "\n\n".join([*parts, _needs_text(document)])


def _table(rows: list[list[str]], heads: tuple[str, ...], words: int) -> str:
    """A table whose first so many columns are words."""
    columns = [Column(head, align="<" if i < words else ">") for i, head in enumerate(heads)]
    return table(rows, columns)


def _best_text(best: list[dict[str, Any]]) -> str:
    rows = [
        [b["chip"], b["precision"], _kind(b), b["model"], b["cluster"].split(":")[1],
         f"{b['tflops_per_gpu']:,.0f}", format_percent(b["mfu"]), f"{b['headroom']:.1f}x",
         str(b["rows"])]
        for b in best
    ]  # fmt: skip
    heads = (
        "chip", "precision", "kind", "model", "GPUs", "TFLOP/s", "MFU", "headroom", "best of",
    )  # fmt: skip
    return "How far the best published runs are from the peak\n\n" + _table(rows, heads, 4)


def _frameworks_text(pairs_: list[dict[str, Any]]) -> str:
    rows = [
        [f["model"], f["precision"], f["jax"], f["other"], f"{f['jax_tokens_per_s_per_gpu']:,.0f}",
         f"{f['other_tokens_per_s_per_gpu']:,.0f}", f"{f['ratio']:.2f}x"]
        for f in pairs_
    ]  # fmt: skip
    heads = ("model", "precision", "JAX on", "other on", "JAX tokens/s", "other", "ratio")
    text = "JAX beside another framework: tokens/s of a GPU, published together"
    return f"{text}\n\n{_table(rows, heads, 4)}"


def _ceiling_text(each: dict[str, Any]) -> str:
    rows = [[f["name"], f"{f['product']:.2f}x", f"{f['alone']:.2f}x"] for f in each["factors"]]
    text = f"{each['model']} on {each['cluster']} in {each['precision']}: each part made perfect"
    return f"{text}\n\n{_table(rows, ('part', 'in the product', 'alone'), 1)}"


def _needs_text(document: dict[str, Any]) -> str:
    lines = [
        f"  {need['precision']}, {_kind(need)}: a baseline at "
        f"{format_percent(need['baseline_mfu_if_claimant_is_best_published'])} MFU, if the "
        f"claimant is as good as the best published ({format_percent(need['best_mfu'])}); at "
        f"{format_percent(need['baseline_mfu_if_claimant_is_perfect'])}, if it wastes nothing"
        for need in document["needs"]
    ]
    return "\n".join([f"What {document['claim']:g}x needs", "", *lines])


def _kind(row: dict[str, Any]) -> str:
    return "experts" if row["experts"] else "dense"
