"""Quantisation: float32 stored in 16, 8 or 4 bits, and read back.

    code = round(x / scale)            value = code * scale

The rounding is to the nearest number of the format, ties to the one whose last bit is 0. A format
of few bits reaches only so far, so a *scale* brings the numbers into its range: the largest of
those that share it lands on the largest number of the format,

    scale = max |x| / largest

Who shares a scale is a *tile* of the matrix, (rows, columns): all of it (one outlier then takes
the digits of everybody else), or a block of 1 x 128, 128 x 128 or 1 x 16 numbers. Matrices
need not divide evenly: the last tiles are smaller.

Beyond the range. An 8- or 4-bit format saturates: what is finite but too large becomes its largest
number. bfloat16 and float16 overflow to infinity, as IEEE arithmetic does, and a loss scale counts
on that. An infinity is stored as one, or as NaN where the format has none; float4 has neither, and
stores its largest number and 0. That loses nothing where scales are taken from x itself: a NaN or
an infinity makes its tile's scale NaN or infinite, and all of the tile comes back as NaN.

Nothing here computes in few bits. A tensor core multiplies the codes, which is exact in float32,
adds up in float32, and applies the scales; we apply the scales as we read the codes back, and
multiply in float32. That gives the same products up to float32's rounding, and saves no time at
all.
"""

import math

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel
from baremetal.kernels.number_formats import E2M1, FORMATS, NumberFormat

TINY_SCALE = float(np.finfo(np.float32).tiny)  # keeps x / scale finite where all of x is 0

Tile = tuple[int, int]


def tiles_of(shape: tuple[int, ...], tile: Tile) -> tuple[int, int]:
    """How many tiles cover a matrix, down and across."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


@kernel(writes=("scales",))
def tile_scales(x: np.ndarray, scales: np.ndarray, *, divisor: float, tile: Tile) -> None:
    """scales (tiles down, tiles across) = max(max |x| / divisor, the smallest normal float32).

    x (rows, columns) float32, at least one element. A NaN in a tile makes its scale NaN. With the
    format's largest number for a divisor these are the scales of `quantize`. Dividing and rounding
    keep the order of numbers, so the scale of all is the largest scale of the parts: with a
    divisor of 1 this kernel makes one scale of many.
    """
    rows, columns = (np.arange(0, n, step) for n, step in zip(x.shape, tile, strict=True))
    largest = np.maximum.reduceat(np.maximum.reduceat(np.abs(x), rows, axis=0), columns, axis=1)
    scales[...] = np.maximum(largest / np.float32(divisor), np.float32(TINY_SCALE))


@tile_scales.costs
def _(x, scales, *, divisor, tile) -> Cost:
    return Cost(2 * x.size + scales.size, moved(x, scales))


@kernel(writes=("codes",))
def quantize(
    x: np.ndarray, scales: np.ndarray | None, codes: np.ndarray, *, format: str, tile: Tile
) -> None:
    """codes = x / scale in this format; x (rows, columns) float32, scales as `tile_scales` has it.

    `codes` is of the format's storage dtype: (rows, columns), or (rows, ⌈columns / 2⌉) bytes of two
    4-bit codes, the first in the low bits. Without scales x itself is stored. A scale of 0 (one
    that was itself stored in few bits can be) stores zeros.
    """
    number_format = FORMATS[format]
    values = x
    if scales is not None:
        each = _spread(scales, x.shape, tile)
        with np.errstate(all="ignore"):  # NaN and infinities have their answers
            values = np.where(each == 0, np.float32(0), x / each)
    numbers = _rounded(values, number_format)
    codes[...] = _packed(numbers.view(np.uint8)) if number_format == E2M1 else numbers


@quantize.costs
def _(x, scales, codes, *, format, tile) -> Cost:
    scaled = scales is not None
    return Cost(x.size * scaled, moved(x, codes) + (scales.nbytes if scaled else 0))


@kernel
def dequantize(
    codes: np.ndarray, scales: np.ndarray | None, out: np.ndarray, *, format: str, tile: Tile
) -> None:
    """out (rows, columns) float32 = codes * scale: `quantize` read back."""
    number_format = FORMATS[format]
    numbers = codes
    if number_format == E2M1:
        numbers = _unpacked(codes, out.shape[1]).view(number_format.number_dtype)
    values = numbers.astype(np.float32)
    if scales is not None:
        with np.errstate(all="ignore"):  # 0 * inf is NaN: the scale of a tile that held infinity
            values = values * _spread(scales, out.shape, tile)
    out[...] = values


@dequantize.costs
def _(codes, scales, out, *, format, tile) -> Cost:
    scaled = scales is not None
    return Cost(out.size * scaled, moved(codes, out) + (scales.nbytes if scaled else 0))


def _spread(scales: np.ndarray, shape: tuple[int, ...], tile: Tile) -> np.ndarray:
    """Each element's scale, (rows, columns)."""
    return scales.repeat(tile[0], axis=0)[: shape[0]].repeat(tile[1], axis=1)[:, : shape[1]]


def _rounded(values: np.ndarray, number_format: NumberFormat) -> np.ndarray:
    """The nearest numbers of the format, ties to even, with the rules for what lies outside."""
    lost = np.isnan(values)
    if number_format.has_nan and not number_format.has_infinity:
        lost = lost | np.isinf(values)
    numbers = np.where(lost, np.float32(math.nan if number_format.has_nan else 0), values)
    if number_format.saturates:
        limit = np.float32(number_format.largest)
        kept = np.isinf(numbers) & number_format.has_infinity
        numbers = np.where(kept, numbers, np.clip(numbers, -limit, limit))
    with np.errstate(over="ignore"):
        return numbers.astype(number_format.number_dtype)


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte, the first in the low bits: (rows, n) -> (rows, ⌈n / 2⌉)."""
    even, odd = codes[:, 0::2], codes[:, 1::2]
    packed = even.copy()
    packed[:, : odd.shape[1]] |= odd << 4
    return packed


def _unpacked(packed: np.ndarray, width: int) -> np.ndarray:
    """(rows, ⌈width / 2⌉) bytes -> (rows, width) codes, a byte each."""
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(len(packed), -1)[:, :width]
