"""Squeezing: the picture in the docstring, and what may never happen to a plan."""

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.schedules import Action, Kind, squeeze
from baremetal.schedules.building_block import laid_out, v_block

BLOCKS = {  # by name: the paces, and the pauses of p ranks
    "v-half": ((2, 1, 2, 1), lambda p: (0, 0, 1) if p % 2 else (0, 3, 1)),
    "v-min": ((1, 1, 1, 1), lambda p: (0, 0 if p % 3 else 2, 0)),
}


def plan(name, p, m):
    paces, pauses = BLOCKS[name]
    return squeeze.with_weights(laid_out(v_block(p, paces, pauses(p)), p, m))


def ticks_of(rows):
    return {action: tick for row in rows for tick, action in enumerate(row) if action is not None}


def held(row, holes_are_weights=False):
    """The most forwards held: counted again, pass by pass."""
    count = owed = most = 0
    for action in row:
        kind = None if action is None else action.kind
        owed += kind is Kind.I
        count += kind is Kind.F
        if kind is Kind.W or (kind is None and holes_are_weights and owed):
            count, owed = count - 1, owed - 1
        assert owed >= 0
        most = max(most, count)
    return most


def check_order(rows):
    """Every F and I comes after what it needs, along the V; microbatches stay in order."""
    p, ticks = len(rows), ticks_of(rows)
    last = 2 * p - 1
    for (kind, stage, k), tick in ticks.items():
        earlier = [Action(kind, stage, k - 1)] if k else []
        if kind is Kind.F and stage > 0:
            earlier.append(Action(Kind.F, stage - 1, k))
        if kind is Kind.I:
            earlier.append(Action(*((Kind.I, stage + 1) if stage < last else (Kind.F, stage)), k))
        assert all(ticks[action] < tick for action in earlier)


plans = st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(1, 9), st.integers(1, 20))
windows = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(plans, windows, st.booleans())
@settings(max_examples=60)
def test_nothing_gets_later_or_holds_more_or_overtakes(sizes, window, with_weights):
    rows = plan(*sizes)
    if not with_weights:
        rows = squeeze.without_weights(rows)
    after = squeeze.load_after if with_weights else squeeze.load_after_or_weight
    squeezed = squeeze.brought_forward(rows, [range(*window)] * len(rows), after)
    before, now = ticks_of(rows), ticks_of(squeezed)
    assert now.keys() == before.keys()
    assert all(now[action] <= before[action] for action in before)
    moved = {before[action] for action in before if now[action] < before[action]}
    assert all(tick in range(*window) for tick in moved)
    check_order(squeezed)
    room = max(held(row, not with_weights) for row in rows)
    assert max(held(row, not with_weights) for row in squeezed) <= room


def test_something_is_brought_forward_and_room_is_what_ends_it():
    rows = plan("v-half", 4, 12)
    squeezed = squeeze.brought_forward(rows, [range(20)] * 4, squeeze.load_after)
    assert squeezed[0][:4] == [Action(Kind.F, 0, k) for k in range(4)]
    free = [list(accumulate(row, squeeze.load_after, initial=(0, 0))) for row in squeezed]
    assert max(load for loads in free for load in loads)[0] == max(map(held, rows))


@given(plans)
@settings(max_examples=30)
def test_closed_up_keeps_each_order_and_leaves_no_needless_hole(sizes):
    rows = plan(*sizes)
    closed = squeeze.closed_up(rows)
    check_order(closed)
    ticks = ticks_of(closed)
    for row, kept in zip(rows, closed, strict=True):
        assert [a for a in row if a is not None] == [a for a in kept if a is not None]
        for tick, action in enumerate(kept):
            if action is not None and tick and kept[tick - 1] is None:
                needed = squeeze.needs(action, len(rows))
                assert max(ticks[need] for need in needed) == tick - 1


@given(plans)
@settings(max_examples=30)
def test_every_gradient_gets_its_weight_gradient(sizes):
    rows = plan(*sizes)
    assert max(map(held, rows)) == max(
        held(row, holes_are_weights=True) for row in squeeze.without_weights(rows)
    )
    for rank, row in enumerate(rows):
        order = squeeze.named_weights(rank, row)
        gradients = [action for action in order if action.kind is Kind.I]
        weights = [action for action in order if action.kind is Kind.W]
        assert sorted(weights) == sorted(a._replace(kind=Kind.W) for a in gradients)
        assert all(order.index(a) < order.index(a._replace(kind=Kind.W)) for a in gradients)


def test_of_two_chunks_the_second_goes_first():
    first, second = Action(Kind.I, 0, 0), Action(Kind.I, 3, 0)
    nobodys = Action(Kind.W, 0, 0)
    order = squeeze.named_weights(0, [first, second, nobodys, nobodys])
    assert order[2:] == (Action(Kind.W, 3, 0), Action(Kind.W, 0, 0))


def test_the_picture_in_the_docstring():
    lines = [line for line in squeeze.__doc__.splitlines() if line.startswith("    rank ")]
    drawn = [line[12:72].split() for line in lines]
    rows = plan("v-half", 2, 4)
    first_back = rows[0].index(Action(Kind.I, 0, 0))
    forward = squeeze.brought_forward(rows, [range(first_back)] * 2, squeeze.load_after)
    assert len(drawn) == 6
    for line, row in zip(drawn, (*rows, *forward, *squeeze.closed_up(forward)), strict=True):
        assert len(line) >= 14
        assert line == words(row)[: len(line)]


def words(row, p=2):
    """As in the picture: the first chunk in small letters, W nobody's."""
    drawn = []
    for action in row:
        if action is None or action.kind is Kind.W:
            drawn.append("." if action is None else "W")
        else:
            word = f"{action.kind.name}{action.microbatch}"
            drawn.append(word.lower() if action.stage < p else word)
    return drawn
