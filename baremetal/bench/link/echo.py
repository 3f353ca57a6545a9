"""The two sides of a ping-pong: whatever comes is sent back.

A message's one-way time cannot be measured with one clock, so half of the way there and back is
taken for it, as is usual (the OSU micro-benchmarks do). What is sent back is sent when all of it
has come and has been verified. Between turns a contender sleeps in a read, so that it disturbs
nobody.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from baremetal.comm.endpoint import Address, Endpoint
from baremetal.comm.layout import Lane, Layout

THERE, BACK = 0, 1  # of the two lanes of each size


@contextmanager
def core_of_its_own(rank: int, contender: str = "") -> Iterator[None]:
    """Keep this process on one core while open, where the system lets us choose.

    Two processes that talk to each other are easily put on the same core, where whoever looks for a
    message keeps the other from sending it. MPI launchers bind ranks to cores for that reason. A
    pipe is left alone: its reader sleeps, and is woken sooner on the writer's core.
    """
    if contender == "pipe" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[rank % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Turn(NamedTuple):
    """What to do next: so many round trips of one size, by one contender."""

    contender: str
    size: int  # index into the sizes
    round_trips: int


def make_lanes(sizes_bytes: tuple[int, ...]) -> Layout:
    """For each size a lane there and a lane back."""
    pairs = [(src, 1 - src, size) for size in sizes_bytes for src in (0, 1)]
    return Layout(2, tuple(Lane(src, dst, 1, (size,), "uint8") for src, dst, size in pairs))


class LanePlayer:
    """One end of the lanes of one size; messages are numbered over all turns.

    Args:
        ends: of this process.
        size: index into the sizes.
        first: whether this end begins (rank 0) or answers.
    """

    def __init__(self, ends: Endpoint, size: int, first: bool) -> None:
        out, back = (THERE, BACK) if first else (BACK, THERE)
        self._out, self._back = ends.senders[2 * size + out], ends.receivers[2 * size + back]
        self.buffer = np.zeros(self._out.lane.shape, np.uint8)
        self._next = 0

    def send(self, in_place: bool) -> None:
        """Send the buffer; in place: what lies in the slot."""
        if in_place:
            self._out.reserve(self._next)
            self._out.commit(self._next, 0)
        else:
            self._out.send(self._next, self.buffer, 0)

    def receive(self) -> None:
        """Into the buffer, verified."""
        self._back.receive(self._next, self.buffer, 0)

    def play(self, count: int, in_place: bool) -> Iterator[float]:
        """The side that begins: seconds of each round trip."""
        for _ in range(count):
            start = time.perf_counter()
            self.send(in_place)
            self.receive()
            yield time.perf_counter() - start
            self._next += 1

    def answer(self, count: int, in_place: bool) -> None:
        """The other side."""
        for _ in range(count):
            self.receive()
            self.send(in_place)
            self._next += 1


def play_pipe(pipe: Connection, buffer: np.ndarray, count: int) -> Iterator[float]:
    """The same through a pipe: seconds of each round trip."""
    for _ in range(count):
        start = time.perf_counter()
        pipe.send_bytes(buffer.data)
        pipe.recv_bytes_into(buffer.data)
        yield time.perf_counter() - start


def answer_pipe(pipe: Connection, buffer: np.ndarray, count: int) -> None:
    """The other side of it."""
    for _ in range(count):
        pipe.recv_bytes_into(buffer.data)
        pipe.send_bytes(buffer.data)


def answer_turns(address: Address, orders: Connection, pipe: Connection) -> None:
    """The process at the other end: a turn at a time, until its orders end."""
    sizes = len(address.layout.lanes) // 2
    with Endpoint(address, 1) as ends:
        players = [LanePlayer(ends, size, first=False) for size in range(sizes)]
        orders.send("ready")
        while (turn := orders.recv()) is not None:
            player = players[turn.size]
            with core_of_its_own(1, turn.contender):
                if turn.contender == "pipe":
                    answer_pipe(pipe, player.buffer, turn.round_trips)
                else:
                    player.answer(turn.round_trips, turn.contender == "in place")
