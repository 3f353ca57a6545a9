"""Where a sum is kept while it grows: never in 16 bits.

A running sum is rounded to its own precision at each addition. float16 has 11 significant bits,
bfloat16 has 8: in bfloat16 a sum of ones stops at 256, for 256 + 1 is halfway to the next number,
258, and rounds back. So the references add numbers of 16 bits (or fewer) in float64, as the
compiled kernels add float32 numbers, and round the result once. float32, float64 and integers are
added as NumPy adds them.
"""

import numpy as np


def sums_in(dtype: np.dtype) -> np.dtype | None:
    """The dtype for sums of this one's numbers; None: NumPy's own choice."""
    is_short = dtype.itemsize < 4 and dtype.kind in "fV"  # V: ml_dtypes' types, such as bfloat16
    return np.dtype(np.float64) if is_short else None


def row_sum(x: np.ndarray) -> np.ndarray:
    """The sum over the last axis: (..., width) -> (..., 1)."""
    return x.sum(axis=-1, keepdims=True, dtype=sums_in(x.dtype))


def row_mean(x: np.ndarray) -> np.ndarray:
    """The mean over the last axis: (..., width) -> (..., 1)."""
    with np.errstate(invalid="ignore"):  # of no numbers: 0 / 0, and NaN is the answer
        return np.true_divide(row_sum(x), x.shape[-1])


def widened(x: np.ndarray) -> np.ndarray:
    """A copy in the dtype for its sums, or x itself where that is its own."""
    wide = sums_in(x.dtype)
    return x if wide is None else x.astype(wide)
