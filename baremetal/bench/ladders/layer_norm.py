"""The LayerNorm ladder: y = w ∘ (x - μ) / sqrt(σ² + ε) + b over rows, in float32.

Like softmax, it does so little with each number that memory is the limit; unlike softmax, it
contains a trap, and version 2 walks into it.

    1  NumPy                     the definition: seven passes, each with a temporary as large
    2  one pass, E[x²] - μ²      compiled; both sums in one pass over a row. Wrong for large μ
    3  two passes                first the mean, then the squares of what is left
    4  sums in vectors           additions may be reordered, so they need not wait for each other
    5  threads                   the library's kernel: rows divided among the threads

Version 2 passes the check, because the numbers it is checked with have mean 0. The formula
σ² = E[x²] - μ² is exact on paper. In floating point E[x²] and μ² are each rounded, with an error
of about 2⁻²⁴ μ², and where μ is much larger than σ their difference is nothing but that error. The
table that the command prints below the times shows it. Version 3 subtracts first: its cost is a
second pass over a row that lies in the first-level cache.

(T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
Recommendations", The American Statistician 37(3), 1983, doi:10.1080/00031305.1983.10483115.)
"""

import math
from typing import Any

import numpy as np

from baremetal.bench.ladders.compiling import compiled
from baremetal.bench.ladders.ladder import Afterword, Ladder, Problem
from baremetal.kernels.norm import layer_norm

ELEMENTS = 1 << 24  # 64 MiB in float32: a matrix that no cache holds
EPS = 1e-5
MEANS = (0.0, 10.0, 100.0, 1_000.0, 10_000.0)  # of the numbers in the counter-example
SAMPLE_ROWS = 256


def make_problem(size: int, rng: np.random.Generator) -> Problem:
    """Rows of width `size`, as many as make about 16 million elements."""
    return make_rows(max(1, ELEMENTS // size), size, rng)


def make_rows(rows: int, width: int, rng: np.random.Generator, mean: float = 0.0) -> Problem:
    """x (rows, width) with this mean and a spread of 1, weight and bias (width,)."""
    x = (rng.standard_normal((rows, width)) + mean).astype(np.float32)
    weight, bias = rng.standard_normal((2, width), dtype=np.float32)
    outputs = (np.empty_like(x), np.empty(rows, np.float32), np.empty(rows, np.float32))
    return Problem((x, weight, bias), outputs, {"eps": EPS})


LADDER = Ladder(
    name="layer_norm",
    kernel=layer_norm,
    make=make_problem,
    size=1024,
    size_means="width of a row",
    largest_size=1 << 16,
    bound_by="memory",
    tolerance=3e-5,  # what a sum of 2^16 numbers loses when they are added one after the other
)


@LADDER.version("NumPy", "the definition: seven passes, each with a temporary as large")
def numpy_passes(x, weight, bias, out, mean, rstd, eps):
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + eps)
    out[:] = (x - mean[:, None]) * rstd[:, None] * weight + bias


@LADDER.version("one pass, E[x²] - μ²", "both sums in one pass over a row; wrong for large μ")
@compiled
def one_pass(x, weight, bias, out, mean, rstd, eps):
    rows, width = x.shape
    for i in range(rows):
        row, result = x[i], out[i]
        total, squares = np.float32(0), np.float32(0)
        for j in range(width):
            total += row[j]
            squares += row[j] * row[j]
        mean[i] = total / width
        # Cancellation can even leave a negative variance, and then NaN.
        variance = squares / np.float32(width) - mean[i] * mean[i]
        rstd[i] = 1 / math.sqrt(variance + eps)
        for j in range(width):
            result[j] = weight[j] * ((row[j] - mean[i]) * rstd[i]) + bias[j]


@LADDER.version("two passes", "the mean is subtracted before squaring: right for any μ")
@compiled
def two_passes(x, weight, bias, out, mean, rstd, eps):
    rows, width = x.shape
    for i in range(rows):
        row, result = x[i], out[i]
        total = np.float32(0)
        for j in range(width):
            total += row[j]
        centre = total / np.float32(width)
        squares = np.float32(0)
        for j in range(width):
            squares += (row[j] - centre) * (row[j] - centre)
        scale = np.float32(1 / math.sqrt(squares / np.float32(width) + eps))
        mean[i], rstd[i] = centre, scale
        for j in range(width):
            result[j] = weight[j] * ((row[j] - centre) * scale) + bias[j]


@LADDER.version("sums in vectors", "additions may be reordered, so none waits for the one before")
@compiled(reordered=True)
def vector_sums(x, weight, bias, out, mean, rstd, eps):
    rows, width = x.shape
    for i in range(rows):
        row, result = x[i], out[i]
        total = np.float32(0)
        for j in range(width):
            total += row[j]
        centre = total / np.float32(width)
        squares = np.float32(0)
        for j in range(width):
            squares += (row[j] - centre) * (row[j] - centre)
        scale = np.float32(1 / math.sqrt(squares / np.float32(width) + eps))
        mean[i], rstd[i] = centre, scale
        for j in range(width):
            result[j] = weight[j] * ((row[j] - centre) * scale) + bias[j]


@LADDER.version("threads", "the library's kernel: rows divided among the threads")
def library(x, weight, bias, out, mean, rstd, eps):
    layer_norm.run(x, weight, bias, out, mean, rstd, eps=eps)


# ---------------------------------------------------------------- the counter-example


def cancellation(size: int) -> Afterword:
    """The error of rstd, relative, for numbers of growing mean and a spread of 1."""
    rows: list[dict[str, Any]] = []
    for mean in MEANS:
        problem = make_rows(SAMPLE_ROWS, size, np.random.default_rng(0), mean)
        row: dict[str, Any] = {"mean": f"{mean:,.0f}"}
        for name, function in (("one_pass", one_pass), ("two_passes", two_passes)):
            tried = problem.fresh()
            tried.run(function)
            row[f"{name}_error"] = rstd_error(problem, tried.outputs[2])
        rows.append(row)
    return Afterword(
        "cancellation",
        "error of 1/σ, relative, when numbers with a spread of 1 have a mean far from 0",
        rows,
        "E[x²] - μ² (version 2) loses digits with μ²; a dash is NaN, from a negative variance",
    )


def rstd_error(problem: Problem, rstd: np.ndarray) -> float | None:
    """The largest relative error of `rstd` against float64; None where one is NaN or infinite."""
    expected = problem.expected(layer_norm)[2]
    error = float(np.abs(rstd / expected - 1).max())
    return error if np.isfinite(error) else None


LADDER.epilogue = cancellation
