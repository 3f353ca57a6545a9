"""Who has started this process: somebody at a keyboard, or `mpiexec`; and what that changes.

A launcher tells its processes how many they are by their environment. It is asked there, for to
import MPI is to start it.

Several processes that run one command must not fail one by one: who waits for somebody who has gone
waits for ever. So all of them agree before they begin (`all_or_none`): if one cannot, for a wrong
option or a missing file, the leader says why, once, and all end in order. From then on a failure
ends everybody at once (`mpi_ranks.py`, `guard.py`).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from baremetal.errors import BaremetalError
from baremetal.pipeline.guard import PASSED_ON, can_guard, guard_rank, listen_to_the_guard

# What launchers tell the processes that they start: MPICH's, Slurm's with PMI-2; Open MPI's; PMIx
# leaves the number to Slurm.
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
BAD_INPUT, INTERRUPTED = 2, 130  # exit statuses, as of the command line


def world_size() -> int:
    """How many processes the launcher has started; 1 if there is none."""
    names = [*SIZE_VARIABLES, *(["SLURM_STEP_NUM_TASKS"] if "PMIX_RANK" in os.environ else [])]
    sizes = [os.environ.get(name, "") for name in names]
    return max([int(size) for size in sizes if size.isdecimal()], default=1)


def started_by_mpi() -> bool:
    """Whether this process is one of several that `mpiexec` has started."""
    return world_size() > 1


def leads() -> bool:
    """Whether this is the process that leads the others, the first; alone one leads, too."""
    if not started_by_mpi():
        return True
    given = [os.environ[name] for name in RANK_VARIABLES if name in os.environ]
    return not given or int(given[0]) == 0


def take_part(work: Callable[[], int]) -> int:
    """Do `work`, as one of the processes of `mpiexec` if it is one. Returns the exit status."""
    if not started_by_mpi():
        return work()
    if can_guard():
        return guard_rank(_rank(), world_size())
    listen_to_the_guard()
    if not leads():  # the leader stops in order, and tells the others
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
    try:
        return work()
    except KeyboardInterrupt:
        # To end MPI in order would be to wait for others, who wait for this one.
        print("baremetal: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """What is done inside goes well on all processes, or none of them goes on.

    Raises:
        BaremetalError: on the leader, with what went wrong, there or elsewhere.
        SystemExit: on the others, who have nothing to say.
    """
    if not started_by_mpi():
        yield
        return
    ours: Exception | None = None
    try:
        yield
    except Exception as error:
        ours = error
    from baremetal.comm.mpi import import_mpi

    said = import_mpi().COMM_WORLD.allgather(None if ours is None else str(ours))
    found = [(rank, text) for rank, text in enumerate(said) if text is not None]
    if ours is not None and (leads() or not isinstance(ours, BaremetalError)):
        raise ours
    if found and not leads():
        raise SystemExit(BAD_INPUT)
    for rank, text in found:
        raise BaremetalError(f"rank {rank}: {text}")


def _rank() -> int:
    return int(next(os.environ[name] for name in RANK_VARIABLES if name in os.environ))
