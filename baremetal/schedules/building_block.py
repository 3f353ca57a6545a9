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
the lifespan. W has no place of its own in the block: it takes whichever tick is left.

Only the middle of the pipeline has every tick taken. At the two ends ranks have holes, and passes
are brought forward into them, as far as memory allows (`squeeze.py`):

    warm-up     all that happens before the first gradient is back on rank 0
    cool-down   all that happens after rank 0 has let the last microbatch in

In the cool-down the W go out of the way first, and take the ticks that are left then.

P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024, arXiv
2405.15362, sections 2 and 3. The paper leaves open in which order the ends are squeezed. Here it is
that of the authors' code, github.com/sail-sg/zero-bubble-pipeline-parallelism at 064369d6
(megatron/core/pipeline_parallel/zerobubble/scheduler/zbv_greedy.py), so that lengths agree with
theirs for unequal times, too.
"""

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.squeeze import (
    Row,
    brought_forward,
    closed_up,
    load_after,
    load_after_or_weight,
    named_weights,
    with_weights,
    without_weights,
)

PERIOD = 6  # F, I and W of two chunks
Ticks = dict[Action, int]


def v_block(p: int, paces: tuple[int, ...], pauses: tuple[int, ...]) -> Ticks:
    """One microbatch's F and I on a V of p ranks, each with the tick in which it is done.

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
    return ticks


def repeated(name: str, block: Ticks, p: int, m: int) -> Schedule:
    """The block repeated for m microbatches, with its two ends squeezed.

    Args:
        name: of the schedule.
        block: one microbatch's F and I.
        p: ranks.
        m: microbatches.
    """
    rows = with_weights(laid_out(block, p, m))
    first_back = rows[0].index(Action(Kind.I, 0, 0))
    warm_up = [range(first_back)] * p
    rows = without_weights(closed_up(brought_forward(rows, warm_up, load_after)))

    last_in = rows[0].index(Action(Kind.F, 0, m - 1))
    cool_down = [range(last_in + (rank == 0), len(row)) for rank, row in enumerate(rows)]
    rows = with_weights(brought_forward(rows, cool_down, load_after_or_weight))
    rows = closed_up(rows)
    rows = with_weights(without_weights(rows))  # an earlier W may use a hole that is left

    ranks = tuple(named_weights(rank, row) for rank, row in enumerate(rows))
    return Schedule(name, m, ranks, (tuple(range(2 * p)),))


def laid_out(block: Ticks, p: int, m: int) -> list[Row]:
    """What each rank does in each tick, with a new microbatch every period."""
    rows: list[Row] = [[None] * (max(block.values()) + PERIOD * (m - 1) + 1) for _ in range(p)]
    for (kind, stage, _), tick in block.items():
        row = rows[min(stage, 2 * p - 1 - stage)]
        for k in range(m):
            row[tick + PERIOD * k] = Action(kind, stage, k)
    return rows
