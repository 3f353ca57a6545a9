"""Who sends what to whom, known before anything starts: lanes, and where they lie in memory.

A *lane* is one stream of messages from one rank to another, all of the same shape and type: the
activations that stage 2 sends to stage 3, or the gradients that come back. It is a ring of a few
*slots*; message k uses slot k mod n, and so the capacity of the lane is n messages.

    segment   [ board | lane 0: slot 0, slot 1, ... | lane 1: slot 0, ... | ... ]
    slot      [ header | payload ]

All lanes of a run lie in one segment, at offsets that follow from the list of lanes alone: every
rank computes the same ones, and nothing is looked up at run time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.comm.board import board_bytes
from baremetal.comm.checksum import LARGEST_BYTES
from baremetal.comm.errors import CommError
from baremetal.comm.slot import HEADER_BYTES, LINE_BYTES


@dataclass(frozen=True)
class Lane:
    """A stream of messages of one shape, from one rank to another.

    Attributes:
        src: the rank that sends.
        dst: the rank that receives; another one.
        slots: how many messages it holds, at least one.
        shape: of every message.
        dtype: of every message, by NumPy's name.
        label: what it carries, for messages to people: ``"activations 0 -> 1"``.
        modelled_bytes: what a message is charged as on the modelled link, in B; None: what it is.
    """

    src: int
    dst: int
    slots: int
    shape: tuple[int, ...]
    dtype: str = "float32"
    label: str = ""
    modelled_bytes: int | None = None

    def __post_init__(self) -> None:
        what = f"lane '{self.label}' from rank {self.src} to rank {self.dst}"
        if self.src == self.dst or min(self.src, self.dst) < 0:
            raise CommError(f"{what}: it leads from one rank to another, counted from 0")
        if self.slots < 1:
            raise CommError(f"{what} has {self.slots} slots: at least one message must fit in")
        if any(length < 0 for length in self.shape) or self.size_bytes > LARGEST_BYTES:
            raise CommError(f"{what}: messages of shape {self.shape} cannot be carried")

    @property
    def size_bytes(self) -> int:
        """Of one message."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def charged_bytes(self) -> int:
        """What a message is on the modelled link."""
        return self.size_bytes if self.modelled_bytes is None else self.modelled_bytes

    @property
    def stride_bytes(self) -> int:
        """From one slot to the next."""
        return HEADER_BYTES + -(-self.size_bytes // LINE_BYTES) * LINE_BYTES


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the run's segment.

    Attributes:
        ranks: how many there are.
        lanes: all lanes of the run; a lane's number is its place in this list.

    Raises:
        CommError: a lane leads to a rank that does not exist.
    """

    ranks: int
    lanes: tuple[Lane, ...]

    def __post_init__(self) -> None:
        for lane in self.lanes:
            if max(lane.src, lane.dst) >= self.ranks:
                raise CommError(
                    f"lane '{lane.label}' leads from rank {lane.src} to rank {lane.dst}, but there "
                    f"are {self.ranks} ranks, 0 to {self.ranks - 1}"
                )

    def offsets(self) -> list[int]:
        """The first byte of each lane, and behind the last one the size of the whole."""
        places = [board_bytes(self.ranks)]
        for lane in self.lanes:
            places.append(places[-1] + lane.slots * lane.stride_bytes)
        return places

    @property
    def size_bytes(self) -> int:
        """Of the whole segment."""
        return self.offsets()[-1]


def make_layout(ranks: int, lanes: Sequence[Lane]) -> Layout:
    """A layout from any list of lanes."""
    return Layout(ranks, tuple(lanes))
