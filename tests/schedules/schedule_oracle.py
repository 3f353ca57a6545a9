"""A timing oracle: slow, small, and written only from the rules.

Each rank does its steps in order. A step starts when its rank is free and what its actions need has
arrived; it ends its duration later, and what it made arrives at another rank a latency after that.
Nothing else is modelled (no bandwidth, no finite buffers), and numbers are whatever they are given
as: int, float, Fraction. The product's simulator is another piece of code; the two must agree.
"""

from itertools import pairwise

from baremetal.schedules import Kind


def neighbours(paths):
    """{stage: the stage before it} and {stage: the stage behind it}, along the paths."""
    pairs = [pair for path in paths for pair in pairwise(path)]
    return {b: a for a, b in pairs}, dict(pairs)


def needs(action, before, behind):
    """The (kind, stage, microbatch) whose results this action needs, B standing for its I."""
    kind, stage, microbatch = action
    if kind is Kind.F:
        return [(Kind.F, before[stage], microbatch)] if stage in before else []
    if kind is Kind.W:
        return [(Kind.I, stage, microbatch)]
    own = [(Kind.F, stage, microbatch)]
    return [*own, (Kind.I, behind[stage], microbatch)] if stage in behind else own


def made(step):
    """What is finished when the step is: a full backward is an input- and a weight-gradient."""
    for kind, stage, microbatch in step.parts:
        for piece in (Kind.I, Kind.W) if kind is Kind.B else (kind,):
            yield piece, stage, microbatch


class Timeline:
    """When every step of a schedule starts and ends.

    Args:
        schedule: what to play.
        times: {Kind: duration}, B being I + W; or (stage) -> such a dict.
        latency: between ranks.
        pair: duration of an Overlap; None for the sum of its parts.
    """

    def __init__(self, schedule, times, latency=0, pair=None):
        self.before, self.behind = neighbours(schedule.paths)
        self.schedule, self.latency, self.pair = schedule, latency, pair
        self.times = times if callable(times) else lambda stage: times
        self.start, self.end = {}, {}  # by (rank, index)
        self.ready = {}  # by (kind, stage, microbatch), where it was made
        self.clock = [0] * len(schedule.ranks)
        self.play()

    def duration(self, step):
        if len(step.parts) == 2 and self.pair is not None:
            return self.pair
        return sum(self.times(stage)[kind] for kind, stage, _ in made(step))

    def arrival(self, piece, rank):
        """When it is at hand on `rank`; None if it is not made yet."""
        if piece not in self.ready:
            return None
        away = self.schedule.rank_of[piece[1]] != rank
        return self.ready[piece] + (self.latency if away else 0)

    def step_start(self, rank, step):
        own = set(made(step))
        arrivals = [
            self.arrival(piece, rank)
            for action in step.parts
            for piece in needs(action, self.before, self.behind)
            if piece not in own
        ]
        return None if None in arrivals else max([self.clock[rank], *arrivals])

    def play(self):
        at = [0] * len(self.schedule.ranks)
        progress = True
        while progress:
            progress = False
            for rank, steps in enumerate(self.schedule.ranks):
                while at[rank] < len(steps):
                    step = steps[at[rank]]
                    start = self.step_start(rank, step)
                    if start is None:
                        break
                    end = self.clock[rank] = start + self.duration(step)
                    self.start[rank, at[rank]], self.end[rank, at[rank]] = start, end
                    self.ready.update(dict.fromkeys(made(step), end))
                    at[rank] += 1
                    progress = True
        stuck = [rank for rank, steps in enumerate(self.schedule.ranks) if at[rank] < len(steps)]
        assert not stuck, f"{self.schedule.name} deadlocks on ranks {stuck}"

    @property
    def makespan(self):
        return max(self.end.values())

    @property
    def spans(self):
        """For each rank, from its first start to its last end."""
        return [
            self.end[rank, len(steps) - 1] - self.start[rank, 0]
            for rank, steps in enumerate(self.schedule.ranks)
        ]

    @property
    def busy(self):
        """For each rank, the time at work."""
        return [sum(map(self.duration, steps)) for steps in self.schedule.ranks]


def peaks(schedule):
    """Each rank's peak of (stage, microbatch) held, from F to the end of W or B. Order alone."""
    result = []
    for steps in schedule.ranks:
        held = peak = 0
        for step in steps:
            pieces = list(made(step))
            held += sum(kind is Kind.F for kind, _, _ in pieces)
            peak = max(peak, held)
            held -= sum(kind is Kind.W for kind, _, _ in pieces)
        result.append(peak)
    return result
