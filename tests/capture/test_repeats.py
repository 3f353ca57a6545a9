"""Finding the layers again in a list of launches."""

from hypothesis import given
from hypothesis import strategies as st

from baremetal.capture.repeats import WORTH_IT, Repeat, find_repeats


def expanded(nodes, shift=0):
    """The launches that a program with these nodes makes, in order."""
    for node in nodes:
        if isinstance(node, Repeat):
            for number in range(node.times):
                yield from expanded(node.body, shift + number * node.period)
        else:
            yield node + shift


def repeats_in(nodes):
    for node in nodes:
        if isinstance(node, Repeat):
            yield node
            yield from repeats_in(node.body)


def test_blocks_between_other_launches_are_found():
    kinds = [3, *[1, 4, 1, 5, 9] * 3, 2, 6]
    assert find_repeats(kinds) == [0, Repeat(1, 5, 3, [1, 2, 3, 4, 5]), 16, 17]


def test_blocks_inside_of_repeated_passes_are_found():
    kinds = [7, *[1, 2, 3] * 4, 8] * 2
    (outer,) = find_repeats(kinds)
    assert (outer.start, outer.period, outer.times) == (0, 14, 2)
    assert outer.body == [0, Repeat(1, 3, 4, [1, 2, 3]), 13]


def test_six_blocks_are_not_taken_for_two_halves_of_three():
    (repeat,) = find_repeats([1, 2, 3] * 6)
    assert (repeat.period, repeat.times) == (3, 6)


def test_what_saves_little_is_left_as_it_is():
    assert find_repeats([1, 1, 1, 1]) == [0, 1, 2, 3]
    assert find_repeats([]) == []


@given(st.lists(st.integers(0, 2), max_size=40))
def test_every_launch_is_made_once_and_in_order(kinds):
    nodes = find_repeats(kinds)
    assert list(expanded(nodes)) == list(range(len(kinds)))
    for repeat in repeats_in(nodes):
        stretch = kinds[repeat.start : repeat.start + repeat.period * repeat.times]
        assert stretch == stretch[: repeat.period] * repeat.times
        assert repeat.period * (repeat.times - 1) >= WORTH_IT
