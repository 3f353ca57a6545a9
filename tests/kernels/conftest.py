"""What the kernel tests share: arrays of every layout, and one way to check a kernel against NumPy.

A compiled kernel writes through bare addresses, so a wrong one can be wrong in ways a comparison
does not see. Results therefore lie between guard zones, start out poisoned, and are computed
several times: whole, and in pieces as 2, 3 and 7 threads would do it, always with the same bits.
"""

import ctypes

import numpy as np
import pytest
from hypothesis import strategies as st

from baremetal.kernels.kernel import Kernel

GUARD = 64  # elements before and after a result that nobody may touch
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e-38, 1e30, -1e30, 88.5, -100.0]


def poisoned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array of NaN (or of a conspicuous integer) between guard zones."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape))
    poison = np.nan if dtype.kind == "f" else 0x5A
    if dtype == np.bool_:
        memory = np.full(size + 2 * GUARD, 0x5A, np.uint8).view(np.bool_)
    else:
        memory = np.full(size + 2 * GUARD, poison, dtype)
    return memory[GUARD : GUARD + size].reshape(shape)


def guards_are_intact(out: np.ndarray) -> bool:
    memory = out.base
    bits = memory.view(np.uint8)
    width = GUARD * memory.itemsize
    fresh = poisoned((0,), memory.dtype).base.view(np.uint8)
    return bytes(bits[:width]) == bytes(fresh[:width]) and bytes(bits[-width:]) == bytes(
        fresh[-width:]
    )


def run_in_pieces(launches, pieces: int) -> None:
    """Run launches as that many threads would divide them, one piece after the other."""
    for launch in launches:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        body = kind(launch.address)
        for piece in range(pieces):
            lo = launch.items * piece // pieces
            hi = launch.items * (piece + 1) // pieces
            if lo < hi:
                body(lo, hi, launch.block.ctypes.data)


def for_oracle(array: np.ndarray) -> np.ndarray:
    """The same in float64 and in plain order (NumPy 1.26.0 errs in max over reversed axes)."""
    return np.array(array, np.float64 if array.dtype == np.float32 else array.dtype, order="C")


def check_kernel(
    kernel: Kernel,
    *inputs: np.ndarray,
    out: tuple[tuple[int, ...], object],
    rtol: float = 0.0,
    atol: float = 0.0,
    start: np.ndarray | None = None,
    **attributes,
) -> np.ndarray:
    """Run natively and compare with the reference, evaluated in float64; returns the result.

    Args:
        out: shape and dtype of the result.
        start: what the result holds beforehand, for kernels that add to it.
        rtol, atol: as in `numpy.testing.assert_allclose`; 0 and 0 mean "equal".
    """
    shape, dtype = out

    def fresh():
        array = poisoned(shape, dtype)
        if start is not None:
            array[...] = start
        return array

    whole = fresh()
    launches = kernel.pack(*inputs, whole, **attributes)
    assert launches is not None, f"{kernel} has no native version for these arguments"
    for launch in launches:
        launch.run()
    assert guards_are_intact(whole), f"{kernel} wrote outside its result"
    for pieces in (2, 3, 7):
        again = fresh()
        run_in_pieces(kernel.pack(*inputs, again, **attributes), pieces)
        assert again.tobytes() == whole.tobytes(), f"{kernel}: {pieces} pieces, other bits"
        assert guards_are_intact(again)
    wide = for_oracle(fresh())
    with np.errstate(all="ignore"):
        kernel.reference(*[for_oracle(x) for x in inputs], wide, **attributes)
        expected = wide.astype(dtype)
    if rtol == atol == 0.0:
        np.testing.assert_array_equal(whole, expected)
    else:
        np.testing.assert_allclose(whole, expected, rtol=rtol, atol=atol)
    return whole


@st.composite
def shapes(draw, max_axes: int = 4, max_size: int = 7) -> tuple[int, ...]:
    """Small shapes with odd sizes, axes of size 1 and sometimes no elements at all."""
    shape = draw(st.lists(st.integers(1, max_size), max_size=max_axes))
    if shape and draw(st.booleans()):
        # One long axis, so that vector loops, their remainders and blocks on the stack all run.
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([0, 33, 64, 300]))
    return tuple(shape)


@st.composite
def strided(draw, shape: tuple[int, ...], dtype, special: bool = False) -> np.ndarray:
    """An array of this shape in any layout: permuted axes, steps, reversed axes, an offset."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -3])) for _ in shape]
    memory_shape = [shape[axis] * abs(steps[axis]) for axis in order]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offset = draw(st.integers(0, 3))
    size = int(np.prod(memory_shape))
    values = rng.standard_normal(offset + size) * 3
    if special and size:
        where = rng.random(values.size) < 0.2
        values[where] = rng.choice(SPECIAL, where.sum())
    with np.errstate(over="ignore"):
        memory = values.astype(dtype)[offset:].reshape(memory_shape)
    array = memory.transpose(np.argsort(order)) if order else memory
    return array[(*(slice(None, None, step) for step in steps), ...)]


@st.composite
def broadcastable(draw, shape: tuple[int, ...], dtype, special: bool = False) -> np.ndarray:
    """An array that broadcasts to this shape: axes of size 1, leading axes missing, stride 0."""
    kept = [n if draw(st.integers(0, 3)) else 1 for n in shape]
    missing = draw(st.sampled_from([0, 0, 0, len(shape)]))
    array = draw(strided(tuple(kept[missing:]), dtype, special))
    return np.broadcast_to(array, shape) if draw(st.booleans()) else array


class Drawing:
    """The strategies above, handed to the tests (test folders are not importable)."""

    shapes = staticmethod(shapes)
    strided = staticmethod(strided)
    broadcastable = staticmethod(broadcastable)


@pytest.fixture(scope="session")
def arrays():
    return Drawing


@pytest.fixture(scope="session")
def check():
    return check_kernel


@pytest.fixture(scope="session", name="run_in_pieces")
def run_in_pieces_fixture():
    return run_in_pieces
