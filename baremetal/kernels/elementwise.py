"""Element-wise kernels: the same small function at every element.

    unary      out[i] = f(x[i])                  (x, out)
    backward   out[i] = g[i] f'(...)             (saved, grad, out)
    binary     out[i] = f(a[i], b[i])            (a, b, out), a and b broadcast to out's shape

They do so little arithmetic per byte (add: 1 FLOP for 12 B in float32) that on any machine their
time is the memory's time; only the transcendental ones come near the arithmetic limit, and that
is why exp and tanh must vectorise. Inputs may have any strides; `out` may share memory with an
input if each element sits at the same address in both (`add(a, b, a)`).

The activations, with their derivatives for the backward kernels:

    sigmoid(x)   = 1 / (1 + e^-x)                                    y (1 - y)
    silu(x)      = x sigmoid(x)                                      s + x s (1 - s)
    gelu(x)      = x Phi(x),  Phi(x) = (1 + erf(x / sqrt 2)) / 2     Phi(x) + x phi(x)
    gelu_tanh(x) = x (1 + tanh u) / 2,  u = sqrt(2/pi) (x + 0.044715 x^3)

where phi is the density of the normal distribution (D. Hendrycks and K. Gimpel, "Gaussian Error
Linear Units", 2016; S. Elfwing et al., "Sigmoid-weighted linear units", 2017). A backward kernel
takes whatever is cheaper to keep: the result y for tanh and sigmoid, the input x for the others.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel

SQRT_2 = math.sqrt(2.0)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)  # in the tanh form of GELU
SQRT_2_PI = math.sqrt(2.0 * math.pi)  # normalises the normal density
GELU_CUBIC = 0.044715  # in the tanh form of GELU


def _per_element(flops: int) -> Callable[..., Cost]:
    """The cost of `flops` FLOP per element of the result (the last array)."""

    def cost(*arrays: np.ndarray, **attributes: Any) -> Cost:
        return Cost(flops * arrays[-1].size, moved(*arrays))

    return cost


# ------------------------------------------------------------------ unary


@kernel
def negative(x: np.ndarray, out: np.ndarray) -> None:
    """out = -x."""
    np.negative(x, out=out)


negative.costs(_per_element(1))


@kernel
def absolute(x: np.ndarray, out: np.ndarray) -> None:
    """out = |x|."""
    np.absolute(x, out=out)


absolute.costs(_per_element(1))


@kernel
def square(x: np.ndarray, out: np.ndarray) -> None:
    """out = x^2."""
    np.square(x, out=out)


square.costs(_per_element(1))


@kernel
def reciprocal(x: np.ndarray, out: np.ndarray) -> None:
    """out = 1 / x."""
    np.divide(1, x, out=out)


reciprocal.costs(_per_element(1))


@kernel
def sqrt(x: np.ndarray, out: np.ndarray) -> None:
    """out = square root of x; NaN below 0."""
    np.sqrt(x, out=out)


sqrt.costs(_per_element(1))


@kernel
def exp(x: np.ndarray, out: np.ndarray) -> None:
    """out = e^x."""
    np.exp(x, out=out)


exp.costs(_per_element(TRANSCENDENTAL))


@kernel
def log(x: np.ndarray, out: np.ndarray) -> None:
    """out = natural logarithm of x; -inf at 0, NaN below."""
    np.log(x, out=out)


log.costs(_per_element(TRANSCENDENTAL))


@kernel
def sin(x: np.ndarray, out: np.ndarray) -> None:
    """out = sin x, x in radians."""
    np.sin(x, out=out)


sin.costs(_per_element(TRANSCENDENTAL))


@kernel
def cos(x: np.ndarray, out: np.ndarray) -> None:
    """out = cos x, x in radians."""
    np.cos(x, out=out)


cos.costs(_per_element(TRANSCENDENTAL))


@kernel
def erf(x: np.ndarray, out: np.ndarray) -> None:
    """out = erf x = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    out[...] = _erf(x)


erf.costs(_per_element(TRANSCENDENTAL))


# ------------------------------------------------------------------ activations and their backward


@kernel
def tanh(x: np.ndarray, out: np.ndarray) -> None:
    """out = tanh x."""
    np.tanh(x, out=out)


tanh.costs(_per_element(TRANSCENDENTAL))


@kernel
def tanh_backward(y: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad (1 - y^2), where y = tanh x."""
    out[...] = grad * (1 - y * y)


tanh_backward.costs(_per_element(3))


@kernel
def sigmoid(x: np.ndarray, out: np.ndarray) -> None:
    """out = 1 / (1 + e^-x)."""
    out[...] = _sigmoid(x)


sigmoid.costs(_per_element(TRANSCENDENTAL + 3))


@kernel
def sigmoid_backward(y: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad y (1 - y), where y = sigmoid x."""
    out[...] = grad * y * (1 - y)


sigmoid_backward.costs(_per_element(3))


@kernel
def relu(x: np.ndarray, out: np.ndarray) -> None:
    """out = max(x, 0); NaN stays NaN."""
    np.maximum(x, 0, out=out)


relu.costs(_per_element(1))


@kernel
def relu_backward(x: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad where x > 0, else 0."""
    out[...] = np.where(x > 0, grad, 0)


relu_backward.costs(_per_element(1))


@kernel
def gelu(x: np.ndarray, out: np.ndarray) -> None:
    """out = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2: exact."""
    out[...] = x * _normal_cdf(x)


gelu.costs(_per_element(TRANSCENDENTAL + 4))


@kernel
def gelu_backward(x: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    density = np.exp(-x * x / 2) / SQRT_2_PI
    # x * density is inf * 0 at infinity, where its limit is 0.
    out[...] = grad * (_normal_cdf(x) + np.where(density == 0, 0, x) * density)


gelu_backward.costs(_per_element(2 * TRANSCENDENTAL + 9))


@kernel
def gelu_tanh(x: np.ndarray, out: np.ndarray) -> None:
    """out = x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3)."""
    u = SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)
    # (1 + tanh u) / 2 = sigmoid(2u), which does not cancel for negative u.
    out[...] = x * _sigmoid(2 * u)


gelu_tanh.costs(_per_element(TRANSCENDENTAL + 8))


@kernel
def gelu_tanh_backward(x: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad (s + x s (1 - s) 2 u'), s = sigmoid(2u) = (1 + tanh u) / 2, u' = du/dx."""
    s = _sigmoid(2 * SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x))
    slope = 2 * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x)
    flat = s * (1 - s)
    # Where s has reached 0 or 1 the second term is 0, also where the slope overflows.
    out[...] = grad * (s + np.where(flat == 0, 0, x * slope) * flat)


gelu_tanh_backward.costs(_per_element(TRANSCENDENTAL + 14))


@kernel
def silu(x: np.ndarray, out: np.ndarray) -> None:
    """out = x sigmoid(x)."""
    out[...] = x * _sigmoid(x)


silu.costs(_per_element(TRANSCENDENTAL + 4))


@kernel
def silu_backward(x: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out = grad (s + x s (1 - s)), s = sigmoid(x)."""
    s = _sigmoid(x)
    flat = s * (1 - s)
    # x * flat is inf * 0 at infinity, where its limit is 0.
    out[...] = grad * (s + np.where(flat == 0, 0, x) * flat)


silu_backward.costs(_per_element(TRANSCENDENTAL + 8))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # e^-x = inf is right: the quotient is 0
        return 1 / (1 + np.exp(-x))


def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf as scipy_erf  # NumPy has none; imported only when asked

    return scipy_erf(x)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + _erf(x / SQRT_2))


# ------------------------------------------------------------------ binary


@kernel
def add(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a + b."""
    np.add(a, b, out=out)


add.costs(_per_element(1))


@kernel
def subtract(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a - b."""
    np.subtract(a, b, out=out)


subtract.costs(_per_element(1))


@kernel
def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a * b."""
    np.multiply(a, b, out=out)


multiply.costs(_per_element(1))


@kernel
def divide(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a / b; division by 0 gives an infinity or NaN."""
    np.divide(a, b, out=out)


divide.costs(_per_element(1))


@kernel
def power(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a^b; NaN for a negative a and a fractional b."""
    np.power(a, b, out=out)


power.costs(_per_element(2 * TRANSCENDENTAL))


@kernel
def maximum(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = the larger of a and b; NaN if either is."""
    np.maximum(a, b, out=out)


maximum.costs(_per_element(1))


@kernel
def minimum(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = the smaller of a and b; NaN if either is."""
    np.minimum(a, b, out=out)


minimum.costs(_per_element(1))


# ------------------------------------------------------------------ comparisons: out is boolean


@kernel
def equal(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a == b)."""
    np.equal(a, b, out=out)


equal.costs(_per_element(1))


@kernel
def not_equal(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a != b)."""
    np.not_equal(a, b, out=out)


not_equal.costs(_per_element(1))


@kernel
def less(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a < b)."""
    np.less(a, b, out=out)


less.costs(_per_element(1))


@kernel
def less_equal(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a <= b)."""
    np.less_equal(a, b, out=out)


less_equal.costs(_per_element(1))


@kernel
def greater(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a > b)."""
    np.greater(a, b, out=out)


greater.costs(_per_element(1))


@kernel
def greater_equal(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = (a >= b)."""
    np.greater_equal(a, b, out=out)


greater_equal.costs(_per_element(1))


# ------------------------------------------------------------------ choosing and moving


@kernel
def where(condition: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out = a where the boolean condition holds, else b; all three broadcast."""
    out[...] = np.where(condition, a, b)


where.costs(_per_element(0))


@kernel
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """out = x, broadcast to out's shape and converted to its dtype."""
    out[...] = x


copy.costs(_per_element(0))


@kernel
def fill(out: np.ndarray, *, value: float) -> None:
    """out = value."""
    out[...] = value


fill.costs(_per_element(0))
