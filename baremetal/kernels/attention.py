"""Causal attention: every position reads from itself and what came before it.

    scores  = scale * q Kᵀ             one number per pair (query i, key j), only for j <= i
    weights = softmax(scores)          over the keys
    out     = weights V

(A. Vaswani et al., "Attention Is All You Need", 2017.) The references below build the whole
T×T matrix of weights, because that is how to read it. The compiled versions in
`native/attention.py` never hold more than a tile of it, so their memory grows with T, not T². They
take float32 and float64, and heads of up to 256 numbers; anything else runs the references.
What they keep for the backward pass instead of the weights is one number per query, the
log-sum-exp of its scores:

    lse_i = log Σ_j exp(score_ij)      hence      weight_ij = exp(score_ij - lse_i)

Shapes, with B samples, T queries, S keys, H query heads, K key/value heads, D numbers a head:

    q (B, T, H, D)    k, v (B, S, K, D)    out (B, T, H, D)    lse (B, H, T)

* H is a multiple of K: query head h reads key/value head h // (H / K). K = H is multi-head
  attention, K = 1 multi-query, anything between grouped-query (J. Ainslie et al., "GQA", 2023).
* S >= T: the queries are the *last* T of S positions, so query i sees keys 0 .. i + S - T. With
  S = T that is training; with T = 1 it is one step of sampling with a key-value cache.

Backward, for the cotangent G of out (W the weights, one row at a time):

    dV = Wᵀ G       dW = G Vᵀ       dS = W * (dW - delta)       delta_i = Σ_d G_id out_id
    dq = scale * dS K               dk = scale * dSᵀ q

`delta` is Σ_j W_ij dW_ij, the sum that the softmax's gradient needs, written so that it costs D
products a row instead of S (T. Dao et al., "FlashAttention", 2022, section B.4).
"""

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import widened


@kernel(writes=("out", "lse"))
def causal_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, lse: np.ndarray, *, scale: float
) -> None:
    """out (B,T,H,D) = softmax(scale q kᵀ, causal) v, and lse (B,H,T) for the backward pass.

    Arguments may be views of a packed projection (last axis contiguous); the outputs must not
    overlap each other or the inputs. A query all of whose scores are -inf reads nothing: its
    output is 0 and its lse is -inf. The weight of a key in the future is an exact 0, which still
    turns a NaN or infinity in its *value* into NaN.
    """
    q, k, v = widened(q), widened(k), widened(v)
    scores = _causal_scores(q, k, scale)
    peak = scores.max(axis=-1, initial=-np.inf)
    peak[peak == -np.inf] = 0.0  # -inf minus -inf would be NaN
    weights = np.exp(scores - peak[..., None])
    total = weights.sum(axis=-1)
    with np.errstate(divide="ignore"):
        lse[...] = np.log(total) + peak
    weights /= np.where(total == 0.0, 1.0, total)[..., None]
    out[...] = np.einsum("bhts,bshd->bthd", weights, _every_head(v, q))


@causal_attention.costs
def _causal_attention_cost(q, k, v, out, lse, *, scale) -> Cost:
    pairs = _visible_pairs(q, k)
    per_pair = 2 * (2 * q.shape[-1]) + TRANSCENDENTAL  # two products of length D, one exp
    return Cost(pairs * per_pair, moved(q, k, v, out, lse))


@kernel(writes=("grad_q", "grad_k", "grad_v"))
def causal_attention_backward(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, grad: np.ndarray,
    lse: np.ndarray, grad_q: np.ndarray, grad_k: np.ndarray, grad_v: np.ndarray, *, scale: float,
) -> None:  # fmt: skip
    """grad_q, grad_k, grad_v from the cotangent `grad` (B,T,H,D) of `out`.

    `out` and `lse` are what the forward wrote. The three gradients are overwritten; they may be
    slices of one packed array but must not overlap each other or the inputs.
    """
    q, k, v, out, grad, lse = map(widened, (q, k, v, out, grad, lse))
    scores = _causal_scores(q, k, scale)
    weights = np.exp(scores - np.where(lse == -np.inf, 0.0, lse).astype(lse.dtype)[..., None])
    delta = np.einsum("bthd,bthd->bht", grad, out)
    grad_weights = np.einsum("bthd,bshd->bhts", grad, _every_head(v, q))
    grad_scores = weights * (grad_weights - delta[..., None]) * np.asarray(scale, q.dtype)
    grad_q[...] = np.einsum("bhts,bshd->bthd", grad_scores, _every_head(k, q))
    # A key/value head gathers the gradients of all query heads that read it.
    batch, rows, heads, width = q.shape
    per_group = (batch, rows, k.shape[2], heads // k.shape[2], width)
    split = (batch, k.shape[2], heads // k.shape[2], rows, k.shape[1])
    grad_k[...] = np.einsum("bkgts,btkgd->bskd", grad_scores.reshape(split), q.reshape(per_group))
    grad_v[...] = np.einsum("bkgts,btkgd->bskd", weights.reshape(split), grad.reshape(per_group))


@causal_attention_backward.costs
def _causal_attention_backward_cost(
    q, k, v, out, grad, lse, grad_q, grad_k, grad_v, *, scale
) -> Cost:
    pairs = _visible_pairs(q, k)
    # Five products of length D: the scores again, dV, dW, dq, dk; and the exp again.
    per_pair = 5 * (2 * q.shape[-1]) + TRANSCENDENTAL
    delta = 2 * out.size
    return Cost(pairs * per_pair + delta, moved(q, k, v, out, grad, lse, grad_q, grad_k, grad_v))


def _causal_scores(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """scale q kᵀ (B,H,T,S) with -inf where the key lies in the query's future."""
    rows, keys = q.shape[1], k.shape[1]
    scores = np.einsum("bthd,bshd->bhts", q, _every_head(k, q)) * np.asarray(scale, q.dtype)
    future = np.arange(keys) > np.arange(rows)[:, None] + (keys - rows)
    scores[..., future] = -np.inf
    return scores


def _every_head(kv: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(B,S,K,D) -> (B,S,H,D): each key/value head repeated for the query heads that read it."""
    return np.repeat(kv, q.shape[2] // kv.shape[2], axis=2)


def _visible_pairs(q: np.ndarray, k: np.ndarray) -> int:
    """How many (query, key) pairs there are: query i sees i + S - T + 1 keys."""
    batch, rows, heads, _ = q.shape
    return batch * heads * (rows * (k.shape[1] - rows) + rows * (rows + 1) // 2)
