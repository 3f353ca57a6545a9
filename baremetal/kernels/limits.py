"""What this machine can do at best, measured: matrix products per second and bytes per second.

Two rates bound every kernel (the roofline, `cost.py`). Both are measured the way a kernel would
meet them, on the one thread pool:

    matrix product   2 n³ FLOP / time   of an n x n product, large enough to be limited by
                                        arithmetic (n = 1024 in float32)
    bandwidth        3 x bytes / time   of c = a + b over arrays far larger than the caches:
                                        two are read, one is written (J. McCalpin's STREAM "Add")

The best of several trials is taken: a limit is what the machine can do, and anything slower was
disturbed. Measured numbers, for this machine and this moment; they are never looked up.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from baremetal.kernels.elementwise import add
from baremetal.kernels.matmul import matmul

PRODUCT_SIZE = 1024  # 4 MiB a matrix in float32: arithmetic takes far longer than reading them
STREAM_SIZE_BYTES = 64 << 20  # per array: beyond any laptop's last-level cache


class Limits(NamedTuple):
    """The two measured limits of a machine."""

    peak_flops: float  # FLOP/s of a large matrix product
    bandwidth_Bps: float  # B/s from and to main memory


def best_time_s(run: Callable[[], object], budget_s: float, at_least: int = 3) -> float:
    """The shortest time of one call, repeated for about `budget_s` seconds."""
    run()  # compiles, and warms caches
    best, spent, calls = float("inf"), 0.0, 0
    while spent < budget_s or calls < at_least:
        start = time.perf_counter()
        run()
        elapsed_s = time.perf_counter() - start
        best, spent, calls = min(best, elapsed_s), spent + elapsed_s, calls + 1
    return best


def _matrices(n: int, dtype: type) -> list[np.ndarray]:
    """Two factors and a place for their product; no zeros, which some processors multiply fast."""
    return [np.full((n, n), value, dtype) for value in (0.5, 0.25, 0.0)]


def measure_matmul_rate(dtype: type = np.float32, budget_s: float = 0.3) -> float:
    """FLOP/s of our own matrix-product kernel at its best."""
    n = PRODUCT_SIZE
    a, b, out = _matrices(n, dtype)
    return 2 * n**3 / best_time_s(lambda: matmul.run(a, b, out), budget_s)


def measure_numpy_matmul_rate(dtype: type = np.float32, budget_s: float = 0.3) -> float:
    """FLOP/s of NumPy's matrix product at its best, with NumPy's own threads."""
    n = PRODUCT_SIZE
    a, b, out = _matrices(n, dtype)
    return 2 * n**3 / best_time_s(lambda: np.matmul(a, b, out=out), budget_s)


def measure_bandwidth(budget_s: float = 0.3) -> float:
    """B/s of main memory under c = a + b."""
    a, b, out = [np.full(STREAM_SIZE_BYTES // 4, value, np.float32) for value in (1, 2, 0)]
    return 3 * STREAM_SIZE_BYTES / best_time_s(lambda: add.run(a, b, out), budget_s)


def measure_limits(budget_s: float = 0.3) -> Limits:
    """Both limits, each measured for about `budget_s` seconds."""
    return Limits(measure_matmul_rate(budget_s=budget_s), measure_bandwidth(budget_s))
