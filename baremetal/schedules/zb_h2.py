"""ZB-H2: ZB-H1 with twice the memory, and then no rank ever waits.

    rank 0  F0 F1 F2 F3 F4 I0 W0 I1 W1 I2 W2 I3 W3 I4 W4 .  .
    rank 1  .  F0 F1 F2 I0 F3 I1 F4 I2 W0 I3 W1 I4 W2 W3 W4 .
    rank 2  .  .  F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 W0 W1 W2 W3 W4
                                                                          p = 3, m = 5

    rank i   F x (2p - 1 - 2i),   then for each k:   I_k   W_(k - 2i)   F_(2p - 1 - 2i + k)

ZB-H1 still waits once: after its warm-up a rank has nothing to do until the first gradient comes
up. Here it does p - 1 - i more forwards in that time, and weight gradients are put off twice as
far. Each rank holds 2p - 1 microbatches, and

    idle = (p - 1)(F + I - 2W)      within each rank's span; zero if F = I = W

where W <= F and 2W <= F + I. The picture is a parallelogram: rank i both starts and ends i forwards
later than rank 0. So the *makespan* is idle for at least the (p - 1) F of the slope,

    idle of the makespan = max((p - 1)(F + I - 2W), (p - 1) F).

"Zero bubble" needs the next step to begin before this one has ended everywhere. The paper gets
there by an optimiser step without a global barrier: it checks afterwards, and rolls back if a norm
had to be clipped.

P. Qi, X. Wan, G. Huang, M. Lin, "Zero Bubble Pipeline Parallelism", ICLR 2024, section 2.3,
figure 3 bottom.
"""

from fractions import Fraction

from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly, fixed_chunks
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.zb_h1 import split_1f1b


def zb_h2(p: int, m: int, v: int = 1) -> Schedule:
    """2p - 1 - 2i forwards ahead on rank i, weight gradients 2i microbatches late."""
    ranks = tuple(split_1f1b(rank, m, ahead=2 * (p - rank) - 1, late=2 * rank) for rank in range(p))
    return Schedule("zb-h2", m, ranks, (tuple(range(p)),))


def refusal(p: int, m: int, v: int) -> str | None:
    """Rank 0 alone does 2p - 1 forwards ahead."""
    return fixed_chunks(v, 1) or at_least(m, 2 * p - 1, "2p - 1")


def idle_span(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where W <= F and 2W <= F + I."""
    F, I, W, _ = share
    return (p - 1) * (F + I - 2 * W) if W <= F and 2 * W <= F + I else None


def idle_makespan(p: int, m: int, v: int, share: Share) -> Time | None:
    """At least the slope of the parallelogram."""
    span = idle_span(p, m, v, share)
    return None if span is None else max(span, (p - 1) * share.F)


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """Rank 0's forwards ahead, on every rank."""
    return evenly(p, 2 * p - 1)


ZB_H2 = Generator(
    name="zb-h2",
    title="ZB-H2",
    paper="Qi et al., ICLR 2024, arXiv 2401.10241",
    domain="m >= 2p - 1",
    build=zb_h2,
    refusal=refusal,
    idle_span=idle_span,
    idle_makespan=idle_makespan,
    peaks=peaks,
)
