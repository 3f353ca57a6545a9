"""The one thread pool: the same bits with any number of threads, and safe to enter from several."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise, indexing, matmul, reduction
from baremetal.kernels.native import pool
from baremetal.kernels.native.abi import Launch, body, cast, pointer
from baremetal.kernels.native.pool import POOL

needs_two = pytest.mark.skipif(POOL.largest < 2, reason="this process may use one thread only")


@pytest.fixture
def threads():
    """Sets the number of threads, and puts the old one back."""
    before = POOL.threads
    yield POOL.set_threads
    POOL.set_threads(before)


def results_of_large_launches() -> list[bytes]:
    """One launch of each family, large enough to be divided among threads."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300, 257)).astype(np.float32)
    rows = rng.integers(0, 300, 500)
    same, transposed = np.empty_like(x), np.empty((257, 300), np.float32)
    columns, total = np.empty(257, np.float32), np.empty((), np.float32)
    taken, table = np.empty((500, 257), np.float32), np.zeros_like(x)
    product = np.empty((300, 300), np.float32)
    calls = [
        (elementwise.gelu_tanh_backward, (x, y, same), {}),
        (elementwise.add, (x, y[:, :1], same), {}),
        (elementwise.copy, (x.T, transposed), {}),
        (reduction.sum, (x, columns), {"axis": (0,)}),
        (reduction.sum, (x, total), {"axis": (0, 1)}),
        (reduction.logsumexp, (x, same[:, 0]), {"axis": (1,)}),
        (indexing.gather_rows, (x, rows, taken), {}),
        (indexing.scatter_add_rows, (taken, rows, table), {}),
        (matmul.matmul, (x, y.T, product), {}),
    ]
    results = []
    for kernel, arrays, attributes in calls:
        kernel.run(*arrays, **attributes)
        results.append(arrays[-1].tobytes())
    return results


@needs_two
def test_one_and_two_threads_give_the_same_bits(threads, monkeypatch):
    used = []
    drive = POOL.driver
    monkeypatch.setattr(POOL, "driver", lambda *args: (used.append(args[3]), drive(*args))[1])
    threads(1)
    alone = results_of_large_launches()
    assert set(used) == {1}
    threads(2)
    assert results_of_large_launches() == alone
    assert used.count(2) >= 9  # they really were divided


@body
def count_body(lo, hi, args):
    """Adds 1 to each item of ours."""
    out = pointer(args, 0)
    for i in range(lo, hi):
        out[i] += cast(args, 1)


@given(items=st.integers(0, 50), count=st.integers(1, 4))
def test_every_item_is_done_exactly_once(items, count):
    before = POOL.threads
    POOL.set_threads(min(count, POOL.largest))
    try:
        out = np.zeros(60, np.float32)
        Launch(count_body, out.dtype, (out,), items, work=pool.PARALLEL_FROM).run()
    finally:
        POOL.set_threads(before)
    np.testing.assert_array_equal(out, np.arange(60) < items)


def test_small_launches_stay_on_the_calling_thread(monkeypatch):
    chunks = []
    monkeypatch.setattr(POOL, "driver", lambda address, block, items, n: chunks.append(n))
    out = np.zeros(8, np.float32)
    Launch(count_body, out.dtype, (out,), items=8, work=pool.PARALLEL_FROM // 8 - 1).run()
    Launch(count_body, out.dtype, (out,), items=1, work=10**9).run()
    assert chunks == [1, 1]


@pytest.mark.parametrize("wrong", [0, -1, POOL.largest + 1, 10**6, 1.5, "2", None, True])
def test_a_number_of_threads_that_cannot_be(wrong):
    before = POOL.threads
    with pytest.raises(BaremetalError, match=f"1 to {POOL.largest}"):
        POOL.set_threads(wrong)
    assert POOL.threads == before
    POOL.set_threads(np.int64(before))
    assert type(POOL.threads) is int


def launch_from_several_threads() -> None:
    """Four Python threads, each with its own data, all through the pool at once."""
    start = threading.Barrier(4)
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((2, 40_000)).astype(np.float32)
        out = np.empty_like(x)
        start.wait()
        for _ in range(100):
            elementwise.add.run(x, y, out)
            if not np.array_equal(out, x + y):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_several_python_threads_may_launch_at_once():
    launch_from_several_threads()


WITH_WORKQUEUE = """
import runpy, sys, numba
numba.config.THREADING_LAYER = "workqueue"
tests = runpy.run_path(sys.argv[1])
tests["launch_from_several_threads"]()
assert numba.threading_layer() == "workqueue"
print("done")
"""


def test_several_python_threads_on_numbas_simplest_layer():
    """`workqueue` ends the process when two threads are inside at once: the lock keeps them out."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    finished = subprocess.run(
        [sys.executable, "-c", WITH_WORKQUEUE, __file__],
        capture_output=True, encoding="utf-8", env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert finished.stdout.strip() == "done", finished.stderr


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_how_long_threads_spin_is_the_users_choice(chosen, expected):
    """Seen from a new process: the OpenMP library reads it once, when it is loaded."""
    program = (
        "import os, baremetal.kernels.native.pool; print(os.environ.get('GOMP_SPINCOUNT', None))"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in names} | chosen
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, encoding="utf-8", env=environment, timeout=300, check=True,
    )  # fmt: skip
    assert finished.stdout.strip() == expected
