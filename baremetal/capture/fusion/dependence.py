"""What must stay in order: which launches touch the same memory, and how others step aside.

Two launches may change places if neither writes what the other reads or writes. What a launch
touches is known exactly enough: for each operand the range from its first byte to its last, in its
buffer or, for arrays that were there before the step, by address; and a kernel says which operands
it writes (`Kernel.writes`). A strided operand counts with its gaps, which errs on the safe side.

To put launches together that do not stand together, what stands between them must go before or
after. `step_aside` decides: whatever a later member depends on goes before, and what that depends
on in turn; everything else goes after, that is, stays behind the first member, as it was. If
something that must go before depends on an earlier member, there is no way. (To let everything go
before that can would be as right, but a launch that runs earlier than it must, a recomputed
activation say, takes memory for longer.)

    cross_entropy                     copy, divide            (the gradient's scale: before)
    copy               becomes        cross_entropy
    sum (of losses)                   cross_entropy_backward
    divide                            sum                     (nothing here needs it: after)
    cross_entropy_backward
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from baremetal.capture.recording import Buffer, Operand, RecordedLaunch


class Span(NamedTuple):
    """A range of bytes that a launch touches: in a buffer, or (None) at an address."""

    buffer: Buffer | None
    first: int
    end: int
    is_written: bool

    def conflicts(self, other: "Span") -> bool:
        """Whether the order of the two matters."""
        return (self.is_written or other.is_written) and self.overlaps(other)

    def overlaps(self, other: "Span") -> bool:
        """Whether they share a byte."""
        return self.buffer is other.buffer and self.first < other.end and other.first < self.end


def span_of(operand: Operand, is_written: bool) -> Span:
    """From the operand's first byte to its last."""
    start = operand.offset_bytes if operand.array is None else operand.array.ctypes.data
    first = end = start
    if 0 not in operand.shape:
        for size, stride in zip(operand.shape, operand.strides, strict=True):
            reach = (size - 1) * stride
            first, end = first + min(reach, 0), end + max(reach, 0)
        end += operand.dtype.itemsize
    return Span(operand.buffer, first, end, is_written)


def spans_of(launch: RecordedLaunch) -> list[Span]:
    """Everything that a launch touches."""
    names = launch.kernel.operand_names(len(launch.operands))
    return [
        span_of(operand, name in launch.kernel.writes)
        for name, operand in zip(names, launch.operands, strict=True)
        if operand is not None
    ]


def conflict(first: Iterable[Span], second: Sequence[Span]) -> bool:
    """Whether two launches must keep their order."""
    return any(one.conflicts(other) for one in first for other in second)


def step_aside(
    window: Sequence[Sequence[Span]], members: set[int]
) -> tuple[list[int], list[int]] | None:
    """What goes before the members and what goes after them, or None if they cannot meet.

    Args:
        window: what each launch touches, from the first member to the last.
        members: positions in the window.
    """
    before: list[int] = []
    after: list[int] = []
    needed: list[Span] = []  # by members, and by what goes before
    pulled: list[Span] = []  # by what goes before
    for position in reversed(range(len(window))):
        spans = window[position]
        if position in members:
            if conflict(pulled, spans):
                return None
            needed += spans
        elif conflict(needed, spans):
            before.insert(0, position)
            needed += spans
            pulled += spans
        else:
            after.insert(0, position)
    return before, after
