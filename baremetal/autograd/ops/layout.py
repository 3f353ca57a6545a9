"""Getting arrays into the layout a kernel wants: views where NumPy has them, else one launch."""

import math

import numpy as np

from baremetal.autograd.op import Context
from baremetal.kernels.elementwise import add as add_kernel
from baremetal.kernels.elementwise import copy as copy_kernel

NUMPY_HAS_COPY_FLAG = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


def contiguous(ctx: Context, array: np.ndarray) -> np.ndarray:
    """The array itself if it is C-contiguous, else a copy that is."""
    if array.flags.c_contiguous:
        return array
    out = ctx.empty(array.shape, array.dtype)
    ctx.launch(copy_kernel, array, out)
    return out


def as_int64(ctx: Context, array: np.ndarray) -> np.ndarray:
    """Integers as kernels take them: int64 and C-contiguous, by a launch where they are not."""
    if array.dtype == np.int64 and array.flags.c_contiguous:
        return array
    out = ctx.empty(array.shape, np.dtype(np.int64))
    ctx.launch(copy_kernel, array, out)
    return out


def reshaped(ctx: Context, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """In this shape (of the same size): a view where there is one, else a copy."""
    if array.flags.c_contiguous:
        return array.reshape(shape)
    view = _view_as(array, shape)
    return contiguous(ctx, array).reshape(shape) if view is None else view


def _view_as(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A view in this shape, or None: `array.reshape` would copy without a word."""
    try:
        if NUMPY_HAS_COPY_FLAG:
            return np.reshape(array, shape, copy=False)
        view = array.view()
        view.shape = shape
    except (ValueError, AttributeError):
        return None
    return view


def as_rows(ctx: Context, array: np.ndarray) -> np.ndarray:
    """(..., k) -> (rows, k)."""
    if array.ndim == 2:
        return array
    rows = math.prod(array.shape[:-1])  # not -1: an empty array does not tell
    return reshaped(ctx, array, (rows, array.shape[-1]))


def overwritable(
    ctx: Context, shape: tuple[int, ...], dtype: np.dtype, into: np.ndarray | None, beta: float
) -> np.ndarray:
    """Memory for a kernel that overwrites: `into` itself if nothing in it is to be kept."""
    return into if into is not None and beta == 0.0 else ctx.empty(shape, dtype)


def added(ctx: Context, result: np.ndarray, into: np.ndarray | None, beta: float) -> np.ndarray:
    """beta * into + result, for rules that accumulate and whose kernel cannot."""
    if into is None or result is into:
        return result
    if beta == 0.0:
        ctx.launch(copy_kernel, result, into)
    else:
        ctx.launch(add_kernel, into, result, into)
    return into
