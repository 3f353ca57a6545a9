"""Waiting for another process: first awake, then ever more patiently, and never for ever.

A message that is a microsecond away is worth looking for without a pause; sleeping and waking costs
fifty. A message that is a second away is not: whoever spins takes a core from the rank that is being
waited for. So a rank looks some thousand times in compiled code, then gives the core away between
looks, then sleeps, twice as long each time up to a millisecond. In every round it looks whether the
run is over, counts a beat, and does what others may be waiting for.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from baremetal.comm.board import Board, WaitingFor
from baremetal.comm.errors import AbortedError
from baremetal.comm.slot import ABORTED, READY

SPINS = 60_000  # looks before the first pause: about 40 us
FEW_SPINS = 100  # looks between two pauses
YIELDS = 20  # rounds that only give the core away
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 20e-6, 1e-3

give_way = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows has no sched_yield


@dataclass
class Waiting:
    """How a rank waits, and for how long it has.

    Attributes:
        board: the run's.
        rank: whose signs of life are counted.
        spins: looks before the first pause; 0 where there are more ranks than cores.
        duties: called in each round, to do what others may be waiting for. May raise.
        waited_ns: time spent here, beyond the first look.
        waits: how often the first look was not enough.
    """

    board: Board
    rank: int
    spins: int = SPINS
    duties: list[Callable[[], None]] = field(default_factory=list)
    waited_ns: int = 0
    waits: int = 0

    def beat(self) -> None:
        """Count a sign of life."""
        self.board.beat(self.rank)

    def until(self, look: Callable[[int], int], what: WaitingFor) -> None:
        """Return when `look(spins)` answers READY; to be called when one look was not enough.

        Raises:
            AbortedError: the run was ended meanwhile.
        """
        started_ns = time.monotonic_ns()
        self.waits += 1
        try:
            if look(self.spins) != READY:
                self._patiently(look, what)
        finally:
            self.waited_ns += time.monotonic_ns() - started_ns

    def _patiently(self, look: Callable[[int], int], what: WaitingFor) -> None:
        self.board.wait(self.rank, what)
        rounds, sleep_s = 0, SHORTEST_SLEEP_S
        try:
            while (found := look(FEW_SPINS)) != READY:
                if found == ABORTED:
                    raise AbortedError(f"rank {self.rank} stopped: {self.board.aborted}")
                self.board.beat(self.rank)
                for duty in self.duties:
                    duty()
                if rounds < YIELDS:
                    give_way()
                else:
                    time.sleep(sleep_s)
                    sleep_s = min(2 * sleep_s, LONGEST_SLEEP_S)
                rounds += 1
        finally:
            self.board.wait(self.rank, None)
