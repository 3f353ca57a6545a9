"""Cutting a model into contiguous parts of about the same cost.

A pipeline is as fast as its slowest stage, so the cut is the one whose largest part is smallest:

    least  max over parts of  Σ cost of its blocks

Parts are contiguous, or activations would go to and fro. That makes it easy, where dividing a heap
of weights evenly is NP-hard: a best cut of n blocks into k parts has a last part, from some block j
on, and before it a best cut of j blocks into k - 1 parts (or one that may be exchanged for such).
So with

    best(k, n) = the largest part of the best cut of the first n blocks into k parts
    best(k, n) = min over j of  max(best(k - 1, j), cost of blocks j to n - 1)

a hundred blocks are cut into thirty-two parts, exactly, with some hundred thousand comparisons
(dynamic programming, R. Bellman, 1957).

Costs are numbers in one unit, whichever is to be even: parameters, FLOP, seconds (`costs.py`).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from baremetal.pipeline.errors import PipelineError
from baremetal.schedules import Schedule
from baremetal.trace import Column, format_count, table


class Part(NamedTuple):
    """The blocks `start` to `stop - 1` of a model of `layers` blocks.

    The first part has the embedding, too, the last the final norm, the output matrix and the loss.
    """

    start: int
    stop: int
    layers: int

    @property
    def is_first(self) -> bool:
        """Whether it begins with tokens."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with the loss."""
        return self.stop == self.layers

    def __str__(self) -> str:
        first, last = ("embedding, " if self.is_first else ""), (", head" if self.is_last else "")
        blocks = f"block {self.start}"
        if self.stop - self.start > 1:
            blocks = f"blocks {self.start}-{self.stop - 1}"
        return first + blocks + last


def partition(costs: Sequence[float], parts: int) -> list[Part]:
    """Cut a model into contiguous parts so that the largest costs as little as possible.

    Args:
        costs: of each block, the embedding's with the first, the head's with the last.
        parts: how many; each has at least one block.

    Raises:
        PipelineError: more parts than blocks, no parts, or costs that are no numbers from 0 on.
    """
    layers = len(costs)
    _check(costs, parts)
    sums = [0.0, *itertools.accumulate(map(float, costs))]  # entry n: of the first n blocks
    best = [[math.inf] * (layers + 1) for _ in range(parts + 1)]
    begin = [[0] * (layers + 1) for _ in range(parts + 1)]  # where the last part of best(k, n) does
    best[0][0] = 0.0
    for k in range(1, parts + 1):
        for n in range(k, layers - (parts - k) + 1):  # all parts before and after have a block
            for j in range(k - 1, n):
                largest = max(best[k - 1][j], sums[n] - sums[j])
                if largest < best[k][n]:
                    best[k][n], begin[k][n] = largest, j
    bounds = [layers]
    for k in range(parts, 0, -1):
        bounds.append(begin[k][bounds[-1]])
    return [Part(a, b, layers) for a, b in itertools.pairwise(reversed(bounds))]


def parts_of_stages(schedule: Schedule, costs: Sequence[float]) -> list[Part]:
    """For each stage of a schedule its part of the model.

    As many parts as a path has stages; mirrored copies of a stage have the same one.

    Raises:
        PipelineError: more stages than blocks.
    """
    _refuse_chunks(schedule, len(costs))
    parts = partition(costs, len(schedule.paths[0]))
    found: dict[int, Part] = {}
    for path in schedule.paths:
        found.update(zip(path, parts, strict=True))
    return [found[stage] for stage in range(schedule.stages)]


def balance(
    parts: Sequence[Part], costs: Sequence[float], unit: str, rank_of: Sequence[int] = ()
) -> str:
    """The parts as a table: what each holds, what it costs, and its share of an even one's.

    With `rank_of`, the rank of each part stands beside it.

    The largest share is what the pipeline is slowed down by: 1.25 means that every other stage
    waits for a fifth of its time.
    """
    each = [sum(costs[part.start : part.stop]) for part in parts]
    even = sum(each) / len(each)
    rows = [
        {"stage": str(n), "holds": str(part), "cost": cost, "share": cost / even if even else 1.0}
        for n, (part, cost) in enumerate(zip(parts, each, strict=True))
    ]
    columns: list[Column | str] = ["stage", "holds", Column("cost", unit, format_count)]
    if rank_of:
        columns.insert(1, "rank")
        rows = [row | {"rank": str(rank)} for row, rank in zip(rows, rank_of, strict=True)]
    columns.append(Column("share", "of an even share", ".3f"))
    return table(rows, columns)


def _refuse_chunks(schedule: Schedule, blocks: int) -> None:
    """Who asked for 4 ranks does not know why 8 stages are too many: say where they are from."""
    stages, ranks = len(schedule.paths[0]), len(schedule.ranks)
    if stages > blocks and stages > ranks:
        most = blocks * ranks // stages
        fewer = f", or at most {most} rank{'s' if most > 1 else ''} (--stages)" if most else ""
        raise PipelineError(
            f"{stages} stages of a model of {blocks} blocks: {schedule.name} has "
            f"{stages // ranks} stages on each of the {ranks} ranks, and every stage holds at "
            f"least one block; give {stages} layers or more{fewer}"
        )


def _check(costs: Sequence[float], parts: int) -> None:
    if not 1 <= parts <= len(costs):
        raise PipelineError(
            f"{parts} stages of a model of {len(costs)} blocks: every stage holds at least one; "
            f"choose 1 to {len(costs)} stages (all chunks of all ranks counted), or more layers"
        )
    for cost in costs:
        if not (cost >= 0 and math.isfinite(cost)):
            raise PipelineError(f"a block that costs {cost}: expected finite numbers from 0 on")
