"""What MPICH would leave behind, and how it comes to leave nothing.

The ranks of one machine talk through memory that all of them map, and MPICH 5 gives that memory a
name (`/dev/shm/mpich_shm_...`, 2 MB and more), which it removes in `MPI_Finalize`. A rank that is
killed, or that ends everybody by `MPI_Abort`, never gets there, and the name and its memory stay
until the machine is started again.

But a name is needed only for as long as somebody has still to map the memory. So once all ranks of
a machine are there, one of them takes the name away. The memory lives on as long as a process maps
it, and goes with the last, however that ends. MPICH does not mind that its own removal finds
nothing. Only what this very process maps is touched, so it is never another run's.

Where the system does not say what a process maps (macOS), or MPI leaves no such names (MPICH 4,
Open MPI), nothing is found and nothing is done.
"""

import contextlib
from pathlib import Path
from typing import Any

PREFIX = "/dev/shm/mpich_shm_"
MAPS = Path("/proc/self/maps")


def forget_names(mpi: Any) -> None:
    """Take the names away. Every rank that `mpiexec` has started must come here.

    Args:
        mpi: `mpi4py.MPI`, started.
    """
    neighbours = mpi.COMM_WORLD.Split_type(mpi.COMM_TYPE_SHARED)
    neighbours.Barrier()  # all have mapped it
    if neighbours.rank == 0:
        for path in _mapped():
            path.unlink(missing_ok=True)
    neighbours.Free()


def _mapped() -> set[Path]:
    """The named memory of MPICH that this process maps."""
    text = ""
    with contextlib.suppress(OSError):
        text = MAPS.read_text(encoding="utf-8", errors="replace")
    found = (line.partition("/")[2] for line in text.splitlines())
    return {Path("/" + name) for name in found if ("/" + name).startswith(PREFIX)}
