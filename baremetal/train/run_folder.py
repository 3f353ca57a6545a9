"""A run on disk: one folder that tells the whole story.

    runs/pydoc-gpt-1/
        config.toml       what was asked for
        metrics.jsonl     one line per logged step, written as the run goes
        loss.png          the curve, drawn again at every evaluation
        sample.txt        what the model wrote at the end
        checkpoints/      see `baremetal.checkpoint`

`metrics.jsonl` is only ever appended to, one whole line at a time, so a run that is killed loses
at most its last line. A run that is resumed goes back to its checkpoint, and so do its metrics:
lines of steps that will be done again are dropped first.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from baremetal.checkpoint import CHECKPOINTS_FOLDER
from baremetal.checkpoint.errors import plain_reason
from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically
from baremetal.train.config import TrainConfig, read_config
from baremetal.train.refusals import doing, naming

METRICS = "metrics.jsonl"
CONFIG = "config.toml"


class RunFolder:
    """Paths of a run and the writing of its metrics."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS_FOLDER
        self.metrics = path / METRICS
        self.config = path / CONFIG
        self.picture = path / "loss.png"
        self.sample = path / "sample.txt"

    @classmethod
    def create(cls, config: TrainConfig) -> "RunFolder":
        """Make a new folder for this configuration.

        Raises:
            BaremetalError: the name is taken, or the folder cannot be made.
        """
        parent = Path(config.out)
        if config.name and Path(config.name).name != config.name:
            raise BaremetalError(
                f"--name {config.name}: expected one word for a folder's name; --out says where"
            )
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_named(parent, config) if config.name else _make_numbered(parent, config)
        except OSError as error:
            raise BaremetalError(
                f"cannot make a run folder in {parent}: {plain_reason(error)}; choose another "
                "with --out"
            ) from None
        run = cls(path)
        try:
            run.write_config(config)
        except BaremetalError:
            path.rmdir()  # ours, and empty: nothing half-made stays
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run.

        Raises:
            BaremetalError: there is no run at this path.
        """
        run = cls(Path(path))
        with doing(f"open the run folder {path}"):  # is_file raises where a parent is forbidden
            found = run.config.is_file()
        if not found:
            raise BaremetalError(
                f"{path} is no run folder (it has no {CONFIG}): 'baremetal runs' lists them"
            )
        return run

    def write_config(self, config: TrainConfig) -> None:
        """Write the configuration, all or nothing."""
        with naming("the run's configuration"):
            write_atomically(self.config, config.to_toml().encode("utf-8"))

    def read_config(self) -> TrainConfig:
        """The configuration the run was started with."""
        return read_config(self.config)

    def log(self, row: dict[str, Any]) -> None:
        """Append one line of metrics.

        Raises:
            BaremetalError: it cannot be written.
        """
        intact = f"the checkpoints are intact, go on with --resume {self.path}"
        with (
            doing(f"write the run's metrics {self.metrics}", intact),
            self.metrics.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """All complete lines of metrics.

        Raises:
            BaremetalError: the file is there but cannot be read.
        """
        if not os.path.isfile(self.metrics):
            return
        with doing(f"read the run's metrics {self.metrics}"):
            # A power cut may leave anything in the last lines: it must not stop the reader.
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a killed run
            if isinstance(row, dict) and {"step", "train_loss", "val_loss", "time_s"} <= row.keys():
                yield row

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps beyond a checkpoint: they will be done again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        with naming("the run's metrics"):
            write_atomically(self.metrics, "".join(kept).encode("utf-8"))


def _make_named(parent: Path, config: TrainConfig) -> Path:
    path = parent / config.name
    try:
        path.mkdir()
    except FileExistsError:
        raise BaremetalError(
            f"the run {path} exists: continue it with --resume {path}, or choose another --name"
        ) from None
    return path


def _make_numbered(parent: Path, config: TrainConfig) -> Path:
    stem = f"{Path(config.data).stem}-{config.model}"
    number = 1
    while True:
        path = parent / f"{stem}-{number}"
        try:
            path.mkdir()  # making it claims it, even against another run starting now
            return path
        except FileExistsError:
            number += 1
