"""Runs side by side: a table, one picture, and CSV for a spreadsheet."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically
from baremetal.train.refusals import doing
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
    with doing(f"list the folder of runs {place}"):  # is_dir raises where a parent is forbidden
        inside = sorted(place.iterdir()) if place.is_dir() else None
    if inside is None:
        raise BaremetalError(f"there is no folder {place}: 'baremetal train' makes it")
    return [RunFolder(path) for path in inside if os.path.isfile(path / CONFIG)]


def summarise(run: RunFolder) -> dict[str, Any]:
    """One row of the table: the run's last figures and its best validation loss."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row["run"] = run.path.name
    try:
        config, rows = run.read_config(), list(run.rows())
    except BaremetalError:  # one damaged run must not hide the others
        row["model"] = "unreadable"
        return row
    row["model"] = f"{config.model} {config.layers}x{config.width}"
    if rows:
        last = rows[-1]
        row |= {key: last[key] for key in COLUMNS if key in last}
        losses = [r["val_loss"] for r in rows if r["val_loss"] is not None]
        row["best_val_loss"] = min(losses, default=None)
    return row


def write_csv(rows: list[dict[str, Any]], path: str | Path) -> None:
    """The table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def draw_runs(runs: list[RunFolder], path: str | Path) -> Path:
    """Validation loss of several runs in one picture: per token where all have one tokenizer.

    Tokens of different tokenizers stand for different amounts of text, so losses per token cannot
    share an axis; bits per byte of text can (see `data/tokenizer.py`).
    """
    from baremetal.trace.curves import Line, line_plot

    evaluated = {
        run: rows for run in runs if (rows := [r for r in run.rows() if r["val_loss"] is not None])
    }
    if not evaluated:
        raise BaremetalError("none of these runs has an evaluation yet: let one reach --eval-every")
    key, unit = "val_loss", "nats per token"
    if len({_tokenizer_of(run) for run in evaluated}) > 1:
        key, unit = "bits_per_byte", "bits per byte"
    lines = [
        Line(run.path.name, [r["step"] for r in rows], [r[key] for r in rows], markers=True)
        for run, rows in evaluated.items()
    ]
    return line_plot(lines, path, title="validation loss", x_label="step", y_label=f"loss ({unit})")


def _tokenizer_of(run: RunFolder) -> tuple[str, str]:
    """Equal for runs with the same tokenizer: its name, and the text it was learned from if any."""
    try:
        config = run.read_config()
    except BaremetalError:
        return "unreadable", run.path.name  # may be any: then it is not known to be the same
    learned = config.tokenizer == "char" or config.tokenizer.startswith("bpe")
    return config.tokenizer, config.data if learned else ""
