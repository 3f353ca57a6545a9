"""1F1B: one forward, one backward, as soon as there is something to go back for.

    rank 0  F0 F1 F2 .  .  .  .  B0 -  F3 B1 -  F4 B2 -  .  B3 -  .  B4 -
    rank 1  .  F0 F1 .  .  B0 -  F2 B1 -  F3 B2 -  F4 B3 -  .  B4 -  .  .
    rank 2  .  .  F0 B0 -  F1 B1 -  F2 B2 -  F3 B3 -  F4 B4 -  .  .  .  .
                                                    p = 3, m = 5; a backward is two columns wide

Rank i lets p - 1 - i microbatches in ahead, then alternates. Nothing gets faster: the bubble is
GPipe's, (p - 1)(F + I + W). But a microbatch now leaves for each one that comes in, so that rank i
holds at most min(p - i, m) of them, however many there are in the batch.

The price shows with a latency c per hop. Rank i may go on only when an answer to a microbatch that
it sent p - 1 - i forwards ago is back, so hops are paid again and again: a trip to the last rank
and back for every group of p microbatches, and two hops more for each beyond the second of the last
group. With q groups before the last, and r microbatches in that, m = q p + r and 1 <= r <= p,

    makespan = (m + p - 1)(F + I + W) + (2 (p - 1)(q + 1) + 2 max(0, r - 2)) c,

whatever the times are. If p divides m, c is paid 2 (p - 1) m/p + 2 (p - 2) times (p >= 2). No
source prints this; it was found with the simulator, and tests hold it to a slow one.

D. Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training", SOSP 2019; with
a flush, as here: "Memory-Efficient Pipeline-Parallel DNN Training", ICML 2021.
"""

from fractions import Fraction

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.generator import Generator, Share, Time, anything
from baremetal.schedules.gpipe import idle
from baremetal.schedules.schedule import Schedule


def one_f_one_b(p: int, m: int, v: int = 1) -> Schedule:
    """On each rank: a warm-up of forwards, then pairs, then the backwards that are left."""
    ranks = []
    for rank in range(p):
        ahead = min(p - 1 - rank, m)
        steps = [Action(Kind.F, rank, microbatch) for microbatch in range(ahead)]
        for microbatch in range(m):
            if microbatch + ahead < m:
                steps.append(Action(Kind.F, rank, microbatch + ahead))
            steps.append(Action(Kind.B, rank, microbatch))
        ranks.append(tuple(steps))
    return Schedule("1f1b", m, tuple(ranks), (tuple(range(p)),))


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """What was let in ahead, and the one at work; there are no more than m."""
    return tuple(Fraction(min(p - rank, m)) for rank in range(p))


def makespan_with_latency(p: int, m: int, v: int, share: Share, latency: Time) -> Time:
    """Known for all sizes and times."""
    groups = -(-m // p)  # of p microbatches; the last may have fewer
    in_last = m - (groups - 1) * p
    hops = 2 * (p - 1) * groups + 2 * max(0, in_last - 2)
    return (m + p - 1) * share.work + hops * latency


ONE_F_ONE_B = Generator(
    name="1f1b",
    title="1F1B",
    paper="Narayanan et al., SOSP 2019 and ICML 2021, arXiv 2006.09503",
    domain="any",
    build=one_f_one_b,
    refusal=anything,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    makespan_with_latency=makespan_with_latency,
)
