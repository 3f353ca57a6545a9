"""The ranks of a run over MPI: `mpiexec` starts them, and one of them leads.

    mpiexec -n 4 baremetal train --stages 4 ...

Every process runs the same command and makes the same job from it. Rank 0 trains: it has the data,
writes the run folder, and tells all ranks, itself included, what to do; the others only serve. The
commands and their answers are small and go by MPI's broadcast and gather; activations and gradients
go by lanes, as ever.

Who fails says so, with what it was doing, and ends everybody: `mpiexec` supervises here, and its
reach is other machines, too.
"""

from collections.abc import Callable, Sequence
from typing import Any

from baremetal.comm.mpi import MpiEndpoint, import_mpi
from baremetal.errors import BaremetalError
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.job import Job
from baremetal.pipeline.words import describe_action
from baremetal.pipeline.worker import Worker, links_from

END = "end"


class MpiRanks:
    """All ranks, as seen from each: the leader calls, the others serve.

    Args:
        job: the same one everywhere.

    Raises:
        PipelineError: `mpiexec` has started another number of ranks than the job has.
    """

    def __init__(self, job: Job) -> None:
        world = import_mpi().COMM_WORLD
        if world.size != job.ranks:
            raise PipelineError(
                f"--stages {job.ranks}, but mpiexec has started {world.size} processes: one for "
                f"each stage, mpiexec -n {job.ranks}"
            )
        self._world, self._job = world, job
        self._endpoint = MpiEndpoint(job.layout, links_from(world.rank, job))
        self._worker = Worker(world.rank, job, self._endpoint)
        self._is_over = False

    def call(self, method: str, *args: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Call a method of all ranks' workers; see `Supervisor.call`. For the leader only."""
        self._world.bcast((method, args), 0)
        results = self._world.gather(self._run(method, args), 0)
        return results if ranks is None else [results[rank] for rank in ranks]

    def serve(self) -> None:
        """Do what the leader says, until it says that this is the end."""
        while True:
            method, args = self._world.bcast(None, 0)
            if method == END:
                break
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
        except Exception as error:
            rank = self._world.rank
            status = self._worker.board.status(rank)
            doing = describe_action(self._job.schedule, rank, status.step, status.action)
            kind = "" if isinstance(error, BaremetalError) else f"{type(error).__name__}: "
            self._endpoint.abort(f"{doing}: {kind}{error}")
            raise
