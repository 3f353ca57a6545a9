"""The two ends of a lane in shared memory: a ring of slots, filled by one, emptied by the other.

Message k lies in slot k mod n. Its sender waits until message k - n has been taken from there
(back-pressure), and its receiver until the slot's label says k + 1 (0 is nothing). There is no lock,
for each word has one writer. The receiver may take messages in another order than they came.

Two ways to send. `send` copies an array into the slot and sums it in the same pass. `reserve` and
`commit` let the work write straight into the slot: nothing is copied, but the sum needs a pass of
its own, which only reads (and what was just written is often still in the cache). The sender then
has no other copy of the message: what is damaged in the slot is lost.
"""

import numpy as np

from baremetal.comm.board import WaitingFor
from baremetal.comm.channel import check_array
from baremetal.comm.errors import CorruptionError, SequenceError
from baremetal.comm.layout import Lane
from baremetal.comm.link_queue import LinkQueue, Transfer
from baremetal.comm.slot import (
    ARRIVAL,
    HEADER_BYTES,
    READY,
    RELEASE,
    SUM,
    TAKEN,
    WEIGHTED,
    compiled,
)
from baremetal.comm.waiting import Waiting


class _Ring:
    """What both ends know: where the slots are. All of it is looked up once."""

    def __init__(self, number: int, lane: Lane, memory: np.ndarray, waiting: Waiting) -> None:
        self.number = number
        self.lane = lane
        self._slots = lane.slots
        self._size = lane.size_bytes
        self._waiting = waiting
        self._code = compiled()
        self._abort = waiting.board.abort_address
        rows = memory.reshape(lane.slots, lane.stride_bytes)
        start = memory.__array_interface__["data"][0]
        self._headers = [start + slot * lane.stride_bytes for slot in range(lane.slots)]
        self._words = [memoryview(row[:HEADER_BYTES]).cast("q") for row in rows]
        payloads = [row[HEADER_BYTES : HEADER_BYTES + self._size] for row in rows]
        self._payloads = [part.view(lane.dtype).reshape(lane.shape) for part in payloads]

    def __str__(self) -> str:
        return f"lane {self.number} '{self.lane.label}' ({self.lane.src} -> {self.lane.dst})"


class RingSender(_Ring):
    """The sending end.

    Args:
        number: of the lane.
        lane: what it carries.
        memory: (slots * stride_bytes,) uint8, the lane's part of the segment.
        waiting: how this rank waits.
        link: the modelled link to the other rank, shared by all lanes that lead there.
    """

    def __init__(
        self, number: int, lane: Lane, memory: np.ndarray, waiting: Waiting, link: LinkQueue
    ) -> None:
        super().__init__(number, lane, memory, waiting)
        self._charged_bytes = lane.charged_bytes
        self._link = link
        self._next = 0

    def free(self, sequence: int) -> int:
        """Wait until there is a slot for this message; the modelled time from which it was, ps."""
        slot = sequence % self._slots
        taken = sequence - self._slots + 1  # the label of the message that lay there before
        if taken <= 0:
            return 0
        address = self._headers[slot] + 8 * TAKEN

        def look(spins: int) -> int:
            return self._code.await_word(address, taken, self._abort, spins)

        if look(1) != READY:
            self._waiting.until(look, WaitingFor(self.number, sequence, receiving=False))
        return self._words[slot][RELEASE]

    def reserve(self, sequence: int) -> np.ndarray:
        """The slot of the next message as an array of the lane's shape and dtype, to be filled."""
        self._check_next(sequence)
        self.free(sequence)
        return self._payloads[sequence % self._slots]

    def commit(self, sequence: int, ready_ps: int) -> Transfer:
        """Send what was written into the reserved slot."""
        self._check_next(sequence)
        return self._publish(sequence, 0, ready_ps)

    def send(self, sequence: int, array: np.ndarray, ready_ps: int) -> Transfer:
        """Send a copy of an array of the lane's shape and dtype."""
        self._check_next(sequence)
        check_array(array, self.lane)
        self.free(sequence)
        return self._publish(sequence, array.__array_interface__["data"][0], ready_ps)

    def _check_next(self, sequence: int) -> None:
        if sequence != self._next:
            raise SequenceError(
                f"{self}: message {sequence} was to be sent, but {self._next} is the next: "
                "a lane's messages are numbered from 0, in the order in which they are sent"
            )

    def _publish(self, sequence: int, source: int, ready_ps: int) -> Transfer:
        """Charge the link and fill the slot; source 0: the payload is there already."""
        transfer = self._link.carry(self._charged_bytes, ready_ps)
        header = self._headers[sequence % self._slots]
        self._code.put(
            header, header + HEADER_BYTES, source, self._size, sequence + 1,
            transfer.depart_ps, transfer.arrival_ps, 0, 0,
        )  # fmt: skip
        self._next += 1
        self._waiting.beat()
        return transfer


class RingReceiver(_Ring):
    """The receiving end; arguments as for the sending one, without a link."""

    def __init__(self, number: int, lane: Lane, memory: np.ndarray, waiting: Waiting) -> None:
        super().__init__(number, lane, memory, waiting)
        # How far a message has been copied, and its sums so far.
        self._state = memoryview(np.zeros(3, np.int64))
        self._state_address = np.asarray(self._state).__array_interface__["data"][0]

    def try_arrival(self, sequence: int) -> int | None:
        """The modelled time of arrival, ps, if this message has come; None if not."""
        slot = sequence % self._slots
        header = self._headers[slot]
        if self._code.await_label(header, sequence + 1, 0, self._abort, 1) != READY:
            return None
        return self._words[slot][ARRIVAL]

    def arrival(self, sequence: int) -> int:
        """Wait until this message has come; its modelled time of arrival, ps."""
        self._await(sequence, 0)
        return self._words[sequence % self._slots][ARRIVAL]

    def receive(self, sequence: int, into: np.ndarray, taken_ps: int) -> None:
        """Copy the message into an array, verify it, and give the slot back as of `taken_ps`."""
        check_array(into, self.lane)
        self._await(sequence, 0)
        slot = sequence % self._slots
        self._copy(sequence, into)
        words, state = self._words[slot], self._state
        if state[1] != words[SUM] or state[2] != words[WEIGHTED]:
            raise CorruptionError(f"{self}: message {sequence} is damaged: its checksum differs")
        words[RELEASE] = taken_ps
        self._code.store(self._headers[slot] + 8 * TAKEN, sequence + 1)
        self._waiting.beat()

    def _await(self, sequence: int, attempt: int) -> None:
        header = self._headers[sequence % self._slots]

        def look(spins: int) -> int:
            return self._code.await_label(header, sequence + 1, attempt, self._abort, spins)

        if look(1) != READY:
            self._waiting.until(look, WaitingFor(self.number, sequence, receiving=True))

    def _copy(self, sequence: int, into: np.ndarray) -> None:
        header = self._headers[sequence % self._slots]
        self._state[0] = self._state[1] = self._state[2] = 0
        target, state = into.__array_interface__["data"][0], self._state_address

        def look(spins: int) -> int:
            return self._code.take(
                header, header + HEADER_BYTES, target, self._size, state, self._abort, spins
            )

        if look(1) != READY:
            self._waiting.until(look, WaitingFor(self.number, sequence, receiving=True))
