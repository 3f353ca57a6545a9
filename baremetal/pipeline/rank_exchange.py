"""Adding arrays up over stages that are on different ranks: by messages, like everything else.

Every rank that takes part sends what it has to every other one, and then adds all of it up, in the
order of the stages. For a few numbers (norms, losses) nothing is faster; for the copies of a large
matrix, of which there are two, nothing is simpler, and n - 1 ranks do the same sum as one would:

    rank 0    a0 -->     <-- a2     a0 + a1 + a2
    rank 1    a1 -->     ...        a0 + a1 + a2       the same order, the same bits

A ring would send less for many large arrays (that is `parallel/`'s business, later). Who sends how
much is known from the cut of the model (`planned_sums`), so these lanes are laid out with all
others. They belong to the end of a step, and take no modelled time.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from baremetal import comm
from baremetal.pipeline.copies import Holders, copies
from baremetal.pipeline.exchange import in_order


class PlannedSum(NamedTuple):
    """A sum over stages that every step makes.

    Attributes:
        stages: which take part, by rising number.
        size: elements of each one's array.
        dtype: NumPy's name of their type.
    """

    stages: tuple[int, ...]
    size: int
    dtype: str


def planned_sums(
    every: Holders, sizes: Mapping[str, int], dtype: str, stages: int, microbatches: int
) -> list[PlannedSum]:
    """The sums of `Update.clip`: one for each group of copies, and one of all stages' measurements.

    Args:
        every: which stages hold which parameter.
        sizes: elements of each parameter.
        dtype: of the parameters.
        stages: how many there are.
        microbatches: whose losses travel with the measurements.
    """
    sums = [
        PlannedSum(group.stages, sum(sizes[name] for name in group.names), dtype)
        for group in copies(every)
    ]
    return [*sums, PlannedSum(tuple(range(stages)), len(every) + microbatches, "float64")]


def pairs_of(planned: PlannedSum, rank_of: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ordered pairs of ranks between which a sum needs a lane, in a fixed order."""
    ranks = sorted({rank_of[stage] for stage in planned.stages})
    for src in ranks:
        for dst in ranks:
            if src != dst:
                yield src, dst


def exchange_lanes(planned: Sequence[PlannedSum], rank_of: Sequence[int]) -> list[comm.Lane]:
    """The lanes that these sums need, sum after sum."""
    lanes = []
    for each in planned:
        for src, dst in pairs_of(each, rank_of):
            held = sum(rank_of[stage] == src for stage in each.stages)
            lanes.append(
                comm.Lane(
                    src, dst, 1, (held, each.size), each.dtype,
                    label=f"sum over stages {', '.join(map(str, each.stages))}",
                )
            )  # fmt: skip
    return lanes


class RankExchange:
    """An `Exchange` between ranks.

    Args:
        planned: all sums that will be asked for.
        rank: whose end this is.
        rank_of: of each stage.
        senders, receivers: this rank's ends of all the run's lanes, by number.
        first_lane: the number of the first of `exchange_lanes`.
    """

    def __init__(
        self,
        planned: Sequence[PlannedSum],
        rank: int,
        rank_of: Sequence[int],
        senders: Mapping[int, comm.Sender],
        receivers: Mapping[int, comm.Receiver],
        first_lane: int,
    ) -> None:
        self._rank, self._rank_of = rank, rank_of
        self._ends: dict[PlannedSum, tuple[list[comm.Sender], dict[int, comm.Receiver]]] = {}
        self._done = dict.fromkeys(planned, 0)  # how often each sum has been made: message numbers
        lane = first_lane
        for each in planned:
            sending, receiving = self._ends.setdefault(each, ([], {}))
            for src, dst in pairs_of(each, rank_of):
                if src == rank:
                    sending.append(senders[lane])
                if dst == rank:
                    receiving[src] = receivers[lane]
                lane += 1

    def sum(self, own: Mapping[int, np.ndarray], stages: Sequence[int]) -> np.ndarray:
        """See `Exchange.sum`."""
        first = next(iter(own.values()))
        planned = PlannedSum(tuple(stages), first.size, first.dtype.name)
        sending, receiving = self._ends[planned]
        number = self._done[planned]
        self._done[planned] += 1
        mine = np.stack([own[stage] for stage in stages if self._rank_of[stage] == self._rank])
        for sender in sending:
            sender.send(number, mine, 0)
        rows = {self._rank: iter(mine)}
        for src, receiver in receiving.items():
            theirs = np.empty(receiver.lane.shape, receiver.lane.dtype)
            receiver.receive(number, theirs, 0)
            rows[src] = iter(theirs)
        return in_order([next(rows[self._rank_of[stage]]) for stage in stages])
