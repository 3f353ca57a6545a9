"""The attention ladder: out = softmax(q kᵀ / √D, causal) v, forward, in float32.

There are T² weights for T positions, and they are wanted only to be multiplied with v and
forgotten. Versions 1 and 2 write them to memory; the others never hold more than a row or a tile.

    1  NumPy                  all T x T weights, and three temporaries as large
    2  kernels                the same with the library's kernels: one T x T array, worked in place
    3  one row at a time      online softmax: no T x T array, but products of one row each
    4  tiles                  32 queries with 64 keys: the products are matrix products again
    5  tiles, transposed      the library's kernel on one thread: no sums across a vector
    6  threads                the library's kernel: tiles of queries divided among the threads

The online softmax keeps a maximum m and a total l of the keys seen so far, and corrects what it has
when a larger score s turns up:

    m' = max(m, s)     l' = l exp(m - m') + exp(s - m')     out' = out exp(m - m') + exp(s - m') v

(M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867; in
tiles: T. Dao et al., "FlashAttention", 2022, arXiv:2205.14135.)

Version 3 saves the memory and half of the arithmetic (what lies in a query's future is never
computed), but it loses what made version 2 fast: a number of k, once loaded, serves one query. In
a tile it serves 32.

The rate counts the arithmetic below the diagonal only. Versions 1 and 2 do the rest too, and then
throw it away; their rates say what came of it.

Shapes, with B samples, T positions, H heads, D numbers a head: q, k, v and out (B, T, H, D),
lse (B, H, T), the logarithm of each query's sum of exponentials, which the backward pass needs.
"""

import math
from typing import Any

import numpy as np

from baremetal.bench.ladders.compiling import compiled, inlined, inlined_reordered, pointer_to
from baremetal.bench.ladders.ladder import Afterword, Ladder, Problem
from baremetal.kernels.attention import causal_attention
from baremetal.kernels.elementwise import where
from baremetal.kernels.matmul import matmul
from baremetal.kernels.native.blas import gemm
from baremetal.kernels.native.rows import largest
from baremetal.kernels.native.vmath import exp
from baremetal.kernels.reduction import logsumexp
from baremetal.kernels.softmax import softmax

HEADS, WIDTH = 8, 64  # a model of width 512
CONTEXTS = (128, 256, 512, 1024, 2048)  # of the table of memory


def make_problem(size: int, rng: np.random.Generator) -> Problem:
    """One sample with `size` positions."""
    return make_heads(1, size, HEADS, WIDTH, rng)


def make_heads(
    batch: int, positions: int, heads: int, width: int, rng: np.random.Generator
) -> Problem:
    """q, k, v (batch, positions, heads, width) and room for out and lse."""
    shape = (batch, positions, heads, width)
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    outputs = (np.empty(shape, np.float32), np.empty((batch, heads, positions), np.float32))
    return Problem((q, k, v), outputs, {"scale": 1.0 / math.sqrt(width)})


LADDER = Ladder(
    name="attention",
    kernel=causal_attention,
    make=make_problem,
    size=1024,
    size_means="positions of context",
    largest_size=8192,
    bound_by="arithmetic",
    tolerance=1e-5,
)


# ---------------------------------------------------------------- 1 and 2: all weights


@LADDER.version("NumPy", "all T x T weights, and three temporaries as large", largest_size=4096)
def numpy_weights(q, k, v, out, lse, scale):
    by_head = (0, 2, 1, 3)  # (B, T, H, D) -> (B, H, T, D)
    scores = scale * (q.transpose(by_head) @ k.transpose(0, 2, 3, 1))
    scores[..., _future(q.shape[1])] = -np.inf
    peak = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    lse[:] = (peak + np.log(total))[..., 0]
    out[:] = ((weights / total) @ v.transpose(by_head)).transpose(by_head)


@LADDER.version("kernels", "one T x T array, worked in place by compiled code", largest_size=4096)
def kernels(q, k, v, out, lse, scale):
    by_head = (0, 2, 1, 3)
    batch, positions, heads, _ = q.shape
    scores = np.empty((batch, heads, positions, positions), np.float32)
    nothing = np.full(1, -np.inf, np.float32)
    matmul.run(q.transpose(by_head), k.transpose(0, 2, 3, 1), scores, alpha=scale)
    where.run(_future(positions), nothing, scores, scores)
    logsumexp.run(scores, lse, axis=(3,))
    softmax.run(scores, scores)
    matmul.run(scores, v.transpose(by_head), out.transpose(by_head))


def _future(positions: int) -> np.ndarray:
    """(T, T): True where key j lies in the future of query i."""
    return np.arange(positions) > np.arange(positions)[:, None]


# ---------------------------------------------------------------- 3: one row at a time


@LADDER.version("one row at a time", "online softmax: no T x T array", largest_size=4096)
@compiled
def row_at_a_time(q, k, v, out, lse, scale):
    batch, positions, heads, _ = q.shape
    for sample in range(batch):
        for head in range(heads):
            for i in range(positions):
                query, result = q[sample, i, head], out[sample, i, head]
                peak, total = np.float32(-np.inf), np.float32(0)
                result[:] = 0
                for j in range(i + 1):
                    score = np.float32(scale) * _dot(query, k[sample, j, head])
                    if score > peak:  # what has been summed so far was relative to the old peak
                        shrink = exp(peak - score)
                        total *= shrink
                        _scale(result, shrink)
                        peak = score
                    weight = exp(score - peak)
                    total += weight
                    _add_scaled(result, weight, v[sample, j, head])
                _scale(result, np.float32(1) / total)
                lse[sample, head, i] = peak + math.log(total)


@inlined_reordered
def _dot(a, b):
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@inlined
def _scale(x, factor):
    for d in range(len(x)):
        x[d] *= factor


@inlined
def _add_scaled(out, factor, x):
    for d in range(len(out)):
        out[d] += factor * x[d]


# ---------------------------------------------------------------- 4: tiles

QUERIES, KEYS = 32, 64  # a tile of scores: 8 KiB, in first-level cache


@LADDER.version("tiles", "32 queries with 64 keys: the products are matrix products again")
@compiled
def tiles(q, k, v, out, lse, scale):
    batch, positions, heads, _ = q.shape
    tile = np.empty((QUERIES, KEYS), np.float32)
    peak, total = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    for sample in range(batch):
        for head in range(heads):
            for first in range(0, positions, QUERIES):
                rows = min(QUERIES, positions - first)
                result = out[sample, first : first + rows, head]
                result[:] = 0
                peak[:], total[:] = -np.inf, 0
                for key in range(0, first + rows, KEYS):
                    keys = min(KEYS, first + rows - key)
                    _scores(q, k, (sample, head, first, key, rows, keys), scale, tile)
                    for r in range(rows):
                        visible = min(keys, first + r + 1 - key)
                        shrink = _online_softmax(tile[r, :keys], visible, peak, total, r)
                        _scale(result[r], shrink)
                    _add_weighted(tile, v, (sample, head, first, key, rows, keys), out)
                for r in range(rows):
                    _scale(result[r], np.float32(1) / total[r])
                    lse[sample, head, first + r] = peak[r] + math.log(total[r])


@inlined
def _scores(q, k, place, scale, tile):
    """tile (rows, keys) = scale q kᵀ, by BLAS, on q and k where they lie."""
    sample, head, first, key, rows, keys = place
    _, positions, heads, width = q.shape
    step = heads * width  # from one position to the next
    gemm(
        False, True, rows, keys, width, np.float32(scale),
        pointer_to(q, (sample * positions + first) * step + head * width), step,
        pointer_to(k, (sample * positions + key) * step + head * width), step,
        np.float32(0), pointer_to(tile, 0), KEYS,
    )  # fmt: skip


@inlined_reordered
def _online_softmax(scores, visible, peak, total, r):
    """Scores become exp(score - peak), what is not visible 0; returns exp(old peak - new peak)."""
    for j in range(max(visible, 0), len(scores)):
        scores[j] = 0
    if visible <= 0:
        return np.float32(1)
    before = peak[r]
    after = max(before, largest(scores, visible))
    subtotal = np.float32(0)
    for j in range(visible):
        weight = exp(scores[j] - after)
        scores[j] = weight
        subtotal += weight
    shrink = exp(before - after)
    peak[r], total[r] = after, total[r] * shrink + subtotal
    return shrink


@inlined
def _add_weighted(tile, v, place, out):
    """out (rows, D) += tile (rows, keys) v (keys, D), by BLAS."""
    sample, head, first, key, rows, keys = place
    _, positions, heads, width = v.shape
    step = heads * width
    gemm(
        False, False, rows, width, keys, np.float32(1), pointer_to(tile, 0), KEYS,
        pointer_to(v, (sample * positions + key) * step + head * width), step,
        np.float32(1), pointer_to(out, (sample * positions + first) * step + head * width), step,
    )  # fmt: skip


# ---------------------------------------------------------------- 5 and 6: the library's kernel


@LADDER.version("tiles, transposed", "the library's kernel on one thread: no sums across a vector")
def library_on_one_thread(q, k, v, out, lse, scale):
    from baremetal.kernels.native.pool import POOL

    before = POOL.threads
    POOL.set_threads(1)
    try:
        causal_attention.run(q, k, v, out, lse, scale=scale)
    finally:
        POOL.set_threads(before)


@LADDER.version("threads", "tiles of queries divided among the threads")
def library(q, k, v, out, lse, scale):
    causal_attention.run(q, k, v, out, lse, scale=scale)


# ---------------------------------------------------------------- memory


def memory_of_training(size: int) -> Afterword:
    """Peak memory of forward and backward, with all weights kept and with the fused kernel."""
    rows: list[dict[str, Any]] = []
    for context in CONTEXTS:
        all_weights_bytes = peak_bytes(context, fused=False)
        fused_bytes = peak_bytes(context, fused=True)
        rows.append(
            {
                "context": context,
                "all_weights_bytes": all_weights_bytes,
                "fused_bytes": fused_bytes,
                "ratio": all_weights_bytes / fused_bytes,
            }
        )
    growth = {key: rows[-1][key] / rows[-2][key] for key in ("all_weights_bytes", "fused_bytes")}
    return Afterword(
        "memory",
        f"memory of one layer's attention, forward and backward ({HEADS} heads of {WIDTH}), as the "
        "device's pool counts it",
        rows,
        f"twice the context takes {growth['fused_bytes']:.1f} times the memory fused: linear; with "
        f"all weights kept, {growth['all_weights_bytes']:.1f} times: quadratic",
    )


def peak_bytes(context: int, *, fused: bool) -> int:
    """The most bytes that a fresh device lends at once, inputs not counted, gradients counted."""
    from baremetal.autograd import Device, Tensor, ops

    device = Device()
    rng = np.random.default_rng(0)
    shape = (1, context, HEADS, WIDTH)
    q, k, v = (
        Tensor(rng.standard_normal(shape, dtype=np.float32), requires_grad=True, device=device)
        for _ in range(3)
    )
    if fused:
        out = ops.causal_attention(q, k, v)
    else:
        scores = (q / math.sqrt(WIDTH)).transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1)
        weights = ops.softmax(scores, ~_future(context))
        out = (weights @ v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    out.sum().backward()
    return device.memory.peak_bytes


LADDER.epilogue = memory_of_training
