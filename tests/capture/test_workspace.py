"""The workspace: scratch memory of a plan's launches, in one piece for all of them."""

import numpy as np
import pytest

from baremetal import CPU, Tensor, ops
from baremetal.capture import capture
from baremetal.capture.replay import Replay, _table
from baremetal.capture.workspace import Workspace
from baremetal.kernels import elementwise, reduction
from baremetal.kernels.native.abi import Scratch, address_of
from baremetal.kernels.native.pool import PARALLEL_FROM


def column_sums(columns):
    """A sum that needs partial sums of its bands: native launches, the result, the expected one."""
    x = np.random.default_rng(columns).standard_normal((1024, columns)).astype(np.float32)
    out, expected = np.empty(columns, np.float32), np.empty(columns, np.float32)
    reduction.sum.run(x, expected, axis=(0,))
    return reduction.sum.pack(x, out, axis=(0,)), out, expected


def places(launches):
    """(first, end) of every scratch, each once."""
    found = [x for one in launches for x in one.arrays if isinstance(x, np.ndarray)]
    found = [x for x in found if x.dtype == np.float64]  # the partial sums
    return sorted({(address_of(x), address_of(x) + x.nbytes) for x in found})


def test_it_is_as_large_as_the_neediest_call_wants():
    (small, *_), (large, *_) = column_sums(32), column_sums(96)
    sizes = []
    for one in (small, large):
        workspace = Workspace()
        workspace.ask(one)
        workspace.build()
        sizes.append(workspace.memory.nbytes)
    assert 0 < sizes[0] < sizes[1]
    assert sizes[0] % 64 == sizes[1] % 64 == 0
    workspace = Workspace()
    for one in (small, large, small):
        workspace.ask(one)
    workspace.build()
    assert workspace.memory.nbytes == sizes[1]
    workspace = Workspace()
    workspace.ask([*small, *large])  # of one call: both at once
    workspace.build()
    assert workspace.memory.nbytes == sum(sizes)


def test_launches_that_moved_find_memory_of_their_own_and_the_same_bits():
    (small, small_out, small_expected), (large, out, expected) = column_sums(33), column_sums(96)
    together = [*small, *large]
    assert any(isinstance(x, Scratch) for one in together for x in one.arrays)
    workspace = Workspace()
    workspace.ask(together)
    workspace.build()
    moved = workspace.move(together)
    (first, then) = places(moved)
    begin = address_of(workspace.memory)
    assert begin == first[0] < first[1] <= then[0] < then[1] <= begin + workspace.memory.nbytes
    assert then[0] % 64 == 0
    for one in moved:
        one.run()
    assert small_out.tobytes() == small_expected.tobytes()
    assert out.tobytes() == expected.tobytes()


def test_who_has_moved_there_stays():
    workspace = Workspace()
    workspace.ask(column_sums(96)[0])
    workspace.build()
    memory = workspace.memory
    workspace.ask(column_sums(32)[0])
    workspace.build()
    assert workspace.memory is memory
    workspace.ask(column_sums(960)[0])
    workspace.build()
    assert workspace.memory.nbytes > memory.nbytes


def test_plans_that_share_one_do_not_take_another():
    captured = capture(lambda x: ops.sum(Tensor(x), axis=0))
    captured(np.ones((1024, 64), np.float32))
    workspace = Workspace()
    replays = [Replay(captured.plan, workspace=workspace) for _ in range(2)]
    assert replays[0].workspace is replays[1].workspace is workspace.memory
    assert workspace.memory.nbytes > 0


def test_the_table_tells_the_pool_how_much_work_a_launch_is():
    """In elements: what decides whether threads pay."""
    x = np.ones((64, PARALLEL_FROM), np.float32)
    launches = reduction.sum.pack(x, np.empty(64, np.float32), axis=(1,))
    assert launches[0].items > 1 < launches[0].work
    for launch, row in zip(launches, _table(launches).tolist(), strict=True):
        assert row[0] == launch.address
        assert row[1] == launch.block.ctypes.data
        assert row[2:] == [launch.items, launch.items * launch.work]


@pytest.mark.parametrize("size", [0, 3])
def test_a_launch_of_nothing_is_left_out(size):
    def step(x):
        y = CPU.empty(x.shape, x.dtype)
        CPU.launch(elementwise.negative, x, y)
        return y

    captured = capture(step)
    captured(np.ones(size, np.float32))
    ((_, packed),) = captured._replay.bound_launches()
    assert len(packed) == (size > 0)
    np.testing.assert_array_equal(captured(np.full(size, 2, np.float32)), [-2] * size)
