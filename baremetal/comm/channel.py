"""What a rank can do with a lane, whatever carries it: shared memory or MPI.

A step of a schedule uses its channels in this order, and every time in it is modelled time:

    arrival = source.arrival(k)             wait until message k is there
    free    = target.free(j)                wait until there is a slot for message j
    start   = clock.wait_until(max(arrival, free))
    source.receive(k, into, start)          copy and verify; the slot is free again from `start` on
    y       = target.reserve(j)             a view into the slot: compute straight into it
    ...
    end     = clock.advance(duration)
    target.commit(j, end)                   sum it where it lies, and let the receiver see it

What cannot be computed there is computed anywhere, and `target.send(j, array, end)` copies it.

The times travel with the messages: the sender, which knows its link, writes when a message will
have arrived; the receiver writes when it took it, which is when the slot is free.
"""

import weakref
from collections.abc import Callable
from typing import Protocol

import numpy as np

from baremetal.comm.errors import SequenceError
from baremetal.comm.layout import Lane
from baremetal.comm.link_queue import Transfer


class Sender(Protocol):
    """The sending end of a lane."""

    lane: Lane

    def free(self, sequence: int) -> int:
        """Wait until there is a slot for this message; the modelled time from which it was, ps."""

    def reserve(self, sequence: int) -> np.ndarray:
        """The slot of the next message as an array of the lane's shape and dtype, to be filled.

        Waits until there is one. What it holds is undefined.
        """

    def commit(self, sequence: int, ready_ps: int) -> Transfer:
        """Send what was written into the reserved slot; nothing is copied."""

    def send(self, sequence: int, array: np.ndarray, ready_ps: int) -> Transfer:
        """Send a copy of an array of the lane's shape and dtype."""


class Receiver(Protocol):
    """The receiving end of a lane."""

    lane: Lane

    def try_arrival(self, sequence: int) -> int | None:
        """The modelled time of arrival, ps, if this message has come; None if not."""

    def arrival(self, sequence: int) -> int:
        """Wait until this message has come; its modelled time of arrival, ps."""

    def receive(self, sequence: int, into: np.ndarray, taken_ps: int) -> None:
        """Copy the message into an array, verify it, and give the slot back as of `taken_ps`."""


class Addresses:
    """Where the arrays lie that a lane is given; an array is looked at once if it comes again.

    Asking NumPy for an address takes a microsecond, which is much beside a small message, and a
    stage whose memory is planned gives the same buffers again and again. No array is kept alive.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._dtype = np.dtype(lane.dtype)
        self._known: Callable[[], np.ndarray | None] = lambda: None
        self._address = 0

    def of(self, array: np.ndarray) -> int:
        """The address of an array of the lane's shape and dtype.

        Raises:
            SequenceError: another shape or dtype, or not contiguous.
        """
        if self._known() is not array:
            self._check(array)
            self._address = array.__array_interface__["data"][0]
            self._known = weakref.ref(array)
        return self._address

    def _check(self, array: np.ndarray) -> None:
        if not isinstance(array, np.ndarray):
            raise SequenceError(f"a lane carries arrays, and was given {type(array).__name__}")
        lane, in_one_piece = self._lane, array.flags.c_contiguous
        if array.shape != lane.shape or array.dtype != self._dtype or not in_one_piece:
            raise SequenceError(
                f"lane '{lane.label}' carries arrays of shape {lane.shape} and dtype {lane.dtype}, "
                f"contiguous, and was given shape {array.shape}, {array.dtype}"
                f"{'' if in_one_piece else ', not contiguous'}"
            )


def next_error(channel: object, sequence: int, due: int) -> SequenceError:
    """What a sender says that is given another message number than the next one."""
    return SequenceError(
        f"{channel}: message {sequence} was to be sent, but {due} is the next: "
        "a lane's messages are numbered from 0, in the order in which they are sent"
    )
