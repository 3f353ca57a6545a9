"""The same channels over MPI, for runs that outgrow one machine.

    mpiexec -n 4 baremetal train ...

Each end has the lane's slots in memory of its own, and a message, header and payload in one piece,
goes from the sender's slot to the receiver's slot of the same number. (A reserved slot is therefore
MPI's send buffer: what is computed into it is not copied on this side.) Everything else is
`ring.py`: the layout of a slot, both checksums, the labels, the modelled times in the header. So
the modelled time of a run is the same, to the picosecond, as in shared memory.

What must be sent back is when a slot was taken: a *credit*, two words, (label, time in ps). It
allows the sender to use its slot again, and it carries the time from which the slot was free on
the modelled machine.

MPI delivers messages of one sender and one tag in the order in which they were sent, to receives in
the order in which they were posted. So receives are posted in the order of message numbers, even if
messages are taken in another one.

There is no supervisor of ours: `mpiexec` ends all ranks when one ends badly, and `abort` makes it
do so; none of MPI's memory stays (`mpi_leftovers.py`). Messages do not go wrong on purpose here;
that is for shared memory.
"""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from baremetal.comm.board import Board, board_bytes
from baremetal.comm.counts import Counts
from baremetal.comm.endpoint import LinkQueues
from baremetal.comm.errors import CommError, SequenceError
from baremetal.comm.layout import Lane, Layout
from baremetal.comm.link_queue import LinkQueue, Transfer
from baremetal.comm.mpi_leftovers import forget_names
from baremetal.comm.ring import RingReceiver, RingSender
from baremetal.comm.slot import HEADER_BYTES, LINE_BYTES, NOT_YET, READY, RELEASE, TAKEN
from baremetal.comm.waiting import Waiting
from baremetal.machine.link import Link

LOOKS_PER_TEST = 200  # asking MPI costs about as much as so many looks at a word
FIRST_SPINS = 10_000
BAD_END = 2  # the exit status of a run that was ended, as of the command line


@cache
def import_mpi() -> Any:
    """`mpi4py.MPI`, which starts MPI when it is imported; every rank must come here.

    Raises:
        CommError: it is not installed, or finds no MPI library.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise CommError(
            f"MPI is not there ({error}): pip install 'baremetal[mpi]', which brings one"
        ) from None
    forget_names(MPI)
    return MPI


def _slots_memory(lane: Lane) -> np.ndarray:
    """(slots * stride_bytes,) uint8 zeros that begin on a cache line."""
    size_bytes = lane.slots * lane.stride_bytes
    memory = np.zeros(size_bytes + LINE_BYTES, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE_BYTES
    return memory[start : start + size_bytes]


def _message_buffers(memory: np.ndarray, lane: Lane) -> list[np.ndarray]:
    """Of each slot what travels: header and payload."""
    rows = memory.reshape(lane.slots, lane.stride_bytes)
    return [row[: HEADER_BYTES + lane.size_bytes] for row in rows]


class MpiSender(RingSender):
    """The sending end: a ring of its own, from which each message is sent when it is there.

    Args:
        number, lane, waiting, link: as for `RingSender`.
        comm: the communicator.
        credit_tag: of the messages that come back; the lane's own is its number.
    """

    def __init__(
        self,
        number: int,
        lane: Lane,
        waiting: Waiting,
        link: LinkQueue,
        comm: Any,
        credit_tag: int,
    ) -> None:
        memory = _slots_memory(lane)
        super().__init__(number, lane, memory, waiting, link)
        self._comm = comm
        self._credit_tag = credit_tag
        self._buffers = _message_buffers(memory, lane)
        self._sends: list[Any] = [None] * lane.slots
        self._credit = np.zeros(2, np.int64)
        self._credit_receive = comm.Irecv(self._credit, lane.dst, credit_tag)

    def free(self, sequence: int) -> int:
        """As in shared memory; and MPI has no claim on the slot any more: it may be written."""
        free_ps = super().free(sequence)
        slot = sequence % self._slots
        if sequence == self._next and self._sends[slot] is not None:
            self._sends[slot].Wait()  # its message has been taken: this only clears the handle
            self._sends[slot] = None
        return free_ps

    def _put(
        self, sequence: int, source: int, transfer: Transfer, attempt: int = 0, kept: bool = False
    ) -> None:
        super()._put(sequence, source, transfer, attempt, kept)
        slot = sequence % self._slots
        self._sends[slot] = self._comm.Isend(self._buffers[slot], self.lane.dst, self.number)

    def _look_taken(self, slot: int, taken: int, spins: int) -> int:
        for _ in range(1 + spins // LOOKS_PER_TEST):
            while self._credit_receive.Test():
                label, time_ps = self._credit.tolist()
                words = self._words[(label - 1) % self._slots]
                words[RELEASE], words[TAKEN] = time_ps, label
                self._credit_receive = self._comm.Irecv(
                    self._credit, self.lane.dst, self._credit_tag
                )
            if self._words[slot][TAKEN] >= taken:
                return READY
        return NOT_YET

    def drain(self) -> None:
        """Return when all that was sent has been taken."""
        for sequence in range(max(0, self._next - self._slots), self._next):
            self._await_taken(sequence, sequence % self._slots, sequence + 1)

    def close(self) -> None:
        """Let go of what MPI still holds."""
        for send in self._sends:
            if send is not None:
                send.Wait()
        self._credit_receive.Cancel()
        self._credit_receive.Wait()


class MpiReceiver(RingReceiver):
    """The receiving end: a ring of its own, into which messages are received as slots get free."""

    def __init__(
        self, number: int, lane: Lane, waiting: Waiting, comm: Any, credit_tag: int
    ) -> None:
        memory = _slots_memory(lane)
        super().__init__(number, lane, memory, waiting)
        self._comm = comm
        self._credit_tag = credit_tag
        self._buffers = _message_buffers(memory, lane)
        self._receives: list[Any] = [None] * lane.slots
        self._credits = np.zeros((lane.slots, 2), np.int64)
        self._credit_sends: list[Any] = [None] * lane.slots
        self._next_post = 0
        self._post()

    def _post(self) -> None:
        """Post receives in the order of message numbers, as far as slots are free."""
        while True:
            slot = self._next_post % self._slots
            if self._words[slot][TAKEN] < self._next_post - self._slots + 1:
                return  # the message before is still there
            source, tag = self.lane.src, self.number
            self._receives[slot] = self._comm.Irecv(self._buffers[slot], source, tag)
            self._next_post += 1

    def _look_for(self, sequence: int, attempt: int, spins: int) -> int:
        slot = sequence % self._slots
        for _ in range(1 + spins // LOOKS_PER_TEST):
            # The slot's words mean nothing while MPI writes into it.
            if sequence < self._next_post and self._receives[slot].Test():
                return super()._look_for(sequence, attempt, 1)
        return NOT_YET

    def _ask(self, sequence: int, attempt: int) -> int:
        """Nothing is asked for again: MPI loses nothing."""
        if self._words[sequence % self._slots][TAKEN] >= sequence + 1:
            raise SequenceError(f"{self}: message {sequence} has been taken already")
        return attempt

    def _give_back(self, sequence: int, taken_ps: int) -> None:
        super()._give_back(sequence, taken_ps)
        slot = sequence % self._slots
        if self._credit_sends[slot] is not None:
            self._credit_sends[slot].Wait()  # it has come, for its slot was used again
        self._credits[slot] = sequence + 1, taken_ps
        self._credit_sends[slot] = self._comm.Isend(
            self._credits[slot], self.lane.src, self._credit_tag
        )
        self._post()

    def close(self) -> None:
        """Let go of what MPI still holds: credits on their way, receives that nobody will meet."""
        for credit in self._credit_sends:
            if credit is not None:
                credit.Wait()
        for receive in self._receives:
            if not receive.Test():
                receive.Cancel()
                receive.Wait()


class MpiEndpoint:
    """One rank's ends of all its lanes, as `endpoint.Endpoint`, over MPI.

    Every rank makes one from the same layout. As a context it ends in order when its block does:
    what was sent has been taken by then. A block that raises ends all ranks.

    Args:
        layout: the run's; as many ranks as MPI has.
        links: the modelled link for each ordered pair of ranks.
        seed: of what happens to messages on the links.
        comm: the communicator; None: all ranks that `mpiexec` has started.
        board_memory: where this rank says what it does, for who watches over it; zeros.

    Attributes:
        rank: this process's.
        senders, receivers: by the number of the lane.
        counts: what happened.

    Raises:
        CommError: MPI is not there, or has another number of ranks.
    """

    def __init__(
        self,
        layout: Layout,
        links: Mapping[tuple[int, int], Link] | None = None,
        *,
        seed: int = 0,
        comm: Any = None,
        board_memory: np.ndarray | None = None,
    ) -> None:
        mpi = import_mpi()
        self._comm = (comm or mpi.COMM_WORLD).Dup()
        if self._comm.size != layout.ranks:
            raise CommError(
                f"MPI started {self._comm.size} ranks, and the plan has {layout.ranks}: "
                f"mpiexec -n {layout.ranks}"
            )
        self.rank = rank = self._comm.rank
        self.counts = Counts()
        if board_memory is None:
            board_memory = np.zeros(board_bytes(layout.ranks), np.uint8)
        self.board = Board(board_memory, layout.ranks)
        self.waiting = Waiting(self.board, rank, FIRST_SPINS, counts=self.counts)
        self.senders: dict[int, MpiSender] = {}
        self.receivers: dict[int, MpiReceiver] = {}
        self._queues = queues = LinkQueues(rank, links or {}, seed)
        for number, lane in enumerate(layout.lanes):
            credit_tag = len(layout.lanes) + number
            if lane.dst == rank:
                self.receivers[number] = MpiReceiver(
                    number, lane, self.waiting, self._comm, credit_tag
                )
            if lane.src == rank:
                queue = queues.to(lane.dst)
                self.senders[number] = MpiSender(
                    number, lane, self.waiting, queue, self._comm, credit_tag
                )

    def begin_phase(self, seed: int) -> None:
        """See `Endpoint.begin_phase`."""
        self._queues.begin_phase(seed)

    def drain(self) -> None:
        """Return when all that this rank has sent has been taken."""
        for sender in self.senders.values():
            sender.drain()

    def abort(self, message: str) -> None:
        """End the run for all ranks, with a last line. Does not return."""
        line = " ".join(message.split())
        print(f"\nbaremetal: {line}", file=sys.stderr, flush=True)  # a bar may stand there
        self._comm.Abort(BAD_END)

    def close(self) -> None:
        """End in order; every rank must come here."""
        self.drain()
        self._comm.Barrier()
        for sender in self.senders.values():
            sender.close()
        for receiver in self.receivers.values():
            receiver.close()
        self._comm.Free()

    def __enter__(self) -> "MpiEndpoint":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None:
            self.abort(f"rank {self.rank}: {str(error) or kind.__name__}")
        self.close()
