"""Quantisation, compiled: the bits of a float32 turned into those of a narrower number.

Both have the same order, sign, exponent, mantissa, so narrowing is a shift by the 23 - M mantissa
bits that go, with two corrections: the exponent counts from another bias, and what is cut off is
rounded to the nearest, ties to even, by adding just under half before the shift, and one more if
the last bit that stays is 1. A carry out of the mantissa runs into the exponent, which is right.

    code = (bits + half - 1 + last) >> (23 - M)   -   (127 - bias) << M

Below the format's smallest normal number there is no exponent to count: the code is the number of
multiples of the smallest number. Adding a power of two whose own last bit has that value makes the
adder round there, and leaves the count in the low bits of the sum.

Reading back goes the same two ways in reverse. (A shift and one product with 2^(127 - bias) would
do for both, but of subnormal float32 numbers, which take a processor ten times as long; in 4 bits
every eighth code is one.)

The format is no part of the body: its few numbers are words of the block, so three bodies (codes of
16, of 8 and of 4 bits) serve all formats.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from baremetal.kernels.native.abi import (
    Launch,
    body,
    integer,
    offset,
    pointer,
    pointer_f32,
    pointer_u8,
    pointer_u16,
    scalar,
)
from baremetal.kernels.native.compiler import inlined
from baremetal.kernels.native.vmath import like, select
from baremetal.kernels.number_formats import FORMATS, NumberFormat
from baremetal.kernels.quantize import TINY_SCALE, Tile, tiles_of

SINGLE = np.dtype(np.float32)
NEVER = 1 << 20  # a code that no format has
ONE = np.ones((1, 1), np.float32)  # the scale of what has none


@intrinsic
def bits_of(typing_context, x):
    """The 32 bits of a float32, as an integer."""

    def generate(context, builder, signature, values):
        bits = builder.bitcast(values[0], ir.IntType(32))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(types.float32), generate


@intrinsic
def float_of(typing_context, bits):
    """The float32 with these bits."""

    def generate(context, builder, signature, values):
        low = builder.trunc(values[0], ir.IntType(32))
        return builder.bitcast(low, ir.FloatType())

    return types.float32(types.int64), generate


# ---------------------------------------------------------------- scales


@body
def tile_scales_body(lo, hi, args):
    """Rows lo..hi of tiles. Words: 0 x, 1 scales, 2 rows, 3 columns, 4 tile rows, 5 tile columns,
    6 tiles across, 7 divisor, 8 the smallest scale."""
    rows, columns, across = integer(args, 2), integer(args, 3), integer(args, 6)
    tall, wide = integer(args, 4), integer(args, 5)
    for down in range(lo, hi):
        scales = offset(pointer_f32(args, 1), down * across)
        for tile in range(across):
            # Of numbers without a sign, bits and values have one order, with NaN at the top.
            largest = 0
            for row in range(down * tall, min((down + 1) * tall, rows)):
                x = offset(pointer(args, 0), row * columns + tile * wide)
                for j in range(min(wide, columns - tile * wide)):
                    largest = max(largest, bits_of(x[j]) & 0x7FFFFFFF)
            scale = float_of(largest) / scalar(args, 7)
            smallest = scalar(args, 8)
            scales[tile] = select(scale < smallest, smallest, scale)  # NaN is not smaller


def tile_scales(x, scales, *, divisor, tile):
    """Pack the scales: each thread takes rows of tiles."""
    if not _are_plain(x, scales):
        return None
    down, across = tiles_of(x.shape, tile)
    tall, wide = _within(tile, x.shape)
    words = (x, scales, *x.shape, tall, wide, across, float(divisor), TINY_SCALE)
    return [Launch(tile_scales_body, SINGLE, words, down, x.size // max(down, 1))]


# ---------------------------------------------------------------- one number there and back

# Word 8 of a block and those after it say what the format is.
KEPT, SIGN = 8, 9  # M, and the place of the sign bit
# To encode:
REBIAS, LARGEST, BEYOND, INFINITE, NAN, LOST, NORMAL, MAGIC = 10, 11, 12, 13, 14, 15, 16, 17
# To decode:
SPECIAL, INFINITY, EXPONENT, DECODING_MAGIC = 10, 11, 12, 13


@cache
def _format_words(f: NumberFormat) -> tuple[list[Any], list[Any]]:
    """The words that encoding needs, and those that decoding needs."""
    samples = np.array([f.largest, math.inf, math.nan], np.float32).astype(f.number_dtype)
    codes = samples.view(np.uint16 if f.bits == 16 else np.uint8)
    largest, infinity, nan = (int(code) for code in codes)
    # From these float32 bits on NaN is stored: from those of infinity on, if that has no code.
    lost = 0x7F800000 if f.has_nan and not f.has_infinity else 0x7F800001
    encoding = [
        f.mantissa_bits, f.bits - 1,
        (127 - f.bias) << f.mantissa_bits,
        largest,
        largest if f.saturates else infinity,
        infinity if f.has_infinity else largest,
        nan if f.has_nan else 0,
        lost,
        f.smallest_normal,
        f.smallest * 2.0**23,
    ]  # fmt: skip
    decoding = [
        f.mantissa_bits, f.bits - 1,
        largest + 1 if f.has_nan else NEVER, infinity if f.has_infinity else NEVER,
        (127 - f.bias) << 23, f.smallest * 2.0**23,
    ]  # fmt: skip
    return encoding, decoding


@inlined
def encoded(value, args):
    """The code of a float32 in the format that the block names."""
    normal, magic = scalar(args, NORMAL), scalar(args, MAGIC)
    shift = 23 - integer(args, KEPT)
    bits = bits_of(value)
    size = bits & 0x7FFFFFFF
    last = (size >> shift) & 1
    rounded = ((size + (1 << (shift - 1)) - 1 + last) >> shift) - integer(args, REBIAS)
    # MAGIC's last bit is the format's smallest number.
    counted = bits_of(float_of(size) + magic) - bits_of(magic)
    code = select(float_of(size) < normal, counted, rounded)
    code = select(code > integer(args, LARGEST), integer(args, BEYOND), code)
    code = select(size == 0x7F800000, integer(args, INFINITE), code)
    code = code | (bits >> 31 << integer(args, SIGN))
    return select(size >= integer(args, LOST), integer(args, NAN), code)


@inlined
def decoded(code, args):
    """The float32 that a code stands for."""
    sign_bit = integer(args, SIGN)
    size = code & ((1 << sign_bit) - 1)
    sign = code >> sign_bit << 31
    kept, magic = integer(args, KEPT), scalar(args, DECODING_MAGIC)
    normal = float_of((size << (23 - kept)) + integer(args, EXPONENT))
    counted = float_of(bits_of(magic) + size) - magic
    value = select(size < 1 << kept, counted, normal)
    value = float_of(bits_of(value) | sign)
    infinity, nan = float_of(sign | 0x7F800000), float_of(np.int64(0x7FC00000))
    beyond = select(size == integer(args, INFINITY), infinity, nan)
    return select(size >= integer(args, SPECIAL), beyond, value)


@inlined
def divided(value, scale):
    """value / scale, and 0 where the scale is 0."""
    zero = like(value, 0)
    return select(scale == zero, zero, value / scale)


# ---------------------------------------------------------------- matrices
#
# Words of the six bodies: 0 x or codes, 1 scales, 2 codes or out, 3 columns, 4 tile rows, 5 tile
# columns, 6 tiles across, 7 bytes or numbers in a row of codes, from 8 on the format. An item is a
# row. The range of columns that share a scale is the inner loop.


@body
def quantize_16_body(lo, hi, args):
    """Rows lo..hi of codes of 16 bits."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        x = offset(pointer(args, 0), row * columns)
        scales = offset(pointer(args, 1), row // tall * across)
        codes = offset(pointer_u16(args, 2), row * columns)
        for tile in range(across):
            for j in range(tile * wide, min((tile + 1) * wide, columns)):
                codes[j] = encoded(divided(x[j], scales[tile]), args)


@body
def quantize_8_body(lo, hi, args):
    """Rows lo..hi of codes of 8 bits."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        x = offset(pointer(args, 0), row * columns)
        scales = offset(pointer(args, 1), row // tall * across)
        codes = offset(pointer_u8(args, 2), row * columns)
        for tile in range(across):
            for j in range(tile * wide, min((tile + 1) * wide, columns)):
                codes[j] = encoded(divided(x[j], scales[tile]), args)


@body
def quantize_4_body(lo, hi, args):
    """Rows lo..hi of codes of 4 bits, two to a byte; a tile is of an even width, or the row."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        x = offset(pointer(args, 0), row * columns)
        scales = offset(pointer(args, 1), row // tall * across)
        codes = offset(pointer_u8(args, 2), row * integer(args, 7))
        for tile in range(across):
            end = min((tile + 1) * wide, columns)
            for pair in range(tile * wide // 2, end // 2):
                low = encoded(divided(x[2 * pair], scales[tile]), args)
                high = encoded(divided(x[2 * pair + 1], scales[tile]), args)
                codes[pair] = low | high << 4
            if end % 2 != 0:
                codes[end // 2] = encoded(divided(x[end - 1], scales[tile]), args)


@body
def dequantize_16_body(lo, hi, args):
    """Rows lo..hi of out, from codes of 16 bits."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        codes = offset(pointer_u16(args, 0), row * columns)
        scales = offset(pointer(args, 1), row // tall * across)
        out = offset(pointer(args, 2), row * columns)
        for tile in range(across):
            for j in range(tile * wide, min((tile + 1) * wide, columns)):
                out[j] = decoded(np.int64(codes[j]), args) * scales[tile]


@body
def dequantize_8_body(lo, hi, args):
    """Rows lo..hi of out, from codes of 8 bits."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        codes = offset(pointer_u8(args, 0), row * columns)
        scales = offset(pointer(args, 1), row // tall * across)
        out = offset(pointer(args, 2), row * columns)
        for tile in range(across):
            for j in range(tile * wide, min((tile + 1) * wide, columns)):
                out[j] = decoded(np.int64(codes[j]), args) * scales[tile]


@body
def dequantize_4_body(lo, hi, args):
    """Rows lo..hi of out, from codes of 4 bits, two to a byte."""
    columns, tall, wide, across = tile_words(args)
    for row in range(lo, hi):
        codes = offset(pointer_u8(args, 0), row * integer(args, 7))
        scales = offset(pointer(args, 1), row // tall * across)
        out = offset(pointer(args, 2), row * columns)
        for tile in range(across):
            end = min((tile + 1) * wide, columns)
            for pair in range(tile * wide // 2, end // 2):
                both = np.int64(codes[pair])
                out[2 * pair] = decoded(both & 15, args) * scales[tile]
                out[2 * pair + 1] = decoded(both >> 4, args) * scales[tile]
            if end % 2 != 0:
                out[end - 1] = decoded(np.int64(codes[end // 2]) & 15, args) * scales[tile]


@inlined
def tile_words(args):
    """Columns, tile rows, tile columns, tiles across."""
    return integer(args, 3), integer(args, 4), integer(args, 5), integer(args, 6)


QUANTIZE = {16: quantize_16_body, 8: quantize_8_body, 4: quantize_4_body}
DEQUANTIZE = {16: dequantize_16_body, 8: dequantize_8_body, 4: dequantize_4_body}
WORK = 4  # a number there or back takes about as long as so many additions


def quantize(x, scales, codes, *, format, tile):
    """Pack the storing; None unless all arrays are contiguous and no byte lies in two tiles."""
    f = FORMATS[format]
    return _packed(QUANTIZE[f.bits], x, scales, codes, x.shape, tile, f, _format_words(f)[0])


def dequantize(codes, scales, out, *, format, tile):
    """Pack the reading back; None under the same conditions."""
    f = FORMATS[format]
    return _packed(DEQUANTIZE[f.bits], codes, scales, out, out.shape, tile, f, _format_words(f)[1])


def _packed(body, source, scales, result, shape, tile, f, words) -> Sequence[Launch] | None:
    rows, columns = shape
    if scales is None:
        scales, tile = ONE, shape
    tall, wide = _within(tile, shape)
    if f.bits == 4 and wide % 2 and wide < columns:
        return None
    if not _are_plain(source, scales, result):
        return None
    _, across = tiles_of(shape, (tall, wide))
    block = (
        source, scales, result, columns, tall, wide, across, f.stored_width(columns), *words
    )  # fmt: skip
    return [Launch(body, SINGLE, block, rows, columns * WORK)]


def _within(tile: Tile, shape: tuple[int, ...]) -> Tile:
    """The tile cut to the matrix, which may be smaller; at least 1 x 1."""
    return max(min(tile[0], shape[0]), 1), max(min(tile[1], shape[1]), 1)


def _are_plain(*arrays: np.ndarray) -> bool:
    """Contiguous; float32 where they are no codes."""
    return all(a.flags.c_contiguous and a.dtype != np.float64 for a in arrays)
