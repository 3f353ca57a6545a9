"""Dropout: Philox against published vectors and NumPy's, and a mask that depends on nothing else.

The chain of evidence for Philox: a version for any word size, in Python integers, is checked
against NumPy's Philox4x64; with 32-bit words it checks ours, besides the published vectors.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import dropout as family
from baremetal.kernels.dropout import dropout, philox4x32, threshold
from baremetal.kernels.kernel import registry
from baremetal.kernels.native import dropout as native
from baremetal.kernels.native.pool import POOL

DTYPES = [np.float32, np.float64]

# Counter, key, result: the known-answer vectors of Random123 (file kat_vectors, philox4x32 10).
KNOWN_ANSWERS = [
    ("00000000" * 4, "00000000" * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff" * 4, "ffffffff" * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def hex_words(text):
    digits = text.replace(" ", "")
    return [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]


def philox_in_python(counter, key, bits):
    """Philox4xB-10 in Python integers, with the constants of the paper (table 2) for B bits."""
    if bits == 64:
        multipliers = 0xD2E7470EE14C6C93, 0xCA5A826395121157
        weyl = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
    else:
        multipliers, weyl = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
    modulus = 2**bits
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high_0, low_0 = divmod(multipliers[0] * c0, modulus)
        high_1, low_1 = divmod(multipliers[1] * c2, modulus)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + weyl[0]) % modulus, (k1 + weyl[1]) % modulus
    return [c0, c1, c2, c3]


word_32 = st.integers(0, 2**32 - 1)
word_64 = st.integers(0, 2**64 - 1)


@given(counter=st.tuples(*[word_64] * 4), key=st.tuples(*[word_64] * 2))
def test_the_python_version_with_64_bits_is_numpy_s(counter, key):
    # NumPy adds one to its 256-bit counter before it draws.
    number = (sum(c << 64 * i for i, c in enumerate(counter)) - 1) % 2**256
    theirs = np.random.Philox(counter=number, key=key[0] + (key[1] << 64)).random_raw(4)
    assert theirs.tolist() == philox_in_python(counter, key, 64)


@given(counter=st.tuples(*[word_32] * 4), key=st.tuples(*[word_32] * 2))
def test_the_python_version_with_32_bits_is_ours_twice(counter, key):
    expected = philox_in_python(counter, key, 32)
    ours = philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert ours.tolist() == expected
    compiled_source = native.philox(tuple(map(np.uint64, counter)), *map(np.uint64, key))
    assert [int(word) for word in compiled_source] == expected


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_known_answers(counter, key, result):
    counter, key, expected = hex_words(counter), hex_words(key), hex_words(result)
    ours = philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert ours.tolist() == expected
    compiled_source = native.philox(tuple(map(np.uint64, counter)), *map(np.uint64, key))
    assert [int(word) for word in compiled_source] == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_kernel_uses_the_first_known_answer(dtype):
    """All counters 0, key 0: element i is kept exactly up to the threshold of its word."""
    x, state = np.ones((1, 4), dtype), np.zeros(3, np.int64)
    for i, word in enumerate(hex_words(KNOWN_ANSWERS[0][2])):
        for p, kept in ((word / 2**32, True), ((word + 1) / 2**32, False)):
            out = np.empty_like(x)
            dropout.run(x, state, out, p=p, layer=0)
            assert (out[0, i] != 0) == kept


def mask(shape, seed=1, step=2, first=3, layer=4, p=0.3, dtype=np.float32):
    """Which elements a dropout keeps."""
    out = np.full(shape, np.nan, dtype)
    state = np.array([seed, step, first], np.int64)
    dropout.run(np.ones(shape, dtype), state, out, p=p, layer=layer)
    return out != 0


def test_every_kernel_has_a_native_version_a_cost_and_a_test_here():
    names = {k.name for k in registry().values() if k.__module__ == family.__name__}
    assert names == {"dropout"}
    x, state = np.zeros((3, 5), np.float32), np.zeros(3, np.int64)
    assert native.dropout(x, state, x.copy(), p=0.1, layer=0) is not None
    cost = dropout.cost(x, state, x, p=0.1, layer=0)
    assert (cost.flops, cost.size_bytes) == (15, 2 * 60 + 24)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    shape=st.one_of(
        st.tuples(st.integers(0, 3), st.integers(0, 600)),
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7)),
        st.tuples(st.integers(0, 9)),
    ),
    state=st.tuples(
        st.integers(-(2**63), 2**63 - 1),  # the seed has 64 bits; step and sample wrap at 32
        st.integers(0, 2**40),
        st.integers(0, 2**40),
    ),
    layer=st.integers(0, 1000),
    p=st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.999]),
    layout=st.sampled_from(["contiguous", "samples apart", "transposed"]),
)
def test_agrees_with_its_reference_bit_for_bit(dtype, shape, state, layer, p, layout):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if layout == "samples apart":
        x = np.repeat(x, 2, axis=0)[::2]
    elif layout == "transposed":
        x = np.asfortranarray(x)
    words = np.array(state, np.int64)
    out, expected = (np.full(shape, np.nan, dtype) for _ in range(2))
    dropout.run(x, words, out, p=p, layer=layer)
    dropout.reference(x, words, expected, p=p, layer=layer)
    assert np.array_equal(out, expected)
    if p == 0:
        assert np.array_equal(out, x)


def test_each_element_s_word_is_the_one_that_its_counter_names():
    """Element i of sample s takes word i % 4 of counter (i // 4, s, layer, step)."""
    seed, p = 0x1234567_89ABCDEF, 0.4
    kept = mask((2, 10), seed=seed, step=7, first=2**32 - 1, layer=9, p=p)
    for row, sample in enumerate((2**32 - 1, 0)):  # the sample number wraps
        for i in range(10):
            key = (seed % 2**32, seed >> 32)
            words = philox_in_python((i // 4, sample, 9, 7), key, 32)
            assert kept[row, i] == (words[i % 4] >= threshold(p))


@given(cuts=st.lists(st.integers(0, 12), max_size=4).map(sorted))
def test_the_mask_does_not_depend_on_how_the_batch_is_cut(cuts):
    whole = mask((12, 70), first=100)
    edges = [0, *cuts, 12]
    parts = [mask((b - a, 70), first=100 + a) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(mask((12, 7, 10), first=100).reshape(12, 70), whole)


def test_the_mask_depends_on_seed_step_layer_and_sample_alone():
    usual = mask((4, 256))
    assert np.array_equal(usual, mask((4, 256), dtype=np.float64))
    for other in ({"seed": 5}, {"seed": 1 + 2**32}, {"step": 5}, {"layer": 5}, {"first": 9}):
        agreeing = (usual == mask((4, 256), **other)).mean()
        assert 0.5 < agreeing < 0.66  # 0.3² + 0.7² = 0.58 for independent masks


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_kept_share_is_right_and_the_mean_stays(p):
    x, out = np.ones((10, 20_000), np.float32), np.empty((10, 20_000), np.float32)
    dropout.run(x, np.array([1, 2, 3]), out, p=p, layer=0)
    deviation = (p * (1 - p) / x.size) ** 0.5
    assert abs((out != 0).mean() - (1 - p)) < 4 * deviation
    assert np.all(np.isclose(out[out != 0], 1 / (1 - p), rtol=1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_dropped_is_zero_even_if_it_was_nan(dtype):
    x, out = np.full((2, 50), np.nan, dtype), np.empty((2, 50), dtype)
    dropout.run(x, np.array([1, 2, 3]), out, p=0.3, layer=4)
    kept = mask((2, 50))
    assert np.all(np.isnan(out[kept]))
    assert np.all(out[~kept] == 0)


def test_the_same_kernel_on_the_gradient_is_the_backward_and_works_in_place():
    rng = np.random.default_rng(1)
    x, grad = (rng.normal(size=(3, 300)) for _ in range(2))
    state, out, dx = np.array([1, 2, 3]), np.empty_like(x), np.empty_like(x)
    dropout.run(x, state, out, p=0.3, layer=4)
    dropout.run(grad, state, dx, p=0.3, layer=4)
    assert np.vdot(out, grad) == pytest.approx(np.vdot(x, dx), rel=1e-12)
    dropout.run(x, state, x, p=0.3, layer=4)
    assert np.array_equal(x, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 257), (2, 5, 7), (1, 3)])
def test_nothing_beside_the_output_is_written_and_pieces_agree(dtype, shape, check):
    x = np.random.default_rng(2).normal(size=shape).astype(dtype)
    state = np.array([1, 2, 3], np.int64)
    eps = np.finfo(dtype).eps  # the reference is asked in float64 here
    check(dropout, x, state, out=(shape, dtype), rtol=4 * eps, p=0.3, layer=4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_thread_and_all_threads_give_the_same_bits(dtype):
    results, threads = [], POOL.threads
    try:
        for count in (1, POOL.largest):
            POOL.set_threads(count)
            results.append(mask((7, 5001), dtype=dtype).tobytes())
    finally:
        POOL.set_threads(threads)
    assert results[0] == results[1]
