"""GPipe: all forwards, then all backwards.

    rank 0  F0 F1 F2 F3 .  .  .  .  .  .  B0 -  B1 -  B2 -  B3 -
    rank 1  .  F0 F1 F2 F3 .  .  .  B0 -  B1 -  B2 -  B3 -  .  .
    rank 2  .  .  F0 F1 F2 F3 B0 -  B1 -  B2 -  B3 -  .  .  .  .
                                                    p = 3, m = 4; a backward is two columns wide

The last rank begins after the p - 1 others have each done one forward, and rank 0 ends after p - 1
others have each done one backward behind it, so the ranks are idle for

    (p - 1)(F + I + W),   a share (p - 1)/(m + p - 1) of the makespan.

More microbatches make that share small, and here is the catch: every rank holds all m of them at
the turning point. That is what 1F1B mends, at the same bubble.

With a latency c per hop each of the two ramps takes (p - 1)c longer, whatever m: forwards follow
one another without waiting for an answer.

Y. Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
NeurIPS 2019, figure 2c. (There the backwards begin with the last microbatch; times are the same.)
"""

from fractions import Fraction

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.generator import Generator, Share, Time, anything, evenly
from baremetal.schedules.schedule import Schedule


def gpipe(p: int, m: int, v: int = 1) -> Schedule:
    """All forwards in order, then all backwards in order, on every rank."""
    ranks = []
    for rank in range(p):
        forwards = [Action(Kind.F, rank, microbatch) for microbatch in range(m)]
        backwards = [Action(Kind.B, rank, microbatch) for microbatch in range(m)]
        ranks.append((*forwards, *backwards))
    return Schedule("gpipe", m, tuple(ranks), (tuple(range(p)),))


def idle(p: int, m: int, v: int, share: Share) -> Time:
    """One forward and one backward of each other rank."""
    return (p - 1) * share.work


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """Every microbatch, on every rank."""
    return evenly(p, m)


def makespan_with_latency(p: int, m: int, v: int, share: Share, latency: Time) -> Time:
    """Two ramps of p - 1 hops, each hop once."""
    return (m + p - 1) * share.work + 2 * (p - 1) * latency


GPIPE = Generator(
    name="gpipe",
    title="GPipe",
    paper="Huang et al., NeurIPS 2019, arXiv 1811.06965",
    domain="any",
    build=gpipe,
    refusal=anything,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    makespan_with_latency=makespan_with_latency,
)
