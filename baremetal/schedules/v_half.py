"""V-Half: half of 1F1B's activations, and hardly slower.

    rank 0  f0 f1 f2 F0 I0 W0 F1 .  i0 I1 W1 F2 w0 f3 i1 I2 W2 F3 I3 i2 W3 i3 w1 w2 w3
    rank 1  .  f0 F0 f1 F1 I0 W0 i0 w0 f2 F2 I1 i1 W1 f3 w1 F3 I2 i2 I3 i3 W2 W3 w2 w3
                                      p = 2, m = 4; the first chunk in small letters

Stages are laid out as a V. A microbatch walks the first chunks at two ticks a rank and the second
ones at one, in both directions (see `building_block`): on rank i its first chunk lives from tick 2i
to 6p - i or so, its second from 3p - i to 3p + 2i: 6p ticks together, on every rank. With a new
microbatch every six ticks that makes p chunks, p/2 microbatches:

    peak = floor((p + 2)/2)

    idle = 3p - 7 chunks (p even, >= 4), 3p - 4 (p odd), 1 (p = 2)       if F = I = W

and the second half of the gap to ZB-V is what the other half of the memory would buy. The free
places of the six are used so that W always stands between what would otherwise wait: for unequal
times idle time does not grow with m, as long as W + 2I >= 2F and W + 2F >= 2I.

The two paces leave no collision if a microbatch pauses now and then: one tick before its last leg
if p is odd; three before its gradient turns and one before its last leg if p is even.

P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024,
section 3.2.
"""

from fractions import Fraction

from baremetal.schedules.building_block import repeated, v_block
from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly, fixed_chunks
from baremetal.schedules.schedule import Schedule


def v_half(p: int, m: int, v: int = 2) -> Schedule:
    """The block of paces 2, 1, 2, 1, repeated."""
    block = v_block(p, paces=(2, 1, 2, 1), pauses=(0, 0, 1) if p % 2 else (0, 3, 1))
    return repeated("v-half", block, p, m)


def refusal(p: int, m: int, v: int) -> str | None:
    """The block is p microbatches long; with 2p its two ends do not meet."""
    return fixed_chunks(v, 2) or at_least(m, 2 * p, "2p")


def idle(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where the three times are equal, in chunks, each half a share."""
    if not share.F == share.I == share.W:
        return None
    chunks = {1: 0, 2: 1}.get(p, 3 * p - 4 if p % 2 else 3 * p - 7)
    return Fraction(chunks, 2) * share.F


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """The largest, which rank 0 has; others may hold a chunk less."""
    return evenly(p, (p + 2) // 2)


V_HALF = Generator(
    name="v-half",
    title="V-Half",
    paper="Qi et al., NeurIPS 2024, arXiv 2405.15362",
    domain="m >= 2p, two chunks",
    build=v_half,
    refusal=refusal,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    chunks=2,
)
