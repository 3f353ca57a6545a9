"""The plan: everything a step will do, decided before it runs.

A recording says what happened; the plan says where. Transient buffers get addresses in one arena
(`arena.py`), everything else keeps the address it has. What comes out is plain data that can be
printed, measured, replayed (`replay.py`), and later compiled.

The memory report has three numbers:

    all buffers   what they would take without reuse
    planned       the arena
    lower bound   the most that is alive during one launch: no plan can be smaller
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from baremetal.capture.arena import Lifetime, aligned, lower_bound, plan_arena
from baremetal.capture.recording import Buffer, Operand, RecordedCheck, RecordedLaunch, Recording
from baremetal.kernels.cost import ZERO, Cost
from baremetal.trace import format_bytes, format_count


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of a step's memory, sizes rounded up to cache lines."""

    buffers: int
    total_bytes: int
    planned_bytes: int
    bound_bytes: int
    kept_bytes: int

    @property
    def ratio(self) -> float:
        """Planned over lower bound: 1.0 is perfect."""
        return self.planned_bytes / self.bound_bytes if self.bound_bytes else 1.0


class Saving(NamedTuple):
    """What one fusion did: launches and bytes of memory traffic before, less those after."""

    fusion: str
    launches: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """A step with nothing left to decide.

    Attributes:
        launches: in their order.
        checks: of values from outside, before the first launch.
        transient: the buffers that live in the arena.
        kept: the buffers that outlive the step, at addresses of their own.
        offsets: where each transient buffer begins in the arena, in bytes.
        memory: the report.
        entering: the transient buffers that hold something before the first launch (a segment's
            inputs, and what earlier segments left for it).
        savings: what each fusion saved, in the order in which they were done.
        outgoing: the buffers that lie where each run says (`outgoing.py`).
    """

    launches: Sequence[RecordedLaunch]
    checks: Sequence[RecordedCheck]
    transient: Sequence[Buffer]
    kept: Sequence[Buffer]
    offsets: dict[Buffer, int]
    memory: MemoryReport
    entering: Sequence[Buffer] = ()
    savings: Sequence[Saving] = ()
    outgoing: Sequence[Buffer] = ()

    @property
    def cost(self) -> Cost:
        """FLOPs and bytes of the whole step."""
        return sum((launch.cost for launch in self.launches), ZERO)

    def alive_bytes(self) -> list[int]:
        """For each launch, the bytes (aligned) of transient buffers that are alive during it."""
        changes = [0] * (len(self.launches) + 1)
        for buffer in self.transient:
            changes[buffer.first] += aligned(buffer.size_bytes)
            changes[buffer.last + 1] -= aligned(buffer.size_bytes)
        return list(accumulate(changes))[:-1]

    def text(self) -> str:
        """Every launch, one to a line, with where its operands lie and what it costs."""
        return "\n".join([self.summary(), *self._savings_text(), "", *self.launch_lines()])

    def launch_lines(self) -> list[str]:
        """The lines of `text` that are about launches."""
        lines = []
        width = max((len(launch.kernel.name) for launch in self.launches), default=0)
        for number, launch in enumerate(self.launches):
            operands = " ".join(self._place(operand) for operand in launch.operands)
            flops, size_bytes = launch.cost.flops, launch.cost.size_bytes
            cost = f"{format_count(flops, 'FLOP')}, {format_bytes(size_bytes)}"
            lines.append(f"{number:5d}  {launch.kernel.name:{width}s} {cost:24s} {operands}")
        return lines

    def summary(self) -> str:
        """Launches and memory in one line."""
        memory = self.memory
        return (
            f"{len(self.launches)} launches; {memory.buffers} buffers of "
            f"{format_bytes(memory.total_bytes)} in an arena of "
            f"{format_bytes(memory.planned_bytes)} ({memory.ratio:.2f} times the least possible)"
        )

    def _savings_text(self) -> list[str]:
        return [
            f"{fusion}: {launches} launches and {format_bytes(size_bytes)} of traffic saved"
            for fusion, launches, size_bytes in self.savings
            if launches
        ]

    def _place(self, operand: Operand | None) -> str:
        if operand is None:
            return "-"
        shape = "x".join(map(str, operand.shape)) or "1"
        if operand.buffer is None:
            return f"fixed[{shape}]"
        if operand.buffer.memory is not None:
            return f"kept[{shape}]"
        if operand.buffer in self.outgoing:
            return f"out[{shape}]"
        start = self.offsets[operand.buffer] + operand.offset_bytes
        return f"@{start}[{shape}]"


def make_plan(recording: Recording, savings: Sequence[Saving] = ()) -> Plan:
    """Addresses for everything that a recording allocated; its `kept` must be known.

    Args:
        savings: what fusions saved, if the recording is a fused one.
    """
    used = [buffer for buffer in recording.buffers if buffer.first >= 0]
    transient = [buffer for buffer in used if buffer.memory is None]
    kept = [buffer for buffer in recording.buffers if buffer.memory is not None]
    lifetimes = [Lifetime(b.size_bytes, b.first, b.last) for b in transient]
    places, planned_bytes = plan_arena(lifetimes)
    memory = MemoryReport(
        buffers=len(transient),
        total_bytes=sum(aligned(b.size_bytes) for b in transient),
        planned_bytes=planned_bytes,
        bound_bytes=lower_bound(lifetimes),
        kept_bytes=sum(aligned(b.size_bytes) for b in kept),
    )
    offsets = dict(zip(transient, places, strict=True))
    return Plan(
        recording.launches, recording.checks, transient, kept, offsets, memory, savings=savings
    )
