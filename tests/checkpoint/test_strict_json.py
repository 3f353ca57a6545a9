"""State must come back equal, in type too, through JSON that any strict reader accepts."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.checkpoint import CheckpointError, strict_json

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text(max_size=6) | st.sampled_from(["$float", "$tuple", "$array", "$", "$$", "$$float"])
states = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    """Equal in value and type; NaN equals NaN, 0.0 does not equal -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@given(states)
def test_any_state_round_trips_through_strict_json(state):
    raw = strict_json.dumps(state)
    json.loads(raw, parse_constant=refuse)  # NaN and Infinity would land in `refuse`
    assert same(strict_json.loads(raw), state)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 0.1])
def test_special_floats(value):
    assert same(strict_json.loads(strict_json.dumps({"best": [value]})), {"best": [value]})


def test_numpy_scalars_become_the_same_python_number():
    state = [np.float32(0.1), np.float64("nan"), np.int64(-3), np.uint64(2**64 - 1), np.bool_(True)]
    expected = [0.10000000149011612, math.nan, -3, 2**64 - 1, True]
    assert same(strict_json.loads(strict_json.dumps(state)), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2**64 - 1], np.uint64),
        np.array([[0.1, np.nan], [-np.inf, -0.0]], np.float32),
        np.array(True),
        np.empty((0, 3), np.int8),
        np.arange(6, dtype=np.float16).reshape(2, 3).T,
    ],
)
def test_small_arrays(array):
    back = strict_json.loads(strict_json.dumps({"a": array}))["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_a_random_generator_goes_on_where_it_was(name):
    kind = getattr(np.random, name)
    rng = np.random.Generator(kind(7))
    rng.standard_normal(11, dtype=np.float32)  # leaves half a word in the buffer
    raw = strict_json.dumps(rng.bit_generator.state)
    expected = rng.standard_normal(50, dtype=np.float32)
    other = np.random.Generator(kind(0))
    other.bit_generator.state = strict_json.loads(raw)
    assert np.array_equal(other.standard_normal(50, dtype=np.float32), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [0, {1, 2}]}}, r"state\['a'\]\['b'\]\[1\] is set"),
        ({"a": b"x"}, r"state\['a'\] is bytes"),
        ({"a": {1: 2}}, r"state\['a'\] has the key 1 \(int\)"),
        ({"a": 1j}, "complex"),
        ({"a": np.longdouble(1)}, "longdouble"),
        ({"a": np.array([None])}, "ndarray"),
        ({"a": np.datetime64("2020-01-01", "ns")}, "datetime64"),
        ({"a": 10**5000}, "cannot be written as JSON"),
    ],
)
def test_what_json_cannot_hold_is_named_by_its_place(value, message):
    if np.longdouble is np.float64:
        pytest.skip("this platform has no longer double")
    with pytest.raises(CheckpointError, match=message) as caught:
        strict_json.dumps(value)
    assert "\n" not in str(caught.value)


def test_a_state_that_contains_itself():
    state: list = []
    state.append(state)
    with pytest.raises(CheckpointError, match="contains itself"):
        strict_json.dumps(state)
