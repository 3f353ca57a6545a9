"""What the spawned processes of these tests do. A module of its own, so that it can be imported."""

import time
from fractions import Fraction

import numpy as np

from baremetal.comm.clock import VirtualClock, WallClock
from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.comm.errors import CommError
from baremetal.comm.layout import Lane, make_layout
from baremetal.machine.link import Link

CALM = {
    (0, 1): Link("there", 8 * 10**12, latency_ps=1000, overhead_ps=10, retransmit_timeout_ps=300),
    (1, 0): Link("back", 16 * 10**12, latency_ps=2000),
}
LINKS = CALM | {
    (1, 0): Link("bad", 16 * 10**12, 2000, jitter_ps=700, loss=Fraction(1, 5),
                 retransmit_timeout_ps=900),
}  # fmt: skip


def message(k, lane):
    return np.random.default_rng(k).standard_normal(lane.shape).astype(lane.dtype)


def relay(ends, clock, messages, work_ps):
    """Lane 0 in, half of it out on lane 1: a stage. Returns the time at the end, in ps."""
    source, target = ends.receivers[0], ends.senders[1]
    into = np.empty(source.lane.shape, source.lane.dtype)
    for k in range(messages):
        start = clock.wait_until(max(source.arrival(k), target.free(k)))
        source.receive(k, into, start)
        np.multiply(into, 0.5, out=target.reserve(k))
        target.commit(k, clock.advance(work_ps))
    return clock.now_ps()


def relay_process(address, links, messages, work_ps, pipe, wall_origin_ns=None, faults=(), seed=0):
    clock = VirtualClock() if wall_origin_ns is None else WallClock(wall_origin_ns)
    with Endpoint(address, 1, links, faults=faults, seed=seed) as ends:
        end_ps = relay(ends, clock, messages, work_ps)
    pipe.send((end_ps, ends.counts))


def wait_for_ever(address, pipe, parent=None):
    """Wait for a message that nobody sends, and tell why it ended."""
    ends = Endpoint(address, 1, parent=parent)
    pipe.send("waiting")
    try:
        ends.receivers[0].arrival(0)
    except CommError as error:
        pipe.send(str(error))


def hang(pipe):
    pipe.send("here")
    time.sleep(1000)


def own_an_exchange(pipe):
    """The supervisor of a run that will be killed."""
    exchange = Exchange(make_layout(2, [Lane(0, 1, 1, (10,))]))
    pipe.send(exchange.address.name)
    time.sleep(1000)


def start_a_rank(address, pipe):
    """A supervisor that starts a rank and then is killed."""
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    watched, held = spawn.Pipe(duplex=False)
    rank = spawn.Process(target=wait_for_ever, args=(address, pipe, watched))
    rank.start()
    watched.close()
    time.sleep(1000)
    held.close()
