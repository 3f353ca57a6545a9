"""Narrow floating-point formats: what a number of 16, 8 or 4 bits can be.

A floating-point number is a sign s, an exponent field e of E bits and a mantissa field m of M bits:

    value = (-1)^s  2^(e - bias)  (1 + m / 2^M)          e > 0: a normal number
    value = (-1)^s  2^(1 - bias)  (m / 2^M)              e = 0: zero and the subnormal numbers

with bias = 2^(E - 1) - 1. E decides how far the numbers reach, M how close they lie:

                        E  M    largest    smallest normal   relative step
    float32             8  23   3.4e38     1.2e-38           1.2e-7
    bfloat16            8  7    3.4e38     1.2e-38           0.0078       float32, cut in half
    float16             5  10   65504      6.1e-5            0.00098
    float8_e5m2         5  2    57344      6.1e-5            0.25
    float8_e4m3fn       4  3    448        0.016             0.125
    float4_e2m1fn       2  1    6          1                 0.5          0 0.5 1 1.5 2 3 4 6

The highest exponent usually means infinity (m = 0) or NaN. `float8_e4m3fn` gives all but one of its
codes to numbers ("fn": finite, with one NaN), `float4_e2m1fn` all of them.

float8: P. Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv:2209.05433. float4:
Open Compute Project, "Microscaling Formats (MX) Specification", version 1.0, 2023. The names are
those of `ml_dtypes`, whose conversions are the oracle of our tests.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class NumberFormat:
    """A floating-point format narrower than float32.

    Attributes:
        name: as `ml_dtypes` (or NumPy) spells it.
        exponent_bits, mantissa_bits: E and M.
        largest: the largest finite number.
        has_infinity, has_nan: whether codes are set aside for these.
        saturates: what lies beyond `largest` is stored as `largest`, not as infinity.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    largest: float
    has_infinity: bool
    has_nan: bool
    saturates: bool

    @property
    def bits(self) -> int:
        """The bits of one number, its sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def smallest_normal(self) -> float:
        """2^(1 - bias): below it numbers lose digits, down to 0."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest(self) -> float:
        """The smallest number above 0."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    @property
    def number_dtype(self) -> np.dtype:
        """NumPy's dtype for one number; of 4 bits it still takes a byte."""
        return np.dtype(getattr(ml_dtypes, self.name, self.name))

    @property
    def storage_dtype(self) -> np.dtype:
        """What a stored array consists of: numbers, or bytes that hold two of 4 bits."""
        return np.dtype(np.uint8) if self.bits == 4 else self.number_dtype

    def stored_width(self, width: int) -> int:
        """Elements of `storage_dtype` in a row of `width` numbers; each row begins a new byte."""
        return -(-width // 2) if self.bits == 4 else width


BFLOAT16 = NumberFormat("bfloat16", 8, 7, 2.0**127 * (2 - 2**-7), True, True, saturates=False)
FLOAT16 = NumberFormat("float16", 5, 10, 65504.0, True, True, saturates=False)
E5M2 = NumberFormat("float8_e5m2", 5, 2, 57344.0, True, True, saturates=True)
E4M3 = NumberFormat("float8_e4m3fn", 4, 3, 448.0, False, True, saturates=True)
E2M1 = NumberFormat("float4_e2m1fn", 2, 1, 6.0, False, False, saturates=True)

FORMATS = {f.name: f for f in (BFLOAT16, FLOAT16, E5M2, E4M3, E2M1)}
