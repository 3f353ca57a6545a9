"""What a rank can do with a lane, whatever carries it: shared memory or MPI.

A step of a schedule uses its channels in this order, and every time in it is modelled time:

    arrival = source.arrival(k)             wait until message k is there
    free    = target.free(j)                wait until there is a slot for message j
    start   = clock.wait_until(max(arrival, free))
    source.receive(k, into, start)          copy and verify; the slot is free again from `start` on
    y       = target.reserve(j)             a view into the slot: compute straight into it
    ...
    end     = clock.advance(duration)
    target.commit(j, end)                   or target.send(j, array, end), which copies

The times travel with the messages: the sender, which knows its link, writes when a message will have
arrived; the receiver writes when it took it, which is when the slot is free.
"""

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
        """The slot of the next message as an array of the lane's shape and dtype, to be filled."""

    def commit(self, sequence: int, ready_ps: int) -> Transfer:
        """Send what was written into the reserved slot."""

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


def check_array(array: np.ndarray, lane: Lane) -> None:
    """Refuse an array that is not what the lane carries.

    Raises:
        SequenceError: another shape or dtype, or not contiguous.
    """
    if array.shape != lane.shape or array.dtype != lane.dtype or not array.flags.c_contiguous:
        layout = "" if array.flags.c_contiguous else ", not contiguous"
        raise SequenceError(
            f"lane '{lane.label}' carries arrays of shape {lane.shape} and dtype {lane.dtype}, "
            f"contiguous, and was given shape {array.shape}, {array.dtype}{layout}"
        )


def next_error(channel: object, sequence: int, due: int) -> SequenceError:
    """What a sender says that is given another message number than the next one."""
    return SequenceError(
        f"{channel}: message {sequence} was to be sent, but {due} is the next: "
        "a lane's messages are numbered from 0, in the order in which they are sent"
    )
