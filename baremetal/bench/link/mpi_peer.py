"""The ping-pong over MPI, as two ranks: `mpiexec -n 2 python -m baremetal.bench.link.mpi_peer ...`.

What MPI offers for NumPy arrays, `Send` and `Recv`, without checksums. Arguments, for each size:
bytes, round trips, and those before them that do not count. Rank 0 prints the seconds of each as
JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np

from baremetal.bench.link.echo import core_of_its_own
from baremetal.comm.mpi import import_mpi


def main() -> None:
    """Play all turns."""
    comm = import_mpi().COMM_WORLD
    with core_of_its_own(comm.rank):
        times = play(comm, [int(number) for number in sys.argv[1:]])
    if comm.rank == 0:
        print(json.dumps(times))


def play(comm: Any, numbers: list[int]) -> list[list[float]]:
    """This rank's part; rank 0 gets the seconds of each round trip, by size."""
    times = []
    for size, count, warm_up in zip(*(numbers[i::3] for i in range(3)), strict=True):
        buffer = np.zeros(size, np.uint8)
        seconds = []
        comm.Barrier()
        for _ in range(warm_up + count):
            start = time.perf_counter()
            if comm.rank == 0:
                comm.Send(buffer, 1)
                comm.Recv(buffer, 1)
                seconds.append(time.perf_counter() - start)
            else:
                comm.Recv(buffer, 0)
                comm.Send(buffer, 0)
        times.append(seconds[warm_up:])
    return times


if __name__ == "__main__":
    main()
