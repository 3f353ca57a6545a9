"""LayerNorm and RMSNorm: each row is brought to a standard size.

    LayerNorm   x̂ = (x - μ) r,   μ = mean(x),   r = 1 / sqrt(mean((x - μ)²) + ε),   y = w ∘ x̂ + b
    RMSNorm     x̂ = x r,                        r = 1 / sqrt(mean(x²) + ε),         y = w ∘ x̂

(J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450; B. Zhang,
R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, arXiv:1910.07467.)

The variance takes two passes over the row: first μ, then mean((x - μ)²). The formula that needs
only one, mean(x²) - μ², subtracts two nearly equal numbers as soon as the mean is large against
the spread: for x around 1000 with a spread of 0.1, float32 keeps not one digit. A row sits in
first-level cache, so the second pass costs almost nothing.

Forward leaves μ and r (one number each per row); backward computes x̂ again from them. With
G = g ∘ w, per row,

    LayerNorm   dx = r (G - mean(G) - x̂ mean(G ∘ x̂))
    RMSNorm     dx = r (G           - x̂ mean(G ∘ x̂))
    both        dw = Σ_rows g ∘ x̂        db = Σ_rows g

dx subtracts from G what normalising forgot: the part along the vector of ones (the mean was
removed) and the part along x̂ (the length was removed). dx is an activation gradient and dw, db
are weight gradients, so they are separate kernels: a pipeline may want them at different times.
"""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.precision import row_mean, sums_in

BAND = 64  # rows whose sum the compiled weight gradients make at a time


@kernel(writes=("out", "mean", "rstd"))
def layer_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    *,
    eps: float,
) -> None:
    """out (rows, width) = weight * (x - mean) * rstd + bias; weight and bias (width,).

    Also writes mean (rows,) and rstd (rows,) = 1 / sqrt(variance + eps) for the backward.
    `bias` may be None.
    """
    mean[...] = row_mean(x)[:, 0]
    centred = x - mean[:, None]
    rstd[...] = 1 / np.sqrt(row_mean(centred * centred)[:, 0] + np.asarray(eps, x.dtype))
    y = weight * (centred * rstd[:, None])
    out[...] = y if bias is None else y + bias


@layer_norm.costs
def _(x, weight, bias, out, mean, rstd, *, eps) -> Cost:
    return Cost(8 * x.size, moved(x, weight, out, mean, rstd) + _bytes(bias))


@kernel
def layer_norm_backward_input(
    x: np.ndarray,
    weight: np.ndarray,
    grad: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    out: np.ndarray,
) -> None:
    """out (rows, width) = rstd * (G - mean(G) - x̂ * mean(G * x̂)),  G = grad * weight."""
    x_hat = (x - mean[:, None]) * rstd[:, None]
    g = grad * weight
    along_ones = row_mean(g)
    along_x = row_mean(g * x_hat)
    out[...] = rstd[:, None] * (g - along_ones - x_hat * along_x)


@layer_norm_backward_input.costs
def _(x, weight, grad, mean, rstd, out) -> Cost:
    return Cost(11 * x.size, moved(x, weight, grad, mean, rstd, out))


@kernel(writes=("grad_weight", "grad_bias"))
def layer_norm_backward_weight(
    x: np.ndarray,
    grad: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
) -> None:
    """grad_weight (width,) = sum over rows of grad * x̂;  grad_bias (width,) = sum of grad.

    Both are overwritten. `grad_bias` may be None.
    """
    x_hat = (x - mean[:, None]) * rstd[:, None]
    grad_weight[...] = (grad * x_hat).sum(axis=0, dtype=sums_in(x.dtype))
    if grad_bias is not None:
        grad_bias[...] = grad.sum(axis=0, dtype=sums_in(x.dtype))


@layer_norm_backward_weight.costs
def _(x, grad, mean, rstd, grad_weight, grad_bias) -> Cost:
    return Cost(5 * x.size, moved(x, grad, mean, rstd, grad_weight) + _bytes(grad_bias))


@kernel(writes=("out", "rstd"))
def rms_norm(
    x: np.ndarray, weight: np.ndarray, out: np.ndarray, rstd: np.ndarray, *, eps: float
) -> None:
    """out (rows, width) = weight (width,) * x * rstd;  rstd (rows,) = 1 / sqrt(mean(x²) + eps)."""
    rstd[...] = 1 / np.sqrt(row_mean(x * x)[:, 0] + np.asarray(eps, x.dtype))
    out[...] = weight * (x * rstd[:, None])


@rms_norm.costs
def _(x, weight, out, rstd, *, eps) -> Cost:
    return Cost(4 * x.size, moved(x, weight, out, rstd))


@kernel
def rms_norm_backward_input(
    x: np.ndarray, weight: np.ndarray, grad: np.ndarray, rstd: np.ndarray, out: np.ndarray
) -> None:
    """out (rows, width) = rstd * (G - x̂ * mean(G * x̂)),  G = grad * weight,  x̂ = x * rstd."""
    x_hat = x * rstd[:, None]
    g = grad * weight
    out[...] = rstd[:, None] * (g - x_hat * row_mean(g * x_hat))


@rms_norm_backward_input.costs
def _(x, weight, grad, rstd, out) -> Cost:
    return Cost(7 * x.size, moved(x, weight, grad, rstd, out))


@kernel(writes=("grad_weight",))
def rms_norm_backward_weight(
    x: np.ndarray, grad: np.ndarray, rstd: np.ndarray, grad_weight: np.ndarray
) -> None:
    """grad_weight (width,) = sum over rows of grad * x * rstd; overwritten."""
    along_rows = grad * (x * rstd[:, None])
    grad_weight[...] = along_rows.sum(axis=0, dtype=sums_in(x.dtype))


@rms_norm_backward_weight.costs
def _(x, grad, rstd, grad_weight) -> Cost:
    return Cost(3 * x.size, moved(x, grad, rstd, grad_weight))


def _bytes(optional: np.ndarray | None) -> int:
    return 0 if optional is None else optional.nbytes
