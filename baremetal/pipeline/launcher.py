"""Who has started this process: somebody at a keyboard, or `mpiexec`.

The latter tells its processes how many they are, by their environment. It is asked there, for to
import MPI is to start it.
"""

import os

# What launchers tell the processes that they start: MPICH's and Slurm's, Open MPI's.
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def started_by_mpi() -> bool:
    """Whether this process is one of several that `mpiexec` has started."""
    sizes = [os.environ.get(name, "") for name in SIZE_VARIABLES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


def leads() -> bool:
    """Whether this is the process that leads the others: the first."""
    from baremetal.comm.mpi import import_mpi

    return bool(import_mpi().COMM_WORLD.rank == 0)
