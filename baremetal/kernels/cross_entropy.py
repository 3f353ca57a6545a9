"""Softmax and cross-entropy in one kernel: the loss of a language model.

For logits x (one row per token, one column per vocabulary entry) and the true token t,

    loss = -log softmax(x)_t = log Σ_k exp(x_k) - x_t = lse - x_t
    dloss/dx_j = softmax(x)_j - [j = t] = exp(x_j - lse) - [j = t]

Fused, the forward reads the logits and writes two numbers per row, the loss and the log-sum-exp
`lse`; the probabilities are never stored. The backward has all it needs in one pass: logits, lse,
target. With a vocabulary of 50,000 the logits are the largest array of a step, so each pass that
is not made counts.

The loss is computed as  log Σ exp(x - m) + (m - x_t),  m = max(x), not as lse - x_t: for a token
that the model is sure of, lse and x_t are nearly equal and large, and their difference would keep
few digits of a small loss.

A row whose target is `ignore_index` (padding, a prompt that is not to be learnt) has loss 0, lse 0
and gradient 0, whatever its logits are.
"""

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import row_sum


@kernel(writes=("losses", "lse"))
def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    losses: np.ndarray,
    lse: np.ndarray,
    *,
    ignore_index: int,
) -> None:
    """losses (N,) = -log softmax(logits (N, V))[targets (N,)];  lse (N,) = log sum exp(logits).

    Targets are int64 in 0..V-1 or equal to `ignore_index`; any other value is an error that the
    caller must have excluded (a kernel has no way to raise).
    """
    ignored = targets == ignore_index
    peak = logits.max(axis=-1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):  # infinities give NaN, rightly
        total = row_sum(np.exp(logits - peak[:, None]))[:, 0]
        safe = np.where(ignored, 0, targets)[:, None]
        chosen = np.take_along_axis(logits, safe, axis=-1)[:, 0] if logits.size else peak
        losses[...] = np.where(ignored, 0, np.log(total) + (peak - chosen))
        lse[...] = np.where(ignored, 0, peak + np.log(total))


@cross_entropy.costs
def _(logits, targets, losses, lse, *, ignore_index) -> Cost:
    return Cost((TRANSCENDENTAL + 3) * logits.size, moved(logits, targets, losses, lse))


@kernel
def count_targets(targets: np.ndarray, out: np.ndarray, *, ignore_index: int) -> None:
    """out () = how many of the int64 targets (N,) are not `ignore_index`, at least 1: a divisor."""
    out[...] = max(int((targets != ignore_index).sum()), 1)


@count_targets.costs
def _(targets, out, *, ignore_index) -> Cost:
    return Cost(targets.size, moved(targets, out))


@kernel
def cross_entropy_backward(
    logits: np.ndarray,
    targets: np.ndarray,
    lse: np.ndarray,
    grad: np.ndarray,
    out: np.ndarray,
    *,
    ignore_index: int,
) -> None:
    """out (N, V) = grad (N,)[:, None] * (exp(logits - lse[:, None]) - onehot(targets)).

    `out` may be `logits` itself: each element is read before it is written.
    """
    ignored = targets == ignore_index
    with np.errstate(invalid="ignore", over="ignore"):
        p = np.exp(logits - lse[:, None])
        rows = np.flatnonzero(~ignored)
        p[rows, targets[rows]] -= 1
        p *= grad[:, None]
    p[ignored] = 0
    out[...] = p


@cross_entropy_backward.costs
def _(logits, targets, lse, grad, out, *, ignore_index) -> Cost:
    flops = (TRANSCENDENTAL + 2) * logits.size
    return Cost(flops, moved(logits, targets, lse, grad, out))
