"""The device: memory that is recycled, launches that can be listened to."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.autograd import CPU, AutogradError, Device, Tensor
from baremetal.autograd.memory import ALIGNMENT_BYTES, POOLED_FROM_BYTES, MemoryPool, rounded_size
from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise as kernels

FLOAT = np.dtype(np.float32)
LARGE = (POOLED_FROM_BYTES // 4 + 1,)


@given(st.integers(1, 1 << 40))
def test_rounded_sizees_waste_at_most_an_eighth(size):
    rounded = rounded_size(size)
    assert size <= rounded <= size * 1.125 + 1
    assert rounded_size(rounded) == rounded


def test_memory_comes_back_when_the_last_view_is_gone():
    pool = MemoryPool()
    array = pool.empty(LARGE, FLOAT)
    address = array.__array_interface__["data"][0]
    view = array[1:].reshape(2, -1).T
    del array
    assert pool.used_bytes > 0
    other = pool.empty(LARGE, FLOAT)
    assert other.__array_interface__["data"][0] != address
    view[...] = 1.0
    del view
    again = pool.empty(LARGE, FLOAT)
    assert again.__array_interface__["data"][0] == address
    assert pool.free_bytes == 0  # it came from the pool, not from the system
    del again, other
    assert pool.used_bytes == 0
    assert pool.free_bytes > 0
    pool.release()
    assert pool.free_bytes == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_, "bfloat16"])
def test_arrays_are_aligned_contiguous_and_writeable(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    array = MemoryPool().empty((300, 400), np.dtype(dtype))
    assert array.shape == (300, 400)
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.__array_interface__["data"][0] % ALIGNMENT_BYTES == 0
    array[...] = 1
    assert (array == 1).all()


def test_live_arrays_never_share_memory():
    pool = MemoryPool()
    arrays = [pool.empty((n,), FLOAT) for n in (20_000, 20_001, 20_000, 40_000, 20_500)]
    for number, array in enumerate(arrays):
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()


def test_the_pool_keeps_no_more_than_it_may():
    pool = MemoryPool(keep_bytes=3 * rounded_size(400_000))
    arrays = [pool.empty((100_000,), FLOAT) for _ in range(5)]
    assert pool.peak_bytes == 5 * rounded_size(400_000)
    del arrays
    assert pool.free_bytes == 3 * rounded_size(400_000)
    pool.reset_peak()
    assert pool.peak_bytes == 0


def test_a_device_makes_arrays():
    device = Device()
    assert device.empty(3).shape == (3,)
    assert device.empty([2, 3], "float64").dtype == np.float64
    assert device.full((2, 2), 7.0).tolist() == [[7.0, 7.0], [7.0, 7.0]]
    buffer = device.numbers(1e-3, 1.0)
    assert buffer.dtype == np.float64
    assert buffer.tolist() == [1e-3, 1.0]
    with pytest.raises(BaremetalError, match="'native' or 'reference'"):
        Device(kernels="fast")  # type: ignore[arg-type]


def test_a_listener_sees_every_launch_and_runs_it():
    device = Device()
    seen = []

    def listener(run, kernel, arrays, attributes):
        seen.append((kernel.name, [a.shape for a in arrays], attributes))
        run()

    x = Tensor([1.0, 2.0], device=device)
    with device.listen(listener):
        y = (x * 3.0).sum()
    x.exp()
    assert y.item() == 9.0
    assert seen == [
        ("multiply", [(2,), (), (2,)], {}),
        ("sum", [(2,), ()], {"axis": (0,)}),
    ]


def test_everything_an_operation_computes_goes_through_the_door():
    """With a listener that runs nothing, no result is computed: nothing goes past the door."""
    device = Device()
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True, device=device)
    marker = np.float32(-7.0)

    def silent(run, kernel, arrays, attributes):
        outputs = arrays[-1]
        outputs[...] = marker if outputs.dtype.kind == "f" else 0

    with device.listen(silent):
        result = (x.T.reshape(-1) * 2.0).sum()
    assert result.item() == marker


def test_reference_kernels_can_be_chosen():
    device = Device(kernels="reference")
    out = device.empty(2)
    device.launch(kernels.exp, np.zeros(2, np.float32), out)
    assert out.tolist() == [1.0, 1.0]
    assert "reference" in repr(device)


def test_a_device_is_a_place_and_not_copied():
    """What holds one (a model's dropout) can be copied and pickled, and stays where it is."""
    assert copy.deepcopy(CPU) is CPU
    assert pickle.loads(pickle.dumps(CPU)) is CPU
    other = Device("other")
    assert copy.deepcopy(other) is other
    with pytest.raises(AutogradError, match="devices stay in their process"):
        pickle.dumps(other)
