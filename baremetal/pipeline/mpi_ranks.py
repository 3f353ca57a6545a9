"""The ranks of a run over MPI: `mpiexec` starts them, and one of them leads.

    mpiexec -n 4 baremetal train --stages 4 ...

Every process runs the same command and makes the same job from it. Rank 0 trains: it has the data,
writes the run folder, and tells all ranks, itself included, what to do; the others only serve. The
commands and their answers are small and go by MPI's broadcast and gather; activations and gradients
go by lanes, as ever.

Who fails says so, with what it was doing, and ends everybody: `mpiexec` supervises here, and its
reach is other machines, too. For a rank that is killed or hangs its guard speaks (`guard.py`),
whatever the leader is doing at that time.
"""

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from baremetal.comm.board import board_bytes
from baremetal.comm.mpi import MpiEndpoint, import_mpi
from baremetal.errors import BaremetalError
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.guard import guarded_board
from baremetal.pipeline.job import Job
from baremetal.pipeline.launcher import world_size
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.words import describe_status, rank_name
from baremetal.pipeline.worker import Worker, links_from

END, EACH_ITS_OWN = "end", "arguments follow, to each rank its own"


class MpiRanks:
    """All ranks, as seen from each: the leader calls, the others serve.

    Args:
        job: the same one everywhere.
        limits: the guard's patience.

    Raises:
        PipelineError: `mpiexec` has started another number of ranks than the job has.
    """

    def __init__(self, job: Job, limits: Limits | None = None) -> None:
        check_world(job.ranks)
        world = import_mpi().COMM_WORLD
        self._world, self._job = world, job
        self._endpoint = MpiEndpoint(
            job.layout,
            links_from(world.rank, job),
            board_memory=guarded_board(job.schedule, limits or Limits(), board_bytes(job.ranks)),
        )
        self._worker = Worker(world.rank, job, self._endpoint)
        self._is_over = False

    def call(self, method: str, *args: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Call a method of all ranks' workers; see `Supervisor.call`. For the leader only."""
        self._world.bcast((method, args), 0)
        results = self._world.gather(self._run(method, args), 0)
        return results if ranks is None else [results[rank] for rank in ranks]

    def interruptible(self) -> AbstractContextManager[None]:
        """See `Supervisor.interruptible`: nobody is left here to be interrupted."""
        return nullcontext()

    def finishing(self) -> AbstractContextManager[None]:
        """See `Supervisor.finishing`: `mpiexec` waits for nothing."""
        return nullcontext()

    def call_each(self, method: str, args: Sequence[tuple]) -> list[Any]:
        """Call a method of all ranks' workers, each with arguments of its own. For the leader."""
        self._world.bcast((method, EACH_ITS_OWN), 0)
        own = self._world.scatter(list(args), 0)
        return self._world.gather(self._run(method, own), 0)

    def serve(self) -> None:
        """Do what the leader says, until it says that this is the end."""
        while True:
            method, args = self._world.bcast(None, 0)
            if method == END:
                break
            if args == EACH_ITS_OWN:
                args = self._world.scatter(None, 0)
            self._world.gather(self._run(method, args), 0)
        self._endpoint.close()

    def close(self) -> None:
        """The end, in order, for all ranks. For the leader only."""
        if not self._is_over:
            self._is_over = True
            self._world.bcast((END, ()), 0)
            self._endpoint.close()

    def _run(self, method: str, args: tuple) -> Any:
        """Do it here. Whoever fails ends all: the others wait for it in vain."""
        return self._or_abort(lambda: getattr(self._worker, method)(*args))

    def _or_abort(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except BaseException as error:
            rank = self._world.rank
            doing = describe_status(self._job.schedule, rank, self._worker.board.status(rank))
            name = rank_name(self._job.schedule, rank)
            self._endpoint.abort(f"{name}, {doing}: {_words_of(error)}")
            raise


def check_world(ranks: int) -> None:
    """Refuse another number of processes than a run has ranks; before any of them begins.

    Raises:
        PipelineError: `mpiexec` has started more or fewer.
    """
    found = world_size()
    if not ranks:
        raise PipelineError(
            f"mpiexec has started {found} processes, and without --stages each of them would train "
            f"by itself: give --stages {found}, or leave mpiexec away"
        )
    if found != ranks:
        raise PipelineError(
            f"--stages {ranks}, but mpiexec has started {found} processes: one for each stage, "
            f"mpiexec -n {ranks}"
        )


def _words_of(error: BaseException) -> str:
    """An error as text: ours say what to do, of others the place is what helps."""
    if isinstance(error, BaremetalError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
