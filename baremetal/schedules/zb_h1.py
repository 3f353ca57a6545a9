"""ZB-H1: the backward cut in two, and weight gradients used to fill holes.

    rank 0  F0 F1 F2 .  .  I0 W0 F3 I1 W1 F4 I2 W2 I3 W3 I4 W4
    rank 1  .  F0 F1 .  I0 F2 I1 W0 F3 I2 W1 F4 I3 W2 I4 W3 W4
    rank 2  .  .  F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 F4 I4 W2 W3 W4
                                                                          p = 3, m = 5

Only the input-gradient I is waited for, by the rank before. The weight-gradient W is waited for by
nobody but the optimiser, so it can stand where a rank would be idle. In 1F1B the gradient goes up
through p - 1 ranks at the pace of I + W each; here it goes up at the pace of I alone:

    rank i   F x (p - i),   then for each microbatch k:   I_k   W_(k - i)   F_(p - i + k)

Rank i puts its weight gradients off by i microbatches. That keeps the order of I ahead, and it
spends exactly the memory that 1F1B leaves unused on the later ranks: there rank i holds p - i
microbatches, here every rank holds p. The last rank has put off p - 1 of them when the forwards are
over, and does them in the hole in which 1F1B waits.

    idle = (p - 1)(F + I - W)      where W <= F: a third of 1F1B's if F = I = W

With a latency c per hop the makespan grows by 4 (p - 1) c, whatever m is, if W <= F, W <= I,
m >= 2p - 1 and c <= W/2: the W between two I's hides the hop. (Larger c grows with m again; and at
m = p it is what 1F1B pays.)

P. Qi, X. Wan, G. Huang, M. Lin, "Zero Bubble Pipeline Parallelism", ICLR 2024, section 2.2,
figure 3 top.
"""

from fractions import Fraction

from baremetal.schedules.action import Action, Kind, Step
from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly, fixed_chunks
from baremetal.schedules.schedule import Schedule


def zb_h1(p: int, m: int, v: int = 1) -> Schedule:
    """p - i forwards ahead on rank i, weight gradients i microbatches late."""
    ranks = tuple(split_1f1b(rank, m, ahead=p - rank, late=rank) for rank in range(p))
    return Schedule("zb-h1", m, ranks, (tuple(range(p)),))


def split_1f1b(rank: int, m: int, ahead: int, late: int) -> tuple[Step, ...]:
    """One rank's order: 1F1B with its backward cut in two.

    Args:
        rank: which one; it holds the stage of the same number.
        m: microbatches.
        ahead: forwards before the first backward.
        late: by how many microbatches W comes after I.
    """
    steps = [Action(Kind.F, rank, k) for k in range(min(ahead, m))]
    for k in range(m):
        steps.append(Action(Kind.I, rank, k))
        if k >= late:
            steps.append(Action(Kind.W, rank, k - late))
        if k + ahead < m:
            steps.append(Action(Kind.F, rank, k + ahead))
    steps += [Action(Kind.W, rank, k) for k in range(max(0, m - late), m)]
    return tuple(steps)


def refusal(p: int, m: int, v: int) -> str | None:
    """With fewer the pattern is not reached."""
    return fixed_chunks(v, 1) or at_least(m, p, "p")


def idle(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where W <= F: a W that is longer than what it fills makes others wait."""
    return (p - 1) * (share.F + share.I - share.W) if share.W <= share.F else None


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """1F1B's largest, on every rank."""
    return evenly(p, p)


def makespan_with_latency(p: int, m: int, v: int, share: Share, latency: Time) -> Time | None:
    """Known where W is the shortest of the three, m >= 2p - 1 and latency <= W/2."""
    if min(share.F, share.I) < share.W or m < 2 * p - 1 or 2 * latency > share.W:
        return None
    ramps = (p - 1) * (share.F + share.I - share.W)
    return m * share.work + ramps + 4 * (p - 1) * latency


ZB_H1 = Generator(
    name="zb-h1",
    title="ZB-H1",
    paper="Qi et al., ICLR 2024, arXiv 2401.10241",
    domain="m >= p",
    build=zb_h1,
    refusal=refusal,
    idle_span=idle,
    idle_makespan=idle,
    peaks=peaks,
    makespan_with_latency=makespan_with_latency,
)
