"""Looped breadth-first: interleaved stages, but every chunk sees all microbatches before the next.

    rank 0  f0 f1 f2 F0 F1 F2 .  .  .  B0 -  B1 -  B2 -  b0 -  b1 -  b2 -
    rank 1  .  f0 f1 f2 F0 F1 F2 B0 -  B1 -  B2 -  b0 -  b1 -  b2 -  .  .
                     p = 2, m = 3, v = 2; chunk 0 in small letters; a backward is two columns wide

It is to interleaved 1F1B what GPipe is to 1F1B. The bubble is that of any looping schedule,

    idle = (p - 1)(F + I + W)/v,

and all m microbatches are held at the turning point. What is gained: a chunk's parameters are in
use in one stretch, once forward and once backward, which is what sharded parameters (ZeRO) want,
because each stretch is one all-gather instead of one per round; and no rank waits for the answer to
what it has sent, so that with m > p a link's latency is not paid with every microbatch.

With m < p a microbatch comes round to a rank's next chunk later than the rank has finished the
previous one, and the ramps are longer: m >= p is asked for.

J. Lamy-Poirier, "Breadth-First Pipeline Parallelism", MLSys 2023, figure 2.
"""

from fractions import Fraction

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.generator import Generator, at_least, evenly
from baremetal.schedules.interleaved import idle
from baremetal.schedules.schedule import Schedule


def looped_bfs(p: int, m: int, v: int) -> Schedule:
    """Chunk by chunk forward, then chunk by chunk backward."""
    ranks = []
    for rank in range(p):
        stages = range(rank, p * v, p)
        forwards = [Action(Kind.F, stage, k) for stage in stages for k in range(m)]
        backwards = [Action(Kind.B, stage, k) for stage in reversed(stages) for k in range(m)]
        ranks.append((*forwards, *backwards))
    return Schedule("looped-bfs", m, tuple(ranks), (tuple(range(p * v)),))


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """Every microbatch, on every rank."""
    return evenly(p, m)


LOOPED_BFS = Generator(
    name="looped-bfs",
    title="looped breadth-first",
    paper="Lamy-Poirier, MLSys 2023, arXiv 2211.05953",
    domain="m >= p",
    build=looped_bfs,
    refusal=lambda p, m, v: at_least(m, p, "p"),
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    chunks=2,
)
