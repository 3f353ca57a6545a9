"""Causal attention in tiles: the T×T matrix of weights never exists, only a piece of it at a time.

A tile holds the scores of QUERIES queries with KEYS keys. It lives on the stack, 8 KiB in
float32, in the innermost cache. Going through the keys tile by tile needs a softmax that can be
corrected later, when a larger score turns up. With peak m and total l so far, a tile's scores s
change them to

    m' = max(m, max(s))     l' = l exp(m - m') + Σ exp(s - m')     out' = out exp(m - m') + ...

(M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018), and out / l is
right at the end. Backward, a tile of weights is computed again from q, k and the log-sum-exp,
exp(s - lse), since arithmetic is cheaper than remembering (T. Dao et al., "FlashAttention",
2022; T. Dao, "FlashAttention-2", 2023).

Tiles lie transposed, keys down and queries across:

                 32 queries
          s  [ . . . . . . . . ]  key 0         s = K qᵀ       (keys, D) (D, queries)
             [ . . . . . . . . ]  key 1
             [ . . . . . . . . ]  ...           out += sᵀ V

so that maximum, total and exp of 16 queries are one instruction each, with no sum across a
vector. All products are BLAS calls on q, k, v where they lie (a slice of a packed projection has
a longer distance between rows, nothing else). Only 32 rows of q (backward also of G) at a time
are copied, as their transpose, because a product whose second factor lies transposed is the one
kind that is slow on tiles this small.

On the diagonal, a tile's columns are computed from the first query on that sees any of its keys;
the rest is masked by -inf. A tile above the diagonal is never visited.

Every output row has one owner and a fixed order of summation, so any number of threads gives the
same bits. Forward, an item is 32 queries of one head. Backward, dk and dv gather from all queries
and all heads of a group, so an item is a key/value head; where those are fewer than the threads,
each is divided into `parts`: a part owns every parts-th tile of queries (dq) and of keys (dk, dv)
and computes the tiles of weights it needs, some of which another part computes too. With two
parts that is 6 products a tile instead of 5, and the same bits again.

What it reaches: with B=8, T=256, H=6, D=64 in float32, on two Zen 4 cores, forward and backward
take 2.7 + 5.9 ms. The products alone, without what lies above the diagonal, would take 6.9 ms at
the rate of a large matrix product on that machine.

What was tried and lost (same machine and shape, one thread):

* Scores as q Kᵀ, the transposing left to BLAS: products of 80 GFLOP/s instead of 115.
* Tiles of 64 queries, or of 32 keys: 7 % slower forward, the same backward. Tiles of 64 x 64: more
  is computed above the diagonal, and B=12, T=64, H=4, D=32 takes 30 % longer.
* A register-blocked product written by hand instead of the BLAS call (8 keys x 32 queries of
  accumulators): the same 115 GFLOP/s, the peak, where all sizes are multiples of its block; and
  much more to read where they are not. It might win where BLAS has no kernels for small matrices:
  with `OPENBLAS_CORETYPE=Haswell` (AVX2) the whole takes 1.7 times as long.
"""

import math
from collections.abc import Sequence

import numpy as np

from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    scalar,
    stack,
)
from baremetal.kernels.native.blas import gemm
from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.pool import PARALLEL_FROM, POOL
from baremetal.kernels.native.transpose import LANES, transpose_tile
from baremetal.kernels.native.vmath import exp, like, log, select

QUERIES = 32  # columns of a tile; two 512-bit vectors of float32
KEYS = 64  # rows of a tile
TILE = QUERIES * KEYS
WIDEST = 256  # the widest head that fits the stack: larger ones are left to NumPy
PANEL = QUERIES * WIDEST  # elements of qᵀ: 64 KiB in float64
MACS_PER_ELEMENT = 16  # BLAS does about this many multiply-adds in the time of one copied element

# The block of words, the same for both kernels: up to eight arrays, sizes, and for each array its
# distances (in elements) between samples, positions and heads.
Q, KEY, VALUE, OUT, GRAD, GRAD_Q, GRAD_KEY, GRAD_VALUE = range(8)
LSE = 8
# 9 T queries, 10 S positions, 11 H heads, 12 heads per key/value head, 13 D
SCALE, LOWEST, PARTS = 14, 15, 16
DISTANCES = 17  # three for each array
SHAPED_LIKE_K = (KEY, VALUE, GRAD_KEY, GRAD_VALUE)

LOWEST_FINITE = {np.dtype(t): float(np.finfo(t).min) for t in (np.float32, np.float64)}
LARGEST = 2**31 - 1  # BLAS takes 32-bit sizes


@inlined
def _rows_from(args, array, sample, position, head):
    """array[sample, position:, head, :] as BLAS wants a matrix: address, distance between rows."""
    words = DISTANCES + 3 * array
    step = integer(args, words + 1)
    start = sample * integer(args, words) + position * step + head * integer(args, words + 2)
    return offset(pointer(args, array), start), step


@inlined
def _transpose(x, rows, width, panel):
    """panel (D, QUERIES) = x (rows, D) transposed."""
    x, step = x
    whole_rows, whole_width = rows // LANES * LANES, width // LANES * LANES
    for d in range(0, whole_width, LANES):
        for r in range(0, whole_rows, LANES):
            transpose_tile(offset(x, r * step + d), step, offset(panel, d * QUERIES + r), QUERIES)
    for r in range(rows):
        for d in range(0 if r >= whole_rows else whole_width, width):
            panel[d * QUERIES + r] = x[r * step + d]


# The three products of a tile. `extent` = (keys, skip, rows, D): the tile's rows are `keys` keys,
# its columns the queries from `skip` to `rows`.


@inlined
def _fill_tile(tile, extent, alpha, x, panel):
    """tile (keys, queries) = alpha x (keys, D) panel (D, queries)."""
    keys, skip, rows, width = extent
    gemm(
        False, False, keys, rows - skip, width, alpha, x[0], x[1],
        offset(panel, skip), QUERIES, like(alpha, 0), offset(tile, skip), QUERIES,
    )  # fmt: skip


@inlined
def _gather_keys(out, beta, alpha, tile, extent, x):
    """out (queries, D) = beta out + alpha tileᵀ (queries, keys) x (keys, D)."""
    keys, skip, rows, width = extent
    gemm(
        True, False, rows - skip, width, keys, alpha, offset(tile, skip), QUERIES,
        x[0], x[1], beta, offset(out[0], skip * out[1]), out[1],
    )  # fmt: skip


@inlined
def _gather_queries(out, beta, alpha, tile, extent, x):
    """out (keys, D) = beta out + alpha tile (keys, queries) x (queries, D)."""
    keys, skip, rows, width = extent
    gemm(
        False, False, keys, width, rows - skip, alpha, offset(tile, skip), QUERIES,
        offset(x[0], skip * x[1]), x[1], beta, out[0], out[1],
    )  # fmt: skip


# ---------------------------------------------------------------- forward


@body
def causal_attention_body(lo, hi, args):
    """Items lo..hi: out and lse of 32 queries of one head each.

    Words: 0-3 q k v out, 8 lse, 9-10 queries, positions, 11-13 heads, heads per key/value head,
    width, 14-16 scale, lowest float, parts, 17- distances of samples, positions, heads of each.
    """
    queries, positions, heads = integer(args, 9), integer(args, 10), integer(args, 11)
    group, width, scale = integer(args, 12), integer(args, 13), scalar(args, SCALE)
    panel, tile = stack(args, PANEL), stack(args, TILE)
    peak, total, shrink = stack(args, QUERIES), stack(args, QUERIES), stack(args, QUERIES)
    zero, one = cast(args, 0), cast(args, 1)
    tiles = (queries + QUERIES - 1) // QUERIES
    for item in range(lo, hi):
        sample, head = item // tiles // heads, item // tiles % heads
        first = _balanced(item % tiles, tiles) * QUERIES
        rows = min(QUERIES, queries - first)
        diagonal = positions - queries + first  # the last key that query `first` sees
        out = _rows_from(args, OUT, sample, first, head)
        _transpose(_rows_from(args, Q, sample, first, head), rows, width, panel)
        for r in range(QUERIES):
            peak[r], total[r] = scalar(args, LOWEST), zero
        for key in range(0, diagonal + rows, KEYS):
            keys = min(KEYS, diagonal + rows - key)
            skip = max(0, key - diagonal)  # queries that see none of these keys
            extent = keys, skip, rows, width
            k = _rows_from(args, KEY, sample, key, head // group)
            v = _rows_from(args, VALUE, sample, key, head // group)
            _fill_tile(tile, extent, scale, k, panel)
            _softmax_step(tile, keys, key - diagonal, peak, total, shrink)
            if key > 0:
                _scale_rows(out, rows, width, shrink)
            _gather_keys(out, one if key > 0 else zero, one, tile, extent, v)
        for r in range(QUERIES):
            shrink[r] = select(total[r] == zero, zero, one / total[r])
            total[r] = peak[r] + log(total[r])
        _scale_rows(out, rows, width, shrink)
        lse = offset(pointer(args, LSE), (sample * heads + head) * queries + first)
        for r in range(rows):
            lse[r] = total[r]


@inlined
def _balanced(index, tiles):
    """0, n-1, 1, n-2, ...: late queries see more keys, and every thread gets some of both."""
    return index // 2 if index % 2 == 0 else tiles - 1 - index // 2


@inlined
def _softmax_step(tile, keys, ahead, peak, total, shrink):
    """tile (keys, QUERIES) becomes exp(tile - peak) under the new peak; totals follow.

    `ahead` is how far the first key lies after the last one that the first query sees: query r
    sees key c if r >= ahead + c. `shrink` becomes the factor exp(old peak - new peak).

    The peak starts at the lowest *finite* number. So a score of -inf, masked or computed, lies
    below it even where there is no other, and no -inf is ever subtracted from -inf.
    """
    hidden = like(peak[0], -math.inf)
    for r in range(QUERIES):
        shrink[r] = peak[r]
    for c in range(keys):
        for r in range(QUERIES):
            score = select(r >= ahead + c, tile[c * QUERIES + r], hidden)
            tile[c * QUERIES + r] = score
            peak[r] = select(score > peak[r], score, peak[r])
    for r in range(QUERIES):
        shrink[r] = exp(shrink[r] - peak[r])
        total[r] *= shrink[r]
    for c in range(keys):
        for r in range(QUERIES):
            weight = exp(tile[c * QUERIES + r] - peak[r])
            tile[c * QUERIES + r] = weight
            total[r] += weight


@inlined
def _scale_rows(x, rows, width, factor):
    """x[r, :] *= factor[r]."""
    for r in range(rows):
        for d in range(width):
            x[0][r * x[1] + d] *= factor[r]


def causal_attention(q, k, v, out, lse, *, scale):
    """Pack attention; None where `_words` is."""
    words = _words((q, k, v, out), lse, scale, parts=1)
    if words is None:
        return None
    items = q.shape[0] * q.shape[2] * -(-q.shape[1] // QUERIES)
    work = _elements(q, k, products=2) // items
    return [Launch(causal_attention_body, q.dtype, words, items, work)]


# ---------------------------------------------------------------- backward


@body
def causal_attention_backward_body(lo, hi, args):
    """Items lo..hi: what one part of a key/value head owns of grad_q, grad_k and grad_v.

    Words: 0-7 q k v out grad grad_q grad_k grad_v, 8- as in `causal_attention_body`.
    """
    queries, positions, heads = integer(args, 9), integer(args, 10), integer(args, 11)
    group, width, scale = integer(args, 12), integer(args, 13), scalar(args, SCALE)
    q_panel, grad_panel = stack(args, PANEL), stack(args, PANEL)
    weights, slopes = stack(args, TILE), stack(args, TILE)
    shift, delta = stack(args, QUERIES), stack(args, QUERIES)
    zero, one = cast(args, 0), cast(args, 1)
    kv_heads, parts = heads // group, integer(args, PARTS)
    tiles = (queries + QUERIES - 1) // QUERIES
    for item in range(lo, hi):
        part = item % parts
        sample, kv_head = item // parts // kv_heads, item // parts % kv_heads
        # The last queries come first: they see every key, so they may overwrite grad_k and
        # grad_v, to which all others add.
        for visit in range(group * tiles):
            head, index = kv_head * group + visit // tiles, tiles - 1 - visit % tiles
            first = index * QUERIES
            rows = min(QUERIES, queries - first)
            diagonal = positions - queries + first
            q = _rows_from(args, Q, sample, first, head)
            grad = _rows_from(args, GRAD, sample, first, head)
            _transpose(q, rows, width, q_panel)
            _transpose(grad, rows, width, grad_panel)
            _shift_and_delta(args, sample, first, head, rows, shift, delta)
            for key in range(0, diagonal + rows, KEYS):
                owns_keys, owns_queries = key // KEYS % parts == part, index % parts == part
                if not (owns_keys or owns_queries):
                    continue
                keys = min(KEYS, diagonal + rows - key)
                extent = keys, max(0, key - diagonal), rows, width
                k = _rows_from(args, KEY, sample, key, kv_head)
                v = _rows_from(args, VALUE, sample, key, kv_head)
                _fill_tile(weights, extent, scale, k, q_panel)
                _fill_tile(slopes, extent, one, v, grad_panel)
                _softmax_gradient(weights, slopes, keys, key - diagonal, shift, delta)
                if owns_keys:
                    beta = zero if visit == 0 else one
                    grad_k = _rows_from(args, GRAD_KEY, sample, key, kv_head)
                    grad_v = _rows_from(args, GRAD_VALUE, sample, key, kv_head)
                    _gather_queries(grad_k, beta, scale, slopes, extent, q)
                    _gather_queries(grad_v, beta, one, weights, extent, grad)
                if owns_queries:
                    grad_q = _rows_from(args, GRAD_Q, sample, first, head)
                    _gather_keys(grad_q, one if key > 0 else zero, scale, slopes, extent, k)


@inlined(reassociate=True)
def _shift_and_delta(args, sample, first, head, rows, shift, delta):
    """Per query: shift = lse, or a finite number for a query that sees nothing; delta = G · out."""
    width = integer(args, 13)
    grad, grad_step = _rows_from(args, GRAD, sample, first, head)
    out, out_step = _rows_from(args, OUT, sample, first, head)
    lse = (sample * integer(args, 11) + head) * integer(args, 9) + first
    for r in range(rows):
        shift[r] = max(pointer(args, LSE)[lse + r], scalar(args, LOWEST))
        total = cast(args, 0)
        for d in range(width):
            total += grad[r * grad_step + d] * out[r * out_step + d]
        delta[r] = total


@inlined
def _softmax_gradient(weights, slopes, keys, ahead, shift, delta):
    """weights: scores s -> exp(s - lse);  slopes: dW = G · v -> dS = W (dW - delta)."""
    hidden = like(shift[0], -math.inf)
    for c in range(keys):
        for r in range(QUERIES):
            at = c * QUERIES + r
            weight = exp(select(r >= ahead + c, weights[at], hidden) - shift[r])
            weights[at] = weight
            slopes[at] = weight * (slopes[at] - delta[r])


def causal_attention_backward(q, k, v, out, grad, lse, grad_q, grad_k, grad_v, *, scale):
    """Pack the gradients; None where `_words` is."""
    kv_heads, parts = k.shape[0] * k.shape[2], 1
    work = _elements(q, k, products=5)
    if 0 < kv_heads < POOL.threads and work >= PARALLEL_FROM:
        parts = min(-(-POOL.threads // kv_heads), -(-q.shape[1] // QUERIES))
    words = _words((q, k, v, out, grad, grad_q, grad_k, grad_v), lse, scale, parts)
    if words is None:
        return None
    items = kv_heads * parts
    return [Launch(causal_attention_backward_body, q.dtype, words, items, work // items)]


# ---------------------------------------------------------------- packing


def _words(arrays: Sequence[np.ndarray], lse: np.ndarray, scale: float, parts: int) -> list | None:
    """The block for these arrays, in the order of their words; None for what is left to NumPy.

    That is: other dtypes, heads wider than the stack has room for, empty arrays, shapes that do
    not fit together (NumPy's error says how), and layouts that BLAS cannot read.
    """
    q, k = arrays[:2]
    (batch, queries, heads, width), (positions, kv_heads) = q.shape, k.shape[1:3]
    if not (q.size and k.size) or q.dtype not in FLOATING:
        return None
    if width > WIDEST or positions < queries or heads % kv_heads:
        return None
    if lse.shape != (batch, heads, queries) or lse.dtype != q.dtype or not lse.flags.c_contiguous:
        return None
    distances: list[int] = []
    for index, array in enumerate(arrays):
        length, count = (positions, kv_heads) if index in SHAPED_LIKE_K else (queries, heads)
        found = _distances(array, (batch, length, count, width), q.dtype)
        if found is None:
            return None
        distances += found
    return [
        *arrays, *(0,) * (LSE - len(arrays)), lse, queries, positions, heads, heads // kv_heads,
        width, float(scale), LOWEST_FINITE[q.dtype], parts, *distances,
    ]  # fmt: skip


def _distances(array: np.ndarray, shape: tuple, dtype: np.dtype) -> tuple[int, int, int] | None:
    """Distances between samples, positions and heads in elements; None if BLAS cannot read it."""
    if array.shape != shape or array.dtype != dtype:
        return None
    size, row_bytes = array.itemsize, shape[3] * array.itemsize
    samples, positions, heads, numbers = array.strides
    if (samples | positions | heads) % size or (numbers != size and shape[3] > 1):
        return None
    if shape[1] == 1:
        positions = row_bytes  # nothing follows the only row, but BLAS checks the distance
    if not row_bytes <= positions <= LARGEST * size:
        return None
    return samples // size, positions // size, heads // size


def _elements(q: np.ndarray, k: np.ndarray, products: int) -> int:
    """The work in terms of copied elements: so many products of length D for each visible pair."""
    batch, queries, heads, width = q.shape
    pairs = queries * (k.shape[1] - queries) + queries * (queries + 1) // 2
    return products * batch * heads * pairs * width // MACS_PER_ELEMENT
