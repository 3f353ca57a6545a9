"""What no schedule can beat: lower bounds from work, distance and memory.

First for one stage per rank; `lower_bound_of_v` is for two per rank in a V.

Let rank r be idle as little as it can. It works m (F + I + W) in any case. Beside that:

*Filling.* Its first gradient can start no earlier than a *round trip* after its first forward, the
time for a microbatch to the last rank and back. Until then nothing is given back, so it can do no
more forwards than it may hold: with room for L microbatches (and m of them in all)

    idle >= round trip - min(L, m) F

*Draining.* Its last forward's gradient, too, comes a round trip later. What can be done meanwhile
is what was held when that forward began: L - 1 other microbatches, with an I and a W each at most.

    idle >= round trip - F - (L - 1)(I + W)

If m > L these are two different waits, for the last forward needs memory that only the first
gradient gives back; else the larger one counts. For equal times, a latency c and L = p together
they are (p - 1)(F + I - W + 4c): what ZB-H1 has, which therefore is the best there is in 1F1B's
memory.

*Turnover.* A microbatch is held for a round trip, an I and a W. At most L are held at once, so they
follow each other on L places, and one of these sees at least m / L, rounded up:

    span >= ceil(m / L) (round trip + I + W)          which counts where L < p

*Distance.* Rank r began after rank q < r, at least as much later as a forward takes from q to r,
and after its last gradient that of q is still to come. Only the W that r may still owe then, L of
them, can be done at the same time. So

    span of q >= forward from q to r + (m (F + I) + (m - L) W + idle of r) + gradient back to q + W

and the makespan is at least the span of rank 0, which begins at time 0. This says how much memory a
zero bubble takes.

If an I already gives back a part of the activations and W only the rest, the share k, then the
memory L holds more: up to L / k microbatches whose W is owed. "Draining" then
asks for the x whose I and W are left and the y whose W is left, with x + k y <= L - 1 and
x + y <= m - 1, that are the most work, and turnover is what m microbatches take of memory times
time, divided by L.
"""

from typing import NamedTuple

import numpy as np

from baremetal.schedules.action import Kind
from baremetal.schedules.auto_fill import Fold
from baremetal.schedules.auto_list import Line


class Bound(NamedTuple):
    """The largest span and the makespan cannot be shorter than this, in ps."""

    span_ps: int
    makespan_ps: int


def lower_bound(line: Line) -> Bound:
    """For schedules with one stage per rank that keep within the memory of each."""
    trip_ps = line.round_trip_ps()
    forward_ps = np.concatenate([[0], np.cumsum(line.forward_hops_ps())])  # start to start
    gradient_ps = np.concatenate([[0], np.cumsum(line.gradient_hops_ps())])
    gradient_ps -= line.lasts_ps[Kind.I]  # now, as a difference, from end to end
    spans = np.zeros(line.ranks, np.int64)
    for rank in range(line.ranks):
        idle_ps = _idle_ps(line, rank, int(trip_ps[rank]))
        F, I, W = (int(line.lasts_ps[kind, rank]) for kind in (Kind.F, Kind.I, Kind.W))
        m = line.microbatches
        owed = _owed(line, rank)
        work_ps = m * (F + I + W) + idle_ps
        until_i_ps = int(trip_ps[rank]) + I
        spans[rank] = max(spans[rank], work_ps, _turnover_ps(line, rank, until_i_ps, W, owed=0))
        done_ps = max(  # to the end of the last I
            work_ps - owed * W, _turnover_ps(line, rank, until_i_ps, W, owed)
        )
        before = slice(0, rank)
        spans[before] = np.maximum(
            spans[before],
            forward_ps[rank] - forward_ps[before] + done_ps
            + gradient_ps[rank] - gradient_ps[before] + line.lasts_ps[Kind.W, before],
        )  # fmt: skip
    return Bound(int(spans.max()), _makespan_ps(forward_ps, spans))


def lower_bound_of_v(fold: Fold) -> Bound:
    """The same for a V, from work, filling, turnover and where a rank's first stage lies.

    *Work*: m (F + I + W) of both of a rank's stages. *Filling*: the rank begins with an F of its
    upper stage. Its first I is of the lower one, no earlier than a microbatch takes to the lower
    stage, on to the last, and back; until then only as many F as the memory holds can be done,
    every one of the lower stage after one of the upper. *Turnover*: every microbatch takes memory
    on each stage from its F to the end of its I, and the share kept for W until its end: at least
    a round trip from there. What all take of memory times time has to fit the limit times the span.
    """
    m, p = fold.microbatches, len(fold.limit)
    F, I, W = fold.lasts_ps
    onward_ps = np.concatenate([[0], np.cumsum((F + fold.transit_ps[0] + fold.transit_ps[2])[:-1])])
    back_ps = np.concatenate([[0], np.cumsum((I + fold.transit_ps[1] + fold.transit_ps[3])[1:])])
    trip_ps = onward_ps[-1] - onward_ps + F[-1] + back_ps[-1] - back_ps
    spans = np.zeros(p, np.int64)
    for rank, (upper, lower) in enumerate(fold.stages_of().tolist()):
        pair = [upper, lower]
        places = min(int(fold.limit[rank]) // int(fold.memory[Kind.F]), 2 * m)
        first_i_ps = int(onward_ps[lower] - onward_ps[upper] + trip_ps[lower])
        work_ps = m * int(fold.lasts_ps[:, pair].sum())
        filling_ps = max(0, first_i_ps - _most_forward_work_ps(F[upper], F[lower], places, m))
        until_i_ps = int((trip_ps + I)[pair].sum())
        whole, kept = int(fold.memory[Kind.F]), int(fold.memory[Kind.W])
        area = m * (whole * until_i_ps + kept * int(W[pair].sum()))
        spans[rank] = max(work_ps + filling_ps, -(-area // int(fold.limit[rank])))
    return Bound(int(spans.max()), int((onward_ps[:p] + spans).max()))


def _most_forward_work_ps(upper_ps: int, lower_ps: int, places: int, m: int) -> int:
    """The most that x F of the upper and y <= x of the lower stage are, x + y <= places, x <= m."""
    if upper_ps >= lower_ps:
        upper = min(places, m)
        return int(upper * upper_ps + min(places - upper, m) * lower_ps)
    lower = min(places // 2, m)
    return int(lower * lower_ps + min(places - lower, m) * upper_ps)


def _makespan_ps(forward_ps: np.ndarray, spans: np.ndarray) -> int:
    """No rank begins before the first forward has come to it."""
    return int((forward_ps + spans).max())


def _idle_ps(line: Line, rank: int, trip_ps: int) -> int:
    """What a rank is idle at the least until its last gradient begins."""
    F, I, W = (int(line.lasts_ps[kind, rank]) for kind in (Kind.F, Kind.I, Kind.W))
    m = line.microbatches
    held = min(_most_forwards(line, rank), m)
    filling_ps = max(0, trip_ps - held * F)
    draining_ps = max(0, trip_ps - F - _most_work_ps(line, rank, I, W))
    return filling_ps + draining_ps if m > held else max(filling_ps, draining_ps)


def _turnover_ps(line: Line, rank: int, until_i_ps: int, W: int, owed: int) -> int:
    """How long the memory of a rank needs to see all microbatches, but for the last W owed."""
    m, whole, kept = line.microbatches, int(line.memory[Kind.F]), int(line.memory[Kind.W])
    if kept == whole:
        in_a_row = -(-m // _most_forwards(line, rank))
        return in_a_row * (until_i_ps + W) - (W if owed else 0)
    return -(-(m * whole * until_i_ps + (m - owed) * kept * W) // int(line.limit[rank]))


def _most_forwards(line: Line, rank: int) -> int:
    """L: microbatches that a rank can hold if none has had its I."""
    return int(line.limit[rank]) // int(line.memory[Kind.F])


def _owed(line: Line, rank: int) -> int:
    """W that a rank can owe at most."""
    kept = int(line.memory[Kind.W])
    return min(line.microbatches, int(line.limit[rank]) // kept) if kept else line.microbatches


def _most_work_ps(line: Line, rank: int, I: int, W: int) -> int:
    """The most that x (I + W) + y W can be while x + y <= m - 1, x + k y <= L - 1: a corner."""
    most, whole = line.microbatches - 1, int(line.memory[Kind.F])
    kept, room = int(line.memory[Kind.W]), int(line.limit[rank]) - whole
    if kept == whole:
        return min(most, room // whole) * (I + W)
    corners = [min(most, -(-room // whole)) * (I + W)]
    # With x + y = m - 1 the memory says (whole - kept) x <= room - kept (m - 1). Rounded up.
    spare = room - kept * most
    if spare >= 0:
        x = min(most, -(-spare // (whole - kept)))
        corners.append(x * (I + W) + (most - x) * W)
    elif kept:
        corners.append(-(-room // kept) * W)
    return max(corners)
