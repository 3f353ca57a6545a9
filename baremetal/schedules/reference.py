"""The rules of modelled time, written to be read. The simulator is tested against this.

1.  Every rank does its steps in order. Its clock begins at 0.
2.  A step starts when its rank is free, every message that it needs has arrived, and every message
    that it will send has a free slot.
3.  It ends a host overhead and its own duration later.
4.  Then it sends. One link joins each ordered pair of ranks; a message departs when the link is
    free, occupies it for overhead + bytes / bandwidth, and arrives a latency (and jitter) after
    it has left the link.
5.  Lost messages are sent again after a timeout; all the while the link is theirs.
6.  A lane, all messages one way between two stages, is a ring of n slots. Message k takes over
    the slot of message k - n, which is free from the start of the step that takes that one.
7.  So all times follow from the order of the steps and their durations. Nothing is drawn while
    playing: jitter and loss are functions of a seed, the link, and the message's number on it.

Everything is an int of picoseconds. The same rules, obeyed by real processes that exchange real
messages, are in the pipeline's runtime, and both come to the same times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.wiring import Lane

Delays = Callable[[int, int, int, int], tuple[int, int]]
"""(source rank, target rank, message's number on the link, stage) -> (occupancy, flight) in ps.
The stage is the one whose activations, or the gradient of them, the message carries."""


@dataclass
class Played:
    """What happened, in ps. Messages are known by their lane and their microbatch.

    Attributes:
        start, end: of each step done, by rank.
        depart, arrive, taken: of each message.
    """

    start: list[list[int]]
    end: list[list[int]]
    depart: dict[tuple[Lane, int], int] = field(default_factory=dict)
    arrive: dict[tuple[Lane, int], int] = field(default_factory=dict)
    taken: dict[tuple[Lane, int], int] = field(default_factory=dict)


class _Player:
    """The state of all ranks, links and lanes while playing."""

    def __init__(self, schedule: Schedule, delays: Delays, slots: Mapping[Lane, int]) -> None:
        self.schedule, self.delays, self.slots = schedule, delays, slots
        self.played = Played([[] for _ in schedule.ranks], [[] for _ in schedule.ranks])
        self.sent: dict[Lane, list[int]] = {}  # microbatches, in the order in which they were sent
        self.link_free_ps: dict[tuple[int, int], int] = {}
        self.on_link: dict[tuple[int, int], int] = {}  # how many messages it has carried

    def lane_in(self, part: Action) -> Lane | None:
        """The lane by which the part gets what it needs; None if it needs no message."""
        behind, before = self.schedule.behind(part.stage), self.schedule.before(part.stage)
        source = {Kind.F: before, Kind.I: behind, Kind.B: behind, Kind.W: None}[part.kind]
        return self._between(source, part.stage)

    def lane_out(self, part: Action) -> Lane | None:
        """The lane by which the part sends what it has computed; None if it sends none."""
        behind, before = self.schedule.behind(part.stage), self.schedule.before(part.stage)
        target = {Kind.F: behind, Kind.I: before, Kind.B: before, Kind.W: None}[part.kind]
        return self._between(part.stage, target)

    def _between(self, source: int | None, target: int | None) -> Lane | None:
        if source is None or target is None:
            return None
        same = self.schedule.rank_of[source] == self.schedule.rank_of[target]
        return None if same else Lane(source, target)

    def waits_for_ps(self, part: Action) -> list[int | None]:
        """The times that a part of a step waits for; None is one that is not known yet."""
        times: list[int | None] = []
        if lane := self.lane_in(part):
            times.append(self.played.arrive.get((lane, part.microbatch)))
        if lane := self.lane_out(part):
            sent = self.sent.setdefault(lane, [])
            earlier = len(sent) - self.slots.get(lane, len(sent) + 1)
            if earlier >= 0:
                times.append(self.played.taken.get((lane, sent[earlier])))
        return times

    def send(self, part: Action, end_ps: int) -> None:
        lane = self.lane_out(part)
        if lane is None:
            return
        link = self.schedule.rank_of[lane.source], self.schedule.rank_of[lane.target]
        edge = min(lane, key=lambda s: self.schedule.path_of(part.microbatch).index(s))
        number = self.on_link.get(link, 0)
        occupancy_ps, flight_ps = self.delays(*link, number, edge)
        depart_ps = max(end_ps, self.link_free_ps.get(link, 0))
        message = lane, part.microbatch
        self.played.depart[message] = depart_ps
        self.link_free_ps[link] = depart_ps + occupancy_ps
        self.played.arrive[message] = depart_ps + occupancy_ps + flight_ps
        self.on_link[link] = number + 1
        self.sent.setdefault(lane, []).append(part.microbatch)

    def try_step(self, rank: int, duration_ps: int) -> bool:
        """Do the rank's next step if all that it waits for is known."""
        step = self.schedule.ranks[rank][len(self.played.end[rank])]
        times = [time for part in step.parts for time in self.waits_for_ps(part)]
        if None in times:
            return False
        clock_ps = self.played.end[rank][-1] if self.played.end[rank] else 0
        start_ps = max([clock_ps, *(time for time in times if time is not None)])
        end_ps = start_ps + duration_ps
        self.played.start[rank].append(start_ps)
        self.played.end[rank].append(end_ps)
        for part in step.parts:
            if lane := self.lane_in(part):
                self.played.taken[lane, part.microbatch] = start_ps
        for part in step.parts:
            self.send(part, end_ps)
        return True


def play_slowly(
    schedule: Schedule,
    durations_ps: Sequence[Sequence[int]],
    delays: Delays,
    host_overhead_ps: int = 0,
    slots: Mapping[Lane, int] | None = None,
) -> Played:
    """Play a schedule by the rules above, as far as it can be played.

    Args:
        schedule: a complete one, in order (`complete.py`).
        durations_ps: of each rank's steps.
        delays: what a link does to a message; its last argument is the stage whose activations,
            or their gradient, the message carries.
        host_overhead_ps: added to every step.
        slots: of each lane; as many as it likes for a lane that is left out.

    Returns:
        All times. Ranks whose lists are shorter than their steps are deadlocked.
    """
    player = _Player(schedule, delays, slots or {})
    progress = True
    while progress:
        progress = False
        for rank, durations in enumerate(durations_ps):
            while (done := len(player.played.end[rank])) < len(durations):
                if not player.try_step(rank, host_overhead_ps + durations[done]):
                    break
                progress = True
    return player.played
