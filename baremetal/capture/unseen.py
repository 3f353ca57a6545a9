"""Changes that no launch made: what NumPy wrote while a function was recorded.

    w.data -= 0.1 * w.grad.data       done in the first call and in no other: it is no launch
    x /= 255                          the same, of an input

A replay would go on with weights that never change, and nothing would say so. But it can be seen:
what arrays held before the first launch that touched them is kept (`undo.py`), and launches declare
what they write. Whatever has changed elsewhere was changed from NumPy's side.

It is not all that can go wrong: what NumPy writes before any launch has touched the array is not
noticed (inputs apart, which are compared with what was passed), nor what it made anew, which is a
constant from then on.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from baremetal.capture.errors import CaptureError
from baremetal.capture.extent import byte_extent
from baremetal.capture.recording import RecordedLaunch
from baremetal.capture.undo import Kept

CHUNK_BYTES = 1 << 20  # compared at a time: a comparison makes an array of its own


def refuse_unseen_changes(name: str, kept: Iterable[Kept], launches: Iterable[RecordedLaunch]):
    """Refuse a recording in which memory from outside changed where no launch writes.

    Args:
        name: of the function.
        kept: what memory held before.
        launches: of the recording.

    Raises:
        CaptureError: naming the array by its shape and dtype.
    """
    starts, stops = _written(launches)
    for one in kept:
        for start, stop in _gaps(one.address, one.address + one.content.size, starts, stops):
            before = one.content[start - one.address : stop - one.address]
            if not _equal(before, one.bytes_now()[start - one.address : stop - one.address]):
                raise CaptureError(
                    f"{name} changed an array from NumPy's side (shape {one.array.shape} "
                    f"{one.array.dtype}), which a replay would not do again: change tensors by "
                    "operations (with no_grad(): w -= 0.1 * w.grad), or the array outside the "
                    "captured function"
                )


def _written(launches: Iterable[RecordedLaunch]) -> tuple[list[int], list[int]]:
    """The addresses that launches write, as stretches in order that do not overlap."""
    extents = set()
    for launch in launches:
        for array in launch.written_outside():
            low, high = byte_extent(array.shape, array.strides, array.itemsize)
            address = array.__array_interface__["data"][0]
            extents.add((address + low, address + high))
    starts: list[int] = []
    stops: list[int] = []
    for start, stop in sorted(extents):
        if stops and start <= stops[-1]:
            stops[-1] = max(stops[-1], stop)
        else:
            starts.append(start)
            stops.append(stop)
    return starts, stops


def _gaps(
    start: int, stop: int, starts: Sequence[int], stops: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """What is left of start..stop without these stretches."""
    at = start
    for number in range(bisect_right(stops, start), len(starts)):
        if starts[number] >= stop:
            break
        if starts[number] > at:
            yield at, starts[number]
        at = max(at, stops[number])
    if at < stop:
        yield at, stop


def _equal(before: np.ndarray, now: np.ndarray) -> bool:
    return all(
        np.array_equal(before[start : start + CHUNK_BYTES], now[start : start + CHUNK_BYTES])
        for start in range(0, before.size, CHUNK_BYTES)
    )
