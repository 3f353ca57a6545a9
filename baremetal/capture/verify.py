"""A finished plan is proved sound before it is bound to memory.

Once bound, a launch is a bare address: nothing below would notice that two values share a byte, or
that a kernel reads where nobody has written. Such a fault does not crash, it trains a little worse.
So whatever made the plan (the recording, the arena's greedy rule, a pass that rewrites launches) is
not trusted; the plan itself is looked at. It holds if

    place      every transient buffer lies in the arena, and begins on a cache line
    sharing    no two transient buffers that are alive during one launch share a byte
    extent     every operand lies inside its buffer, strides and all
    lifetime   every launch touches a buffer between its first and its last launch
    order      the first launch that touches a transient buffer writes it, and so with those that
               lie outside the arena where each run says (`outgoing.py`)

The last is as much as can honestly be known. What a kernel writes is declared with it
(`Kernel.writes`), not how much of it: that a first write covers all that is read later is not
proved. A launch with ``beta`` other than 0 adds to what is there, hence reads it. Buffers that are
kept are not held to it: they keep what the recorded call left in them.

The work is a sort and one sweep, O(n log n): milliseconds for hundreds of launches.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple, NoReturn

from baremetal.autograd.memory import ALIGNMENT_BYTES
from baremetal.capture.errors import CaptureError
from baremetal.capture.plan import Plan
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch

REPORT_IT = "please report it; without capture (--eager) the step runs all the same"
FILL_IT = (
    "if the function filled it from NumPy's side, a replay would find other values there: fill it "
    "by a launch (device.full, x[...] = value), or before the function is captured"
)


def verify_plan(plan: Plan) -> None:
    """Refuse a plan that is not sound.

    Raises:
        CaptureError: naming the buffer (number, shape, dtype), the launch and its kernel.
    """
    _verify_places(plan)
    _verify_sharing(plan)
    _verify_launches(plan)


# ---------------------------------------------------------------- where buffers lie


def _verify_places(plan: Plan) -> None:
    """Every transient buffer lies in the arena, aligned, and has a lifetime within the plan."""
    for buffer in plan.transient:
        offset = plan.offsets.get(buffer)
        if offset is None:
            _refuse(plan, buffer, buffer.first, "has no place in the arena")
        if not 0 <= buffer.first <= buffer.last < len(plan.launches):
            _refuse(plan, buffer, buffer.first, _outside_the_plan(plan, buffer))
        if offset % ALIGNMENT_BYTES:
            _refuse(
                plan, buffer, buffer.first,
                f"begins at byte {offset} of the arena, no multiple of {ALIGNMENT_BYTES}",
            )  # fmt: skip
        if not 0 <= offset <= offset + buffer.size_bytes <= plan.memory.planned_bytes:
            _refuse(
                plan, buffer, buffer.first,
                f"reaches from byte {offset} to {offset + buffer.size_bytes}, outside an arena of "
                f"{plan.memory.planned_bytes}",
            )  # fmt: skip


def _outside_the_plan(plan: Plan, buffer: Buffer) -> str:
    return (
        f"is said to live from launch {buffer.first} to {buffer.last}, which is no stretch of a "
        f"plan of {len(plan.launches)} launches"
    )


class _Placed(NamedTuple):
    """A buffer at its address; ordered by it."""

    start: int
    stop: int
    number: int
    buffer: Buffer


def _verify_sharing(plan: Plan) -> None:
    """Sweep over the launches with the living buffers in the order of their addresses.

    As long as none overlap, a new one can only overlap with its two neighbours.
    """
    alive: list[_Placed] = []
    ends: list[tuple[int, _Placed]] = []  # a heap: who dies first on top
    for buffer in sorted(plan.transient, key=lambda b: b.first):
        if buffer.size_bytes == 0:
            continue
        while ends and ends[0][0] < buffer.first:
            alive.pop(bisect_left(alive, heappop(ends)[1]))
        start = plan.offsets[buffer]
        placed = _Placed(start, start + buffer.size_bytes, buffer.number, buffer)
        at = bisect_left(alive, placed)
        for other in alive[max(at - 1, 0) : at + 1]:
            if other.start < placed.stop and placed.start < other.stop:
                _refuse(
                    plan, buffer, buffer.first,
                    f"(bytes {placed.start} to {placed.stop} of the arena) shares memory with "
                    f"{_name(other.buffer)} (bytes {other.start} to {other.stop}), which is alive",
                )  # fmt: skip
        insort(alive, placed)
        heappush(ends, (buffer.last, placed))


# ---------------------------------------------------------------- what launches do


def _verify_launches(plan: Plan) -> None:
    """Every operand within its buffer and its lifetime, and no value that nobody wrote."""
    begun_here = {*plan.transient, *plan.outgoing}
    known = begun_here.union(plan.kept)
    written = set(plan.entering)
    for number, launch in enumerate(plan.launches):
        for operand, buffer in _buffers(launch):
            if buffer not in known:
                _refuse(plan, buffer, number, "is no buffer of this plan, and is used")
            low, high = operand.extent()
            if not 0 <= low <= high <= buffer.size_bytes:
                _refuse(
                    plan, buffer, number,
                    f"has {buffer.size_bytes} bytes, and its bytes {low} to {high} (a view of shape"
                    f" {operand.shape}, strides {operand.strides}) are used",
                )  # fmt: skip
            if not buffer.first <= number <= buffer.last:
                _refuse(
                    plan, buffer, number,
                    f"lives from launch {buffer.first} to {buffer.last}, and is used outside it",
                )  # fmt: skip
            if buffer not in written and buffer in begun_here:
                if operand.size and not _begins(launch, buffer):
                    what = "is read before any launch has written it"
                    _refuse(plan, buffer, number, what, FILL_IT)
                written.add(buffer)


def _buffers(launch: RecordedLaunch) -> Iterator[tuple[Operand, Buffer]]:
    """The launch's operands that lie in buffers, each with its buffer."""
    for operand in launch.operands:
        if operand is not None and operand.buffer is not None:
            yield operand, operand.buffer


def _begins(launch: RecordedLaunch, buffer: Buffer) -> bool:
    """Whether this launch may give the buffer its first content."""
    if launch.attributes.get("beta", 0.0) != 0.0:
        return False  # it adds to what is there
    return any(operand.buffer is buffer for operand in launch.written())


# ---------------------------------------------------------------- saying so


def _name(buffer: Buffer) -> str:
    return f"buffer {buffer.number} {buffer.shape} {buffer.dtype}"


def _refuse(
    plan: Plan, buffer: Buffer, number: int, what: str, advice: str = REPORT_IT
) -> NoReturn:
    inside = 0 <= number < len(plan.launches)
    by = f" by '{plan.launches[number].kernel.name}'" if inside else ""
    raise CaptureError(
        f"this plan is not sound and was not bound: {_name(buffer)} {what} (launch {number}{by}): "
        f"{advice}"
    )
