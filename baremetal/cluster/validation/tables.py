"""The published runs, in one form: each row is a command line, and what was measured.

`data/*.csv` holds a table per source. A row's model, cluster, plan and precision are what
`baremetal simulate` takes, so that any of them can be typed; where the publisher printed tokens/s
or TFLOP/s, the note says so and the step's time follows from it.

Half of the rows may be looked at to fit constants, the other half only judges. Which is decided by
a rule that knows nothing of the figures: the parity of a hash of the row's model, cluster, plan and
precision, so that rows that differ only in software fall on the same side.
"""

import csv
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from baremetal.cluster.errors import ClusterError
from baremetal.machine.errors import nearest

DATA = Path(__file__).parent / "data"
GIB = 2**30


@dataclass(frozen=True)
class Run:
    """One published run.

    Attributes:
        table, row: where it stands.
        model, cluster, plan, precision: as on the command line.
        software: by name; empty: the usual one of the cluster.
        step_s: measured.
        memory_bytes: measured, of the fullest rank; None: not published.
        note, source: as published.
    """

    table: str
    row: int
    model: str
    cluster: str
    plan: str
    precision: str
    software: str
    step_s: float
    memory_bytes: float | None
    note: str
    source: str

    @property
    def fits(self) -> bool:
        """Whether constants may be fitted to it; else it only judges."""
        name = f"{self.model} {self.cluster} {self.plan} {self.precision}"
        return zlib.crc32(name.encode()) % 2 == 0


def table_names() -> list[str]:
    """All tables."""
    return sorted(path.stem for path in DATA.glob("*.csv"))


@cache
def read_table(name: str) -> tuple[Run, ...]:
    """The rows of a table.

    Raises:
        ClusterError: there is none of this name.
    """
    if name not in table_names():
        raise ClusterError(
            f"unknown table '{name}': {nearest(name, table_names())}there are "
            f"{', '.join(table_names())}"
        )
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_run(name, row) for row in csv.DictReader(file))


def _run(table: str, row: dict[str, str]) -> Run:
    memory = float(row["memory_GiB"]) * GIB if row["memory_GiB"] else None
    return Run(
        table, int(row["row"]), row["model"], row["cluster"], row["plan"], row["precision"],
        row["software"], float(row["step_s"]), memory, row["note"], row["source"],
    )  # fmt: skip
