"""V-Min: a third of 1F1B's activations, for about GPipe's bubble at F = I = W.

    rank 0  f0 f1 .  F0 I0 W0 .  i0 w0 F1 I1 W1 f2 i1 w1 F2 I2 W2 f3 i2 w2 F3 I3 W3 .  i3 w3
    rank 1  .  f0 F0 .  .  I0 i0 f1 F1 W0 w0 I1 i1 f2 F2 W1 w1 I2 i2 f3 F3 W2 w2 I3 i3 W3 w3
                                      p = 2, m = 4; the first chunk in small letters

Stages are laid out as a V, and a microbatch never waits: one tick a rank on all four legs, the
shortest life that it can have. On rank i its first chunk lives from tick i to 4p - 1 - i, its
second from 2p - 1 - i to 2p + i: 4p ticks together, on every rank. With a new microbatch every six
ticks that makes 2p/3 chunks, p/3 microbatches:

    peak = floor((p + 4)/3)

    idle = 4p - 5 chunks, or 4p - 7 where 3 divides p        if F = I = W

Where 3 divides p, forwards of one microbatch would meet gradients of another in the same tick
everywhere (2p is a multiple of the period); two ticks' pause before the gradient turns lets them
pass, and the reordered ends win it back.

There is no slack between F and I, so for unequal times idle time does grow with m, unless W is the
longest of the three. With three ranks or more a period lasts, in times of one chunk,

    max(2(F + I + W), 6F, 6I)

and a latency is paid with every microbatch.

P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024,
section 3.2.
"""

from fractions import Fraction

from baremetal.schedules.building_block import repeated, v_block
from baremetal.schedules.generator import Generator, Share, Time, evenly
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.v_half import refusal


def v_min(p: int, m: int, v: int = 2) -> Schedule:
    """The block of pace 1 on every leg, repeated."""
    block = v_block(p, paces=(1, 1, 1, 1), pauses=(0, 0 if p % 3 else 2, 0))
    return repeated("v-min", block, p, m)


def idle(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where the three times are equal, in chunks, each half a share."""
    if not share.F == share.I == share.W:
        return None
    chunks = 0 if p == 1 else 4 * p - 5 if p % 3 else 4 * p - 7
    return Fraction(chunks, 2) * share.F


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """The largest of the ranks."""
    return evenly(p, (p + 4) // 3)


V_MIN = Generator(
    name="v-min",
    title="V-Min",
    paper="Qi et al., NeurIPS 2024, arXiv 2405.15362",
    domain="m >= 2p, two chunks",
    build=v_min,
    refusal=refusal,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    chunks=2,
)
