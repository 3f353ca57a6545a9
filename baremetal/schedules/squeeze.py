"""Holes in a plan, and what can be brought forward into them within the memory that it has.

A plan has a row for each rank, and in each tick of it a pass, or None: a hole. Here is how V-Half
begins on two ranks, the first chunk in small letters:

    rank 0  f0 .  .  .  F0 .  f1 .  I0 W  F1 .  f2 i0 I1 W  F2 W  f3 i1      as laid out
    rank 1  .  .  f0 F0 .  .  .  .  f1 F1 I0 W  i0 W  f2 F2 I1 W  i1 W

    rank 0  f0 f1 f2 F0 I0 W  F1 .  .  .  .  .  .  i0 I1 W  F2 W  f3 i1      brought forward,
    rank 1  .  f0 F0 f1 F1 I0 W  i0 .  .  .  .  .  W  f2 F2 I1 W  i1 W       until i0 on rank 0

    rank 0  f0 f1 f2 F0 I0 W  F1 .  i0 I1 W  F2 W  f3 i1                     closed up
    rank 1  .  f0 F0 f1 F1 I0 W  i0 W  f2 F2 I1 W  i1 W

A pass can be brought forward into a hole if what it needs is done by then and its rank has room: a
forward that comes earlier is held for longer. Passes are asked in the order of their ticks, so that
each knows where those that it needs have gone, and takes the first hole that it may. That is
greedy, and not always the best. But no pass gets later, and no rank holds more than the fullest did
before.

W are nobody's in the meantime: whichever gradient is owed one may have it, and nothing waits for
it. Where there are none in the rows, it is taken for granted that a rank uses every hole for one.

A rank's *load* is how many forwards it holds (one chunk of one microbatch each), and to how many of
them a W is owed, since their I is done.

P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024, arXiv
2405.15362, call this reordering and squeezing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate

from baremetal.schedules.action import Action, Kind

Row = list[Action | None]
Load = tuple[int, int]  # forwards held, W owed
LoadAfter = Callable[[Load, Action | None], Load]
EMPTY: Load = (0, 0)


# --- weight gradients ----------------------------------------------------------------------------


def with_weights(rows: Sequence[Row]) -> list[Row]:
    """Nobody's W in every hole where one is owed: a rank's k-th is Action(W, rank, k)."""
    return [_with_weights(rank, row) for rank, row in enumerate(rows)]


def _with_weights(rank: int, row: Row) -> Row:
    filled: Row = []
    gradients = weights = 0
    for action in row:
        if action is None and weights < gradients:
            action = Action(Kind.W, rank, weights)
            weights += 1
        elif action is not None and action.kind is Kind.I:
            gradients += 1
        filled.append(action)
    return filled + [Action(Kind.W, rank, k) for k in range(weights, gradients)]


def without_weights(rows: Sequence[Row]) -> list[Row]:
    """Holes where the W are."""
    return [
        [None if action is not None and action.kind is Kind.W else action for action in row]
        for row in rows
    ]


def named_weights(rank: int, row: Row) -> tuple[Action, ...]:
    """A rank's passes, each W given to a gradient: of the second chunk, before the first."""
    first: deque[Action] = deque()
    second: deque[Action] = deque()
    named = []
    for action in row:
        if action is None:
            continue
        if action.kind is Kind.W:
            action = (second or first).popleft()
        elif action.kind is Kind.I:
            owed = first if action.stage == rank else second
            owed.append(action._replace(kind=Kind.W))
        named.append(action)
    return tuple(named)


# --- memory --------------------------------------------------------------------------------------


def load_after(load: Load, action: Action | None) -> Load:
    """A rank's load after it has done this, or nothing."""
    held, owed = load
    if action is None:
        return load
    if action.kind is Kind.W:
        return held - 1, owed - 1
    return (held + 1, owed) if action.kind is Kind.F else (held, owed + 1)


def load_after_or_weight(load: Load, action: Action | None) -> Load:
    """The same, and a hole is a W if one is owed."""
    held, owed = load
    return (held - 1, owed - 1) if action is None and owed else load_after(load, action)


# --- squeezing -----------------------------------------------------------------------------------


def brought_forward(rows: Sequence[Row], windows: Sequence[range], after: LoadAfter) -> list[Row]:
    """Each pass in the first hole that it may take.

    Args:
        rows: what each rank does in each tick.
        windows: for each rank the ticks whose passes are asked; all others stay.
        after: what a tick does to a load.
    """
    rows = [list(row) for row in rows]
    room = max(held for row in rows for held, _ in accumulate(row, after, initial=EMPTY))
    ticks = {action: tick for row in rows for tick, action in enumerate(row) if action is not None}
    loads = [[EMPTY] for _ in rows]  # before each tick
    for now in range(max(map(len, rows))):
        for row, before, window in zip(rows, loads, windows, strict=True):
            action = row[now] if now < len(row) else None
            if action is None or now not in window:
                before.append(after(before[-1], action))
                continue
            start = earliest(action, ticks, len(rows))
            tick, changed = first_place(row, now, start, before, room, after)
            row[now] = None
            row[tick] = action
            before[tick:] = changed
            ticks[action] = tick
    return rows


def first_place(
    row: Row, now: int, start: int, before: list[Load], room: int, after: LoadAfter
) -> tuple[int, list[Load]]:
    """The first tick from `start` on for the pass that is done now, and the loads from there on."""
    for tick in range(start, now):
        if row[tick] is None:
            moved = [row[now], *row[tick + 1 : now], None]
            loads = list(accumulate(moved, after, initial=before[tick]))
            if all(held <= room and owed >= 0 for held, owed in loads):
                return tick, loads
    return now, [before[now], after(before[now], row[now])]


def closed_up(rows: Sequence[Row]) -> list[Row]:
    """Every rank's passes in their order, each as soon as it can be done."""
    closed: list[Row] = [[] for _ in rows]
    ticks: dict[Action, int] = {}
    for now in range(max(map(len, rows))):
        for row, done in zip(rows, closed, strict=True):
            action = row[now] if now < len(row) else None
            if action is not None:
                done += [None] * (earliest(action, ticks, len(rows)) - len(done))
                ticks[action] = len(done)
                done.append(action)
    return closed


def earliest(action: Action, ticks: dict[Action, int], p: int) -> int:
    """The first tick after all that this pass needs."""
    return 1 + max((ticks[need] for need in needs(action, p)), default=-1)


def needs(action: Action, p: int) -> list[Action]:
    """What is done before this pass on a V of p ranks; microbatches stay in their order."""
    kind, stage, k = action
    before = [Action(kind, stage, k - 1)] if k else []
    if kind is Kind.F and stage:
        before.append(Action(Kind.F, stage - 1, k))
    if kind is Kind.I:
        before.append(Action(Kind.F, stage, k))
        if stage < 2 * p - 1:
            before.append(Action(Kind.I, stage + 1, k))
    return before
