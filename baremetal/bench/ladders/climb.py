"""Climbing a ladder: is each version right, and how fast is it?

Right: the version's outputs, written over NaN, against the NumPy reference in float64. The largest
difference may be `tolerance` times the largest number expected, and nothing may be NaN.

Fast: the versions take turns, round after round, so that what else happens on the machine meets
all of them alike. Reported are the shortest time (what the version can do) and the median (what it
does). Rates are arithmetic and traffic by the kernel's cost, the same for all versions, divided by
the shortest time; what a wasteful version moves or computes beyond that does not count as work.

    share of limit = roofline time / shortest time

The two limits (a large matrix product, a stream through memory: `kernels/limits.py`) take their
turns among the versions.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from baremetal.bench.ladders.ladder import Ladder, Problem, Version
from baremetal.bench.ladders.picture import draw_ladder
from baremetal.bench.machine import describe_machine
from baremetal.kernels.elementwise import add
from baremetal.kernels.limits import PRODUCT_SIZE, STREAM_SIZE_BYTES, Limits
from baremetal.kernels.matmul import matmul

SHOWN = 5  # elements shown of each version's output
AT_LEAST = 3  # rounds, however slow
AT_MOST = 50

Progress = Callable[[str], None]


def climb(
    ladder: Ladder,
    numbers: Sequence[int] = (),
    *,
    size: int = 0,
    budget_s: float = 1.0,
    plot: str = "",
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Check and time versions of a ladder; returns one JSON-able object.

    Args:
        ladder: which.
        numbers: versions; all if empty.
        size: of the problem; the ladder's default for 0.
        budget_s: seconds to spend on timing each version (three calls at least).
        plot: file to draw the roofline into (.png, .svg, .pdf); none if empty.
        progress: told what comes next.

    Raises:
        BaremetalError: an impossible size or version.
    """
    size = ladder.check_size(size)
    versions = ladder.choose(numbers)
    problems = _problems(ladder, versions, size)
    checks = [_check(ladder, version, problems, progress) for version in versions]
    limits, times_s = _time(versions, problems, budget_s, progress)
    rows = [
        {**check, **_figures(ladder, problems[check["size"]], times, limits)}
        for check, times in zip(checks, times_s, strict=True)
    ]
    result = {
        "ladder": ladder.name,
        "size": size,
        "size_means": ladder.size_means,
        "problem": _describe(problems[min(size, versions[-1].largest_size)]),
        "bound_by": ladder.bound_by,
        "peak_flops": limits.peak_flops,
        "bandwidth_Bps": limits.bandwidth_Bps,
        "versions": rows,
        "all_right": all(row["right"] for row in rows),
    }
    if ladder.epilogue is not None and len(versions) == len(ladder.versions):
        progress("afterword")
        result["afterword"] = asdict(ladder.epilogue(size))
    if plot:
        progress("drawing the roofline")
        result["plot"] = str(draw_ladder(result, plot))
    return {**result, "machine": _machine()}


def _problems(ladder: Ladder, versions: Sequence[Version], size: int) -> dict[int, Problem]:
    """The problem of each size that occurs: a slow version is tried at a smaller one."""
    sizes = {min(size, version.largest_size) for version in versions}
    return {size: ladder.make(size, np.random.default_rng(0)) for size in sizes}


def _describe(problem: Problem) -> dict[str, Any]:
    return {
        "inputs": [list(array.shape) for array in problem.inputs],
        "outputs": [list(array.shape) for array in problem.outputs],
        "dtype": str(problem.outputs[0].dtype),
    }


def _machine() -> dict[str, Any]:
    from baremetal.kernels.native.pool import POOL

    return {**describe_machine(), "threads": POOL.threads}


# ---------------------------------------------------------------- right?


def _check(
    ladder: Ladder, version: Version, problems: dict[int, Problem], progress: Progress
) -> dict[str, Any]:
    """Compare one version with the reference; the first call also compiles it."""
    progress(f"{version.number} {version.idea}: against the reference")
    size = max(size for size in problems if size <= version.largest_size)
    problem = problems[size].fresh()
    problem.run(version.function)
    expected = problems[size].expected(ladder.kernel)
    error = max(map(relative_error, problem.outputs, expected))
    return {
        "version": version.number,
        "idea": version.idea,
        "why": version.why,
        "size": size,
        "right": bool(error <= ladder.tolerance),
        "error": error if np.isfinite(error) else None,  # JSON has no NaN
        "tolerance": ladder.tolerance,
        "first": _first(problem.outputs[0]),
        "expected": _first(expected[0]),
    }


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a fraction of the largest number expected; inf for NaN."""
    if not expected.size:
        return 0.0
    difference = float(np.abs(got - expected).max())
    scale = float(np.abs(expected).max()) or 1.0
    return difference / scale if np.isfinite(difference) else float("inf")


def _first(array: np.ndarray) -> list[float]:
    return [float(value) for value in array.ravel()[:SHOWN]]


# ---------------------------------------------------------------- fast?


def _time(
    versions: Sequence[Version],
    problems: dict[int, Problem],
    budget_s: float,
    progress: Progress,
) -> tuple[Limits, list[list[float]]]:
    """The machine's limits, and the times of every version, all taken in turns."""
    runs = [_product(), _stream()]
    names = ["limit of arithmetic", "limit of memory"]
    for version in versions:
        problem = problems[max(size for size in problems if size <= version.largest_size)]
        runs.append(partial(problem.run, version.function))
        names.append(f"{version.number} {version.idea}")
    product_s, stream_s, *times_s = take_turns(
        runs, budget_s, lambda turn, i: progress(f"{names[i]}: round {turn + 1}")
    )
    limits = Limits(2 * PRODUCT_SIZE**3 / min(product_s), 3 * STREAM_SIZE_BYTES / min(stream_s))
    return limits, times_s


def _product() -> Callable[[], None]:
    """The run that measures the limit of arithmetic."""
    shape = (PRODUCT_SIZE, PRODUCT_SIZE)
    a, b, out = (np.full(shape, value, np.float32) for value in (0.5, 0.25, 0.0))
    matmul.run(a, b, out)  # compiles
    return lambda: matmul.run(a, b, out)


def _stream() -> Callable[[], None]:
    """The run that measures the limit of memory."""
    a, b, out = (np.full(STREAM_SIZE_BYTES // 4, value, np.float32) for value in (1, 2, 0))
    add.run(a, b, out)
    return lambda: add.run(a, b, out)


def take_turns(
    runs: Sequence[Callable[[], None]],
    budget_s: float,
    before: Callable[[int, int], None] = lambda turn, i: None,
) -> list[list[float]]:
    """Seconds of every call of every run, called in turns, for about `budget_s` seconds each."""
    times_s: list[list[float]] = [[] for _ in runs]
    for turn in range(AT_MOST):
        for i, run in enumerate(runs):
            if turn >= AT_LEAST and sum(times_s[i]) >= budget_s:
                continue
            before(turn, i)
            start = time.perf_counter()
            run()
            times_s[i].append(time.perf_counter() - start)
    return times_s


def best_times_s(runs: Sequence[Callable[[], None]], budget_s: float) -> list[float]:
    """The shortest time of each run, in seconds, called in turns."""
    return [min(times) for times in take_turns(runs, budget_s)]


def _figures(
    ladder: Ladder, problem: Problem, times_s: list[float], limits: Limits
) -> dict[str, Any]:
    cost = problem.cost(ladder.kernel)
    best_s = min(times_s)
    return {
        "rounds": len(times_s),
        "best_s": best_s,
        "median_s": statistics.median(times_s),
        "flops": cost.flops,
        "size_bytes": cost.size_bytes,
        "flops_per_s": cost.flops / best_s,
        "bytes_per_s": cost.size_bytes / best_s,
        "share_of_limit": cost.roofline_s(*limits) / best_s,
    }
