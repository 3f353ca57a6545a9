"""The two runs of a checkpointed function: what the first finds out, and how the second uses it.

The *rehearsal* runs the function forward. Operations compute as ever, but no tape is written, so
that nothing they save outlives them. Meanwhile it notes

    which values from outside were read, and at which version     to refuse a change before backward
    copies of what others overwrite (dropout's step and sample)   the second run must meet the same
    who read whose result, and who saves what for its gradient    what the second run can leave out

The *recomputation* runs the function once more, in backward, and this time writes the tape. Not
everything has to be computed again for that: what is wanted is not the function's result, only what
its operations save. An operation is *needless* if it saves nothing but its inputs and nobody needs
its output: the last matrix product of a block, and the addition behind it. It goes onto the tape
without having run. What stands for its output has the right shape, no memory, and NaN for every
number: should anyone look at it after all, it shows.

    x -> norm -> linear -> gelu -> linear -> + x
         saves   saves     saves   saves
         x       its in    its in  its in          the last two need not run
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.errors import AutogradError
from baremetal.autograd.op import Context, Op, whose
from baremetal.autograd.tape import OUTPUT, Unrecorded, Version
from baremetal.autograd.traced import Traced


class Call(NamedTuple):
    """What the rehearsal noted of one operation.

    Attributes:
        op: which.
        result: the version of its output (a view's is that of what it looks into).
        reads: the versions of its inputs.
        keeps: those of them whose memory it saves.
        must_run: it saves more than its inputs, or is off the tape and hence seen by Python alone.
    """

    op: Op
    result: Version
    reads: list[Version]
    keeps: list[Version]
    must_run: bool


class Watched(NamedTuple):
    """A value from outside: how often it had been changed when it was read; what to call it."""

    changes: int
    name: str
    shape: tuple[int, ...]


class Rehearsal:
    """The first run: forward, off the tape.

    Args:
        outer: the recomputation inside which this happens, if checkpoints are nested.

    Attributes:
        device: where it ran; None if no operation asked for a gradient.
        first: the number of its first node.
        calls: its operations, in order.
        watched: the values from outside that it read.
        snapshots: copies of what others overwrite, in order.
    """

    def __init__(self, outer: "Recomputation | None") -> None:
        self.outer = outer
        self.device: Device | None = None
        self.first = 0
        self.calls: list[Call] = []
        self.watched: dict[Version, Watched] = {}
        self.snapshots: list[np.ndarray] = []
        self._made: set[Version] = set()
        self._reads_values = False

    def call(self, op: Op, context: Context, inputs: tuple, arrays: list, lead: Traced) -> Any:
        """Perform one operation (for `Op.__call__`)."""
        if self.outer is None:
            output = op.forward(context, *arrays, **context.attributes)
        else:
            output = self.outer.forward(op, context, arrays)
        version = op.version_of(output, arrays, lead)
        tensors = [value for value in inputs if isinstance(value, Traced)]
        for tensor in tensors:
            self._watch(tensor)
        if version is not lead.version:
            self._made.add(version)
        node = None
        if True in context.needs and output.dtype.kind not in "iub":
            node = Unrecorded(op, output, self.next_number(context.device))
        reads = [tensor.version for tensor in tensors]
        keeps, only_inputs = self._kept(context, inputs, arrays, output)
        self.calls.append(Call(op, version, reads, keeps, node is None or not only_inputs))
        return lead.made_by_op(output, node, version)

    def snapshot(self, context: Context, array: np.ndarray, dtype: Any) -> np.ndarray:
        """Make a copy (or take the outer run's) and keep it for the recomputation."""
        if self.outer is None:
            copy = context.copied(array, dtype)
        else:
            copy = self.outer.snapshot(context, array, dtype)
        self.snapshots.append(copy)
        return copy

    def note_reading(self) -> None:
        """Python reads a value: what hangs on it is unknown, so everything must run again."""
        self._reads_values = True

    def next_number(self, device: Device) -> int:
        """The next number on the tape; the recomputation's nodes will have the same ones."""
        number = next(device.sequence)
        if self.device is None:
            self.device, self.first = device, number
        elif self.device is not device:
            raise AutogradError(
                f"a checkpointed function ran on {self.device} and on {device}: give each device "
                "a checkpoint of its own"
            )
        return number

    def reserve(self, numbers: int) -> None:
        """Leave out so many numbers, for nodes that only the recomputation makes."""
        for _ in range(numbers):
            assert self.device is not None  # nodes have been numbered before
            next(self.device.sequence)

    def needed(self) -> list[bool]:
        """For each operation, whether the recomputation has to run it."""
        if self._reads_values:
            return [True] * len(self.calls)
        wanted: set[Version] = set()  # values that somebody behind needs
        needed = []
        for call in reversed(self.calls):
            runs = call.must_run or call.result in wanted
            needed.append(runs)
            wanted.update(call.reads if runs else call.keeps)
        return needed[::-1]

    def _watch(self, tensor: Traced) -> None:
        version = tensor.version
        if version not in self._made and version not in self.watched:
            self.watched[version] = Watched(version.count, tensor.name, tensor.shape)

    def _kept(
        self, context: Context, inputs: tuple, arrays: list, output: np.ndarray
    ) -> tuple[list[Version], bool]:
        """Which inputs' memory the operation saved, and whether that is all that it saved."""
        keeps, only_inputs = [], True
        for array in context.saved:
            if array is None or any(array is copy for copy in self.snapshots):
                continue
            position = whose(array, arrays, output)
            if position is None or position == OUTPUT:
                only_inputs = False
            elif isinstance(inputs[position], Traced):
                keeps.append(inputs[position].version)
        return keeps, only_inputs


class Recomputation:
    """The second run: on the tape, leaving out what nobody needs.

    Args:
        rehearsal: what the first run noted.
        needed: its `needed()`.
    """

    def __init__(self, rehearsal: Rehearsal, needed: list[bool]) -> None:
        self._calls: Iterator[tuple[Call, bool]] = zip(rehearsal.calls, needed, strict=True)
        self._snapshots = iter(rehearsal.snapshots)

    def call(self, op: Op, context: Context, inputs: tuple, arrays: list, lead: Traced) -> Any:
        """Perform one operation (for `Op.__call__`)."""
        output = self.forward(op, context, arrays)
        version = op.version_of(output, arrays, lead)
        node = None
        if True in context.needs and output.dtype.kind not in "iub":
            node = op.record(context, inputs, arrays, output, version)
        return lead.made_by_op(output, node, version)

    def forward(self, op: Op, context: Context, arrays: list) -> np.ndarray:
        """Its output, or what stands for it."""
        call, needed = next(self._calls, (None, True))
        if call is None or call.op is not op:
            raise other_path(f"called {op.name}, where it had called {_name(call)}")
        if needed:
            return op.forward(context, *arrays, **context.attributes)
        context.launch, context.empty = _no_launch, _nothing
        output = op.forward(context, *arrays, **context.attributes)
        # The rules will launch and allocate.
        context.launch, context.empty = context.device.launch, context.device.empty
        return output

    def snapshot(self, context: Context, array: np.ndarray, dtype: Any) -> np.ndarray:
        """The copy that the first run made."""
        copy = next(self._snapshots, None)
        if copy is None or copy.shape != array.shape:
            raise other_path(f"asked for a copy of shape {array.shape} that it had not asked for")
        return copy

    def note_reading(self) -> None:
        """It was noted the first time."""

    def finish(self) -> None:
        """Check that nothing is missing."""
        call, _ = next(self._calls, (None, True))
        if call is not None:
            raise other_path(f"did not call {_name(call)}, as it had")


def other_path(what: str) -> AutogradError:
    """The function did not do the same again."""
    return AutogradError(
        f"a checkpointed function took another path when it was run again in backward: it {what}; "
        "it must do the same each time (no counter, no random choice in Python)"
    )


def _name(call: Call | None) -> str:
    return "nothing" if call is None else call.op.name


def _no_launch(kernel: Any, *arrays: Any, **attributes: Any) -> None:
    """In place of `Device.launch`."""


def _nothing(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """In place of `Device.empty`: one NaN (of integers, 0), seen from everywhere; read-only."""
    one = np.zeros((), dtype)
    if one.dtype.kind not in "iub":
        one[...] = np.nan
    return np.broadcast_to(one, shape)
