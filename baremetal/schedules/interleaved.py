"""Interleaved 1F1B: each rank holds several thin slices of the model instead of one thick one.

    rank 0  f0 f1 F0 F1 f2 .  B0 -  f3 B1 -  F2 b0 -  F3 b1 -  .  B2 -  .  B3 -  b2 -  b3 -
    rank 1  .  f0 f1 F0 B0 -  F1 B1 -  f2 b0 -  f3 b1 -  F2 B2 -  F3 B3 -  b2 -  b3 -  .  .
                     p = 2, m = 4, v = 2; chunk 0 in small letters; a backward is two columns wide

A model cut into p v stages goes around the p ranks v times: rank i holds stages i, p + i, 2p + i,
and so on (its *chunks*, "virtual stages"). A microbatch reaches the last rank after p - 1 steps of
one chunk instead of p - 1 steps of a whole share, so every ramp is v times as short:

    idle = (p - 1)(F + I + W)/v

Forwards go in rounds: p microbatches through chunk 0, the same p through chunk 1, and so on, then
the next p; backwards the same with the last chunk first. Rank i does

    2 (p - 1 - i) + (v - 1) p   forwards ahead (at most all m v),

then alternates. Why that many: the first microbatch is back at rank i's last chunk when it has gone
through v - 1 full rounds of p and twice the p - 1 - i ranks below. It costs memory, p + (p - 1)/v
microbatches instead of 1F1B's p on rank 0 (m if m = p), and v times as many messages.

With a latency c per hop a microbatch crosses p v - 1 cuts each way, which is paid once:

    makespan = (m + (p - 1)/v)(F + I + W) + 2 (p v - 1) c     if p >= 2, c <= min(F, I + W)/v

1F1B pays with every microbatch. Here more are ahead, and while a message is under way there is
something else to do, for as long as the shorter action of a chunk takes. (No source prints
this; it was found with the simulator, and tests hold it to a slow one.)

D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
Megatron-LM", SC 2021, section 2.2.2, figure 4.
"""

from fractions import Fraction

from baremetal.schedules.action import Action, Kind
from baremetal.schedules.generator import Generator, Share, Time
from baremetal.schedules.schedule import Schedule


def interleaved(p: int, m: int, v: int) -> Schedule:
    """On each rank: forwards ahead, then pairs, then the backwards that are left."""
    ranks = []
    for rank in range(p):
        forwards = [Action(Kind.F, chunk * p + rank, k) for chunk, k in in_rounds(p, m, v)]
        backwards = [
            Action(Kind.B, (v - 1 - chunk) * p + rank, k) for chunk, k in in_rounds(p, m, v)
        ]
        ahead = forwards_ahead(p, m, v, rank)
        steps = forwards[:ahead]
        for forward, backward in zip(forwards[ahead:], backwards, strict=False):
            steps += [forward, backward]
        steps += backwards[m * v - ahead :]
        ranks.append(tuple(steps))
    return Schedule("interleaved", m, tuple(ranks), (tuple(range(p * v)),))


def in_rounds(p: int, m: int, v: int) -> list[tuple[int, int]]:
    """(chunk, microbatch) in the order of the work: p microbatches at a time through all chunks."""
    return [(chunk, first + k) for first in range(0, m, p) for chunk in range(v) for k in range(p)]


def forwards_ahead(p: int, m: int, v: int, rank: int) -> int:
    """How many forwards a rank does before its first backward's partner."""
    return min(2 * (p - 1 - rank) + (v - 1) * p, m * v)


def refusal(p: int, m: int, v: int) -> str | None:
    """Rounds are of p microbatches."""
    if m % p == 0:
        return None
    fits = [f"{m // p * p}"] if m > p else []
    fits.append(f"{-(-m // p) * p}")
    return f"the microbatches must be a multiple of the {p} ranks: {' or '.join(fits)} would do"


def idle(p: int, m: int, v: int, share: Share) -> Time:
    """GPipe's ramps, in steps of a chunk."""
    return Fraction(p - 1, v) * share.work


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """What was done ahead, and the one at work."""
    return tuple(Fraction(min(forwards_ahead(p, m, v, rank) + 1, m * v), v) for rank in range(p))


def makespan_with_latency(p: int, m: int, v: int, share: Share, latency: Time) -> Time | None:
    """Known while a hop takes no longer than the shorter action of a chunk."""
    if latency * v > min(share.F, share.I + share.W):
        return None
    hops = 2 * (p * v - 1) if p > 1 else 0
    return m * share.work + idle(p, m, v, share) + hops * latency


INTERLEAVED = Generator(
    name="interleaved",
    title="interleaved 1F1B",
    paper="Narayanan et al., SC 2021, arXiv 2104.04473",
    domain="p divides m",
    build=interleaved,
    refusal=refusal,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    chunks=2,
    makespan_with_latency=makespan_with_latency,
)
