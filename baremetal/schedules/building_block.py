"""A pipeline from one microbatch: lay it out, repeat it, and use the ends better.

The *building block* is where one microbatch's passes lie on every rank, in ticks of one pass. If
two microbatches a period apart never want the same rank in the same tick, the block can be repeated
for ever, and then a single number says how much memory the pipeline needs: a rank holds a
microbatch from its F to its W, so with a new one every period it holds

    (the block's lifespan on the rank) / period      microbatches at once.

Short lifespans are what V-shaped placement can give: rank i holds stages i and 2p - 1 - i, so where
the first chunk's activations live long the second's live short, and every rank holds the same. A
period is six ticks, F, I and W of two chunks, and the microbatch walks four legs: forward down
the ranks, forward up, gradient down, gradient up. The pace of each leg, in ticks per rank, decides
the lifespan.

Only the middle of the pipeline has every tick taken. At the ends ranks have holes, and the passes
are moved without touching the middle: after its last forward a rank does gradients as soon as they
come in, weight gradients last; and, the same seen backwards in time, the forwards before a rank's
first gradient start as late as they can. Neither ever holds more than the middle does.

P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024,
sections 2 and 3 and appendix on reordering.
"""

from collections.abc import Callable
from itertools import count

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.schedule import Schedule

PERIOD = 6  # F, I and W of two chunks
Ticks = dict[Action, int]


# --- one microbatch ------------------------------------------------------------------------------


def v_block(p: int, paces: tuple[int, ...], pauses: tuple[int, ...]) -> Ticks:
    """One microbatch's passes on a V of p ranks, each with the tick in which it is done.

    Args:
        p: ranks.
        paces: ticks per rank on each of the four legs.
        pauses: extra ticks before the second, third and fourth leg.
    """
    down, up = range(p), range(p, 2 * p)
    legs = ((Kind.F, down), (Kind.F, up), (Kind.I, reversed(up)), (Kind.I, reversed(down)))
    ticks: Ticks = {}
    tick = 0
    for (kind, stages), pace, pause in zip(legs, paces, (0, *pauses), strict=True):
        tick += pause
        for stage in stages:
            ticks[Action(kind, stage, 0)] = tick
            tick += pace
        tick += 1 - pace  # a leg begins on the rank where the one before ended
    for rank in range(p):
        place_weight_gradients(ticks, first=rank, second=2 * p - 1 - rank)
    return ticks


def place_weight_gradients(ticks: Ticks, first: int, second: int) -> None:
    """Give a rank's two W the two places of the period that its other passes leave free."""
    taken = {
        ticks[Action(kind, stage, 0)] % PERIOD
        for kind in (Kind.F, Kind.I)
        for stage in (first, second)
    }
    for stage in (second, first):
        ready = ticks[Action(Kind.I, stage, 0)] + 1
        tick = next(tick for tick in count(ready) if tick % PERIOD not in taken)
        ticks[Action(Kind.W, stage, 0)] = tick
        taken.add(tick % PERIOD)


# --- the whole pipeline --------------------------------------------------------------------------


def repeated(name: str, block: Ticks, p: int, m: int, warm_until: int) -> Schedule:
    """The block repeated for m microbatches, with its two ends reordered.

    Args:
        name: of the schedule.
        block: one microbatch's passes, W included.
        p: ranks.
        m: microbatches.
        warm_until: the chunk whose first gradient ends a rank's warm-up.
    """
    ticks = {
        action._replace(microbatch=k): tick + PERIOD * k
        for action, tick in block.items()
        for k in range(m)
    }
    last_forwards = [Action(Kind.F, up(rank, p), m - 1) for rank in range(p)]
    cool_down = after(ticks, p, last_forwards)
    weights_last = {action: (action.kind is Kind.W, tick) for action, tick in ticks.items()}
    ticks = packed(ticks, cool_down, p, needs, weights_last)

    # The warm-up is a cool-down seen backwards: ticks count down, what needs is needed.
    ticks = {action: -tick for action, tick in ticks.items()}
    stages = [up(rank, p) if warm_until else rank for rank in range(p)]
    warm_up = after(ticks, p, [Action(Kind.I, stage, 0) for stage in stages])
    in_order = {action: (False, tick) for action, tick in ticks.items()}
    ticks = packed(ticks, warm_up, p, needed_by, in_order)

    ranks: list[list[Action]] = [[] for _ in range(p)]
    for action in sorted(ticks, key=lambda action: -ticks[action]):
        ranks[on_rank(action, p)].append(action)
    return Schedule(name, m, tuple(map(tuple, ranks)), (tuple(range(2 * p)),))


def up(rank: int, p: int) -> int:
    """The second stage of a rank."""
    return 2 * p - 1 - rank


def on_rank(action: Action, p: int) -> int:
    """The rank of an action's stage."""
    return min(action.stage, up(action.stage, p))


def after(ticks: Ticks, p: int, marks: list[Action]) -> set[Action]:
    """What every rank does later than its mark (by rank)."""
    return {action for action, tick in ticks.items() if tick > ticks[marks[on_rank(action, p)]]}


def packed(
    ticks: Ticks,
    free: set[Action],
    p: int,
    needs: Callable[[Action, int], list[Action]],
    preference: dict[Action, tuple[bool, int]],
) -> Ticks:
    """The `free` actions as early as they can be, all others where they are.

    Tick by tick, every rank whose own fixed actions are over does the free action that it would
    rather do, of those whose needs have been met in an earlier tick.
    """
    placed = {action: tick for action, tick in ticks.items() if action not in free}
    fixed_until = [max(t for a, t in placed.items() if on_rank(a, p) == r) for r in range(p)]
    waiting = [
        sorted((a for a in free if on_rank(a, p) == r), key=preference.__getitem__)
        for r in range(p)
    ]
    for tick in count(min(fixed_until) + 1):
        if not any(waiting):
            return placed
        chosen = {}
        for rank in range(p):
            if tick > fixed_until[rank]:
                ready = (a for a in waiting[rank] if all(n in placed for n in needs(a, p)))
                if (action := next(ready, None)) is not None:
                    chosen[action] = tick
        for action in chosen:
            waiting[on_rank(action, p)].remove(action)
        placed |= chosen  # what is done in a tick is there from the next one on
    raise AssertionError("unreachable: count() does not end")


def needs(action: Action, p: int) -> list[Action]:
    """What must be done before this action, on a V of p ranks."""
    kind, stage, k = action
    if kind is Kind.F:
        return [Action(Kind.F, stage - 1, k)] if stage else []
    if kind is Kind.W:
        return [Action(Kind.I, stage, k)]
    behind = [Action(Kind.I, stage + 1, k)] if stage < 2 * p - 1 else []
    return [Action(Kind.F, stage, k), *behind]


def needed_by(action: Action, p: int) -> list[Action]:
    """What cannot be done before this action, on a V of p ranks."""
    kind, stage, k = action
    if kind is Kind.W:
        return []
    if kind is Kind.I:
        return [Action(Kind.W, stage, k)] + ([Action(Kind.I, stage - 1, k)] if stage else [])
    behind = [Action(Kind.F, stage + 1, k)] if stage < 2 * p - 1 else []
    return [Action(Kind.I, stage, k), *behind]
