"""Writing down a step: every launch in its order, every buffer with its lifetime.

All arithmetic goes through `Device.launch` and all memory through `Device.empty`, so whoever stands
at these two doors while a function runs once sees all there is to see. Python's part of the step
(the tape, the modules, the order of the backward pass) decides *which* launches there are, and is
not needed again once they are known.

Memory comes in three kinds, told apart by looking, not by asking:

    fixed       was there before (parameters, moments, inputs) or was made by NumPy (constants):
                it keeps its address, and the recording keeps it alive
    kept        allocated during the step and still alive after it (the loss, a gradient without
                an arena): it keeps its address too, or whoever holds it would see no change
    transient   allocated and dropped within the step: only its lifetime matters, from the first
                launch that touches it to the last

What lives when is not asked of Python, which holds on to things longer than needed, but read off
the launches.
"""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.memory import aligned_memory
from baremetal.autograd.op import owner
from baremetal.autograd.traced import Traced
from baremetal.capture.errors import CaptureError
from baremetal.capture.extent import byte_extent
from baremetal.capture.leaves import LeafNotes
from baremetal.capture.undo import Undo
from baremetal.kernels.cost import Cost
from baremetal.kernels.kernel import Kernel


class Buffer:
    """One piece of memory that the step allocated.

    Attributes:
        number: counts the allocations of the step.
        shape, dtype: as it was allocated (launches may see it through other views).
        size_bytes: how large it is.
        first, last: the first and the last launch that touch it; -1 if none does.
        memory: for a kept buffer its memory, else None.
    """

    def __init__(self, number: int, shape: tuple[int, ...], dtype: np.dtype, address: int) -> None:
        self.number = number
        self.shape = shape
        self.dtype = dtype
        self.size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.address = address  # while it was recorded
        self.first = self.last = -1
        self.memory: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<buffer {self.number}: {self.shape} {self.dtype}>"

    def touch(self, launch: int) -> None:
        """Note that this launch reads or writes it."""
        if self.first < 0:
            self.first = launch
        self.last = launch


class Operand(NamedTuple):
    """An array as a launch sees it: a view of a buffer, or a fixed array."""

    buffer: Buffer | None
    array: np.ndarray | None  # where there is no buffer
    offset_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """How many elements the view has."""
        return math.prod(self.shape)

    def extent(self) -> tuple[int, int]:
        """The first byte and the one after the last, counted from where the buffer begins."""
        low, high = byte_extent(self.shape, self.strides, self.dtype.itemsize)
        return self.offset_bytes + low, self.offset_bytes + high

    def over(self, memory: np.ndarray, start_bytes: int = 0) -> np.ndarray:
        """The same view of other memory, in which the buffer begins at `start_bytes`."""
        return np.ndarray(
            self.shape, self.dtype, memory, start_bytes + self.offset_bytes, self.strides
        )


class RecordedLaunch(NamedTuple):
    """One launch: what ran, on what, and what it costs."""

    kernel: Kernel
    operands: tuple[Operand | None, ...]
    attributes: dict[str, Any]
    cost: Cost

    def written(self) -> list[Operand]:
        """The operands that it may write."""
        return self.kernel.written(self.operands)

    def written_outside(self) -> list[np.ndarray]:
        """The fixed arrays that it may write."""
        return [x.array for x in self.written() if x.array is not None]


class RecordedCheck(NamedTuple):
    """A check of values from outside, repeated for every new input."""

    function: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]


class Recording:
    """A `Recorder`: stands at both doors of a device while a function runs once.

    Args:
        undo: keeps what fixed arrays held before a launch touches them.

    Attributes:
        launches: in their order.
        buffers: every allocation, in its order.
        lent: those of them that were lent to hold inputs.
        checks: of values that come from outside.
        leaf_notes: on tensors whose gradients are asked for or changed.
    """

    def __init__(self, undo: Undo) -> None:
        self.launches: list[RecordedLaunch] = []
        self.buffers: list[Buffer] = []
        self.lent: list[Buffer] = []
        self.checks: list[RecordedCheck] = []
        self.leaf_notes = LeafNotes()
        self._undo = undo
        self._alive: dict[int, tuple[Buffer, weakref.ref]] = {}  # by the id of what owns it

    # ------------------------------------------------------------ the two doors

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Lend uninitialised memory whose end we notice."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = aligned_memory(size_bytes)
        buffer = Buffer(len(self.buffers), shape, dtype, memory.ctypes.data)
        self.buffers.append(buffer)
        whole = owner(memory)  # what every view of it keeps alive
        key = id(whole)
        self._alive[key] = buffer, weakref.ref(whole, lambda _: self._alive.pop(key, None))
        return np.ndarray(shape, dtype, memory)

    def lend(self, array: np.ndarray) -> np.ndarray:
        """A copy of an input in a buffer of this recording, written by no launch."""
        own = self.empty(array.shape, array.dtype)
        own[...] = array
        self.lent.append(self.buffers[-1])
        return own

    def launch(
        self, run: Callable[[], None], kernel: Kernel, arrays: tuple, attributes: dict[str, Any]
    ) -> None:
        """Run it, and write it down."""
        number = len(self.launches)
        operands = tuple(None if array is None else self.operand(array) for array in arrays)
        for operand in operands:
            if operand is None:
                continue
            if operand.buffer is not None:
                operand.buffer.touch(number)
            elif operand.array is not None:
                self._undo.keep(operand.array)
        run()
        cost = kernel.cost(*arrays, **attributes)
        self.launches.append(RecordedLaunch(kernel, operands, dict(attributes), cost))

    def check(self, function: Callable[..., Any], arrays: tuple) -> None:
        """Keep a check; its arrays must come from outside, or it could not run beforehand."""
        for array in arrays:
            buffer = self.operand(array).buffer
            if buffer is not None and buffer not in self.lent:
                raise CaptureError(
                    f"a value that the step computes (shape {array.shape}) is checked in Python: "
                    "a captured step cannot stop half-way; compute it outside and pass it in"
                )
        self.checks.append(RecordedCheck(function, arrays))

    def leaf(self, leaf: Traced, is_zeroed: bool) -> None:
        """Note a leaf before its gradient changes; one made in the step is new in each of them."""
        if self.operand(leaf.data).buffer is None:
            self.leaf_notes.note(leaf, is_zeroed)

    def operand(self, array: np.ndarray) -> Operand:
        """The array as a view of a buffer of this recording, or as a fixed array."""
        found = self._alive.get(id(owner(array)))
        if found is None:
            return Operand(None, array, 0, array.shape, array.strides, array.dtype)
        buffer = found[0]
        offset_bytes = array.ctypes.data - buffer.address
        return Operand(buffer, None, offset_bytes, array.shape, array.strides, array.dtype)

    # ------------------------------------------------------------ afterwards

    def find_kept(self) -> None:
        """Mark what is still alive now that the function has returned."""
        gc.collect()  # what only a reference cycle holds is not held by anybody
        for buffer, reference in [*self._alive.values()]:
            whole = reference()
            if whole is not None:
                start = buffer.address - whole.ctypes.data
                buffer.memory = whole[start : start + buffer.size_bytes]
        self._alive.clear()


def record(
    function: Callable[..., Any], inputs: tuple, device: Device, undo: Undo
) -> tuple[Any, Recording]:
    """Run ``function(*inputs)`` once on `device` and write it down.

    Args:
        undo: is given what to put back, if the caller finds that the call should not have been.

    Returns:
        What the function returned, and the recording (still to be told what is kept:
        `find_kept`, once the caller has dropped what it does not need).
    """
    recording = Recording(undo)
    with device.record(recording):
        returned = function(*inputs)
    return returned, recording
