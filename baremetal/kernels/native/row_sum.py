"""The sum of all rows of a matrix (a bias gradient, say), compiled: whole rows, in their order.

    x (rows, columns)  ->  out (columns,)

A block of columns for each thread would need no second step. But then each thread would read a
piece of a row, jump to the next row, and read a piece again, and a jump is what memory is slow at:
on two cores of a Xeon that ran at 20 GB/s of 44. Instead the rows are cut into bands of fixed
height. A band is read from its first byte to its last and added up in a row of float64 of its own;
then the bands' rows are added, in their order. So the bits depend on the band's height, which is
a constant, and not on the number of threads.

The bound on the error is that of `reduction.py`, across: (rows) 2^-53 times the sum of magnitudes.
"""

from collections.abc import Sequence

import numpy as np

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    pointer_f64,
    scratch,
)
from baremetal.kernels.reduction import BAND, BLOCK, WORTH_IT


@body
def band_body(lo, hi, args):
    """Bands lo..hi: sums (bands, columns) float64. Words: 0 x, 1 sums, 2 rows, 3 columns."""
    rows, columns = integer(args, 2), integer(args, 3)
    x, sums = pointer(args, 0), pointer_f64(args, 1)
    for band in range(lo, hi):
        total = band * columns
        for j in range(columns):
            sums[total + j] = 0.0
        for row in range(band * BAND, min((band + 1) * BAND, rows)):
            start = row * columns
            for j in range(columns):
                sums[total + j] += x[start + j]  # float64 + float32 is float64


@body
def add_to_bands_body(lo, hi, args):
    """Rows lo..hi added to the sums of their bands, which begin anew with their first rows.

    The additions of `band_body` in the same order, for whoever has the rows one after the other
    and not all at once (`fused.py`). Words: 0 x, 1 sums, 2 columns.
    """
    columns = integer(args, 2)
    for row in range(lo, hi):
        x = offset(pointer(args, 0), row * columns)
        sums = offset(pointer_f64(args, 1), row // BAND * columns)
        if row % BAND == 0:
            for j in range(columns):
                sums[j] = 0.0
        for j in range(columns):
            sums[j] += x[j]


@body
def bands_body(lo, hi, args):
    """Blocks lo..hi of out = sum of the bands / word 4. Words: 0-1 sums out, 2 bands, 3 columns."""
    bands, columns = integer(args, 2), integer(args, 3)
    sums, out, divisor = pointer_f64(args, 0), pointer(args, 1), float(integer(args, 4))
    first, end = lo * BLOCK, min(hi * BLOCK, columns)
    for band in range(1, bands):
        for j in range(first, end):
            sums[j] += sums[band * columns + j]  # the first band's row collects them all
    for j in range(first, end):
        out[j] = cast(args, sums[j] / divisor)


def row_sum(
    x: np.ndarray, out: np.ndarray, axis: tuple[int, ...], divisor: int
) -> Sequence[Launch] | None:
    """Pack out = sum of x over its leading axes / divisor; None where another way is as good."""
    leading = axis == tuple(range(len(axis))) and 0 < len(axis) < x.ndim
    if not (leading and x.flags.c_contiguous and out.flags.c_contiguous):
        return None
    columns = out.size
    rows = x.size // columns if columns else 0
    if rows < WORTH_IT or columns < BLOCK or x.dtype not in FLOATING or out.dtype != x.dtype:
        return None
    if not (x.flags.aligned and out.flags.aligned):
        return None
    bands = -(-rows // BAND)
    sums = scratch((bands, columns), np.float64)
    blocks = -(-columns // BLOCK)
    return (
        Launch(band_body, x.dtype, (x, sums, rows, columns), bands, BAND * columns),
        Launch(bands_body, x.dtype, (sums, out, bands, columns, divisor), blocks, bands * BLOCK),
    )
