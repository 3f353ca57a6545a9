"""Messages that go wrong on purpose: lost, duplicated, out of order, damaged.

A network does all four. Shared memory does none, so here the sender does it: for a chosen message
of a chosen lane, what it first puts into the slot is wrong, and it keeps a clean copy.

    DROP        nothing is put there
    CORRUPT     one bit of the payload is flipped after the checksum was made
    DUPLICATE   where the *next* message is due, this one comes a second time
    REORDER     it comes under the number of its successor, as if the two had changed places

The receiver notices (`ring.py`) and asks; the sender finds the request when it next waits for
anything, or in `drain` at the end, and sends the clean copy. A pull needs no clock: nothing is
retransmitted because it took long, so that a slow machine makes no difference.

In modelled time a message that was dropped or corrupted costs what one more loss on the link costs,
a timeout and another transmission; a duplicate occupies the link once more. Both are charged when
the message is first sent, so that the times do not depend on when the request came.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from baremetal.comm.errors import CommError
from baremetal.comm.layout import Lane
from baremetal.comm.link_queue import LinkQueue, Transfer
from baremetal.comm.ring import RingSender
from baremetal.comm.slot import HEADER_BYTES, HEADER_SUM, LABEL, REQUEST, TAKEN, WANTED
from baremetal.comm.waiting import Waiting


class Wrong(Enum):
    """What happens to a message."""

    DROP = "drop"
    CORRUPT = "corrupt"
    DUPLICATE = "duplicate"
    REORDER = "reorder"


@dataclass(frozen=True)
class MessageFault:
    """One message, and what happens to it.

    Attributes:
        wrong: what.
        lane: its number.
        sequence: the message's number on the lane, from 0.
        bit: which of the payload's bits is flipped, counted modulo their number.
        times: how many attempts are damaged, for CORRUPT: 4 end the run.
    """

    wrong: Wrong
    lane: int
    sequence: int
    bit: int = 0
    times: int = 1

    def __post_init__(self) -> None:
        if self.lane < 0 or self.sequence < 0 or self.times < 1 or self.bit < 0:
            raise CommError(
                f"a message that goes wrong: {self}: numbers count from 0, times from 1"
            )


@dataclass
class _Kept:
    """A message that can be sent again."""

    payload: np.ndarray  # (size_bytes,) uint8
    transfer: Transfer
    shown: int = -1  # the last attempt that the receiver can have met, right or wrong
    asked: int = 0  # how often it has been asked for


class FaultySender(RingSender):
    """A sender that does some things wrong, and mends them when asked.

    Args:
        faults: those of this lane.
    """

    def __init__(
        self,
        number: int,
        lane: Lane,
        memory: np.ndarray,
        waiting: Waiting,
        link: LinkQueue,
        faults: Iterable[MessageFault],
    ) -> None:
        super().__init__(number, lane, memory, waiting, link)
        self._kept: dict[int, _Kept] = {}
        self._faults: dict[int, MessageFault] = {}  # by the message whose slot shows it
        self._twice: set[int] = set()
        for fault in faults:
            shown = fault.sequence
            if fault.wrong is Wrong.DUPLICATE:
                self._twice.add(fault.sequence)
                shown += 1
            if shown in self._faults:
                raise CommError(f"{self}: two things go wrong with message {shown}: choose one")
            self._faults[shown] = fault

    def _publish(self, sequence: int, source: int, ready_ps: int) -> Transfer:
        self.serve()
        fault = self._faults.get(sequence)
        lost = 0
        if fault is not None and fault.wrong in (Wrong.DROP, Wrong.CORRUPT):
            lost = fault.times
        transfer = self._link.carry(self._charged_bytes, ready_ps, lost)
        if sequence in self._twice:
            self._link.occupy(self._charged_bytes)
        if fault is None:
            self._put(sequence, source, transfer)
        else:
            kept = _Kept(self._clean_copy(sequence, source), transfer)
            self._kept[sequence] = kept
            self._show(sequence, kept, fault, 0)
        self._sent()
        return transfer

    def _clean_copy(self, sequence: int, source: int) -> np.ndarray:
        """The payload, from the array at `source` or, if that is 0, from the slot."""
        if source == 0:
            payload = self._payloads[sequence % self._slots]
            return payload.copy().reshape(-1).view(np.uint8)
        return np.frombuffer(ctypes.string_at(source, self._size), np.uint8)

    def _show(self, sequence: int, kept: _Kept, fault: MessageFault, attempt: int) -> None:
        """Put into the slot what the receiver is to meet."""
        if fault.wrong is Wrong.DROP:
            return
        label = sequence + 1 + {Wrong.DUPLICATE: -1, Wrong.REORDER: 1}.get(fault.wrong, 0)
        # A duplicate in a ring of one slot looks like what lay there anyway: it cannot be met.
        if label != sequence + 1 - self._slots:
            kept.shown = attempt
        slot = sequence % self._slots
        header, words = self._headers[slot], self._words[slot]
        # Filled without a label first, or the receiver could be faster than the damage.
        source = kept.payload.__array_interface__["data"][0]
        transfer = kept.transfer
        self._code.put(
            header, header + HEADER_BYTES, source, self._size, 0,
            transfer.depart_ps, transfer.arrival_ps, attempt, 1,
        )  # fmt: skip
        if fault.wrong is Wrong.CORRUPT and self._size:
            byte, bit = divmod(fault.bit % (8 * self._size), 8)
            self._payloads[slot].reshape(-1).view(np.uint8)[byte] ^= 1 << bit
        words[HEADER_SUM] = _wrapped(words[HEADER_SUM] + label)
        self._code.store(header + 8 * LABEL, label)

    def serve(self) -> None:
        """Send again what the receiver has asked for; forget what it has taken."""
        for sequence, kept in list(self._kept.items()):
            words = self._words[sequence % self._slots]
            if words[TAKEN] >= sequence + 1:
                del self._kept[sequence]
            elif words[REQUEST] == sequence + 1:
                self._answer(sequence, kept, words[WANTED])

    def _answer(self, sequence: int, kept: _Kept, wanted: int) -> None:
        if kept.shown >= wanted:
            return  # it lies there
        fault = self._faults[sequence]
        kept.asked += 1
        if fault.wrong is Wrong.DROP and kept.asked < fault.times:
            return  # lost again
        self._counts.resent += 1
        if fault.wrong is Wrong.CORRUPT and wanted < fault.times:
            self._show(sequence, kept, fault, wanted)
            return
        kept.shown = wanted
        source = kept.payload.__array_interface__["data"][0]
        self._put(sequence, source, kept.transfer, wanted, kept=True)

    def drain(self) -> None:
        """Return when the receiver has taken all that went wrong."""
        for sequence in list(self._kept):
            self._await_taken(sequence, sequence % self._slots, sequence + 1)
        self._kept.clear()


def _wrapped(x: int) -> int:
    """x as a signed 64-bit word."""
    return (x + 2**63) % 2**64 - 2**63
