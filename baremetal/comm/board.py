"""The run's notice board: one word that ends it all, and what each rank is waiting for.

Two questions must have an answer in shared memory, without asking the rank itself:

- *Is the run over?* Whoever notices that it is (a rank that fails, a supervisor that sees a process
  die) sets the abort word and says why. Every waiting rank looks at it all the time.
- *Does this rank hang, or does it wait?* A rank counts its beats: one for each message, one for
  each round of waiting. A rank whose counter moves is alive; one that waits has written down for
  which lane and which message, so that a supervisor can name the one whom all are waiting for.
"""

from typing import NamedTuple

import numpy as np

from baremetal.comm.slot import LINE_BYTES

TEXT_BYTES = 8 * LINE_BYTES - 8  # of the reason, UTF-8
ABORT = 0  # a word; the text comes behind it
FIRST_RANK = 9 * LINE_BYTES
BEATS, LANE, SEQUENCE, RECEIVING = range(4)  # words of a rank's line


def board_bytes(ranks: int) -> int:
    """How large the board of so many ranks is, in B."""
    return FIRST_RANK + ranks * LINE_BYTES


class WaitingFor(NamedTuple):
    """What a rank waits for: a message of a lane, to come or to be taken away."""

    lane: int
    sequence: int
    receiving: bool


class Board:
    """The board, in memory that all ranks share.

    Args:
        memory: (board_bytes(ranks),) uint8 or more, zeros when the run begins, aligned to 8.
        ranks: how many there are.

    Attributes:
        memory: as given.
    """

    def __init__(self, memory: np.ndarray, ranks: int) -> None:
        self._memory = self.memory = memory
        self._words = memory[: board_bytes(ranks)].data.cast("q")
        self._ranks = ranks

    @property
    def abort_address(self) -> int:
        """Where the abort word lies."""
        return self._memory.__array_interface__["data"][0]

    def abort(self, reason: str) -> None:
        """End the run: every waiting rank raises AbortedError with the first reason."""
        if self._words[ABORT]:
            return
        text = reason.encode("utf-8")[:TEXT_BYTES]
        self._memory[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)
        self._words[ABORT] = 1

    @property
    def aborted(self) -> str | None:
        """Why the run was ended, or None."""
        if not self._words[ABORT]:
            return None
        text = self._memory[8 : 8 + TEXT_BYTES].tobytes().rstrip(b"\0")
        return text.decode("utf-8", errors="ignore")

    def _line(self, rank: int) -> int:
        return (FIRST_RANK + rank * LINE_BYTES) // 8

    def beat(self, rank: int) -> None:
        """Count one more sign of life."""
        self._words[self._line(rank) + BEATS] += 1

    def beats(self) -> list[int]:
        """The signs of life of each rank so far."""
        return [self._words[self._line(rank) + BEATS] for rank in range(self._ranks)]

    def wait(self, rank: int, waiting: WaitingFor | None) -> None:
        """Write down what a rank waits for; None: it does not."""
        line = self._line(rank)
        self._words[line + LANE] = 0
        if waiting is not None:
            self._words[line + SEQUENCE] = waiting.sequence
            self._words[line + RECEIVING] = waiting.receiving
            self._words[line + LANE] = waiting.lane + 1

    def waiting(self, rank: int) -> WaitingFor | None:
        """What a rank waits for."""
        line = self._line(rank)
        lane, sequence, receiving = self._words[line + LANE : line + RECEIVING + 1]
        return WaitingFor(lane - 1, sequence, bool(receiving)) if lane else None
