"""exp, tanh, erf, sigmoid and log that vectorise, for use inside compiled bodies.

A call into the C library handles one number at a time and keeps the loop around it scalar. The
functions below are straight-line arithmetic (no branches, no tables, no calls), so the compiler
does 8 or 16 float32 elements at once. Each `f(x)` takes float32 or float64 and answers in the
same type. For float64, which serves gradient checks, they call the C library: exact, not fast.

exp (float32). Split x = n ln 2 + r with n an integer and |r| <= ln(2)/2. Then

    e^x = 2^n e^r,      e^r = 1 + r + r^2 q(r)

with q a polynomial of degree 4, and 2^n an addition to the exponent bits. Adding 1.5 * 2^23 to
x / ln 2 rounds it to the nearest integer and leaves n in the low bits of the sum, where the
exponent field can be reached by one shift. ln 2 is subtracted in two pieces, of which the first
has so few bits that n times it is exact (W. Cody and W. Waite, "Software Manual for the
Elementary Functions", 1980).

tanh goes through t = e^(2|x|) - 1, assembled without cancellation, as t / (t + 2). erf is an odd
polynomial below 1 and 1 - exp(polynomial) above. log splits off the exponent bits, which leaves a
factor 1 + f between sqrt(1/2) and sqrt(2), and log(1 + f) = f - f^2/2 + f^3 p(f).

Where the coefficients come from. Each polynomial minimises the largest weighted error on its
interval: least squares on 2001 Chebyshev nodes, repeated with each weight multiplied by the
error just seen until the error's peaks are level (C. Lawson's algorithm, 1961), against float64
values of NumPy and SciPy. The weights make it the *relative* error of the function, before
rounding to float32: exp 3.1e-9, erf 1.2e-9 below 1 and 1.1e-9 above, log 5.9e-9.

Accuracy (float32): the largest errors against float64, in units in the last place, as printed by
`BAREMETAL_ULP_STEP=7 pytest -s tests/kernels/test_vmath.py`, which tries every seventh of all
float32 numbers:

    exp 1.01    tanh 2.59    erf 1.15    sigmoid 2.47    log 0.85

Infinities and NaN are passed on. A result too small for a normal float32 (below 2^-126, about
1.2e-38) may be flushed to zero: `exp(x)` is 0 for x < -87.3365.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from baremetal.kernels.native.compiler import arithmetic

# The functions state their own arithmetic flags, because the trick of rounding by adding and
# subtracting a large number dies if sums may be reordered, as reductions ask for. Contraction to
# fused multiply-adds is welcome. They are always inlined: a call left over stops the vectoriser.
PRECISE = {"forceinline": True, **arithmetic(reassociate=False)}

F = np.float32
LOG2_E = F(1.4426950408889634)
LN2_HIGH = F(0.693359375)  # 355/512: nine bits
LN2_LOW = F(-2.12194440e-4)  # ln 2 - 355/512
ROUND = F(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
EXP_LARGEST = F(88.72283)  # the largest float32 whose exp is finite
EXP_SMALLEST = F(-87.33654)  # below, exp is less than the smallest normal float32
INFINITY, NAN = F(np.inf), F(np.nan)
ZERO, ONE, TWO = F(0.0), F(1.0), F(2.0)
TANH_ONE = F(9.1)  # from here on tanh rounds to 1
ERF_ONE = F(3.93)  # from here on erf rounds to 1
SMALLEST = F(2.0**-126)  # the smallest normal float32
TO_NORMAL = F(2.0**23)  # lifts every denormal above it


# ------------------------------------------------------------------ bits


@intrinsic
def like(typing_context, x, value):
    """`value` converted to the type of x: keeps float32 arithmetic in float32."""

    def generate(context, builder, signature, values):
        return context.cast(builder, values[1], signature.args[1], signature.return_type)

    return x(x, value), generate


@intrinsic
def select(typing_context, condition, a, b):
    """a if the condition holds, else b, without a branch: both are computed, one is taken."""

    def generate(context, builder, signature, values):
        return builder.select(*values)

    return a(types.boolean, a, a), generate


@intrinsic
def _times_power(typing_context, y, rounded):
    """y * 2^n, where n lies in the low bits of `rounded` (= n + ROUND): one shift, one add."""

    def generate(context, builder, signature, values):
        integer = ir.IntType(32)
        bits, power = (builder.bitcast(value, integer) for value in values)
        power = builder.shl(power, integer(23))
        return builder.bitcast(builder.add(bits, power), ir.FloatType())

    return types.float32(types.float32, types.float32), generate


@intrinsic
def _copy_sign(typing_context, magnitude, sign):
    """|magnitude| with the sign of `sign`."""

    def generate(context, builder, signature, values):
        element = ir.FloatType()
        kind = ir.FunctionType(element, [element, element])
        function = builder.module.declare_intrinsic("llvm.copysign", [element], kind)
        return builder.call(function, values)

    return types.float32(types.float32, types.float32), generate


# A mantissa between sqrt(1/2) and sqrt(2) and its power of two: subtracting the bits of sqrt(1/2)
# before cutting off the mantissa moves the border between two powers from 1 to there.
SQRT_HALF_BITS = 0x3F3504F3


@intrinsic
def _exponent(typing_context, x):
    """e as float32, where x = 2^e m with sqrt(1/2) <= m < sqrt(2)."""

    def generate(context, builder, signature, values):
        integer = ir.IntType(32)
        bits = builder.bitcast(values[0], integer)
        e = builder.ashr(builder.sub(bits, integer(SQRT_HALF_BITS)), integer(23))
        return builder.sitofp(e, ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def _mantissa(typing_context, x):
    """m, where x = 2^e m with sqrt(1/2) <= m < sqrt(2)."""

    def generate(context, builder, signature, values):
        integer = ir.IntType(32)
        bits = builder.bitcast(values[0], integer)
        e = builder.ashr(builder.sub(bits, integer(SQRT_HALF_BITS)), integer(23))
        bits = builder.sub(bits, builder.shl(e, integer(23)))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


# ------------------------------------------------------------------ exp


def exp(x):
    """e^x."""
    return math.exp(x)


def _exp32(x):
    y = _exp_within(x)
    y = select(x >= EXP_SMALLEST, y, ZERO)
    # Too large gives infinity; NaN, which fails every comparison, ends here too and stays NaN.
    return select(x <= EXP_LARGEST, y, x * INFINITY)


@overload(exp, jit_options=PRECISE)
def _exp(x):
    return _exp32 if x == types.float32 else exp


def _exp_within(x):
    """e^x for arguments known to be finite and within +-87: no questions asked at the ends."""
    return math.exp(x)


def _exp_within32(x):
    rounded = x * LOG2_E + ROUND
    n = rounded - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return _times_power(ONE + _expm1_reduced(r), rounded)


@overload(_exp_within, jit_options=PRECISE)
def _exp_within_overload(x):
    return _exp_within32


def _expm1_reduced(r):
    """e^r - 1 for |r| <= ln(2)/2."""
    return math.expm1(r)


def _expm1_reduced32(r):
    q = F(1.3814540073e-03)
    q = q * r + F(8.3687451079e-03)
    q = q * r + F(4.1668390786e-02)
    q = q * r + F(1.6666520399e-01)
    q = q * r + F(4.9999993432e-01)
    return r * r * q + r


@overload(_expm1_reduced, jit_options=PRECISE)
def _expm1(r):
    return _expm1_reduced32


# ------------------------------------------------------------------ sigmoid, tanh, erf


def sigmoid(x):
    """1 / (1 + e^-x)."""
    one = like(x, 1.0)
    return one / (one + exp(-x))


@overload(sigmoid, jit_options=PRECISE)
def _sigmoid(x):
    return sigmoid


def tanh(x):
    """(e^x - e^-x) / (e^x + e^-x)."""
    return math.tanh(x)


def _tanh32(x):
    a = abs(x)
    a = select(a > TANH_ONE, TANH_ONE, a)  # NaN stays NaN
    y = a + a
    rounded = y * LOG2_E + ROUND
    n = rounded - ROUND
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    power = _times_power(ONE, rounded)
    # e^y - 1 = 2^n (e^r - 1) + (2^n - 1): for small x, n is 0 and nothing cancels.
    t = power * _expm1_reduced(r) + (power - ONE)
    return _copy_sign(t / (t + TWO), x)


@overload(tanh, jit_options=PRECISE)
def _tanh(x):
    return _tanh32 if x == types.float32 else tanh


def erf(x):
    """The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return math.erf(x)


def _erf32(x):
    a = abs(x)
    s = x * x
    p = F(7.8538606019e-05)
    p = p * s + F(-8.0101933890e-04)
    p = p * s + F(5.1883276574e-03)
    p = p * s + F(-2.6853811919e-02)
    p = p * s + F(1.1283585148e-01)
    p = p * s + F(-3.7612625824e-01)
    p = p * s + F(1.2837916573e-01)  # 2/sqrt(pi) - 1: adding x last rounds better
    small = p * x + x
    # log(1 - erf(a)) on [1, 3.93], a polynomial in a.
    t = select(a > ERF_ONE, ERF_ONE, a)
    q = F(1.8637917320e-04)
    q = q * t + F(-2.9476581283e-03)
    q = q * t + F(2.1838063332e-02)
    q = q * t + F(-1.0310675318e-01)
    q = q * t + F(-6.3814483440e-01)
    q = q * t + F(-1.1270891892e00)
    q = q * t + F(-3.4152326689e-04)
    large = _copy_sign(ONE - _exp_within(q), x)
    return select(a >= ONE, large, small)  # NaN compares false, and `small` hands it on


@overload(erf, jit_options=PRECISE)
def _erf(x):
    return _erf32 if x == types.float32 else erf


# ------------------------------------------------------------------ log


def log(x):
    """The natural logarithm: -inf at 0, NaN below."""
    return math.log(x)


def _log32(x):
    is_tiny = x < SMALLEST
    scaled = select(is_tiny, x * TO_NORMAL, x)
    e = _exponent(scaled) - select(is_tiny, F(23.0), ZERO)
    f = _mantissa(scaled) - ONE
    # log(1 + f) = f - f^2/2 + f^3 p(f), with e ln 2 added in two pieces, smallest terms first
    p = F(-7.6344659659e-02)
    p = p * f + F(1.2762732659e-01)
    p = p * f + F(-1.3160728107e-01)
    p = p * f + F(1.4201641183e-01)
    p = p * f + F(-1.6623293601e-01)
    p = p * f + F(2.0001229578e-01)
    p = p * f + F(-2.5000822750e-01)
    p = p * f + F(3.3333331700e-01)
    square = f * f
    y = (square * f * p + e * LN2_LOW) - F(0.5) * square
    y = (f + y) + e * LN2_HIGH
    # Positive finite numbers keep y; the others have answers of their own.
    y = select(x < INFINITY, y, x)
    return select(x > ZERO, y, select(x == ZERO, -INFINITY, NAN))


@overload(log, jit_options=PRECISE)
def _log(x):
    return _log32 if x == types.float32 else log
