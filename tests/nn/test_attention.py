"""Attention against the softmax of a matrix of scores; causality; rotation; head counts."""

import numpy as np
import pytest

from baremetal.autograd import Tensor, gradcheck, no_grad
from baremetal.nn import CausalSelfAttention, KeyValueCache
from baremetal.nn.attention import rotary_tables
from baremetal.nn.cache import LayerCache

CASES = {
    "multi-head": {"heads": 4},
    "grouped": {"heads": 4, "kv_heads": 2},
    "multi-query": {"heads": 4, "kv_heads": 1, "bias": False},
    "rotary": {"heads": 2, "kv_heads": 1, "rotary": rotary_tables(9, 4, base=100.0)},
}


def build(case, width=8):
    options = dict(CASES[case])
    rng = np.random.default_rng(0)
    width = options["heads"] * (4 if "rotary" in options else width // options["heads"])
    return CausalSelfAttention(width, rng=rng, **options).to(np.float64), width


def turn(x, cos, sin):
    """Rotate the pairs (x_i, x_{i + d/2}) of each row of x (T, d), as complex numbers."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)
    return np.concatenate([z.real, z.imag], axis=-1)


def attend(layer, x):
    """One sample (T, width), head by head and row by row, in float64."""

    def linear(part, x):
        return x @ part.weight.data.T + (0 if part.bias is None else part.bias.data)

    d, heads, kv_heads = layer.head_width, layer.heads, layer.kv_heads
    columns = np.split(linear(layer.qkv, x), heads + 2 * kv_heads, axis=-1)
    queries, keys, values = np.split(np.array(columns), [heads, heads + kv_heads])
    if layer.rotary is not None:
        cos, sin = (table[: len(x)].astype(np.float64) for table in layer.rotary)
        queries = [turn(q, cos, sin) for q in queries]
        keys = [turn(k, cos, sin) for k in keys]
    out = np.zeros((len(x), heads, d))
    for h in range(heads):
        group = h // (heads // kv_heads)
        for t in range(len(x)):
            scores = keys[group][: t + 1] @ queries[h][t] / np.sqrt(d)
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ values[group][: t + 1] / weights.sum()
    return linear(layer.out, out.reshape(len(x), -1))


@pytest.mark.parametrize("case", CASES)
def test_attention_is_the_softmax_of_scores(case, spread):
    layer, width = build(case)
    spread(layer)
    x = np.random.default_rng(1).standard_normal((2, 7, width))
    expected = np.stack([attend(layer, sample) for sample in x])
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_its_gradients_are_central_differences(case, spread, as_function):
    layer, width = build(case)
    spread(layer)
    array = np.random.default_rng(1).standard_normal((1, 4, width))
    gradcheck(lambda x: layer(x), [array])
    x = Tensor(array)
    function, values = as_function(layer, lambda: layer(x))
    gradcheck(function, values)


@pytest.mark.parametrize("case", CASES)
def test_what_comes_later_changes_nothing_before(case, spread):
    layer, width = build(case)
    spread(layer)
    x = np.random.default_rng(1).standard_normal((1, 7, width))
    changed = x.copy()
    changed[:, 4:] += 1.0
    before, after = layer(Tensor(x)).numpy(), layer(Tensor(changed)).numpy()
    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.isclose(before[:, 4:], after[:, 4:]).all(axis=-1).any()


def test_rotary_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 6))
    cos, sin = (table.astype(np.float64) for table in rotary_tables(50, 6))
    scores = turn(np.tile(q, (50, 1)), cos, sin) @ turn(np.tile(k, (50, 1)), cos, sin).T
    for distance in (0, 1, 17, -5):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-5)


def test_rotary_tables_are_cosines_and_sines_of_position_times_frequency():
    cos, sin = rotary_tables(100, 4, base=100.0)
    assert cos.dtype == sin.dtype == np.float32
    for t in (0, 1, 99):
        for i, frequency in enumerate((1.0, 0.1)):
            np.testing.assert_allclose(cos[t, i], np.cos(t * frequency), atol=1e-7)
            np.testing.assert_allclose(sin[t, i], np.sin(t * frequency), atol=1e-7)


# ------------------------------------------------------------ the cache


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pieces", [(7,), (1,) * 7, (3, 1, 3), (5, 2)])
def test_a_cache_gives_what_the_whole_sequence_gives(case, pieces, spread):
    layer, width = build(case)
    spread(layer)
    x = np.random.default_rng(1).standard_normal((2, 7, width))
    cache = LayerCache(2, 7, layer.kv_heads, layer.head_width, np.float64)
    parts, start = [], 0
    with no_grad():
        for size in pieces:
            parts.append(layer(Tensor(x[:, start : start + size]), cache).numpy())
            start += size
            assert cache.length == start
    expected = layer(Tensor(x)).numpy()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-10, atol=1e-12)


def test_a_cache_knows_its_size():
    cache = KeyValueCache(3, batch=2, context=5, kv_heads=4, head_width=6)
    assert cache.size_bytes == 2 * 3 * 2 * 5 * 4 * 6 * 4
    assert cache.length == 0
    assert KeyValueCache(0, 1, 1, 1, 1).length == 0


def test_a_full_or_unfitting_cache_is_refused(refused):
    cache = LayerCache(batch=2, context=4, kv_heads=1, head_width=3)
    new = np.ones((2, 3, 1, 3), np.float32)
    cache.append(new, new)
    with refused("holds 4 positions, 6 are needed"):
        cache.append(new, new)
    for shape in ((1, 1, 1, 3), (2, 1, 2, 3), (2, 1, 1, 4)):
        with refused(str(shape), "new_cache"):
            cache.append(np.ones(shape, np.float32), np.ones(shape, np.float32))
    assert cache.length == 3


def test_a_cache_while_recording_is_refused(refused):
    layer, width = build("multi-head")
    cache = LayerCache(1, 4, layer.kv_heads, layer.head_width, np.float64)
    with refused("no_grad", "cache"):
        layer(Tensor(np.ones((1, 2, width))), cache)


# ------------------------------------------------------------ impossible heads


@pytest.mark.parametrize(
    ("width", "heads", "kv_heads", "words"),
    [
        (10, 4, 4, ("width 10", "4 heads", "try width 12")),
        (8, 0, 1, ("width 8", "0 heads")),
        (8, 4, 3, ("4 heads", "3 key-value heads")),
        (8, 4, 0, ("0 key-value heads",)),
        (8, 4, -2, ("-2 key-value heads",)),
        (8, 4, 8, ("8 key-value heads",)),
    ],
)
def test_heads_that_do_not_divide_are_refused(width, heads, kv_heads, words, refused):
    with refused(*words):
        CausalSelfAttention(width, heads, kv_heads=kv_heads, rng=np.random.default_rng(0))


def test_impossible_rotations_are_refused(refused):
    with refused("width 3", "pairs"):
        rotary_tables(4, 3)
    with refused("base 0.5"):
        rotary_tables(4, 2, base=0.5)
    layer, width = build("rotary")
    with refused("10 positions", "tables for 9"):
        layer(Tensor(np.ones((1, 10, width))))
