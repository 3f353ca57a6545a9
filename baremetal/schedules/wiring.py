"""Who sends what to whom: every message of a schedule, known before anything runs.

A forward sends its activations to the rank that holds the stage behind, an input-gradient (or a
full backward) its gradient to the rank of the stage before. Neighbouring stages on one rank send
nothing. So a schedule fixes all messages: who sends each and in which step, who takes it and in
which step, and in which order they leave.

A *lane* is what flows one way between two stages, in a ring of slots of its own. A *link* joins
two ranks one way; several lanes may share it (stage 0 to 1 and stage 4 to 5 of an interleaved
schedule on four ranks), and then their messages queue for it in the order in which they are sent.

    lane 0 -> 1 (activations)   messages 0, 1, 2 ...  slots 0, 1, 0 ...  one ring of 2 slots
    link rank 0 -> rank 1       the messages of all its lanes in the sender's order
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from baremetal.schedules.complete import check_complete
from baremetal.schedules.flat import NONE, Done, Flat
from baremetal.schedules.schedule import Schedule

FORWARD, BACKWARD = 0, 1  # columns: what a step's forward and its backward part take and send


class Lane(NamedTuple):
    """All messages one way between two stages that live on different ranks.

    Attributes:
        source: the stage that sends.
        target: the stage that takes: the one behind (activations) or before (gradients).
    """

    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.source}->{self.target}"


@dataclass(frozen=True)
class Wiring:
    """Every message of a schedule, numbered lane after lane in the sender's order.

    Attributes:
        flat: the schedule's steps as columns.
        done: in which step each microbatch passes each stage.
        takes, sends: the message that each step's forward and backward part needs and sends, or
            -1, (steps, 2) int64.
        lanes: by number.
        lane, number: of each message, its lane and its place in it, (messages,) int64.
        sender, taker: of each message, the step that sends and the step that takes it.
        links: by number, the ranks from which and to which.
        link, sequence: of each message, its link and its place among all that leave by it.
    """

    flat: Flat
    done: Done
    takes: np.ndarray
    sends: np.ndarray
    lanes: tuple[Lane, ...]
    lane: np.ndarray
    number: np.ndarray
    sender: np.ndarray
    taker: np.ndarray
    links: tuple[tuple[int, int], ...]
    link: np.ndarray
    sequence: np.ndarray

    @property
    def schedule(self) -> Schedule:
        """Where it comes from."""
        return self.flat.schedule

    @property
    def messages(self) -> int:
        """How many there are."""
        return len(self.lane)

    def is_activations(self, lane: Lane) -> bool:
        """Whether the lane carries activations; gradients otherwise."""
        return self.schedule.behind(lane.source) == lane.target


def wire(schedule: Schedule) -> Wiring:
    """Find all messages of a schedule.

    Raises:
        ScheduleError: it is incomplete or out of order.
    """
    flat, done = check_complete(schedule)
    takes = np.full((flat.steps, 2), NONE, np.int64)
    sends = np.full((flat.steps, 2), NONE, np.int64)
    lanes: list[Lane] = []
    lane, sender, taker, column = [], [], [], []  # pieces, one per lane
    count = 0
    for this, way, sent_in, taken_in in _lanes(schedule, done):
        messages = np.arange(count, count + len(sent_in))
        sends[sent_in, way] = messages
        takes[taken_in, way] = messages
        lane.append(np.full(len(messages), len(lanes)))
        sender.append(sent_in)
        taker.append(taken_in)
        column.append(np.full(len(messages), way))
        lanes.append(this)
        count += len(messages)
    lane_of, senders = _joined(lane), _joined(sender)
    pairs = [(schedule.rank_of[each.source], schedule.rank_of[each.target]) for each in lanes]
    links = tuple(sorted(set(pairs)))
    link_of_lane = np.array([links.index(pair) for pair in pairs], np.int64)
    link = link_of_lane[lane_of]
    return Wiring(
        flat, done, takes, sends, tuple(lanes), lane_of, _places(lane_of, senders), senders,
        _joined(taker), links, link, _places(link, 2 * senders + _joined(column)),
    )  # fmt: skip


def _lanes(schedule: Schedule, done: Done) -> Iterator[tuple[Lane, int, np.ndarray, np.ndarray]]:
    """Each lane, which way it goes, and its messages' sending and taking steps as sent."""
    for stage in range(schedule.stages):
        behind = schedule.behind(stage)
        if behind is None or schedule.rank_of[behind] == schedule.rank_of[stage]:
            continue
        for lane, way, table in (
            (Lane(stage, behind), FORWARD, done.forward),
            (Lane(behind, stage), BACKWARD, done.gradient),
        ):
            steps = table[lane.source]
            microbatches = np.flatnonzero(steps != NONE)
            if not len(microbatches):  # forwards alone: nothing flows back
                continue
            as_sent = microbatches[np.argsort(steps[microbatches])]
            yield lane, way, steps[as_sent], table[lane.target][as_sent]


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *pieces]).astype(np.int64)


def _places(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Each one's place, from 0, among those of its group in the order of their keys."""
    order = np.lexsort((key, group))
    sizes = np.bincount(group) if len(group) else np.zeros(0, np.int64)
    starts = np.cumsum(sizes) - sizes
    places = np.empty(len(group), np.int64)
    places[order] = np.arange(len(group)) - starts[group[order]]
    return places
