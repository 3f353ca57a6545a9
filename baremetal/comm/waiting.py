"""Waiting for another process: first awake, then ever more patiently, and never for ever.

A message that is a microsecond away is worth looking for without a pause; sleeping and waking
costs fifty. A message that is a second away is not: whoever spins takes a core from the rank that
is being waited for (two ranks that the system has put on one core would each spin until the
other's turn). So a rank looks some thousand times in compiled code, then offers the core between
looks, which costs next to nothing if nobody wants it, then sleeps, twice as long each time up to
a millisecond. In every round it looks whether the run is over, counts a beat, and does what
others may be waiting for.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import TypeAlias

from baremetal.comm.board import Board, WaitingFor
from baremetal.comm.counts import Counts
from baremetal.comm.errors import AbortedError
from baremetal.comm.slot import ABORTED, NOT_YET

Look: TypeAlias = Callable[[int], int]

SPINS = 3_000  # looks before the first pause: about 2 us
FEW_SPINS = 100  # looks between two pauses
YIELDS = 100  # rounds that only give the core away: where nobody wants it, some 200 us
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 20e-6, 1e-3

give_way = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows has no sched_yield


@dataclass
class Waiting:
    """How a rank waits, and for how long it has.

    Attributes:
        board: the run's.
        rank: whose signs of life are counted.
        spins: looks before the first pause; few where there are more ranks than cores.
        duties: called in each round, to do what others may be waiting for. May raise.
        counts: of the rank.
    """

    board: Board
    rank: int
    spins: int = SPINS
    duties: list[Callable[[], None]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def beat(self) -> None:
        """Count a sign of life."""
        self.board.beat(self.rank)

    def until(
        self, look: Look, what: WaitingFor, each_round: Callable[[], None] | None = None
    ) -> int:
        """Look until something is found; to be called when one look was not enough.

        Args:
            look: called with how often it may look before it answers NOT_YET.
            what: is waited for.
            each_round: done between two looks, beside the duties.

        Returns:
            What was found: READY or DAMAGED.

        Raises:
            AbortedError: the run was ended meanwhile.
        """
        started_ns = time.monotonic_ns()
        self.counts.waits += 1
        self.board.wait(self.rank, what)
        try:
            found = look(self.spins)
            for sleep_s in self._sleeps():
                if found != NOT_YET:
                    break
                self.board.beat(self.rank)
                for duty in self.duties:
                    duty()
                if each_round is not None:
                    each_round()
                if sleep_s:
                    time.sleep(sleep_s)
                else:
                    give_way()
                found = look(FEW_SPINS)
        finally:
            self.board.wait(self.rank, None)
            self.counts.waited_ns += time.monotonic_ns() - started_ns
        if found == ABORTED:
            raise AbortedError(f"rank {self.rank} stopped: {self.board.aborted}")
        return found

    def _sleeps(self) -> Iterator[float]:
        """How long to sleep in each round, s: first not at all, then twice as long each time."""
        yield from repeat(0.0, YIELDS)
        sleep_s = SHORTEST_SLEEP_S
        while True:
            yield sleep_s
            sleep_s = min(2 * sleep_s, LONGEST_SLEEP_S)
