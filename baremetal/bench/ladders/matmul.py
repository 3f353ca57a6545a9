"""The matmul ladder: C = A B in float32, from three loops in Python to the rate of BLAS.

Every version does the same 2mnk FLOP. What changes is in which order, and how often a number is
fetched from where.

    1  loops in Python            the definition, as written on paper
    2  the same loops, compiled   machine code instead of an interpreter
    3  loop order i, p, j         the inner loop runs along rows, so it is contiguous and vectorised
    4  blocks of 4 x 4            a number, once loaded, is used four times
    5  a tile in registers        6 x 16 sums of C stay in registers for the whole inner loop
    6  cache blocks, packed       the tile reads A and B from small contiguous copies in cache
    7  threads                    version 6, each thread its own rows of C
    8  BLAS                       what the library calls: the same design, in assembly

Versions 5 to 7 are the design of every fast BLAS (K. Goto, R. van de Geijn, "Anatomy of
High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008, doi:10.1145/1356052.1356053; the
names MC, KC and "packing" are from there).

What one number costs decides everything. A multiply-add takes two numbers from A and B and adds
to a third. Version 3 loads B, loads C and stores C for every multiply-add. Version 4 does so for
every four. Version 5 keeps 96 sums in registers: per step it loads 6 numbers of A and 16 of B and
does 96 multiply-adds.

Why 6 x 16: one row of the tile is one `Sixteen` (`vector.py`): one register with AVX-512, two with
AVX2, four with NEON. Six rows and the row of B fit the 16 registers of AVX2 (12 + 2 + 1 for the
number of A) and the 32 of NEON (24 + 4 + 1).

Try `--size 1024`: rows are then 4096 bytes apart, all the numbers of a column fall into the same
few places of the first-level cache and evict each other, and versions 2 and 5 collapse. Copies
that lie contiguously (version 6) have no such trouble.

Tried, and lost (on an AMD EPYC, Zen 4):
* Blocking version 3 for the cache, in blocks of 16 to 256 rows of B by 128 to 512 columns: 13 to
  24 GFLOP/s where version 3 does 30. The rows of B stream from the second-level cache without
  waiting, so what limits version 3 is loads and stores, not distance, and blocks add loops.
* The tile of version 5 written as plain loops over a local array: 7 GFLOP/s. LLVM unrolls the
  small loops before it looks for vectors, and finds none. Written so that all six rows share one
  inner loop, it does vectorise (114 GFLOP/s in the tile alone, as fast as `Sixteen`), but with the
  16 registers of AVX2 it spills three sums to memory at each step (51 GFLOP/s).
* 8 x 16 and 12 x 16 tiles: no faster with AVX-512, less than half as fast with AVX2 (spills).
"""

import numpy as np
from numba import carray

from baremetal.bench.ladders.compiling import compiled, inlined, ladder_body, pointer_to
from baremetal.bench.ladders.ladder import Afterword, Ladder, Problem
from baremetal.bench.ladders.vector import add_scaled, load, store
from baremetal.kernels.matmul import matmul
from baremetal.kernels.native.abi import Launch, integer, offset, pointer


def make_problem(size: int, rng: np.random.Generator) -> Problem:
    """Square matrices of `size`."""
    return make_product(size, size, size, rng)


def make_product(m: int, n: int, k: int, rng: np.random.Generator) -> Problem:
    """A (m, k), B (k, n) and room for C (m, n)."""
    a = rng.standard_normal((m, k), dtype=np.float32)
    b = rng.standard_normal((k, n), dtype=np.float32)
    return Problem((a, b), (np.empty((m, n), np.float32),))


LADDER = Ladder(
    name="matmul",
    kernel=matmul,
    make=make_problem,
    size=960,
    size_means="rows and columns of the matrices",
    largest_size=4096,
    bound_by="arithmetic",
    tolerance=1e-5,
)


# ---------------------------------------------------------------- 1 to 4: loops


@LADDER.version("loops in Python", "the definition, as written on paper", largest_size=64)
def python_loops(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    for i in range(m):
        for j in range(n):
            total = np.float32(0)
            for p in range(k):
                total += a[i, p] * b[p, j]
            out[i, j] = total


@LADDER.version(
    "the same loops, compiled", "machine code instead of an interpreter", largest_size=1024
)
@compiled
def compiled_loops(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    for i in range(m):
        for j in range(n):
            total = np.float32(0)
            for p in range(k):
                total += a[i, p] * b[p, j]  # down a column of B: each step n numbers further
            out[i, j] = total


@LADDER.version("loop order i, p, j", "the inner loop runs along rows: contiguous, vectorised")
@compiled
def contiguous(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    for i in range(m):
        out[i, :] = 0
        for p in range(k):
            x = a[i, p]
            for j in range(n):
                out[i, j] += x * b[p, j]


@LADDER.version("blocks of 4 x 4", "a number, once loaded, is used four times")
@compiled
def four_by_four(a, b, out):
    m, k = a.shape
    out[:] = 0
    whole_m, whole_k = m // 4 * 4, k // 4 * 4
    for i in range(0, whole_m, 4):
        for p in range(0, whole_k, 4):
            _four_rows_four_terms(a[i : i + 4, p : p + 4], b[p : p + 4], out[i : i + 4])
    # What is left when the sizes are no multiples of 4: some terms, then some rows.
    _add_product(a[:whole_m, whole_k:], b[whole_k:], out[:whole_m])
    _add_product(a[whole_m:], b, out[whole_m:])


@inlined
def _four_rows_four_terms(a, b, out):
    """out (4, n) += a (4, 4) b (4, n), in one loop over the columns."""
    a00, a01, a02, a03 = a[0, 0], a[0, 1], a[0, 2], a[0, 3]
    a10, a11, a12, a13 = a[1, 0], a[1, 1], a[1, 2], a[1, 3]
    a20, a21, a22, a23 = a[2, 0], a[2, 1], a[2, 2], a[2, 3]
    a30, a31, a32, a33 = a[3, 0], a[3, 1], a[3, 2], a[3, 3]
    b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
    c0, c1, c2, c3 = out[0], out[1], out[2], out[3]
    for j in range(len(c0)):
        x0, x1, x2, x3 = b0[j], b1[j], b2[j], b3[j]
        c0[j] += a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
        c1[j] += a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
        c2[j] += a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
        c3[j] += a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3


@inlined
def _add_product(a, b, out):
    """out += a b, in the order of version 3."""
    for i in range(a.shape[0]):
        for p in range(a.shape[1]):
            for j in range(b.shape[1]):
                out[i, j] += a[i, p] * b[p, j]


# ---------------------------------------------------------------- 5: a tile in registers

TILE_ROWS, TILE_COLUMNS = 6, 16


@inlined
def _tile(k, a, a_row, a_step, b, b_step, c, c_row):
    """C (6, 16) += A (6, k) B (k, 16), the 96 numbers of C in registers from first to last.

    a, b, c point to the first elements. From one row of A to the next it is `a_row` elements, from
    one column to the next `a_step`; from one row of B to the next `b_step`, and of C `c_row`.
    """
    c0, c1, c2 = load(c), load(offset(c, c_row)), load(offset(c, 2 * c_row))
    c3, c4, c5 = load(offset(c, 3 * c_row)), load(offset(c, 4 * c_row)), load(offset(c, 5 * c_row))
    for _ in range(k):
        row = load(b)
        c0 = add_scaled(c0, a[0], row)
        c1 = add_scaled(c1, a[a_row], row)
        c2 = add_scaled(c2, a[2 * a_row], row)
        c3 = add_scaled(c3, a[3 * a_row], row)
        c4 = add_scaled(c4, a[4 * a_row], row)
        c5 = add_scaled(c5, a[5 * a_row], row)
        a, b = offset(a, a_step), offset(b, b_step)
    store(c, c0)
    store(offset(c, c_row), c1)
    store(offset(c, 2 * c_row), c2)
    store(offset(c, 3 * c_row), c3)
    store(offset(c, 4 * c_row), c4)
    store(offset(c, 5 * c_row), c5)


@LADDER.version("a tile in registers", "6 x 16 sums stay in registers for the whole inner loop")
@compiled
def register_tile(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    out[:] = 0
    whole_m, whole_n = m // 6 * 6, n // 16 * 16
    for j in range(0, whole_n, 16):
        for i in range(0, whole_m, 6):
            c = pointer_to(out, i * n + j)
            _tile(k, pointer_to(a, i * k), k, 1, pointer_to(b, j), n, c, n)
    _add_product(a[:whole_m], b[:, whole_n:], out[:whole_m, whole_n:])
    _add_product(a[whole_m:], b, out[whole_m:])


# ---------------------------------------------------------------- 6: cache blocks, packed

MC = 192  # rows of A packed at a time: MC x KC numbers, 192 KiB, live in the second-level cache
KC = 256  # terms at a time: KC x 16 numbers of B, 16 KiB, live in the first-level cache


@inlined
def _pack_a(a, i, rows, p, terms, packed):
    """Rows i .. i + rows of A in bands of six, a band's numbers in the order the tile reads them.

    packed[band][term][row in band]. In a band that is not full, what was there before stays in
    the places of the missing rows: it only gets into sums that nobody will use.
    """
    for first in range(0, rows, 6):
        band = packed[first * terms : (first + 6) * terms]
        for row in range(min(6, rows - first)):
            for t in range(terms):
                band[t * 6 + row] = a[i + first + row, p + t]


@inlined
def _pack_b(b, p, terms, packed):
    """Terms p .. p + terms of B in strips of sixteen columns: packed[strip][term][column]."""
    n = b.shape[1]
    for first in range(0, n, 16):
        columns = min(16, n - first)
        for t in range(terms):
            place = first * terms + t * 16
            if columns == 16:
                store(pointer_to(packed, place), load(pointer_to(b, (p + t) * n + first)))
            else:  # as above: the places of missing columns keep what was there
                for x in range(columns):
                    packed[place + x] = b[p + t, first + x]


@inlined
def _multiply_block(i, rows, terms, packed_a, packed_b, out, spare):
    """out[i .. i + rows] += the product of the packed block of A and the packed block of B."""
    n = out.shape[1]
    for j in range(0, n, 16):
        columns = min(16, n - j)
        strip = pointer_to(packed_b, j * terms)  # stays in the first-level cache for all bands
        for first in range(0, rows, 6):
            height = min(6, rows - first)
            band = pointer_to(packed_a, first * terms)
            if height == 6 and columns == 16:
                c = pointer_to(out, (i + first) * n + j)
                _tile(terms, band, 1, 6, strip, 16, c, n)
            else:  # at the edge a whole tile is computed, into a spare one, and part of it used
                spare[:] = 0
                _tile(terms, band, 1, 6, strip, 16, pointer_to(spare, 0), 16)
                for y in range(height):
                    for x in range(columns):
                        out[i + first + y, j + x] += spare[16 * y + x]


@inlined
def _rows_of_product(a, b, out, first, last):
    """Rows first .. last of out = a b."""
    k, n = b.shape
    packed_a = np.empty((MC + 6) * KC, np.float32)
    packed_b = np.empty((n + 16) * KC, np.float32)
    spare = np.empty(6 * 16, np.float32)
    out[first:last] = 0
    for p in range(0, k, KC):
        terms = min(KC, k - p)
        _pack_b(b, p, terms, packed_b)
        for i in range(first, last, MC):
            rows = min(MC, last - i)
            _pack_a(a, i, rows, p, terms, packed_a)
            _multiply_block(i, rows, terms, packed_a, packed_b, out, spare)


@LADDER.version("cache blocks, packed", "the tile reads small contiguous copies, from cache")
@compiled
def packed(a, b, out):
    _rows_of_product(a, b, out, 0, a.shape[0])


# ---------------------------------------------------------------- 7 and 8: threads, BLAS


@ladder_body
def threads_body(lo, hi, args):
    """Bands lo..hi (of six rows) of out = a b. Words: 0-2 a b out, 3-5 m n k."""
    m, n, k = integer(args, 3), integer(args, 4), integer(args, 5)
    a, b = carray(pointer(args, 0), (m, k)), carray(pointer(args, 1), (k, n))
    out = carray(pointer(args, 2), (m, n))
    _rows_of_product(a, b, out, 6 * lo, min(6 * hi, m))


@LADDER.version("threads", "version 6, each thread its own rows of C")
def threads(a, b, out):
    m, k = a.shape
    n = b.shape[1]
    bands = -(-m // 6)
    Launch(threads_body, out.dtype, (a, b, out, m, n, k), bands, work=6 * n * k // 16).run()


@LADDER.version("BLAS", "the library's kernel: the same design, in assembly")
def blas(a, b, out):
    matmul.run(a, b, out)


# ---------------------------------------------------------------- beside BLAS


def beside_blas(size: int) -> Afterword:
    """Ours and BLAS in turns, on one thread and on all of them."""
    from baremetal.bench.ladders.climb import best_times_s
    from baremetal.kernels.native.pool import POOL

    problem = make_problem(size, np.random.default_rng(0))
    flops = problem.cost(matmul).flops
    before = POOL.threads
    rows = []
    try:
        for count in sorted({1, before}):
            POOL.set_threads(count)
            ours_s, blas_s = best_times_s(
                [lambda: problem.run(threads), lambda: problem.run(blas)], budget_s=0.5
            )
            rows.append(
                {
                    "threads": count,
                    "ours_flops_per_s": flops / ours_s,
                    "blas_flops_per_s": flops / blas_s,
                    "share": blas_s / ours_s,
                }
            )
    finally:
        POOL.set_threads(before)
    return Afterword(
        "beside_blas",
        "our own version 7 beside BLAS (version 8), in turns, at their best",
        rows,
        f"our blocked numba version reaches {rows[-1]['share']:.0%} of BLAS",
    )


LADDER.epilogue = beside_blas
