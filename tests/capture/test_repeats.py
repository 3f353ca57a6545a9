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
    assert find_repeats([1] * 5) == [0, 1, 2, 3, 4]  # a single launch is no function
    assert find_repeats([1, 2] * 2 + [3]) == [0, 1, 2, 3, 4]
    assert find_repeats([1, 2] * 3) == [Repeat(0, 2, 3, [0, 1])]  # saves four
    assert find_repeats([]) == []


def test_the_longest_of_several_is_taken_first_and_the_rest_is_searched():
    kinds = [*[1, 2] * 6, 9, *[1, 2] * 3, 8, *[3, 4, 5] * 3, 7]
    first, then, last = Repeat(0, 2, 6, [0, 1]), Repeat(13, 2, 3, [13, 14]), [20, 21, 22]
    assert find_repeats(kinds) == [first, 12, then, 19, Repeat(20, 3, 3, last), 29]


@st.composite
def programs(draw):
    """Stretches, repeated now and then, one after the other."""
    stretch = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(1, 5))
    return [kind for kinds, times in draw(st.lists(stretch, max_size=6)) for kind in kinds * times]


@given(programs())
def test_every_launch_is_made_once_and_in_order(kinds):
    nodes = find_repeats(kinds)
    assert list(expanded(nodes)) == list(range(len(kinds)))
    for repeat in repeats_in(nodes):
        stretch = kinds[repeat.start : repeat.start + repeat.period * repeat.times]
        assert stretch == stretch[: repeat.period] * repeat.times
        assert repeat.period * (repeat.times - 1) >= WORTH_IT
