"""Looped breadth-first: interleaved stages, but every chunk sees all microbatches before the next.

    rank 0   all m forwards of chunk 0, all m of chunk 1, ...; then backwards of the last chunk, ...

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
