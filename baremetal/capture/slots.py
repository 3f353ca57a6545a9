"""Where the buffers of a recording that is cut into segments live: in a slot, or in scratch.

Several microbatches are in flight in a pipeline stage: the forward of the third runs before the
backward of the first. What passes from one segment to another (activations, saved statistics) must
exist once for each of them; what begins and ends within one segment need exist only once, for no
two segments run at the same time:

    arena   [ scratch | slot 0 | slot 1 | slot 2 | ... ]

    slot      touched in more than one segment, or an input or result of one
    scratch   everything else that has a place here

Results that go out lie elsewhere, at addresses that each run is given (`outgoing.py`).

Both are planned by the same rule as a whole step (`arena.py`): within a slot, too, memory is used
again, since its segments always run in the same order. A plan for one slot is a plan for all: in
slot k every slot buffer lies k slot sizes further on.

Inputs are alive from the beginning of their segment, for they may be written from outside before
the first launch; results until the end of the cycle, for they may be read until then.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from baremetal.capture.arena import Lifetime, aligned, lower_bound, plan_arena
from baremetal.capture.errors import CaptureError
from baremetal.capture.plan import MemoryReport, Plan
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch
from baremetal.trace import format_bytes


class Cut(NamedTuple):
    """A segment of a recording: launches `start` to `stop - 1`, its inputs and its results."""

    start: int
    stop: int
    inputs: Sequence[Buffer]
    results: Sequence[Buffer]


@dataclass(frozen=True)
class SlotMemory:
    """Bytes of slots and scratch, sizes rounded up to cache lines.

    Attributes:
        slots: how many microbatches may be in flight.
        slot_bytes, slot_bound_bytes: the size of one, and the least possible.
        scratch_bytes, scratch_bound_bytes: the same for what all slots share.
    """

    slots: int
    slot_bytes: int
    slot_bound_bytes: int
    scratch_bytes: int
    scratch_bound_bytes: int

    @property
    def total_bytes(self) -> int:
        """The whole arena."""
        return self.scratch_bytes + self.slots * self.slot_bytes

    def text(self) -> str:
        """All of it in one line."""
        return (
            f"{self.slots} slots of {format_bytes(self.slot_bytes)} (at least "
            f"{format_bytes(self.slot_bound_bytes)}) and scratch of "
            f"{format_bytes(self.scratch_bytes)} (at least "
            f"{format_bytes(self.scratch_bound_bytes)}): {format_bytes(self.total_bytes)}"
        )


class SlotPlan(NamedTuple):
    """A cut recording with a place for every buffer.

    Attributes:
        whole: one slot (number 0) as one plan, all segments one after the other.
        segments: the same cut: for each cut a plan of its own, launches numbered from 0.
        memory: the report.
        in_slot: the buffers of all these plans that move with the slot.
    """

    whole: Plan
    segments: Sequence[Plan]
    memory: SlotMemory
    in_slot: frozenset[Buffer]

    def at(self, plan: Plan, slot: int) -> Plan:
        """One of its plans, for another slot."""
        ahead = slot * self.memory.slot_bytes
        offsets = {b: at + (ahead if b in self.in_slot else 0) for b, at in plan.offsets.items()}
        whole_arena = replace(plan.memory, planned_bytes=self.memory.total_bytes)
        there = replace(plan, offsets=offsets, memory=whole_arena)
        self._verify_apart(there, slot)
        return there

    def _verify_apart(self, plan: Plan, slot: int) -> None:
        """What `verify_plan` cannot see, since it knows of one slot only: slots do not meet."""
        memory = self.memory
        begin = memory.scratch_bytes + slot * memory.slot_bytes
        for buffer in plan.transient:
            low, high = (begin, begin + memory.slot_bytes)
            if buffer not in self.in_slot:
                low, high = 0, memory.scratch_bytes
            at = plan.offsets[buffer]
            if not low <= at <= at + buffer.size_bytes <= high:
                raise CaptureError(
                    f"buffer {buffer.number} {buffer.shape} {buffer.dtype} of slot {slot} lies at "
                    f"{at}, outside {low} to {high}: please report it"
                )
        for buffer in plan.entering:
            if buffer not in self.in_slot:
                raise CaptureError(
                    f"buffer {buffer.number} {buffer.shape} {buffer.dtype} passes from one segment "
                    "to another in memory that all slots share: please report it"
                )


def plan_slots(
    launches: Sequence[RecordedLaunch],
    buffers: Sequence[Buffer],
    cuts: Sequence[Cut],
    slots: int,
    outgoing: Collection[Buffer] = (),
) -> SlotPlan:
    """Find a place for every buffer of launches that are cut into segments, but those going out."""
    _extend_lifetimes(cuts, len(launches))
    used = [buffer for buffer in buffers if buffer.first >= 0 and buffer not in outgoing]
    passing = {buffer for cut in cuts for buffer in (*cut.inputs, *cut.results)}
    passing.update(b for b in used if not any(_within(b, cut) for cut in cuts))
    in_slot = [buffer for buffer in used if buffer in passing]
    scratch = [buffer for buffer in used if buffer not in passing]

    scratch_places, scratch_bytes = plan_arena(_lifetimes(scratch))
    slot_places, slot_bytes = plan_arena(_lifetimes(in_slot))
    offsets = dict(zip(scratch, scratch_places, strict=True))
    offsets |= {b: scratch_bytes + at for b, at in zip(in_slot, slot_places, strict=True)}
    memory = SlotMemory(
        slots=slots,
        slot_bytes=slot_bytes,
        slot_bound_bytes=lower_bound(_lifetimes(in_slot)),
        scratch_bytes=scratch_bytes,
        scratch_bound_bytes=lower_bound(_lifetimes(scratch)),
    )
    arena_bytes = scratch_bytes + slot_bytes
    whole = Plan(
        launches=launches,
        checks=[],
        transient=used,
        kept=[],
        offsets=offsets,
        memory=_report(used, arena_bytes),
        entering=[buffer for cut in cuts for buffer in cut.inputs],
        outgoing=[*outgoing],
    )
    moving = set(in_slot)
    segments = [_segment(whole, cut, moving) for cut in cuts]
    return SlotPlan(whole, segments, memory, frozenset(moving))


def _extend_lifetimes(cuts: Sequence[Cut], launches: int) -> None:
    """Inputs live from the beginning of their segment, results to the end of the cycle."""
    last = max(launches - 1, 0)
    for cut in cuts:
        for buffer in cut.inputs:
            start = min(cut.start, last)
            buffer.first = start if buffer.first < 0 else min(buffer.first, start)
            buffer.last = max(buffer.last, start)
        for buffer in cut.results:
            buffer.first = min(cut.start, last) if buffer.first < 0 else buffer.first
            buffer.last = last


def _within(buffer: Buffer, cut: Cut) -> bool:
    return cut.start <= buffer.first and buffer.last < cut.stop


def _lifetimes(buffers: Sequence[Buffer]) -> list[Lifetime]:
    return [Lifetime(b.size_bytes, b.first, b.last) for b in buffers]


def _report(buffers: Sequence[Buffer], planned_bytes: int) -> MemoryReport:
    return MemoryReport(
        buffers=len(buffers),
        total_bytes=sum(aligned(b.size_bytes) for b in buffers),
        planned_bytes=planned_bytes,
        bound_bytes=lower_bound(_lifetimes(buffers)),
        kept_bytes=0,
    )


def _segment(whole: Plan, cut: Cut, moving: set[Buffer]) -> Plan:
    """The part of a plan between two launches, as a plan that begins at 0.

    Its buffers are stand-ins whose lifetimes end where the segment does; those that move with the
    slot are added to `moving`.
    """
    stand_in: dict[Buffer, Buffer] = {}
    entering, outgoing = [], []
    offsets: dict[Buffer, int] = {}
    for buffer in (*whole.transient, *(b for b in whole.outgoing if b in cut.results)):
        if buffer.last < cut.start or buffer.first >= cut.stop or cut.start == cut.stop:
            continue
        own = Buffer(buffer.number, buffer.shape, buffer.dtype, buffer.address)
        own.first = max(buffer.first, cut.start) - cut.start
        own.last = min(buffer.last, cut.stop - 1) - cut.start
        stand_in[buffer] = own
        if buffer not in whole.offsets:
            outgoing.append(own)
            continue
        offsets[own] = whole.offsets[buffer]
        if buffer.first < cut.start or buffer in cut.inputs:
            entering.append(own)
        if buffer in moving:
            moving.add(own)
    launches = [_with(stand_in, launch) for launch in whole.launches[cut.start : cut.stop]]
    buffers = [*offsets]
    return Plan(
        launches=launches,
        checks=[],  # bound to a slot's memory by whoever runs them
        transient=buffers,
        kept=[],
        offsets=offsets,
        memory=_report(buffers, whole.memory.planned_bytes),
        entering=entering,
        outgoing=outgoing,
    )


def _with(stand_in: dict[Buffer, Buffer], launch: RecordedLaunch) -> RecordedLaunch:
    """The launch on stand-ins."""

    def on(operand: Operand | None) -> Operand | None:
        if operand is None or operand.buffer is None:
            return operand
        return operand._replace(buffer=stand_in[operand.buffer])

    return launch._replace(operands=tuple(map(on, launch.operands)))
