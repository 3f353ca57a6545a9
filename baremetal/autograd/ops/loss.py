"""Cross-entropy: the loss of a language model.

    loss_i = -log softmax(logits_i)[target_i]          dloss_i/dlogits = softmax(logits_i) - onehot

Softmax, logarithm and choice are one kernel: the probabilities are never stored, forward reads the
logits once and keeps one number per row (the log-sum-exp), backward reads them once more and
writes the gradient.

The mean is over the tokens that count. Gradient accumulation must divide by the count of the
*whole* batch, not of each part, or parts with many ignored tokens weigh too much: pass it as
`total`, and the parts' losses (and gradients) add up to those of the large batch.
"""

from functools import partial
from typing import Any, Literal

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.layout import as_rows, reshaped
from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError
from baremetal.kernels import cross_entropy as kernels
from baremetal.kernels import elementwise as element_kernels
from baremetal.kernels.precision import sums_in
from baremetal.kernels.reduction import sum as sum_kernel


@op(promotes="quotient", constants=("targets",))
def cross_entropy(
    ctx: Context,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    total: Any = None,
) -> np.ndarray:
    """Cross-entropy in nats of logits (..., V) against targets (...) of integers.

    Args:
        ignore_index: targets of this value do not count, and get no gradient.
        reduction: "mean" over the tokens that count (0 if none does), "sum", or "none" for one
            loss per token.
        total: with "mean", divide by this number instead of by this batch's own count: a number,
            or a buffer of one element on the device, which a recorded step reads anew each time.

    Raises:
        BaremetalError: a target outside 0..V-1, shapes that do not match, an unknown reduction.
    """
    _check(logits, targets, reduction)
    rows = as_rows(ctx, logits)
    ctx.device.check(partial(_check_range, rows.shape[1], ignore_index), targets)
    # A copy: were the caller to put the next batch into its array before our backward runs, the
    # kernel would write beside wrong targets, outside the row even, unchecked.
    flat = ctx.snapshot(targets.reshape(-1), np.dtype(np.int64))
    # Of 16-bit logits too, for neither the count of the tokens nor the sum of their losses need
    # be a number of 16 bits; the loss (their quotient) is.
    wide = sums_in(rows.dtype) or rows.dtype
    losses = ctx.empty(flat.shape, wide)
    lse = ctx.empty(flat.shape, wide)
    ctx.launch(kernels.cross_entropy, rows, flat, losses, lse, ignore_index=ignore_index)
    count = None
    if reduction == "mean":
        count = _count(ctx, flat, total, ignore_index, wide)
    ctx.save(rows, flat, lse, count)
    if reduction == "none":
        return _rounded(ctx, losses, rows.dtype).reshape(targets.shape)
    out = ctx.empty((), wide)
    ctx.launch(sum_kernel, losses, out, axis=(0,))
    if count is not None:
        ctx.launch(element_kernels.divide, out, count, out)
    return _rounded(ctx, out, rows.dtype)


@cross_entropy.vjp("logits")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    rows, targets, lse, count = ctx.saved
    reduction = ctx.attributes.get("reduction", "mean")
    if reduction == "none":
        per_row = reshaped(ctx, grad, targets.shape)
    else:  # one number, the same for every row
        per_row = ctx.empty(targets.shape, lse.dtype)
        if count is None:
            ctx.launch(element_kernels.copy, grad, per_row)
        else:
            ctx.launch(element_kernels.divide, grad, count, per_row)
    out = ctx.empty(ctx.shapes[0], grad.dtype)
    ctx.launch(
        kernels.cross_entropy_backward, rows, targets, lse, per_row, as_rows(ctx, out),
        ignore_index=ctx.attributes.get("ignore_index", -100),
    )  # fmt: skip
    return out


def _rounded(ctx: Context, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array itself if it is of this dtype, else a copy that is."""
    if array.dtype == dtype:
        return array
    out = ctx.empty(array.shape, dtype)
    ctx.launch(element_kernels.copy, array, out)
    return out


def _check(logits: np.ndarray, targets: np.ndarray, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise BaremetalError(f"reduction {reduction!r}: expected 'mean', 'sum' or 'none'")
    if targets.dtype.kind not in "iu":
        raise BaremetalError(
            f"cross_entropy: targets have dtype {targets.dtype}, expected integers (token ids)"
        )
    if logits.ndim == 0 or logits.shape[:-1] != targets.shape:
        raise BaremetalError(
            f"cross_entropy: logits {logits.shape} need one target per row, that is targets of "
            f"shape {logits.shape[:-1]}, got {targets.shape}"
        )


def _check_range(vocabulary: int, ignore_index: int, targets: np.ndarray) -> None:
    """Refuse targets that are no token."""
    if targets.size and targets.min() >= 0 and targets.max() < vocabulary:
        return  # usually nothing is ignored
    kept = targets[targets != ignore_index]
    if kept.size and not 0 <= kept.min() <= kept.max() < vocabulary:
        wrong = kept.max() if kept.max() >= vocabulary else kept.min()
        raise BaremetalError(
            f"cross_entropy: target {wrong} is not in 0..{vocabulary - 1}: the logits cover a "
            f"vocabulary of {vocabulary} (ignored are targets equal to {ignore_index})"
        )


def _count(
    ctx: Context, targets: np.ndarray, total: Any, ignore_index: int, dtype: np.dtype
) -> np.ndarray:
    """The divisor as a 0-d array of this dtype; computed, or read from a buffer."""
    if total is None:
        count = ctx.empty((), dtype)
        ctx.launch(kernels.count_targets, targets, count, ignore_index=ignore_index)
        return count
    if isinstance(total, Traced):
        total = total.data
    if not isinstance(total, np.ndarray):
        return ctx.constant(total, dtype)
    if total.size != 1:
        raise BaremetalError(
            f"cross_entropy: total has shape {total.shape}, expected one number of tokens"
        )
    return ctx.snapshot(total.reshape(()), dtype)
