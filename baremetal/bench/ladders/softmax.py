"""The softmax ladder: out = exp(x - max) / Σ exp(x - max) over rows, in float32.

The arithmetic is next to nothing; what counts is how often the matrix goes through memory, and
exp, which the C library does one number at a time.

    1  NumPy                  the definition: five passes, each with a temporary as large
    2  loops, pass by pass    compiled, no temporaries; still four times through memory
    3  exp in vectors         sixteen at a time: straight-line arithmetic instead of a library call
    4  row by row             all passes over one row while it lies in cache: once through memory
    5  maximum in vectors     compared as integers, for which the compiler may reorder
    6  threads                the library's kernel: rows divided among the threads

Compiled is not faster by itself: NumPy's exp is vectorised, so version 2, which calls the C
library's, loses to version 1. And as long as exp takes most of the time nothing else shows: with a
scalar exp, version 4 takes as long as version 2. From version 3 on sums may be reordered; otherwise
every addition waits for the one before.

Tried, and lost: the "online" softmax (M. Milakov, N. Gimelshein, "Online normalizer calculation
for softmax", 2018, arXiv:1805.02867), which finds maximum and sum in one pass and corrects the sum
when a larger maximum turns up. It saves reading a row that is in cache anyway, and every step
waits for the one before. Where rows do *not* fit, it is the only way: see the attention ladder.
"""

import math

import numpy as np

from baremetal.bench.ladders.compiling import compiled
from baremetal.bench.ladders.ladder import Ladder, Problem
from baremetal.kernels.native.rows import largest
from baremetal.kernels.native.vmath import exp
from baremetal.kernels.softmax import softmax

ELEMENTS = 1 << 24  # 64 MiB in float32: a matrix that no cache holds


def make_problem(size: int, rng: np.random.Generator) -> Problem:
    """Rows of width `size`, as many as make about 16 million elements."""
    return make_rows(max(1, ELEMENTS // size), size, rng)


def make_rows(rows: int, width: int, rng: np.random.Generator) -> Problem:
    """x (rows, width) and room for the result."""
    x = rng.standard_normal((rows, width), dtype=np.float32)
    return Problem((x,), (np.empty_like(x),))


LADDER = Ladder(
    name="softmax",
    kernel=softmax,
    make=make_problem,
    size=1024,
    size_means="width of a row",
    largest_size=1 << 16,
    bound_by="memory",
    tolerance=3e-5,  # what a sum of 2^16 numbers loses when they are added one after the other
)


@LADDER.version("NumPy", "the definition: five passes, each with a temporary as large")
def numpy_passes(x, out):
    shifted = x - x.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    out[:] = e / e.sum(axis=1, keepdims=True)


@LADDER.version("loops, pass by pass", "compiled, no temporaries; still four times through memory")
@compiled
def pass_by_pass(x, out):
    rows, width = x.shape
    peaks, totals = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for i in range(rows):
        peaks[i] = x[i, 0]
        for j in range(width):
            peaks[i] = max(peaks[i], x[i, j])
    for i in range(rows):
        for j in range(width):
            out[i, j] = math.exp(x[i, j] - peaks[i])
    for i in range(rows):
        totals[i] = 0
        for j in range(width):
            totals[i] += out[i, j]
    for i in range(rows):
        for j in range(width):
            out[i, j] /= totals[i]


@LADDER.version("exp in vectors", "sixteen at a time, instead of a call into the C library")
@compiled(reordered=True)
def vector_exp(x, out):
    rows, width = x.shape
    peaks, totals = np.empty(rows, np.float32), np.empty(rows, np.float32)
    for i in range(rows):
        peak = x[i, 0]
        for j in range(width):
            peak = max(peak, x[i, j])
        peaks[i] = peak
    for i in range(rows):
        row, result, peak = x[i], out[i], peaks[i]
        for j in range(width):
            result[j] = exp(row[j] - peak)  # kernels/native/vmath.py
    for i in range(rows):
        result, total = out[i], np.float32(0)
        for j in range(width):
            total += result[j]
        totals[i] = total
    for i in range(rows):
        result, scale = out[i], np.float32(1) / totals[i]
        for j in range(width):
            result[j] *= scale


@LADDER.version("row by row", "all passes over one row while it lies in cache")
@compiled(reordered=True)
def row_by_row(x, out):
    rows, width = x.shape
    for i in range(rows):
        row, result = x[i], out[i]
        peak = row[0]
        for j in range(width):
            peak = max(peak, row[j])
        total = np.float32(0)
        for j in range(width):
            e = exp(row[j] - peak)
            result[j] = e
            total += e
        scale = np.float32(1) / total
        for j in range(width):
            result[j] *= scale


@LADDER.version("maximum in vectors", "floats compared as integers, in any order")
@compiled(reordered=True)
def vector_maximum(x, out):
    rows, width = x.shape
    for i in range(rows):
        row, result = x[i], out[i]
        peak = largest(row, width)  # kernels/native/rows.py
        total = np.float32(0)
        for j in range(width):
            e = exp(row[j] - peak)
            result[j] = e
            total += e
        scale = np.float32(1) / total
        for j in range(width):
            result[j] *= scale


@LADDER.version("threads", "the library's kernel: rows divided among the threads")
def library(x, out):
    softmax.run(x, out)
