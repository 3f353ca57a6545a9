"""A run's channels in shared memory: made by the one who starts it, joined by every rank.

    with Exchange(layout) as exchange:              the supervisor
        process = Process(target=work, args=(exchange.address, rank, ...))

    with Endpoint(address, rank, links) as ends:    in each rank
        ends.receivers[0].arrival(0)

Nothing has to be agreed on while the run goes on: the layout says which lanes there are, and every
rank finds its ends of them by number.
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baremetal.comm.board import Board
from baremetal.comm.counts import Counts
from baremetal.comm.errors import AbortedError
from baremetal.comm.faults import FaultySender, MessageFault
from baremetal.comm.layout import Layout
from baremetal.comm.leftovers import PREFIX, RunRecord, sweep_leftovers
from baremetal.comm.link_queue import INSTANT, LinkQueue
from baremetal.comm.ring import RingReceiver, RingSender
from baremetal.comm.shared_memory import SharedMemory
from baremetal.comm.slot import compiled
from baremetal.comm.waiting import FEW_SPINS, SPINS, Waiting
from baremetal.machine.link import Link


@dataclass(frozen=True)
class Address:
    """All that a rank must be told to join: small, and picklable.

    Attributes:
        name: of the segment.
        layout: what lies in it.
    """

    name: str
    layout: Layout


class Exchange:
    """The run's segment, owned by the process that starts the ranks.

    Use it as a context: at its end the memory is gone, whatever happened inside. What an earlier
    run left behind that was killed is removed first, and the compiled code is made ready, so that
    the ranks find it on disk.

    Attributes:
        address: for the ranks.
        board: to end the run, and to see who is alive.

    Raises:
        CommError: there is not enough room for the segment.
    """

    def __init__(self, layout: Layout) -> None:
        sweep_leftovers()
        compiled()
        name = PREFIX + secrets.token_hex(6)
        self._record = RunRecord(name)
        self._memory: SharedMemory | None = None
        try:
            self._record.add(name)
            self._memory = SharedMemory.create(name, layout.size_bytes)
        except BaseException:
            self._record.close()
            raise
        self.address = Address(name, layout)
        self.board = Board(self._memory.bytes, layout.ranks)

    @property
    def memory(self) -> np.ndarray:
        """(size_bytes,) uint8, the whole segment."""
        assert self._memory is not None
        return self._memory.bytes

    def close(self) -> None:
        """Remove the segment; ranks that still have it mapped keep it until they end."""
        if self._memory is not None:
            self._memory.unlink()
            self._memory = None
            self._record.close()

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Endpoint:
    """One rank's ends of all its lanes.

    Args:
        address: of the exchange.
        rank: whose ends these are.
        links: the modelled link for each ordered pair of ranks; pairs that are missing are
            connected without delay.
        seed: of what happens to messages on the links.
        faults: messages that go wrong on purpose; those of other ranks' lanes are left to them.
        parent: the receiving end of a pipe from the process that started this one. It is never
            written to: that it closes says that the process is gone, and ends the waiting.

    Attributes:
        senders, receivers: by the number of the lane.
        counts: what happened.
        board: the run's.
        memory: (size_bytes,) uint8, the whole segment.
    """

    def __init__(
        self,
        address: Address,
        rank: int,
        links: Mapping[tuple[int, int], Link] | None = None,
        *,
        seed: int = 0,
        faults: Sequence[MessageFault] = (),
        parent: Any = None,
    ) -> None:
        layout = address.layout
        memory = SharedMemory.attach(address.name, layout.size_bytes).bytes
        self.rank = rank
        self.board = Board(memory, layout.ranks)
        self.counts = Counts()
        spins = SPINS if layout.ranks <= (os.cpu_count() or 1) else FEW_SPINS
        self.waiting = Waiting(self.board, rank, spins, counts=self.counts)
        self.senders: dict[int, RingSender] = {}
        self.receivers: dict[int, RingReceiver] = {}
        self.memory = memory
        self._queues = queues = LinkQueues(rank, links or {}, seed)
        offsets = layout.offsets()
        for number, lane in enumerate(layout.lanes):
            part = memory[offsets[number] : offsets[number + 1]]
            if lane.dst == rank:
                self.receivers[number] = RingReceiver(number, lane, part, self.waiting)
            if lane.src != rank:
                continue
            queue = queues.to(lane.dst)
            wrong = [fault for fault in faults if fault.lane == number]
            if wrong:
                sender = FaultySender(number, lane, part, self.waiting, queue, wrong)
                self.waiting.duties.append(sender.serve)
                self.senders[number] = sender
            else:
                self.senders[number] = RingSender(number, lane, part, self.waiting, queue)
        if parent is not None:
            self.waiting.duties.append(parent_watch(parent, rank))

    def begin_phase(self, seed: int) -> None:
        """Modelled time begins anew: every link that leads away from here is free, its messages
        count from 0, and what becomes of them is drawn from this seed."""
        self._queues.begin_phase(seed)

    def drain(self) -> None:
        """Return when nothing that this rank has sent can be asked for again."""
        for sender in self.senders.values():
            sender.drain()

    def abort(self, reason: str) -> None:
        """End the run for all ranks."""
        self.board.abort(reason)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.drain()


class LinkQueues:
    """A rank's modelled links, one for each rank that it sends to."""

    def __init__(self, rank: int, links: Mapping[tuple[int, int], Link], seed: int) -> None:
        self._rank, self._links, self._seed = rank, links, seed
        self._queues: dict[int, LinkQueue] = {}

    def to(self, dst: int) -> LinkQueue:
        """The queue of the link to this rank."""
        if dst not in self._queues:
            link = self._links.get((self._rank, dst), INSTANT)
            self._queues[dst] = LinkQueue(link, self._rank, dst, self._seed)
        return self._queues[dst]

    def begin_phase(self, seed: int) -> None:
        """All of them are free again."""
        for queue in self._queues.values():
            queue.begin_phase(seed)


def parent_watch(parent: Any, rank: int) -> Callable[[], None]:
    """A duty that raises AbortedError once the other end of this pipe is closed."""

    def watch() -> None:
        try:
            gone = parent.poll(0)  # something to read where nobody writes: the end
        except OSError:
            gone = True
        if gone:
            raise AbortedError(f"rank {rank} stopped: the process that started it is gone")

    return watch
