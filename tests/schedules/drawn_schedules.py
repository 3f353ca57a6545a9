"""Schedules drawn at random, all of them legal: what the simulator and the checker are tried on.

A schedule is legal if there is an order in which it can be done. So one is drawn by doing it: as
long as there is work, any action whose needs are met is done next, on the rank that holds its
stage; now and then a forward and a backward that are both ready become an overlapped pair.
"""

from fractions import Fraction
from itertools import pairwise

from hypothesis import strategies as st

from baremetal.machine import Link
from baremetal.schedules import Action, Kind, Overlap, Schedule


@st.composite
def schedules(draw, most_ranks=4, most_stages=6, most_microbatches=6):
    """Any legal schedule: stages anywhere, B or I and W, overlaps, one path or two mirrored."""
    rng = draw(st.randoms(use_true_random=False))
    ranks = draw(st.integers(1, most_ranks))
    length = draw(st.integers(1, most_stages))
    microbatches = draw(st.integers(1, most_microbatches))
    paths = [tuple(range(length))]
    if draw(st.booleans()) and microbatches > 1:
        paths.append(tuple(reversed(range(length, 2 * length))))
    stages = length * len(paths)
    rank_of = [rng.randrange(ranks) for _ in range(stages)]
    split = draw(st.booleans())
    return random_schedule(rng, tuple(paths), rank_of, microbatches, ranks, split)


def random_schedule(rng, paths, rank_of, microbatches, ranks, split):
    """Do the work in any order, and write it down."""
    each = -(-microbatches // len(paths))
    steps = [[] for _ in range(ranks)]
    needs = {}
    for microbatch in range(microbatches):
        path = paths[microbatch // each]
        for at, stage in enumerate(path):
            forward = Action(Kind.F, stage, microbatch)
            needs[forward] = [Action(Kind.F, path[at - 1], microbatch)] if at else []
            halves = split and rng.random() < 0.7
            backward = Action(Kind.I if halves else Kind.B, stage, microbatch)
            needs[backward] = [forward]
            if halves:
                needs[Action(Kind.W, stage, microbatch)] = [backward]
        for stage, behind in pairwise(path):
            gradient = next(a for a in needs if a[1:] == (behind, microbatch) and a.kind in (1, 3))
            own = next(a for a in needs if a[1:] == (stage, microbatch) and a.kind in (1, 3))
            needs[own] = [*needs[own], gradient]
    done = set()
    while len(done) < len(needs):
        ready = [a for a in needs if a not in done and done.issuperset(needs[a])]
        action = rng.choice(ready)
        rank = rank_of[action.stage]
        beside = [
            a for a in ready
            if rank_of[a.stage] == rank and {a.kind, action.kind} in ({0, 1}, {0, 3})
        ]  # fmt: skip
        if beside and rng.random() < 0.5:
            pair = sorted([action, rng.choice(beside)])
            steps[rank].append(Overlap(*pair))
            done.update(pair)
        else:
            steps[rank].append(action)
            done.add(action)
    return Schedule("drawn", microbatches, tuple(map(tuple, steps)), paths)


@st.composite
def durations(draw, schedule):
    """For each rank the ps of its steps; zeros among them."""
    rng = draw(st.randoms(use_true_random=False))
    return [[rng.choice([0, 1, 7, rng.randrange(50)]) for _ in steps] for steps in schedule.ranks]


def links():
    """Slow and fast ones, with jitter and losses or without."""
    return st.builds(
        Link,
        name=st.just("drawn"),
        bandwidth_bps=st.sampled_from([None, 3 * 10**12, 10**13]),
        latency_ps=st.integers(0, 20),
        overhead_ps=st.integers(0, 5),
        jitter_ps=st.sampled_from([0, 0, 11]),
        loss=st.sampled_from([Fraction(0), Fraction(0), Fraction(1, 4)]),
        retransmit_timeout_ps=st.integers(0, 9),
    )


def given_one_for_each_pair(draw, schedule):
    """A link of its own for each ordered pair of ranks."""
    ranks = range(len(schedule.ranks))
    return {(a, b): draw(links()) for a in ranks for b in ranks if a != b}
