"""Undo: what lay in memory before launches touched it, to be put back.

The first call of a captured step is a step: its launches run while they are written down. If Python
raises half-way (a token outside the vocabulary, Ctrl-C), some of them have already changed weights
or moments. So whoever records keeps, before each launch, the bytes of every array that the launch
is about to touch and that outlives the step, and puts them back if the recording fails:

    launch 1 reads w        keep w                 w: 2.0
    launch 2 writes m       keep m                 m: 0.1
    launch 3 updates w      (kept already)         w: 1.9, m: 0.2
    an exception            put w and m back       w: 2.0, m: 0.1

Bytes are kept by address, not by array: a parameter is a view of the optimiser's flat memory, which
the update touches as a whole, and each byte is kept once, as it was before the first launch that
could have changed it. What cannot be written (a read-only array) is not kept.

It costs a copy of all that the step touches (for a model with AdamW: weights, gradients and both
moments), in the first call only: the copies are dropped when it ends. Python's own state is not
memory of ours and is not put back: whether a parameter *has* a gradient, a counter in the function.
"""

import ctypes
from bisect import bisect_left, bisect_right
from types import TracebackType
from typing import NamedTuple

import numpy as np

from baremetal.capture.extent import byte_extent


class Kept(NamedTuple):
    """Bytes as they were, and where they belong.

    Attributes:
        address: of the first.
        content: all of them, uint8.
        array: reaches over them, and keeps that memory alive.
    """

    address: int
    content: np.ndarray
    array: np.ndarray

    def bytes_now(self) -> np.ndarray:
        """What lies there now, uint8."""
        return np.ctypeslib.as_array(
            (ctypes.c_uint8 * self.content.size).from_address(self.address)
        )


class Undo:
    """Keeps bytes; as a context, it puts them back when an exception passes through.

    Attributes:
        kept: the bytes, stretch by stretch.
        kept_bytes: how many they are.
    """

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.kept: list[Kept] = []
        # What is kept, as stretches of addresses that neither overlap nor touch, in order.
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __enter__(self) -> "Undo":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.put_back()
            error.add_note(
                "This happened while a step was being recorded: everything that its launches had "
                "changed (parameters, moments, gradients) was put back, and it can be called again."
            )
        self.forget()

    def keep(self, array: np.ndarray) -> None:
        """Keep the bytes of this array, from its first element to its last, that are not kept."""
        if not array.flags.writeable or array.size == 0:
            return
        low, high = byte_extent(array.shape, array.strides, array.itemsize)
        address = array.__array_interface__["data"][0]
        self._keep_stretch(address + low, address + high, array)

    def put_back(self) -> None:
        """Put everything back where it was."""
        for kept in self.kept:
            ctypes.memmove(kept.address, kept.content.ctypes.data, kept.content.size)

    def forget(self) -> None:
        """Drop the copies."""
        self.kept_bytes = 0
        self.kept.clear()
        self._starts.clear()
        self._stops.clear()

    def _keep_stretch(self, start: int, stop: int, array: np.ndarray) -> None:
        """Keep what is missing of these addresses, and join what then is one stretch."""
        first = bisect_left(self._stops, start)  # the first stretch that ends at or after `start`
        last = bisect_right(self._starts, stop)  # one beyond the last that begins at or before
        if last == first + 1 and self._starts[first] <= start and stop <= self._stops[first]:
            return  # what nearly every launch finds
        at = start
        for known_start, known_stop in zip(
            self._starts[first:last], self._stops[first:last], strict=True
        ):
            self._copy(at, known_start, array)
            at = max(at, known_stop)
        self._copy(at, stop, array)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def _copy(self, start: int, stop: int, array: np.ndarray) -> None:
        if stop > start:
            content = np.empty(stop - start, np.uint8)
            ctypes.memmove(content.ctypes.data, start, content.size)
            self.kept.append(Kept(start, content, array))
            self.kept_bytes += content.size
