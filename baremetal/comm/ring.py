"""The two ends of a lane in shared memory: a ring of slots, filled by one, emptied by the other.

Message k lies in slot k mod n. Its sender waits until message k - n has been taken from there
(back-pressure), and its receiver until the slot's label says k + 1 (0 is nothing). There is no
lock, for each word has one writer. The receiver may take messages in another order than they
came.

Two ways to send. `reserve` and `commit` let the work write straight into the slot: nothing is
copied, but the sum needs a pass of its own, which only reads (and what was just written is often
still in the cache). That is how captured pipeline stages send. `send` copies an array into the slot
and sums it in the same pass: for results that lie elsewhere, or are needed again.

**When something is wrong.** A receiver that finds a damaged message, or another one where it
expects its own, or nothing for a while, asks again: it writes into the slot which message it
wants, and in which attempt. The sender reads that when it next waits, and sends again what it has
kept. It keeps a copy only of messages that are meant to go wrong (`faults.py`), and says so in
the header (`kept`): shared memory loses nothing by itself, and a second copy of everything would
cost what the zero-copy path saves. Damage to a message that is not kept cannot be mended; it is
detected all the same, and raises `CorruptionError`.
"""

import numpy as np

from baremetal.comm.board import WaitingFor
from baremetal.comm.channel import Addresses, next_error
from baremetal.comm.errors import CorruptionError, SequenceError
from baremetal.comm.layout import Lane
from baremetal.comm.link_queue import LinkQueue, Transfer
from baremetal.comm.slot import (
    ARRIVAL,
    DAMAGED,
    HEADER_BYTES,
    KEPT,
    LABEL,
    READY,
    RELEASE,
    REQUEST,
    SUM,
    TAKEN,
    WANTED,
    WEIGHTED,
    compiled,
)
from baremetal.comm.waiting import Waiting

MOST_ATTEMPTS = 4  # a message that is damaged as often as this is given up


class _Ring:
    """What both ends know: where the slots are. All of it is looked up once.

    Args:
        number: of the lane.
        lane: what it carries.
        memory: (slots * stride_bytes,) uint8, the lane's part of the segment.
        waiting: how this rank waits, and what it counts.
    """

    def __init__(self, number: int, lane: Lane, memory: np.ndarray, waiting: Waiting) -> None:
        self.number = number
        self.lane = lane
        self._slots = lane.slots
        self._size = lane.size_bytes
        self._waiting = waiting
        self._counts = waiting.counts
        self._addresses = Addresses(lane)
        self._code = compiled()
        self._abort = waiting.board.abort_address
        rows = memory.reshape(lane.slots, lane.stride_bytes)
        start = memory.__array_interface__["data"][0]
        self._headers = [start + slot * lane.stride_bytes for slot in range(lane.slots)]
        self._words = [row[:HEADER_BYTES].data.cast("q") for row in rows]
        payloads = [row[HEADER_BYTES : HEADER_BYTES + self._size] for row in rows]
        self._payloads = [part.view(lane.dtype).reshape(lane.shape) for part in payloads]

    def __str__(self) -> str:
        return f"lane {self.number} '{self.lane.label}' ({self.lane.src} -> {self.lane.dst})"


class RingSender(_Ring):
    """The sending end; see `_Ring` for the first arguments.

    Args:
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
        self._await_taken(sequence, slot, taken)
        return self._words[slot][RELEASE]

    def _await_taken(self, sequence: int, slot: int, taken: int) -> None:
        def look(spins: int) -> int:
            return self._look_taken(slot, taken, spins)

        if look(1) != READY:
            self._waiting.until(look, WaitingFor(self.number, sequence, receiving=False))

    def _look_taken(self, slot: int, taken: int, spins: int) -> int:
        """Has the message of this label been taken from the slot?"""
        return self._code.await_word(self._headers[slot] + 8 * TAKEN, taken, self._abort, spins)

    def reserve(self, sequence: int) -> np.ndarray:
        """The slot of the next message as an array of the lane's shape and dtype, to be filled.

        Waits until there is one. The array is in the memory that both ranks see, and the receiver
        does not look at it before `commit`. It is the same one for every message of this slot.
        """
        self._check_next(sequence)
        self.free(sequence)
        return self._payloads[sequence % self._slots]

    def commit(self, sequence: int, ready_ps: int) -> Transfer:
        """Send what was written into the reserved slot: sum it where it lies, and publish it."""
        self._check_next(sequence)
        return self._publish(sequence, 0, ready_ps)

    def send(self, sequence: int, array: np.ndarray, ready_ps: int) -> Transfer:
        """Send a copy of an array of the lane's shape and dtype."""
        self._check_next(sequence)
        source = self._addresses.of(array)
        self.free(sequence)
        self._counts.copied += 1
        return self._publish(sequence, source, ready_ps)

    def _check_next(self, sequence: int) -> None:
        if sequence != self._next:
            raise next_error(self, sequence, self._next)

    def _publish(self, sequence: int, source: int, ready_ps: int) -> Transfer:
        """Charge the link and fill the slot; source: address of the payload, 0: it is there."""
        transfer = self._link.carry(self._charged_bytes, ready_ps)
        self._put(sequence, source, transfer)
        self._sent()
        return transfer

    def _put(
        self, sequence: int, source: int, transfer: Transfer, attempt: int = 0, kept: bool = False
    ) -> None:
        header = self._headers[sequence % self._slots]
        self._code.put(
            header, header + HEADER_BYTES, source, self._size, sequence + 1,
            transfer.depart_ps, transfer.arrival_ps, attempt, kept,
        )  # fmt: skip

    def _sent(self) -> None:
        self._next += 1
        self._counts.sent += 1
        self._counts.sent_bytes += self._size
        self._waiting.beat()

    def serve(self) -> None:
        """Answer what the receiver has asked for again: here there is nothing kept."""

    def drain(self) -> None:
        """Return when nothing that was sent can be asked for again."""


class RingReceiver(_Ring):
    """The receiving end; see `_Ring` for the arguments."""

    def __init__(self, number: int, lane: Lane, memory: np.ndarray, waiting: Waiting) -> None:
        super().__init__(number, lane, memory, waiting)
        # How far a message has been copied, and its sums so far.
        state = np.zeros(3, np.int64)
        self._state = state.data
        self._state_address = state.__array_interface__["data"][0]
        self._met: set[tuple[int, int]] = set()  # labels met where another was expected

    def try_arrival(self, sequence: int) -> int | None:
        """The modelled time of arrival, ps, if this message has come; None if not."""
        if self._look_for(sequence, 0, 1) not in (READY, DAMAGED):
            return None
        return self.arrival(sequence)

    def arrival(self, sequence: int) -> int:
        """Wait until this message has come; its modelled time of arrival, ps.

        Raises:
            SequenceError: it has been taken already, or something else lies in its place for good.
            CorruptionError: its header is damaged, and it cannot be had again.
            AbortedError: the run was ended meanwhile.
        """
        self._await(sequence, 0)
        return self._words[sequence % self._slots][ARRIVAL]

    def receive(self, sequence: int, into: np.ndarray, taken_ps: int) -> None:
        """Copy the message into an array, verify it, and give the slot back as of `taken_ps`.

        Raises:
            CorruptionError: its bytes are not those that were sent, and it cannot be had again;
                `into` then holds the damaged ones.
            SequenceError, AbortedError: as `arrival`.
        """
        target = self._addresses.of(into)
        slot = sequence % self._slots
        words, state = self._words[slot], self._state
        attempt = self._await(sequence, 0)
        self._copy(sequence, target)
        while state[1] != words[SUM] or state[2] != words[WEIGHTED]:
            attempt = self._await(sequence, self._damaged(sequence, attempt, "checksum"))
            self._copy(sequence, target)
        self._give_back(sequence, taken_ps)
        self._counts.received += 1
        self._counts.received_bytes += self._size
        self._waiting.beat()

    def _await(self, sequence: int, attempt: int) -> int:
        """Wait for a message, in this attempt or a later one; returns in which it is there."""

        def look(spins: int) -> int:
            return self._look_for(sequence, attempt, spins)

        def ask() -> None:
            nonlocal attempt
            attempt = self._ask(sequence, attempt)

        found = look(1)
        while found != READY:
            if found == DAMAGED:
                attempt = self._damaged(sequence, attempt, "header")
            what = WaitingFor(self.number, sequence, receiving=True)
            found = self._waiting.until(look, what, ask)
        return attempt

    def _look_for(self, sequence: int, attempt: int, spins: int) -> int:
        """Is this message there, in this attempt or a later one?"""
        header = self._headers[sequence % self._slots]
        return self._code.await_label(header, sequence + 1, attempt, self._abort, spins)

    def _give_back(self, sequence: int, taken_ps: int) -> None:
        slot = sequence % self._slots
        self._words[slot][RELEASE] = taken_ps
        self._code.store(self._headers[slot] + 8 * TAKEN, sequence + 1)

    def _copy(self, sequence: int, target: int) -> None:
        header = self._headers[sequence % self._slots]
        self._state[0] = self._state[1] = self._state[2] = 0
        state = self._state_address

        def look(spins: int) -> int:
            return self._code.take(
                header, header + HEADER_BYTES, target, self._size, state, self._abort, spins
            )

        if look(1) != READY:
            self._waiting.until(look, WaitingFor(self.number, sequence, receiving=True))

    # ------------------------------------------------------------ when something is wrong

    def _damaged(self, sequence: int, attempt: int, part: str) -> int:
        """Count it, and say which attempt to wait for; raise if there will be none."""
        self._counts.damaged += 1
        words = self._words[sequence % self._slots]
        if words[KEPT] != 1 or attempt + 1 >= MOST_ATTEMPTS:
            why = "the sender keeps no copy" if words[KEPT] != 1 else f"{attempt + 1} times"
            raise CorruptionError(
                f"{self}: message {sequence} is damaged, its {part} is not what was sent ({why}): "
                "nothing was computed from it; start again from the last checkpoint"
            )
        return attempt + 1

    def _ask(self, sequence: int, attempt: int) -> int:
        """In each round of waiting: look what lies in the slot, and ask for what should.

        Returns the attempt to wait for: something else in the message's place counts as one.
        """
        slot, wanted = sequence % self._slots, sequence + 1
        words = self._words[slot]
        if words[TAKEN] >= wanted:
            raise SequenceError(f"{self}: message {sequence} has been taken already")
        label = words[LABEL]
        # What normally lies there before it comes: nothing, or the message taken last.
        if label not in (0, words[TAKEN], wanted):
            attempt += self._met_another(sequence, label, kept=words[KEPT] == 1)
        if words[REQUEST] != wanted or words[WANTED] != attempt:
            words[WANTED] = attempt
            self._code.store(self._headers[slot] + 8 * REQUEST, wanted)
            self._counts.requested += 1
        return attempt

    def _met_another(self, sequence: int, label: int, kept: bool) -> bool:
        """Count it; says whether it is met for the first time."""
        if (sequence, label) in self._met:
            return False
        self._met.add((sequence, label))
        if label < sequence + 1:
            self._counts.duplicated += 1
        else:
            self._counts.out_of_order += 1
        if not kept:
            raise SequenceError(
                f"{self}: message {label - 1} lies where message {sequence} is due, and the "
                "sender keeps no copy of that: start again from the last checkpoint"
            )
        return True
