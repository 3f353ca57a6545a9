"""Forwards alone: how an evaluation goes through the stages of a training schedule.

    rank 0   0F0 0F1 0F2 0F3 .   .           one stage on each rank: as in a factory, and
    rank 1   .   1F0 1F1 1F2 1F3 .           (m + p - 1) F from the first start to the last end
    rank 2   .   .   2F0 2F1 2F2 2F3

Nothing comes back, so nothing has to be kept: a microbatch's activations are gone with its F, and
the buffers between the stages are all that an evaluation needs beside the weights.

Where a rank holds several stages (interleaved, or a V), the order is a choice. Here a rank does the
furthest along of what it has: what has come in leaves before more is let in. Two ranks, a V:

    rank 0   0F0 0F1 0F2 3F0 0F3 3F1 .   3F2 .   3F3
    rank 1   .   1F0 2F0 1F1 2F1 1F2 2F2 1F3 2F3 .

A rank has v m of such forwards to do. From the first start to the last end it takes p - 1 more of
them if stages go round (0, 1, ..., p - 1, and again), and 2 (p - 1) in a V, whose last rank lets
go of nothing before its second turn.

The order is found by playing it, with F = 1 and no links. In that play a stage begins only if there
is room for its result, so the play itself is the proof that as many slots never end in a deadlock.

Where the model exists twice (DualPipe's mirrored copies), all microbatches take the first path: one
copy is as good as the other.
"""

from collections import deque

from baremetal.schedules.action import Action, Kind, Step
from baremetal.schedules.schedule import Schedule

SLOTS = 2  # of every lane: one message is taken while the next one is made


def forward_only(schedule: Schedule, slots: int = SLOTS) -> Schedule:
    """All microbatches of a schedule through its first path, forwards alone.

    Args:
        schedule: says which rank holds which stage, and how many microbatches there are.
        slots: that every lane has; with so many (or more) the result is free of deadlock.
    """
    path = schedule.paths[0]
    play = _Play(schedule, path, slots)
    while play.left:
        play.tick()
    ranks = tuple(tuple(steps) for steps in play.ranks)
    return Schedule(
        f"forwards of {schedule.name}", schedule.microbatches, ranks, (path,), forward_only=True
    )


class _Play:
    """Who has what, tick after tick; in each, every rank does one forward, or none."""

    def __init__(self, schedule: Schedule, path: tuple[int, ...], slots: int) -> None:
        self._path, self._slots = path, slots
        self._rank_of = [schedule.rank_of[stage] for stage in path]
        # What has come to each place of the path and waits there.
        self._waiting: list[deque[int]] = [deque() for _ in path]
        self._waiting[0].extend(range(schedule.microbatches))
        self.ranks: list[list[Step]] = [[] for _ in schedule.ranks]
        self.left = schedule.microbatches * len(path)

    def tick(self) -> None:
        """One forward on every rank that can do any, all at once."""
        chosen: dict[int, int] = {}  # by rank, the place that it works at
        for place in reversed(range(len(self._path))):  # the furthest first
            if self._waiting[place] and self._has_room(place):
                chosen.setdefault(self._rank_of[place], place)
        for rank, place in chosen.items():
            microbatch = self._waiting[place].popleft()
            self.ranks[rank].append(Action(Kind.F, self._path[place], microbatch))
            if place + 1 < len(self._path):
                self._waiting[place + 1].append(microbatch)
        self.left -= len(chosen)

    def _has_room(self, place: int) -> bool:
        """Whether its result can be put down; on the same rank, anywhere."""
        behind = place + 1
        if behind == len(self._path) or self._rank_of[behind] == self._rank_of[place]:
            return True
        return len(self._waiting[behind]) < self._slots
