"""Cutting a model into contiguous parts of about the same cost.

A pipeline is as fast as its slowest stage, so the cut is the one whose largest part is smallest:

    least  max over parts of  Σ cost of its blocks        (embedding with the first, head with the
                                                           last)

Contiguous parts make this easy, where dividing a heap of weights is NP-hard. Ask the opposite: with
no part larger than a bound, how few parts will do? Filling each part as far as the bound allows
answers that, and the larger the bound, the fewer. There are only n (n + 1) / 2 sums of neighbouring
blocks, one of which the best bound must be; dynamic programming finds it directly. With

    best(k, n) = the least largest part of the first n blocks in k parts
    best(k, n) = min over j of  max(best(k - 1, j), cost of blocks j to n - 1)

a hundred blocks in thirty-two parts are some hundred thousand comparisons (P. Bellman's principle:
the first k - 1 parts of a best cut are themselves a best cut of what they cover, or can be
exchanged for one).

Costs are numbers in any one unit: parameters, FLOP, seconds (`costs.py`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from baremetal.pipeline.errors import PipelineError


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


class Costs(NamedTuple):
    """What the pieces of a model cost, in one unit.

    Attributes:
        embedding: what comes before the first block.
        blocks: of each block.
        head: final norm, output matrix and loss.
        unit: for the table, such as "parameters".
    """

    embedding: float
    blocks: Sequence[float]
    head: float
    unit: str


def partition(costs: Costs, parts: int) -> list[Part]:
    """Cut a model into contiguous parts so that the largest costs as little as possible.

    Of equally good cuts, the one whose later parts are the smaller.

    Raises:
        PipelineError: more parts than blocks, no parts, or costs that are no numbers from 0 on.
    """
    layers = len(costs.blocks)
    _check(costs, parts)
    sums = _running_sums(costs)
    best = [[math.inf] * (layers + 1) for _ in range(parts + 1)]
    cut = [[0] * (layers + 1) for _ in range(parts + 1)]
    best[0][0] = 0.0
    for k in range(1, parts + 1):
        for n in range(k, layers - (parts - k) + 1):  # every part has a block
            for j in range(k - 1, n):
                largest = max(best[k - 1][j], sums[n] - sums[j])
                if largest < best[k][n]:
                    best[k][n], cut[k][n] = largest, j
    bounds = [layers]
    for k in range(parts, 0, -1):
        bounds.append(cut[k][bounds[-1]])
    bounds.reverse()
    return [Part(a, b, layers) for a, b in zip(bounds, bounds[1:], strict=False)]


def _running_sums(costs: Costs) -> list[float]:
    """Entry n: the first n blocks, embedding and head included where they belong."""
    pieces = [float(cost) for cost in costs.blocks]
    pieces[0] += costs.embedding
    pieces[-1] += costs.head
    sums = [0.0]
    for piece in pieces:
        sums.append(sums[-1] + piece)
    return sums


def _check(costs: Costs, parts: int) -> None:
    layers = len(costs.blocks)
    if not 1 <= parts <= layers:
        raise PipelineError(
            f"{parts} stages of a model of {layers} blocks: each stage holds at least one block; "
            f"choose 1 to {layers} stages (chunks counted), or a model of more layers"
        )
    for cost in (costs.embedding, *costs.blocks, costs.head):
        if not (cost >= 0 and math.isfinite(cost)):
            raise PipelineError(f"a cost of {cost} {costs.unit}: expected finite numbers from 0 on")
