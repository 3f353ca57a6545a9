"""Element-wise operations, each with its derivative beneath; shapes broadcast by NumPy's rules."""

import numpy as np

from baremetal.autograd.op import Context, op
from baremetal.autograd.ops.broadcasting import broadcast_shapes, sum_to_shape
from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise as kernels


def unary(ctx: Context, kernel, x: np.ndarray) -> np.ndarray:
    out = ctx.empty(x.shape, x.dtype)
    ctx.launch(kernel, x, out)
    return out


def binary(ctx: Context, kernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shape = a.shape
    if b.shape != shape:
        shape = broadcast_shapes(kernel.name, shape, b.shape)
    out = ctx.empty(shape, a.dtype)
    ctx.launch(kernel, a, b, out)
    return out


def _times(ctx: Context, array: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    return binary(ctx, kernels.multiply, array, np.asarray(factor, array.dtype))


def _choose(ctx: Context, condition: np.ndarray, a, b, shape) -> np.ndarray:
    """where(condition, a, b) for arrays or numbers that broadcast to `shape`."""
    dtype = a.dtype if isinstance(a, np.ndarray) else b.dtype
    out = ctx.empty(shape, dtype)
    ctx.launch(kernels.where, condition, np.asarray(a, dtype), np.asarray(b, dtype), out)
    return out


def _compare(ctx: Context, kernel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = ctx.empty(broadcast_shapes(kernel.name, a.shape, b.shape), np.bool_)
    ctx.launch(kernel, a, b, out)
    return out


# ---------------------------------------------------------------- of two


@op(promotes="common")
def add(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    return binary(ctx, kernels.add, a, b)


@add.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[0])


@add.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[1])


@op(promotes="signed")
def subtract(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b."""
    return binary(ctx, kernels.subtract, a, b)


@subtract.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, grad, ctx.shapes[0])


@subtract.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return unary(ctx, kernels.negative, sum_to_shape(ctx, grad, ctx.shapes[1]))


@op(promotes="common")
def multiply(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b."""
    # Each side's gradient needs the other side only: do not keep what nobody will ask for.
    ctx.save(a if ctx.needs[1] else None, b if ctx.needs[0] else None)
    return binary(ctx, kernels.multiply, a, b)


@multiply.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, binary(ctx, kernels.multiply, grad, ctx.saved[1]), ctx.shapes[0])


@multiply.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, binary(ctx, kernels.multiply, grad, ctx.saved[0]), ctx.shapes[1])


@op(promotes="quotient")
def divide(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b."""
    out = binary(ctx, kernels.divide, a, b)
    ctx.save(b, out if ctx.needs[1] else None)
    return out


@divide.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, binary(ctx, kernels.divide, grad, ctx.saved[0]), ctx.shapes[0])


@divide.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # d(a/b)/db = -a / b² = -(a/b) / b
    b, out = ctx.saved
    slope = unary(ctx, kernels.negative, binary(ctx, kernels.divide, out, b))
    return sum_to_shape(ctx, binary(ctx, kernels.multiply, grad, slope), ctx.shapes[1])


@op(promotes="numeric")
def power(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a ** b. Integers stay integers.

    Raises:
        BaremetalError: an integer to the power of a negative integer.
    """
    if b.dtype.kind == "i" and b.size and b.min() < 0:
        raise BaremetalError(
            f"power of {a.dtype} with the exponent {b.min()}: integers have no negative powers "
            "among the integers; use astype(np.float64), or a floating exponent"
        )
    out = binary(ctx, kernels.power, a, b)
    ctx.save(a, b, out if ctx.needs[1] else None)
    return out


@power.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # b a^(b-1); where b is 0 that is 0, also at a = 0, where a^(b-1) is infinite.
    a, b, _ = ctx.saved
    less = binary(ctx, kernels.subtract, b, np.ones((), b.dtype))
    is_zero = _compare(ctx, kernels.equal, b, np.zeros((), b.dtype))
    slope = binary(ctx, kernels.power, a, _choose(ctx, is_zero, 0.0, less, less.shape))
    grad = binary(ctx, kernels.multiply, grad, binary(ctx, kernels.multiply, slope, b))
    return sum_to_shape(ctx, grad, ctx.shapes[0])


@power.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # a^b log a; at a = 0 the limit is 0 (for b > 0), but 0 * log 0 would be NaN.
    a, _, out = ctx.saved
    is_zero = _compare(ctx, kernels.equal, a, np.zeros((), a.dtype))
    log = unary(ctx, kernels.log, _choose(ctx, is_zero, 1.0, a, a.shape))
    slope = binary(ctx, kernels.multiply, out, log)
    return sum_to_shape(ctx, binary(ctx, kernels.multiply, grad, slope), ctx.shapes[1])


@op(promotes="common")
def maximum(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger of a and b; where they are equal, each gets half of the gradient."""
    ctx.save(a, b)
    return binary(ctx, kernels.maximum, a, b)


@maximum.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _share_of_winner(ctx, grad, kernels.greater, a, b, ctx.shapes[0])


@maximum.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _share_of_winner(ctx, grad, kernels.greater, b, a, ctx.shapes[1])


@op(promotes="common")
def minimum(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smaller of a and b; where they are equal, each gets half of the gradient."""
    ctx.save(a, b)
    return binary(ctx, kernels.minimum, a, b)


@minimum.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _share_of_winner(ctx, grad, kernels.less, a, b, ctx.shapes[0])


@minimum.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    a, b = ctx.saved
    return _share_of_winner(ctx, grad, kernels.less, b, a, ctx.shapes[1])


def _share_of_winner(ctx: Context, grad, wins, mine, other, shape) -> np.ndarray:
    """grad where `mine` wins, half of it on a tie, else 0; summed to `shape`."""
    won = _choose(ctx, _compare(ctx, wins, mine, other), grad, 0.0, grad.shape)
    half = _times(ctx, grad, 0.5)
    tied = _compare(ctx, kernels.equal, mine, other)
    return sum_to_shape(ctx, _choose(ctx, tied, half, won, grad.shape), shape)


@op(promotes="common", constants=("condition",))
def where(ctx: Context, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a where the condition (booleans, a constant) holds, else b."""
    if condition.dtype != np.bool_:
        raise BaremetalError(
            f"where: the condition has dtype {condition.dtype}, expected booleans: "
            "compare it first, e.g. x != 0"
        )
    ctx.save(condition)
    out = ctx.empty(broadcast_shapes("where", condition.shape, a.shape, b.shape), a.dtype)
    ctx.launch(kernels.where, condition, a, b, out)
    return out


@where.vjp("a")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, _choose(ctx, ctx.saved[0], grad, 0.0, grad.shape), ctx.shapes[1])


@where.vjp("b")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return sum_to_shape(ctx, _choose(ctx, ctx.saved[0], 0.0, grad, grad.shape), ctx.shapes[2])


# ---------------------------------------------------------------- comparisons: no derivative


@op(promotes="common", differentiable=False)
def equal(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a == b, booleans."""
    return _compare(ctx, kernels.equal, a, b)


@op(promotes="common", differentiable=False)
def not_equal(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a != b, booleans."""
    return _compare(ctx, kernels.not_equal, a, b)


@op(promotes="common", differentiable=False)
def less(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a < b, booleans."""
    return _compare(ctx, kernels.less, a, b)


@op(promotes="common", differentiable=False)
def less_equal(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a <= b, booleans."""
    return _compare(ctx, kernels.less_equal, a, b)


@op(promotes="common", differentiable=False)
def greater(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a > b, booleans."""
    return _compare(ctx, kernels.greater, a, b)


@op(promotes="common", differentiable=False)
def greater_equal(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a >= b, booleans."""
    return _compare(ctx, kernels.greater_equal, a, b)


# ---------------------------------------------------------------- of one


@op(promotes="signed")
def negative(ctx: Context, x: np.ndarray) -> np.ndarray:
    """-x."""
    return unary(ctx, kernels.negative, x)


@negative.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return unary(ctx, kernels.negative, grad)


@op(promotes="common")
def absolute(ctx: Context, x: np.ndarray) -> np.ndarray:
    """|x|; the gradient at 0 is 0."""
    ctx.save(x)
    return unary(ctx, kernels.absolute, x)


@absolute.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    (x,) = ctx.saved
    zero = np.zeros((), x.dtype)
    minus = unary(ctx, kernels.negative, grad)
    left = _choose(ctx, _compare(ctx, kernels.less, x, zero), minus, 0.0, x.shape)
    return _choose(ctx, _compare(ctx, kernels.greater, x, zero), grad, left, x.shape)


@op(promotes="numeric")
def square(ctx: Context, x: np.ndarray) -> np.ndarray:
    """x²."""
    ctx.save(x)
    return unary(ctx, kernels.square, x)


@square.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return binary(ctx, kernels.multiply, grad, _times(ctx, ctx.saved[0], 2.0))


@op(promotes="floating")
def exp(ctx: Context, x: np.ndarray) -> np.ndarray:
    """e to the x."""
    out = unary(ctx, kernels.exp, x)
    ctx.save(out)
    return out


@exp.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return binary(ctx, kernels.multiply, grad, ctx.saved[0])


@op(promotes="floating")
def log(ctx: Context, x: np.ndarray) -> np.ndarray:
    """The natural logarithm."""
    ctx.save(x)
    return unary(ctx, kernels.log, x)


@log.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return binary(ctx, kernels.divide, grad, ctx.saved[0])


@op(promotes="floating")
def sqrt(ctx: Context, x: np.ndarray) -> np.ndarray:
    """The square root."""
    out = unary(ctx, kernels.sqrt, x)
    ctx.save(out)
    return out


@sqrt.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    # 1 / (2 sqrt x)
    return binary(ctx, kernels.divide, _times(ctx, grad, 0.5), ctx.saved[0])


@op(promotes="floating")
def sin(ctx: Context, x: np.ndarray) -> np.ndarray:
    """Sine of radians."""
    ctx.save(x)
    return unary(ctx, kernels.sin, x)


@sin.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return binary(ctx, kernels.multiply, grad, unary(ctx, kernels.cos, ctx.saved[0]))


@op(promotes="floating")
def cos(ctx: Context, x: np.ndarray) -> np.ndarray:
    """Cosine of radians."""
    ctx.save(x)
    return unary(ctx, kernels.cos, x)


@cos.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    slope = unary(ctx, kernels.negative, unary(ctx, kernels.sin, ctx.saved[0]))
    return binary(ctx, kernels.multiply, grad, slope)


@op(promotes="floating")
def erf(ctx: Context, x: np.ndarray) -> np.ndarray:
    """The error function, 2/sqrt(π) ∫₀ˣ exp(-t²) dt."""
    ctx.save(x)
    return unary(ctx, kernels.erf, x)


@erf.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    minus_square = unary(ctx, kernels.negative, unary(ctx, kernels.square, ctx.saved[0]))
    bell = _times(ctx, unary(ctx, kernels.exp, minus_square), 2.0 / np.sqrt(np.pi))
    return binary(ctx, kernels.multiply, grad, bell)


# ---------------------------------------------------------------- copies


@op(is_view=True)
def cast(ctx: Context, x: np.ndarray, *, dtype) -> np.ndarray:
    """x in another dtype; the same memory if it has that dtype already."""
    dtype = np.dtype(dtype)
    if dtype == x.dtype:
        return x
    ctx.remember(x.dtype)
    out = ctx.empty(x.shape, dtype)
    ctx.launch(kernels.copy, x, out)
    return out


@cast.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    if not ctx.notes:
        return grad
    out = ctx.empty(grad.shape, ctx.notes[0])
    ctx.launch(kernels.copy, grad, out)
    return out


@op
def clone(ctx: Context, x: np.ndarray) -> np.ndarray:
    """A copy in memory of its own."""
    return unary(ctx, kernels.copy, x)


@clone.vjp("x")
def _(ctx: Context, grad: np.ndarray) -> np.ndarray:
    return grad
