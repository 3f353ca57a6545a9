"""The memory plan: no two buffers that live together share a byte, and few bytes are wasted."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.autograd.memory import ALIGNMENT_BYTES
from baremetal.capture.arena import (
    Lifetime,
    aligned,
    lower_bound,
    plan_arena,
)
from baremetal.capture.placement import compiled_placement, place_in_order


@st.composite
def lifetimes(draw, most=12, moments=10):
    first = draw(st.integers(0, moments))
    last = draw(st.integers(first, moments))
    return Lifetime(draw(st.sampled_from([0, 1, 64, 65, 200, 1000])), first, last)


def place(buffers, order, run=place_in_order):
    sizes, first, last = np.array(buffers, np.int64).reshape(-1, 3).T.copy()
    return run(aligned(sizes), first, last, np.array(order, np.int64))


def assert_sound(buffers, offsets, size):
    for i, a in enumerate(buffers):
        assert offsets[i] % ALIGNMENT_BYTES == 0
        assert offsets[i] + a.size_bytes <= size
        for j, b in enumerate(buffers[:i]):
            apart = (
                offsets[i] + a.size_bytes <= offsets[j] or offsets[j] + b.size_bytes <= offsets[i]
            )
            assert apart or not a.overlaps(b)


@given(st.lists(lifetimes(), max_size=14))
def test_nothing_overlaps(buffers):
    offsets, size = plan_arena(buffers)
    assert_sound(buffers, offsets, size)
    assert lower_bound(buffers) <= size <= sum(aligned(b.size_bytes) for b in buffers)


@given(st.lists(lifetimes(), max_size=14))
def test_the_bound_is_the_most_alive_at_once(buffers):
    moments = range(12)
    alive = [
        sum(aligned(b.size_bytes) for b in buffers if b.first <= moment <= b.last)
        for moment in moments
    ]
    assert lower_bound(buffers) == max(alive)


@given(st.lists(lifetimes(), min_size=1, max_size=5))
def test_no_order_of_placing_beats_it_by_much(buffers):
    """Against every order, by brute force: a greedy plan of five is at most a third larger."""
    _, size = plan_arena(buffers)
    best = min(place(buffers, order)[1] for order in permutations(range(len(buffers))))
    assert size <= best * 4 / 3


def test_brackets_reach_the_bound():
    """A forward that keeps what its backward frees, last made first freed."""
    layers = 30
    buffers = [Lifetime(1000 + 64 * i, i, 2 * layers - i) for i in range(layers)]
    buffers += [Lifetime(500, i, i + 1) for i in range(2 * layers)]
    offsets, size = plan_arena(buffers)
    assert_sound(buffers, offsets, size)
    assert size <= 1.05 * lower_bound(buffers)


def test_memory_is_used_again():
    buffers = [Lifetime(640, i, i) for i in range(10)]
    assert plan_arena(buffers) == ([0] * 10, 640)


def test_the_smallest_gap_that_fits_is_taken():
    """Two gaps, of 128 and of 64 bytes: 64 bytes go into the second."""
    blocks = [Lifetime(64, 0, 9), Lifetime(128, 0, 4), Lifetime(64, 0, 9), Lifetime(64, 0, 4)]
    blocks += [Lifetime(64, 0, 9), Lifetime(64, 5, 9)]
    offsets, size = place(blocks, range(6))
    assert offsets.tolist() == [0, 64, 192, 256, 320, 256]
    assert size == 384


@pytest.mark.parametrize("buffers", [[], [Lifetime(0, 0, 0)]])
def test_nothing_to_place(buffers):
    assert plan_arena(buffers) == ([0] * len(buffers), 0)
    assert lower_bound(buffers) == 0


@given(st.data(), st.lists(lifetimes(), max_size=14))
def test_compiled_and_read_the_rule_is_the_same(data, buffers):
    order = data.draw(st.permutations(range(len(buffers))))
    offsets, size = place(buffers, order)
    compiled_offsets, compiled_size = place(buffers, order, compiled_placement())
    assert compiled_offsets.tolist() == offsets.tolist()
    assert compiled_size == size
