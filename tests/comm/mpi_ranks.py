"""What the ranks of the MPI tests do: `mpiexec -n 2 python mpi_ranks.py WHAT` prints JSON."""

import json
import sys

import comm_ranks
import numpy as np

from baremetal.comm.clock import VirtualClock
from baremetal.comm.layout import Lane, make_layout
from baremetal.comm.mpi import MpiEndpoint

SHAPE, MESSAGES = (25,), 20


def lanes(shape, slots=2):
    return [Lane(0, 1, slots, shape, label="there"), Lane(1, 0, slots, shape, label="back")]


def there_and_back(ends, clock, messages):
    """Rank 0 of `comm_ranks.relay`."""
    out, back = ends.senders[0], ends.receivers[1]
    into = np.empty(out.lane.shape, np.float32)
    times = []
    for k in range(messages):
        clock.wait_until(out.free(k))
        message = comm_ranks.message(k, out.lane)
        sent = out.send(k, message, clock.now_ps())
        arrival = back.arrival(k)
        back.receive(k, into, clock.wait_until(arrival))
        np.testing.assert_array_equal(into, message * np.float32(0.5))
        times.append([*sent, arrival])
    return times


def run_relay(shape, messages):
    with MpiEndpoint(make_layout(2, lanes(shape)), comm_ranks.LINKS, seed=3) as ends:
        if ends.rank == 1:
            comm_ranks.relay(ends, VirtualClock(), messages, 100)
            return None
        return there_and_back(ends, VirtualClock(), messages)


def run_order():
    """Messages are taken in another order than they were sent, and the slots come back."""
    with MpiEndpoint(make_layout(2, lanes((3,), slots=3))) as ends:
        if ends.rank == 0:
            freed = []
            for k in range(9):
                freed.append(ends.senders[0].free(k))
                ends.senders[0].send(k, np.full(3, k, np.float32), 0)
            return freed
        into = np.empty(3, np.float32)
        for k in (2, 0, 1, 4, 3, 5, 7, 8, 6):
            ends.receivers[0].receive(k, into, 1000 + k)
            assert (into == k).all(), (k, into)
    return None


def run_raise():
    with MpiEndpoint(make_layout(2, lanes((3,)))) as ends:
        if ends.rank == 1:
            raise RuntimeError("F3 of stage 1\nfailed")
        ends.receivers[1].arrival(0)  # would wait for ever


def main():
    if sys.argv[1] == "raise":
        run_raise()
        return
    # Several runs, one after the other, in the same processes.
    results = {
        "relay": run_relay(SHAPE, MESSAGES),
        "large": run_relay((3, 300_001), 4),
        "order": run_order(),
    }
    if results["order"] is not None:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
