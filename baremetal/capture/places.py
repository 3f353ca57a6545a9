"""Addresses said without addresses: for every operand of a bound plan, where it lies.

A bound launch is a block of words, some of them addresses (`kernels/native/abi.py`). Those are good
for this process only. Said as a place they are good for every process that makes the same plan:

    arena + 98304          what lives within the step
    workspace + 0          what a kernel needs while it runs
    fixed[12]              row 12 of a table of addresses: weights, moments, inputs, outputs

Each place also gets a name for whoever reads it: that of the parameter, or of the launch that first
touches the buffer and what the buffer is to it.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from baremetal.capture.plan import Plan
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch
from baremetal.kernels.fused import Fused
from baremetal.trace import format_bytes, format_count

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch

Labels = dict[tuple[int, int], str]  # names of arrays, by address and size in bytes


class Place(NamedTuple):
    """Where an operand begins, said without an address.

    Attributes:
        region: "arena", "workspace" or "fixed".
        base: bytes from the region's beginning; for "fixed" the row of the table of addresses.
        buffer: tells buffers apart that lie at one place, one after the other.
        offset_bytes: from there.
        name: what it is called, for the reader.
        note: its dtype and shape, for the reader.
    """

    region: str
    base: int
    name: str
    note: str
    buffer: int = 0
    offset_bytes: int = 0

    @property
    def where(self) -> tuple[str, int]:
        """Where it begins."""
        return self.region, self.base

    @property
    def key(self) -> tuple[str, int, int]:
        """What two operands share that are views of the same buffer."""
        return self.region, self.base, self.buffer

    def text(self) -> str:
        """As an expression."""
        return f"fixed[{self.base}]" if self.region == "fixed" else f"{self.region} + {self.base}"


class Call(NamedTuple):
    """One native launch, its words ready to be written.

    Attributes:
        launch: what runs.
        words: its block; places where it holds addresses.
        remark: what the recorded launch was, or None if an earlier call said so.
        kernel: the recorded launch's kernel.
    """

    launch: "Launch"
    words: tuple[Place | int, ...]
    remark: str | None
    kernel: str

    @property
    def kind(self) -> tuple:
        """Equal for calls that differ in addresses alone."""
        words = (w.region if isinstance(w, Place) else w for w in self.words)
        launch = self.launch
        return launch.body.key, launch.dtype.str, launch.items, launch.work, *words


class Placer:
    """Says for every array in a block where it lies.

    Args:
        plan: whose buffers these are.
        arena, workspace: the memory that the plan is bound to.
        names: what arrays outside the arena are called.

    Attributes:
        fixed: the arrays outside, in the order of the table of addresses.
        notes: a name and a note for each.
    """

    def __init__(self, plan: Plan, arena: np.ndarray, workspace: np.ndarray, names: Labels) -> None:
        from baremetal.kernels.native.abi import address_of

        self.fixed: list[np.ndarray] = []
        self.notes: list[tuple[str, str]] = []
        self._plan = plan
        self._address_of = address_of
        self._arena_start = address_of(arena)
        self._workspace = address_of(workspace), workspace.nbytes
        self._names = names
        self._rows: dict[tuple[int, int], int] = {}  # of the table, by address and bytes
        self._called: dict[
            Buffer | None, str
        ] = {}  # buffers, after the launch that first touched them

    def place(self, array: np.ndarray, launch: RecordedLaunch) -> Place:
        """The place of an array in the block of this launch."""
        address = self._address_of(array)
        start, size_bytes = self._workspace
        if array.size and start <= address < start + size_bytes:
            note = _note(array.dtype, array.shape)
            return Place("workspace", address - start, "scratch", note)
        for operand in launch.operands:
            found = self._in_arena(operand, address, array)
            if found is not None:
                return found
        return self._outside(array, address, launch)

    def introduce(self, launch: RecordedLaunch) -> None:
        """Call the buffers that this launch touches first after it and their role in it."""
        roles = _roles_of(launch)
        for operand, role in zip(launch.operands, roles, strict=True):
            if operand is not None and operand.buffer is not None:
                name = launch.kernel.name + ("" if role == "out" else f"_{role}")
                self._called.setdefault(operand.buffer, name)

    def _in_arena(self, operand: Operand | None, address: int, array: np.ndarray) -> Place | None:
        buffer = None if operand is None else operand.buffer
        if buffer is None or buffer.memory is not None:
            return None
        base = self._plan.offsets[buffer]
        offset_bytes = address - self._arena_start - base
        if not 0 <= offset_bytes < max(buffer.size_bytes, 1):
            return None
        note = _note(buffer.dtype, buffer.shape)
        name = self._called[buffer]
        return Place("arena", base, name, note, buffer.number, offset_bytes)

    def _outside(self, array: np.ndarray, address: int, launch: RecordedLaunch) -> Place:
        key = address, array.nbytes
        row = self._rows.setdefault(key, len(self.fixed))
        note = _note(array.dtype, array.shape)
        if row == len(self.fixed):
            self.fixed.append(array)
            self.notes.append((self._names.get(key) or self._role(address, launch), note))
        return Place("fixed", row, self.notes[row][0], note)

    def _role(self, address: int, launch: RecordedLaunch) -> str:
        """What to call an array that nobody has named: after what this launch uses it for."""
        for operand, role in zip(launch.operands, _roles_of(launch), strict=True):
            if operand is None:
                continue
            kept = None if operand.buffer is None else operand.buffer.memory
            if kept is not None and 0 <= address - self._address_of(kept) < max(kept.nbytes, 1):
                return self._called[operand.buffer]
            if operand.array is not None and self._address_of(operand.array) == address:
                return f"{launch.kernel.name}_{role}"
        is_fused = isinstance(launch.kernel, Fused)  # of its own it has the table of its bodies
        return f"{launch.kernel.name}_{'stages' if is_fused else 'constant'}"


def make_calls(
    bound: Sequence[tuple[RecordedLaunch, "Sequence[Launch]"]], placer: Placer
) -> list[Call]:
    """All native launches of a plan, in their order, with their operands placed."""
    calls = []
    for recorded, launches in bound:
        placer.introduce(recorded)
        remark: str | None = _remark(recorded)
        for launch in launches:
            words = tuple(
                placer.place(value, recorded) if isinstance(value, np.ndarray) else int(word)
                for value, word in zip(launch.arrays, launch.block, strict=True)
            )
            calls.append(Call(launch, words, remark, recorded.kernel.name))
            remark = None
    return calls


def label_arrays(named: Iterable[tuple[str, np.ndarray]]) -> Labels:
    """Names by address and size in bytes. Of two names for one array the first stays."""
    from baremetal.kernels.native.abi import address_of

    labels: Labels = {}
    for name, array in named:
        labels.setdefault((address_of(array), array.nbytes), name)
    return labels


def _roles_of(launch: RecordedLaunch) -> list[str]:
    """What the kernel's reference calls each of its arrays."""
    return list(launch.kernel.operand_names(len(launch.operands)))


def _remark(launch: RecordedLaunch) -> str:
    """The launch in words: kernel, operands, what it costs."""
    operands = ", ".join(
        f"{role} {_shape(operand.shape)}"
        for operand, role in zip(launch.operands, _roles_of(launch), strict=True)
        if operand is not None
    )
    cost = launch.cost
    return (
        f"{launch.kernel.name}: {operands}; "
        f"{format_count(cost.flops, 'FLOP')}, {format_bytes(cost.size_bytes)}"
    )


def _note(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    return f"{dtype} {_shape(shape)}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"
