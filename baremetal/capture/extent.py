"""How far a strided view reaches, in bytes.

    address of x[i, j] = start + i * strides[0] + j * strides[1]

so the lowest byte belongs to the element whose indices are all at the end where their stride takes
them down, the highest to the one at the other ends.
"""

from collections.abc import Sequence


def byte_extent(shape: Sequence[int], strides: Sequence[int], item_bytes: int) -> tuple[int, int]:
    """The first byte of a view and the one after its last, counted from element (0, 0, ...).

    A view without elements reaches nowhere: (0, 0).
    """
    if 0 in shape:
        return 0, 0
    low, high = 0, item_bytes
    for size, stride in zip(shape, strides, strict=True):
        reach = (size - 1) * stride
        if reach < 0:
            low += reach
        else:
            high += reach
    return low, high
