"""What happens to the weights: clipping, the gate, AdamW, SGD with momentum.

All parameters of a model lie end to end in one flat array, and so do their gradients and moments;
an update is one pass over that memory, whatever the model's layers are called.

Everything that changes from step to step (learning rate, step count, ...) is read from `scalars`, a
small float64 array on the device, never passed as a number: a step that was recorded once can then
be replayed with another learning rate. Its slots are named below.

The order within a step:

    square_sum(gradients, ..., squares)           Σ g² of each parameter, in any thread count
    clip_factor(squares, loss, scalars)           norm, factor, and the gate
    adamw(...) or sgd_momentum(...)               one pass
    adjust_loss_scale(scalars, clean_steps)       if it is dynamic: for the next step

*The gate.* A loss or a gradient that is NaN or infinite must never reach the weights, and by the
time Python could look at it the step would be over. So `clip_factor` closes the gate inside the
step, and an update through a closed gate touches not one byte.

AdamW (I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
arXiv:1711.05101; Adam: D. P. Kingma, J. Ba, ICLR 2015, arXiv:1412.6980), in PyTorch's form:

    p ← p (1 - η λ)                              decay is applied to the weight, not the gradient
    m ← β₁ m + (1 - β₁) g                        running mean of the gradient
    v ← β₂ v + (1 - β₂) g²                       running mean of its square
    p ← p - η m̂ / (√v̂ + ε)                       m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)

m and v start at zero and are too small at first; dividing by 1 - βᵗ corrects that exactly.
"""

import math
from collections.abc import Iterable

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel

# The slots of `scalars`, a float64 device array of SCALARS elements.
LEARNING_RATE = 0
STEP = 1  # t, counted from 1
CLIP_FACTOR = 2  # gradients are multiplied by it
GATE = 3  # 1.0: update; 0.0: leave parameters and moments as they are
LOSS_SCALE = 4  # gradients are divided by it
GRADIENT_NORM = 5  # written by clip_factor
NONFINITE_COUNT = 6  # how often the gate was closed
SCALARS = 7

SQUARE_SUM_BLOCK = 8192  # elements whose squares are summed into one partial sum


def square_sum_blocks(parts: Iterable[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Parts of a flat array, from `start` to `stop` - 1 each, as tables for `square_sum`.

    Returns:
        blocks (n, 2) int64, the start and stop of pieces of at most SQUARE_SUM_BLOCK elements, and
        ends (parts,) int64, how many of them there are up to the end of each part.
    """
    blocks: list[tuple[int, int]] = []
    ends = []
    for start, stop in parts:
        for begin in range(start, stop, SQUARE_SUM_BLOCK):
            blocks.append((begin, min(begin + SQUARE_SUM_BLOCK, stop)))
        ends.append(len(blocks))
    return np.array(blocks, np.int64).reshape(-1, 2), np.array(ends, np.int64)


@kernel(writes=("partial", "out"))
def square_sum(
    x: np.ndarray, blocks: np.ndarray, ends: np.ndarray, partial: np.ndarray, out: np.ndarray
) -> None:
    """out (parts,) = Σ x² over each part of x, in float64, the same bits for any thread count.

    Blocks of elements are summed into `partial` (n,), and these in their order into `out`; both
    float64, overwritten. Kernels allocate nothing, so the memory for the partial sums is an
    argument. `square_sum_blocks` makes the tables `blocks` and `ends`. A part's sum depends on
    nothing outside it: of a model that is cut in two, each half's optimiser finds the same numbers
    as one that has all of it.
    """
    flat = x.reshape(-1)
    with np.errstate(over="ignore"):
        for block, (start, stop) in enumerate(blocks.tolist()):
            values = flat[start:stop].astype(np.float64)
            partial[block] = np.dot(values, values)
        begin = 0
        for part, end in enumerate(ends.tolist()):
            out[part] = sum(partial[begin:end].tolist())
            begin = end


@square_sum.costs
def _(x, blocks, ends, partial, out) -> Cost:
    return Cost(2 * x.size + partial.size, moved(x, blocks, ends, partial, partial, out))


@kernel(writes=("scalars",))
def clip_factor(
    square_sum: np.ndarray, loss: np.ndarray, scalars: np.ndarray, *, max_norm: float
) -> None:
    """From the gradients' square sums to norm, clip factor and gate; all written to `scalars`.

    square_sum (k,) float64: sums of squares of k parts, added here. loss: any shape, float32 or
    float64. The norm is that of the unscaled gradients, √(Σ square_sum) / loss scale, and

        clip factor = min(1, max_norm / (norm + 1e-6))        (1 if max_norm <= 0: no clipping)
        gate = 1 if norm and loss are finite, else 0          (then the non-finite count grows by 1)
    """
    norm = math.sqrt(sum(square_sum.tolist())) / float(scalars[LOSS_SCALE])
    finite = math.isfinite(norm) and bool(np.isfinite(loss).all())
    clips = finite and max_norm > 0
    scalars[GRADIENT_NORM] = norm
    scalars[CLIP_FACTOR] = min(1.0, max_norm / (norm + 1e-6)) if clips else 1.0
    scalars[GATE] = 1.0 if finite else 0.0
    scalars[NONFINITE_COUNT] += 0.0 if finite else 1.0


@clip_factor.costs
def _(square_sum, loss, scalars, *, max_norm) -> Cost:
    return Cost(square_sum.size + 5, moved(square_sum, loss, scalars, scalars))


@kernel(writes=("scalars", "clean_steps"))
def adjust_loss_scale(
    scalars: np.ndarray, clean_steps: np.ndarray, *, growth_interval: int, largest: float
) -> None:
    """After a step: halve the loss scale if the gate was closed, double it if long it was not.

    clean_steps (1,) float64: steps since the scale last changed. Doubled after `growth_interval` of
    them, up to `largest`; never less than 1.
    """
    clean_steps[0] = clean_steps[0] + 1 if scalars[GATE] > 0 else 0.0
    if clean_steps[0] == 0.0:
        scalars[LOSS_SCALE] = max(scalars[LOSS_SCALE] / 2, 1.0)
    elif clean_steps[0] >= growth_interval:
        scalars[LOSS_SCALE] = min(scalars[LOSS_SCALE] * 2, largest)
        clean_steps[0] = 0.0


@adjust_loss_scale.costs
def _(scalars, clean_steps, *, growth_interval, largest) -> Cost:
    return Cost(2, 2 * moved(scalars, clean_steps))


@kernel(writes=("parameter", "m", "v"))
def adamw(
    parameter: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    scalars: np.ndarray,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step on parameter, m and v in place; all of one shape. See the formulas above."""
    if not scalars[GATE] > 0:
        return
    rate, t = float(scalars[LEARNING_RATE]), float(scalars[STEP])
    dtype = parameter.dtype.type
    g = grad * dtype(scalars[CLIP_FACTOR] / scalars[LOSS_SCALE])
    m[...] = dtype(beta1) * m + dtype(1 - beta1) * g
    v[...] = dtype(beta2) * v + dtype(1 - beta2) * (g * g)
    m_hat = m * dtype(1 / (1 - beta1**t))
    v_hat = v * dtype(1 / (1 - beta2**t))
    decayed = parameter * dtype(1 - rate * weight_decay)
    parameter[...] = decayed - dtype(rate) * (m_hat / (np.sqrt(v_hat) + dtype(eps)))


@adamw.costs
def _(parameter, grad, m, v, scalars, *, beta1, beta2, eps, weight_decay) -> Cost:
    rewritten = moved(parameter, m, v)  # read and written
    return Cost(16 * parameter.size, 2 * rewritten + moved(grad, scalars))


@kernel(writes=("parameter", "momentum"))
def sgd_momentum(
    parameter: np.ndarray,
    grad: np.ndarray,
    momentum: np.ndarray,
    scalars: np.ndarray,
    *,
    momentum_factor: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of SGD with momentum μ, in PyTorch's form, on parameter and momentum in place.

    g ← g + λ p;   b ← μ b + g;   p ← p - η (g + μ b if nesterov else b)
    """
    if not scalars[GATE] > 0:
        return
    dtype = parameter.dtype.type
    scale = dtype(scalars[CLIP_FACTOR] / scalars[LOSS_SCALE])
    g = grad * scale + dtype(weight_decay) * parameter
    momentum[...] = dtype(momentum_factor) * momentum + g
    step = g + dtype(momentum_factor) * momentum if nesterov else momentum
    parameter[...] = parameter - dtype(scalars[LEARNING_RATE]) * step


@sgd_momentum.costs
def _(parameter, grad, momentum, scalars, *, momentum_factor, weight_decay, nesterov) -> Cost:
    return Cost(
        (9 if nesterov else 7) * parameter.size,
        2 * moved(parameter, momentum) + moved(grad, scalars),
    )
