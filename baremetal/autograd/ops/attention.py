"""Causal attention without the T×T matrix. Formulas and shapes: `kernels/attention.py`.

Two faces of one kernel. `causal_attention` takes q, k and v; `causal_attention_packed` takes the
one array that a joint projection makes, reads q, k and v from it where they lie, and has their
gradients written where they belong in the gradient of that array: no split, no concatenation.

    packed (B, T, (H + 2K) D)  =  [ q: H heads | k: K heads | v: K heads ]
"""

import math

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import reshaped
from baremetal.errors import BaremetalError
from baremetal.kernels import attention as kernels


@op(promotes="quotient")
def causal_attention(
    ctx: Context, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, scale: float | None = None
) -> np.ndarray:
    """softmax(scale q kᵀ, causal) v: q (B,T,H,D), k and v (B,S,K,D) -> (B,T,H,D).

    Query i sees keys 0 .. i + S - T. H is a multiple of K. Default scale: 1 / sqrt(D). Heads wider
    than 256, and dtypes other than float32 and float64, take the NumPy reference, which does build
    the T×S matrix of weights.
    """
    _check(q, k, v)
    scale = _scale(scale, q)
    out = ctx.empty(q.shape, q.dtype)
    lse = _attend(ctx, q, k, v, out, scale)
    ctx.save(q, k, v, out, lse)
    ctx.remember(scale)
    return out


@causal_attention.vjp("q", "k", "v")
def _(ctx: Context, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, k, v, out, lse = ctx.saved
    grads = ctx.empty_like(q), ctx.empty_like(k), ctx.empty_like(v)
    (scale,) = ctx.notes
    ctx.launch(kernels.causal_attention_backward, q, k, v, out, grad, lse, *grads, scale=scale)
    return grads


@op(promotes="quotient")
def causal_attention_packed(
    ctx: Context, qkv: np.ndarray, *, heads: int, kv_heads: int, scale: float | None = None
) -> np.ndarray:
    """Self-attention on a packed projection: (B, T, (H + 2K) D) -> (B, T, H D)."""
    q, k, v = _split(qkv, heads, kv_heads)
    scale = _scale(scale, q)
    batch, time, _, width = q.shape
    out = ctx.empty((batch, time, heads * width), qkv.dtype)
    by_head = out.reshape(q.shape)
    lse = _attend(ctx, q, k, v, by_head, scale)
    ctx.save(qkv, by_head, lse)
    ctx.remember(scale)
    return out


@causal_attention_packed.vjp("qkv")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    qkv, out, lse = ctx.saved
    heads, kv_heads = ctx.attributes["heads"], ctx.attributes["kv_heads"]
    grad_qkv = ctx.empty_like(qkv)
    ctx.launch(
        kernels.causal_attention_backward,
        *_split(qkv, heads, kv_heads), out, reshaped(ctx, grad, out.shape), lse,
        *_split(grad_qkv, heads, kv_heads), scale=ctx.notes[0],
    )  # fmt: skip
    return grad_qkv


def _attend(ctx: Context, q, k, v, out: np.ndarray, scale: float) -> np.ndarray:
    """Write `out`; returns the log-sum-exp of the scores, (B, H, T), which backward needs."""
    batch, time, heads, _ = q.shape
    lse = ctx.empty((batch, heads, time), q.dtype)
    ctx.launch(kernels.causal_attention, q, k, v, out, lse, scale=scale)
    return lse


def _split(packed: np.ndarray, heads: int, kv_heads: int) -> tuple[np.ndarray, ...]:
    """Views (B,T,H,D), (B,T,K,D), (B,T,K,D) of a packed array."""
    slots = heads + 2 * kv_heads
    fits = packed.ndim == 3 and kv_heads > 0 and heads % kv_heads == 0
    if not fits or packed.shape[-1] == 0 or packed.shape[-1] % slots:
        raise BaremetalError(
            f"causal_attention_packed: qkv {packed.shape} with {heads} heads and {kv_heads} "
            "key-value heads: expected (B, T, width) with the width a positive multiple of "
            f"{slots}, and the key-value heads dividing the heads"
        )
    batch, time, width = packed.shape
    by_head = packed.reshape(batch, time, slots, width // slots)
    return by_head[:, :, :heads], by_head[:, :, heads:-kv_heads], by_head[:, :, -kv_heads:]


def _scale(scale: float | None, q: np.ndarray) -> float:
    return 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)


def _check(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    fits = (
        q.ndim == k.ndim == 4
        and k.shape == v.shape
        and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
        and k.shape[2] > 0
        and q.shape[2] % k.shape[2] == 0
        and q.shape[1] <= k.shape[1]
        and q.shape[3] > 0
    )
    if not fits:
        raise BaremetalError(
            f"causal_attention: q {q.shape}, k {k.shape}, v {v.shape}: expected q (B, T, H, D) "
            "and k, v (B, S, K, D) with S >= T, D >= 1 and H a multiple of K"
        )
