"""Runs side by side: a table, one picture, and CSV for a spreadsheet."""

import csv
from pathlib import Path
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.train.run_folder import CONFIG, RunFolder

COLUMNS = (
    "run", "model", "parameters", "step", "train_loss", "val_loss", "best_val_loss",
    "bits_per_byte", "tokens_per_s", "time_s",
)  # fmt: skip


def find_runs(folder: str | Path) -> list[RunFolder]:
    """All runs directly inside a folder, by name.

    Raises:
        BaremetalError: the folder does not exist.
    """
    place = Path(folder)
    if not place.is_dir():
        raise BaremetalError(f"there is no folder {place}: 'baremetal train' makes it")
    return [RunFolder(path) for path in sorted(place.iterdir()) if (path / CONFIG).is_file()]


def summarise(run: RunFolder) -> dict[str, Any]:
    """One row of the table: the run's last figures and its best validation loss."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row["run"] = run.path.name
    try:
        config = run.read_config()
    except BaremetalError:  # one damaged run must not hide the others
        row["model"] = "unreadable"
        return row
    row["model"] = f"{config.model} {config.layers}x{config.width}"
    rows = list(run.rows())
    if rows:
        last = rows[-1]
        row |= {key: last[key] for key in COLUMNS if key in last}
        losses = [r["val_loss"] for r in rows if r["val_loss"] is not None]
        row["best_val_loss"] = min(losses, default=None)
    return row


def write_csv(rows: list[dict[str, Any]], path: str | Path) -> None:
    """The table as CSV."""
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise BaremetalError(f"cannot write {path}: {error.strerror}") from None


def draw_runs(runs: list[RunFolder], path: str | Path) -> Path:
    """Validation loss of several runs in one picture."""
    from baremetal.trace.curves import Line, line_plot

    lines = []
    for run in runs:
        rows = [row for row in run.rows() if row["val_loss"] is not None]
        if rows:
            steps, losses = [r["step"] for r in rows], [r["val_loss"] for r in rows]
            lines.append(Line(run.path.name, steps, losses, markers=True))
    if not lines:
        raise BaremetalError("none of these runs has an evaluation yet: let one reach --eval-every")
    return line_plot(
        lines, path, title="validation loss", x_label="step", y_label="loss (nats per token)"
    )
