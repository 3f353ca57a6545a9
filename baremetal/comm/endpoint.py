"""A run's channels in shared memory: made by the one who starts it, joined by every rank."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from baremetal.comm.board import Board
from baremetal.comm.layout import Layout
from baremetal.comm.link_queue import LinkModel, LinkQueue, NoLink
from baremetal.comm.ring import RingReceiver, RingSender
from baremetal.comm.shared_memory import SharedMemory
from baremetal.comm.waiting import SPINS, Waiting


@dataclass(frozen=True)
class Address:
    """All that a rank must be told to join: small and picklable, given to the process at its start.

    Attributes:
        name: of the segment.
        layout: what lies in it.
    """

    name: str
    layout: Layout


class Exchange:
    """The run's segment, owned by the process that starts the ranks.

    Use it as a context: at its end the memory is gone, whatever happened inside.
    """

    def __init__(self, layout: Layout) -> None:
        name = f"baremetal-{secrets.token_hex(6)}"
        self._memory = SharedMemory.create(name, layout.size_bytes)
        self.address = Address(name, layout)
        self.board = Board(self._memory.bytes, layout.ranks)

    @property
    def memory(self) -> np.ndarray:
        """(size_bytes,) uint8, the whole segment."""
        return self._memory.bytes

    def close(self) -> None:
        """Remove the segment."""
        self._memory.unlink()

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Endpoint:
    """One rank's ends of all its lanes."""

    def __init__(
        self,
        address: Address,
        rank: int,
        links: Mapping[tuple[int, int], LinkModel] | None = None,
        spins: int = SPINS,
    ) -> None:
        layout = address.layout
        self._memory = SharedMemory.attach(address.name, layout.size_bytes)
        self.board = Board(self._memory.bytes, layout.ranks)
        self.waiting = Waiting(self.board, rank, spins)
        self.rank = rank
        self.senders: dict[int, RingSender] = {}
        self.receivers: dict[int, RingReceiver] = {}
        queues: dict[int, LinkQueue] = {}
        self._queues = queues
        offsets = layout.offsets()
        for number, lane in enumerate(layout.lanes):
            memory = self._memory.bytes[offsets[number] : offsets[number + 1]]
            if lane.src == rank:
                model = (links or {}).get((rank, lane.dst), NoLink())
                queue = queues.setdefault(lane.dst, LinkQueue(model, rank, lane.dst))
                self.senders[number] = RingSender(number, lane, memory, self.waiting, queue)
            if lane.dst == rank:
                self.receivers[number] = RingReceiver(number, lane, memory, self.waiting)

    @property
    def memory(self) -> np.ndarray:
        """(size_bytes,) uint8, the whole segment."""
        return self._memory.bytes

    def begin_phase(self) -> None:
        """Time begins anew: all links that lead away from here are free, and count from 0."""
        for queue in self._queues.values():
            queue.free_ps = queue.sequence = 0
