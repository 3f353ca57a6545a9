"""What a killed run leaves behind, and how the next one clears it away.

Shared memory outlives its processes. A run removes its segments when it ends, also when it ends
with an error; only a `kill -9` of the process that made them (or a power cut, after which there
is nothing to remove) leaves them in memory. So each run writes down, *before* it makes a segment,
what it will be called, in a record of its own, and whoever starts next reads the records of runs
that are gone and removes what they name.

How does one know that a run is gone? A process number says little: numbers are used again. Here
the owner holds a lock on its record (`flock`), which the operating system releases when the
process ends, in whatever way, and in no other case. Whoever can take the lock knows. The lock
belongs to the open file: a spawned child does not inherit it.

Records lie in a private folder of the machine's temporary directory, since memory is a machine's
own while home folders are shared by many. On Windows segments go with their processes, and there
is nothing to do.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from baremetal.comm.errors import CommError
from baremetal.comm.shared_memory import unlink

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = "baremetal-"  # of every segment, so that a damaged record can remove nothing else


class RunRecord:
    """The names of a run's segments on disk, for as long as it lives.

    Attributes:
        run: the run's id; names of segments begin with it.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self._file: TextIOWrapper | None = None
        if fcntl is not None:
            with _one_at_a_time() as folder:
                self._path = folder / f"{run}.run"
                self._file = self._path.open("x", encoding="utf-8")
                fcntl.flock(self._file, fcntl.LOCK_EX)

    def add(self, name: str) -> None:
        """Write down a segment that is about to be made."""
        if self._file is not None:
            self._file.write(f"{name}\n")
            self._file.flush()

    def close(self) -> None:
        """Everything has been removed: forget the run."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()
            self._file = None


def sweep_leftovers() -> list[str]:
    """Remove the segments of runs whose process is gone. Returns the names of those removed."""
    removed: list[str] = []
    if fcntl is None:
        return removed
    with _one_at_a_time() as folder:
        for record in sorted(folder.glob("*.run")):
            with record.open(encoding="utf-8", errors="replace") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its run is alive
                names = [line for line in file.read().split("\n") if line.startswith(PREFIX)]
                removed += [name for name in names if unlink(name)]
                record.unlink()
    return removed


def records_folder() -> Path:
    """This user's folder for records on this machine, made if need be.

    Raises:
        CommError: it cannot be made, or belongs to somebody else.
    """
    folder = Path(tempfile.gettempdir()) / f"baremetal-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise CommError(
            f"the folder {folder} for records of runs cannot be made ({error.strerror}): "
            "set TMPDIR to a folder that can be written"
        ) from None
    if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise CommError(f"{folder} is not a folder of this user: remove it, or set TMPDIR")
    return folder


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[Path]:
    """The folder, while no other process makes or reads records.

    Without this, a record could be found between its making and its locking, and taken for one
    that a dead run has left.
    """
    folder = records_folder()
    with (folder / "lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder
