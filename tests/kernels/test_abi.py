"""The calling convention: what is packed in Python arrives in a body, and nothing else happens."""

import gc
import weakref

import numpy as np
import pytest

from baremetal.kernels.native.abi import (
    Body,
    Launch,
    address_of,
    body,
    cast,
    integer,
    offset,
    pack_words,
    pointer,
    pointer_f32,
    pointer_f64,
    pointer_i32,
    pointer_i64,
    pointer_u8,
    scalar,
    stack,
)
from baremetal.kernels.native.compiler import COMPILING

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


def test_words_are_addresses_integers_and_bit_patterns():
    x = np.arange(3.0)
    words = pack_words([x, 7, -1, True, np.int64(2**40), 1.5, -0.0])
    assert words.dtype == np.int64
    assert words[0] == x.__array_interface__["data"][0]
    assert words[1:5].tolist() == [7, -1, 1, 2**40]
    assert words[5:].view(np.float64).tolist() == [1.5, 0.0]
    assert np.signbit(words[6:].view(np.float64)[0])


@pytest.mark.parametrize("value", [np.float32(1), np.float64(1), np.bool_(True)])
def test_a_numpy_scalar_is_neither_an_array_nor_a_number(value):
    """`x[0]` of a 1-d array: packed as bits it would be taken for an address."""
    with pytest.raises(TypeError, match="NumPy scalar"):
        pack_words([value])


def test_addresses_of_views():
    memory = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = [memory, memory[1], memory[:, ::-1], memory.T, memory[..., 3], memory[:, :0]]
    views += [np.broadcast_to(memory[0, 0], (5, 4)), np.zeros(()), np.empty(0)]
    for view in views:
        assert address_of(view) == view.__array_interface__["data"][0]


@body
def echo_body(lo, hi, args):
    """out gets one of everything. Words: 0 out, 1-5 arrays of other types, 6 integer, 7 scalar."""
    out = pointer(args, 0)
    out[0] = cast(args, pointer_i64(args, 1)[1])
    out[1] = cast(args, pointer_i32(args, 2)[1])
    out[2] = cast(args, pointer_u8(args, 3)[1])
    out[3] = cast(args, pointer_f32(args, 4)[1])
    out[4] = cast(args, pointer_f64(args, 5)[1])
    out[5] = cast(args, integer(args, 6))
    out[6] = scalar(args, 7)
    out[7] = cast(args, lo)
    out[8] = cast(args, hi)
    out[9] = offset(out, 8)[-1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_word_arrives(dtype):
    out = np.zeros(10, dtype)
    arrays = [np.array([0, 3], kind) for kind in (np.int64, np.int32, np.uint8)]
    arrays += [np.array([0, 2.5], kind) for kind in (np.float32, np.float64)]
    Launch(echo_body, dtype, (out, *arrays, -9, 0.1), items=4).run()
    expected = np.array([3, 3, 3, 2.5, 2.5, -9, 0.1, 0, 4, 0], dtype)
    np.testing.assert_array_equal(out, expected)


@body
def reverse_body(lo, hi, args):
    """out = x backwards, through a buffer on the stack that is asked for in a loop."""
    x, out = pointer(args, 0), pointer(args, 1)
    for _ in range(100_000):  # a stack that grew here would overflow
        tile = stack(args, 64)
        for i in range(lo, hi):
            tile[i] = x[i]
    for i in range(lo, hi):
        out[i] = tile[hi - 1 - i]


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_on_the_stack(dtype):
    x = np.arange(64).astype(dtype)
    out = np.zeros_like(x)
    Launch(reverse_body, dtype, (x, out), items=64).run()
    np.testing.assert_array_equal(out, x[::-1])


def test_a_launch_keeps_its_arrays_alive():
    class Array(np.ndarray):
        pass  # unlike a plain array, a subclass can be referred to weakly

    x = np.zeros(10).view(Array)
    watched = weakref.ref(x)
    launch = Launch(echo_body, x.dtype, (x, 0), items=1)
    del x
    gc.collect()
    assert watched() is not None
    del launch
    gc.collect()
    assert watched() is None


def test_no_items_no_call():
    out = np.zeros(10)
    Launch(echo_body, out.dtype, (out, out, out, out, out, out, 0, 0.0), items=0).run()
    assert np.all(out == 0)


def test_a_body_is_made_ready_once_per_element_type():
    fresh = Body(echo_body.function, reassociate=False)
    names = []
    with COMPILING.listen(names.append):
        for _ in range(3):
            assert fresh.address(DTYPES[0]) != fresh.address(DTYPES[1])
    assert names == ["echo_body", "echo_body"]
    fresh.address(DTYPES[0])
    assert len(names) == 2  # and nobody listens any more


def test_other_element_types_have_no_body():
    with pytest.raises(KeyError):
        echo_body.address(np.dtype(np.int64))
