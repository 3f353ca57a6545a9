"""Narrow formats against ml_dtypes, code by code; the compiled kernels against their references.

Everything here is exact: a code is right or wrong, and so is the float32 it stands for.
"""

import ctypes
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels.kernel import registry
from baremetal.kernels.number_formats import BFLOAT16, E2M1, E4M3, E5M2, FLOAT16, FORMATS
from baremetal.kernels.quantize import TINY_SCALE, dequantize, quantize, tile_scales, tiles_of

every_format = pytest.mark.parametrize("f", FORMATS.values(), ids=lambda f: f.name)


def code_type(f):
    return np.uint16 if f.bits == 16 else np.uint8


def all_codes(f):
    """Every code of the format, one an element."""
    return np.arange(2**f.bits).astype(code_type(f))


def numbers_of(f):
    """Every number of the format as float32, by ml_dtypes; NaN and infinities too."""
    return all_codes(f).view(f.number_dtype).astype(np.float32)


def stored(f, x, scales=None, tile=None, run=True):
    """The codes of a matrix, one an element, by the compiled kernel or by the reference."""
    codes = np.full((x.shape[0], f.stored_width(x.shape[1])), 77, np.uint8).astype(code_type(f))
    codes = codes.view(f.storage_dtype)
    how = {"format": f.name, "tile": tile or (*x.shape,)}
    if run:
        launches = quantize.pack(x, scales, codes, **how)
        assert launches is not None
        for launch in launches:
            launch.run()
    else:
        quantize.reference(x, scales, codes, **how)
    return codes


def read_back(f, codes, shape, scales=None, tile=None, run=True):
    out = np.full(shape, np.nan, np.float32)
    how = {"format": f.name, "tile": tile or (*shape,)}
    if run:
        assert dequantize.pack(codes, scales, out, **how) is not None
    (dequantize.run if run else dequantize.reference)(codes, scales, out, **how)
    return out


def bits(array):
    """To compare NaN, -0 and all: NaN made one, then the bytes."""
    wide = array.astype(np.float32)
    return np.where(np.isnan(wide), np.float32(np.nan), wide).view(np.uint32)


# ---------------------------------------------------------------- the formats


@every_format
def test_a_format_is_what_ml_dtypes_says(f):
    numbers = numbers_of(f)
    finite = numbers[np.isfinite(numbers)]
    assert f.largest == finite.max() == float(ml_dtypes.finfo(f.number_dtype).max)
    assert f.smallest == finite[finite > 0].min()
    assert f.smallest_normal == float(ml_dtypes.finfo(f.number_dtype).smallest_normal)
    assert f.has_infinity == np.isinf(numbers).any()
    assert f.has_nan == np.isnan(numbers).any()
    assert f.bits == 1 + f.exponent_bits + f.mantissa_bits == round(math.log2(numbers.size))


@every_format
def test_numbers_are_what_the_formula_says(f):
    """(-1)^s 2^(e - bias) (1 + m / 2^M), or 2^(1 - bias) m / 2^M for e = 0."""
    for code, number in zip(all_codes(f).tolist(), numbers_of(f).tolist(), strict=True):
        if not math.isfinite(number):
            continue
        sign, e = code >> (f.bits - 1), code >> f.mantissa_bits & (2**f.exponent_bits - 1)
        m = code % 2**f.mantissa_bits / 2**f.mantissa_bits
        size = 2.0 ** (e - f.bias) * (1 + m) if e else f.smallest_normal * m
        assert number == (-size if sign else size)


# ---------------------------------------------------------------- there and back


def interesting(f):
    """Each number of the format, what lies half-way between two, and their neighbours."""
    numbers = np.unique(numbers_of(f)[np.isfinite(numbers_of(f))]).astype(np.float64)
    halves = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    beyond = np.minimum(f.largest * np.array([1.001, 1.06, 1.07, 1.99, 1e9]), 3.4e38)
    beyond = beyond.astype(np.float32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38])
    with np.errstate(over="ignore"):
        x = np.concatenate([numbers.astype(np.float32), halves, beyond, -beyond, special])
        return np.concatenate(
            [x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))]
        )[None, :]


@every_format
def test_every_code_survives_and_is_read_as_ml_dtypes_reads_it(f):
    numbers = numbers_of(f)
    codes = stored(f, numbers[None, :])
    np.testing.assert_array_equal(bits(read_back(f, codes, (1, numbers.size))[0]), bits(numbers))


@every_format
def test_ties_neighbours_and_extremes_are_rounded_as_ml_dtypes_rounds(f):
    x = interesting(f)
    codes = stored(f, x)
    np.testing.assert_array_equal(
        codes.view(code_type(f)), stored(f, x, run=False).view(code_type(f))
    )
    # The oracle itself, with our rule for what lies beyond the range: 8 and 4 bits saturate.
    limit = np.float32(f.largest)
    inside = np.clip(x, -limit, limit) if f.saturates else x
    with np.errstate(over="ignore"):
        theirs = inside.astype(f.number_dtype).astype(np.float32)
    ours = read_back(f, codes, x.shape)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(bits(ours[finite]), bits(theirs[finite]))


@every_format
def test_what_becomes_of_infinity_nan_and_the_too_large(f):
    large = min(2 * f.largest, 3.4028234e38)  # in bfloat16 that rounds up to 2^128
    x = np.float32([[np.inf, -np.inf, np.nan, large, -large]])
    expected = {
        "float8_e5m2": [np.inf, -np.inf, np.nan, 57344, -57344],
        "float8_e4m3fn": [np.nan, np.nan, np.nan, 448, -448],
        "float4_e2m1fn": [6, -6, 0, 6, -6],
    }.get(f.name, [np.inf, -np.inf, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(read_back(f, stored(f, x), x.shape)[0], np.float32(expected))


@every_format
@given(raw=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), rows=st.integers(1, 3))
def test_any_float32_is_stored_as_the_reference_stores_it(f, raw, rows):
    x = np.resize(np.array(raw, np.uint32).view(np.float32), (rows, -(-len(raw) // rows)))
    codes = stored(f, x)
    expected = stored(f, x, run=False)
    np.testing.assert_array_equal(codes.view(code_type(f)), expected.view(code_type(f)))
    back, reference = (read_back(f, codes, x.shape, run=run) for run in (True, False))
    np.testing.assert_array_equal(bits(back), bits(reference))


@pytest.mark.parametrize("f", [BFLOAT16, FLOAT16, E5M2, E4M3], ids=lambda f: f.name)
def test_all_thirty_two_bits_in_steps(f):
    """Every 10,007th float32 there is, against ml_dtypes alone."""
    x = np.arange(0, 2**32, 10_007, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)][None, :]
    limit = np.float32(f.largest)
    with np.errstate(over="ignore"):
        theirs = (np.clip(x, -limit, limit) if f.saturates else x).astype(f.number_dtype)
    np.testing.assert_array_equal(stored(f, x).view(code_type(f)), theirs.view(code_type(f)))


def test_two_codes_share_a_byte_the_first_in_the_low_bits():
    x = np.float32([[0.5, 6.0, -1.5], [0.0, -0.0, 3.0]])
    codes = stored(E2M1, x)
    assert codes.tolist() == [[0x71, 0x0B], [0x80, 0x05]]
    np.testing.assert_array_equal(read_back(E2M1, codes, x.shape), x)


# ---------------------------------------------------------------- scales

TILES = [(1, 16), (16, 16), (1, 128), (128, 128), (3, 4), (1000, 1000), (1, 1000), (1000, 2)]


def matrix(rows, columns, seed, special):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    x *= np.float32(10) ** rng.integers(-30, 30, x.shape).astype(np.float32)
    if special:
        chosen = rng.random(x.shape) < 0.05
        values = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1e-38])
        x[chosen] = rng.choice(values, chosen.sum())
    return x


matrices = st.builds(
    matrix, st.integers(1, 40), st.integers(1, 150), st.integers(0, 2**32 - 1), st.booleans()
)


@given(x=matrices, tile=st.sampled_from(TILES), divisor=st.sampled_from([1.0, 6.0, 448.0]))
def test_scales_bring_the_largest_of_each_tile_to_the_divisor(x, tile, divisor):
    scales, expected = (np.full(tiles_of(x.shape, tile), np.nan, np.float32) for _ in range(2))
    tile_scales.run(x, scales, divisor=divisor, tile=tile)
    tile_scales.reference(x, expected, divisor=divisor, tile=tile)
    np.testing.assert_array_equal(scales, expected)
    for down, across in np.ndindex(scales.shape):
        part = x[down * tile[0] :, across * tile[1] :][: tile[0], : tile[1]]
        largest = max(np.float32(np.abs(part).max()) / np.float32(divisor), np.float32(TINY_SCALE))
        np.testing.assert_equal(scales[down, across], largest)


@given(x=matrices, tile=st.sampled_from(TILES))
def test_the_scale_of_all_is_the_largest_scale_of_the_parts(x, tile):
    parts = np.empty(tiles_of(x.shape, tile), np.float32)
    of_parts, of_all = np.empty((1, 1), np.float32), np.empty((1, 1), np.float32)
    tile_scales.run(x, parts, divisor=448.0, tile=tile)
    tile_scales.run(parts, of_parts, divisor=1.0, tile=parts.shape)
    tile_scales.run(x, of_all, divisor=448.0, tile=x.shape)
    np.testing.assert_array_equal(of_parts, of_all)


@every_format
@given(x=matrices, tile=st.sampled_from(TILES))
def test_a_scaled_matrix_there_and_back_is_the_reference_s(f, x, tile):
    scales = np.empty(tiles_of(x.shape, tile), np.float32)
    tile_scales.run(x, scales, divisor=f.largest, tile=tile)
    codes = stored(f, x, scales, tile)
    expected = stored(f, x, scales, tile, run=False)
    np.testing.assert_array_equal(codes.view(code_type(f)), expected.view(code_type(f)))
    back = read_back(f, codes, x.shape, scales, tile)
    reference = read_back(f, codes, x.shape, scales, tile, run=False)
    np.testing.assert_array_equal(bits(back), bits(reference))
    # An element of a tile with a NaN or an infinity comes back as NaN: nothing is lost unseen.
    spoilt = ~np.isfinite(scales).repeat(tile[0], 0)[: x.shape[0]].repeat(tile[1], 1)
    assert np.isnan(back[spoilt[:, : x.shape[1]]]).all()


@every_format
def test_a_scale_of_zero_stores_zeros(f):
    x = np.float32([[1.0, -2.0, 0.0, 3.0]])
    codes = stored(f, x, np.zeros((1, 1), np.float32), (1, 4))
    assert not codes.view(code_type(f)).any()


@every_format
def test_zeros_have_a_scale_and_stay_zeros(f):
    x, scales = np.zeros((2, 8), np.float32), np.empty((2, 1), np.float32)
    tile_scales.run(x, scales, divisor=f.largest, tile=(1, 8))
    assert scales.tolist() == [[TINY_SCALE]] * 2
    codes = stored(f, x, scales, (1, 8))
    np.testing.assert_array_equal(read_back(f, codes, x.shape, scales, (1, 8)), x)


@given(x=matrices)
def test_the_error_is_at_most_half_a_step_of_the_tile_s_largest(x):
    """The relative step of e4m3 is 1/8, and 2^-9 of the scale below its normal numbers."""
    x = np.where(np.isfinite(x) & (np.abs(x) < 1e30), x, np.float32(0))
    scales = np.empty(tiles_of(x.shape, (1, 16)), np.float32)
    tile_scales.run(x, scales, divisor=448.0, tile=(1, 16))
    back = read_back(E4M3, stored(E4M3, x, scales, (1, 16)), x.shape, scales, (1, 16))
    each = scales.repeat(16, axis=1)[:, : x.shape[1]].astype(np.float64)
    allowed = np.maximum(np.abs(x) / 16, each * 2.0**-10) * (1 + 1e-6)
    assert (np.abs(back.astype(np.float64) - x) <= allowed).all()


# ---------------------------------------------------------------- the kernels as such


def test_every_kernel_has_a_cost_of_real_bytes():
    x, scales = np.zeros((4, 32), np.float32), np.zeros((4, 2), np.float32)
    codes = np.zeros((4, 16), np.uint8)  # two numbers to a byte
    cost = quantize.cost(x, scales, codes, format="float4_e2m1fn", tile=(1, 16))
    assert (cost.flops, cost.size_bytes) == (128, 512 + 32 + 64)
    cost = dequantize.cost(codes, scales, x, format="float4_e2m1fn", tile=(1, 16))
    assert (cost.flops, cost.size_bytes) == (128, 512 + 32 + 64)
    half = np.zeros((4, 32), ml_dtypes.bfloat16)
    cost = quantize.cost(x, None, half, format="bfloat16", tile=(4, 32))
    assert (cost.flops, cost.size_bytes) == (0, 512 + 256)
    cost = tile_scales.cost(x, scales, divisor=6.0, tile=(1, 16))
    assert (cost.flops, cost.size_bytes) == (2 * 128 + 8, 512 + 32)
    names = {k.name for k in registry().values() if k.__module__.endswith("kernels.quantize")}
    assert names == {"tile_scales", "quantize", "dequantize"}


@every_format
@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_nothing_beside_the_result_is_written_in_any_number_of_pieces(f, pieces):
    x = matrix(9, 37, 3, special=True)
    width = f.stored_width(37)
    memory = np.full((11, width), 0x5A, code_type(f))
    codes = memory[1:10].view(f.storage_dtype)
    (launch,) = quantize.pack(x, None, codes, format=f.name, tile=x.shape)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    for piece in range(pieces):
        lo, hi = 9 * piece // pieces, 9 * (piece + 1) // pieces
        kind(launch.address)(lo, hi, launch.block.ctypes.data)
    assert (memory[[0, -1]] == 0x5A).all()
    expected = stored(f, x, run=False).view(code_type(f))
    np.testing.assert_array_equal(memory[1:10], expected)


def test_what_is_not_contiguous_or_cuts_a_byte_is_left_to_numpy():
    x, scales = np.ones((4, 6), np.float32), np.ones((4, 2), np.float32)
    codes = np.zeros((4, 3), np.uint8)
    assert quantize.pack(x, scales, codes, format="float4_e2m1fn", tile=(1, 3)) is None
    quantize.run(x, scales, codes, format="float4_e2m1fn", tile=(1, 3))
    assert (codes == 0x22).all()
    wide = np.zeros((6, 4), ml_dtypes.bfloat16)
    assert quantize.pack(x.T, None, wide, format="bfloat16", tile=(6, 4)) is None
    quantize.run(x.T, None, wide, format="bfloat16", tile=(6, 4))
    assert (wide == 1).all()
    assert tile_scales.pack(x.T, scales, divisor=1.0, tile=(2, 4)) is None
