"""`baremetal validate`: every published run beside its prediction, the worst first."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from baremetal.cluster.validation.predicted import Judged, judge
from baremetal.cluster.validation.tables import Run, read_table, table_names
from baremetal.trace import Column, table


@dataclass(frozen=True)
class ValidateOptions:
    """Predict every published run, and say how far off each prediction is."""

    table: str = ""
    """Only this table; empty: all."""
    rows: int = 20
    """How many of the worst rows to print; 0: all."""
    fit: str = ""
    """Fit the constants again (a minute or two), to the rows that may be looked at, and write them
    into this folder as the files of cluster/cost/data."""
    json: bool = False
    """Print one JSON object, with all rows."""


def run_validate(given: ValidateOptions) -> None:
    """Predict, compare, print.

    Raises:
        BaremetalError: an unknown table.
    """
    names = [given.table] if given.table else table_names()
    runs = [run for name in names for run in read_table(name)]
    if given.fit:
        _run_fit(runs, Path(given.fit))
        return
    judged = [judge(run) for run in runs]
    document = as_document(judged)
    print(json.dumps(document, indent=2) if given.json else as_text(document, given.rows))


def _run_fit(runs: list[Run], folder: Path) -> None:
    """Fit, write, and say where."""
    from baremetal.cluster.validation.fit import fit, write  # SciPy's optimiser: only if asked for

    found = fit(runs, say=lambda name: print(f"fitting {name}", file=sys.stderr))
    for path in write(found, folder):
        print(f"written: {path}")


def as_document(judged: Iterable[Judged]) -> dict[str, Any]:
    """All rows and the means of each table, as plain values; the worst row first."""
    rows = sorted((_row(each) for each in judged), key=lambda row: -abs(row["error"]))
    tables = {}
    for name in sorted({row["table"] for row in rows}):
        mine = [row for row in rows if row["table"] == name]
        tables[name] = _summary(mine)
    return {"all": _summary(rows), "tables": tables, "rows": rows}


def _row(each: Judged) -> dict[str, Any]:
    run = each.run
    return {
        "table": run.table, "row": run.row, "model": run.model, "cluster": run.cluster,
        "plan": run.plan, "precision": run.precision, "fits": run.fits,
        "published_s": run.step_s, "predicted_s": each.prediction.step_time_s,
        "error": each.error, "memory_error": each.memory_error, "note": run.note,
    }  # fmt: skip


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def of(some: list[dict[str, Any]], key: str = "error") -> dict[str, float] | None:
        errors = [abs(row[key]) for row in some if row[key] is not None]
        return {"rows": len(errors), "mean": mean(errors), "worst": max(errors)} if errors else None

    return {
        "step": of(rows),
        "step, rows that were fitted": of([row for row in rows if row["fits"]]),
        "step, rows that only judge": of([row for row in rows if not row["fits"]]),
        "memory": of(rows, "memory_error"),
    }


def as_text(document: dict[str, Any], count: int) -> str:
    """The worst rows, then the means."""
    rows = document["rows"][: count or None]
    shown = [
        [f"{row['table']} {row['row']}", row["model"], row["cluster"], row["precision"],
         f"{row['published_s']:.3f}", f"{row['predicted_s']:.3f}", f"{row['error']:+.1%}"]
        for row in rows
    ]  # fmt: skip
    heads = ("row", "model", "cluster", "precision", "published s", "predicted s", "error")
    columns = [Column(head, align="<" if i < 4 else ">") for i, head in enumerate(heads)]
    means = [
        [name, kind, str(part["rows"]), f"{part['mean']:.1%}", f"{part['worst']:.1%}"]
        for name, summary in {**document["tables"], "all": document["all"]}.items()
        for kind, part in summary.items()
        if part
    ]
    means_columns = [
        Column("table", align="<"), Column("what", align="<"), Column("rows"), Column("mean error"),
        Column("worst"),
    ]  # fmt: skip
    return f"{table(shown, columns)}\n\n{table(means, means_columns)}"
