"""ZB-V: zero bubble with 1F1B's memory, by folding the model into a V.

Rank i holds stages i and 2p - 1 - i: a microbatch goes down the ranks through its first chunks and
up again through its second ones. Rank 0 has both the first stage and the last, so the loss is
computed where the batch came in, and on the last rank the two chunks are neighbours and need no
message.

    stage    0   1   2   3          down
    rank     0   1   2   3          p = 4
    stage    7   6   5   4          and up again

    rank 0  f0 f1 f2 F0 I0 W0 F1 I1 W1 f3 i0 w0 F2 I2 W2 i1 w1 F3 I3 W3 i2 w2 i3 w3 .
    rank 1  .  f0 F0 f1 F1 I0 W0 f2 i0 w0 F2 I1 W1 f3 i1 w1 F3 I2 W2 i2 I3 i3 w2 W3 w3
                                      p = 2, m = 4; the first chunk in small letters

Each chunk is half as long as a stage of ZB-H2's, so the same pattern, in chunk units, holds half as
much. By hand (f, i, w on the first chunk; F, I, W on the second):

    f x (2 (p - i) - 1)     until the first microbatch is back from below
    (F f) x i               until rank 0 has turned it around
    (F I W) x (p - i)       the first gradients on their way down
    (f i w F I W) ...       steady: a microbatch in, a microbatch out
    (i I) x i, (i w) x (p - i), then the w and W that are left

The memory stays at p microbatches on every rank (2p chunks), 1F1B's peak. If F = I = W no rank
waits between its first start and its last end; the makespan is idle for p - 1 chunks, the slope
by which rank p - 1 starts later. Where times are unequal another order can be better: the paper
finds one by search (`zb-v-auto` is such a search; this is the order by hand).

P. Qi, X. Wan, G. Huang, M. Lin, "Zero Bubble Pipeline Parallelism", arXiv 2401.10241, section 6;
P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024.
"""

from fractions import Fraction

from baremetal.schedules.action import Step
from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly, fixed_chunks
from baremetal.schedules.rank_order import RankOrder
from baremetal.schedules.schedule import Schedule


def zb_v(p: int, m: int, v: int = 2) -> Schedule:
    """The order by hand, on two chunks per rank laid out as a V."""
    ranks = tuple(rank_order(rank, p, m) for rank in range(p))
    return Schedule("zb-v", m, ranks, (tuple(range(2 * p)),))


def rank_order(rank: int, p: int, m: int) -> tuple[Step, ...]:
    """One rank's steps, phase by phase as above; chunk 0 is f, i, w and chunk 1 is F, I, W."""
    order = RankOrder(stages=(rank, 2 * p - 1 - rank))
    for _ in range(2 * (p - rank) - 1):
        order.forward(0)
    for _ in range(rank):
        order.forward(1)
        order.forward(0)
    for _ in range(p - rank):
        forward_and_backward(order)
    inside = 2 * p - 1 - rank  # microbatches let in so far
    for k in range(m - p):
        if inside + k < m:
            order.forward(0)
        input_and_weight(order, 0)
        forward_and_backward(order)
    for _ in range(rank):
        order.input_gradient(0)
        order.input_gradient(1)
    for _ in range(p - rank):
        order.input_gradient(0)
        order.weight_gradient()
    while order.owed:
        order.weight_gradient()
    return tuple(order.steps)


def forward_and_backward(order: RankOrder) -> None:
    """F I W of the second chunk."""
    order.forward(1)
    input_and_weight(order, 1)


def input_and_weight(order: RankOrder, chunk: int) -> None:
    """A backward in two steps, one after the other."""
    order.input_gradient(chunk)
    order.weight_gradient()


def refusal(p: int, m: int, v: int) -> str | None:
    """Rank 0 alone lets 2p - 1 microbatches in ahead, and the steady phase wants one more."""
    return fixed_chunks(v, 2) or at_least(m, 2 * p, "2p")


def idle_span(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where the three times are equal: nothing."""
    return 0 if share.F == share.I == share.W else None


def idle_makespan(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where the three times are equal: a slope of p - 1 chunks, each half a share."""
    return Fraction(p - 1, 2) * share.F if share.F == share.I == share.W else None


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """1F1B's largest, on every rank."""
    return evenly(p, p)


ZB_V = Generator(
    name="zb-v",
    title="ZB-V (by hand)",
    paper="Qi et al., arXiv 2401.10241 and NeurIPS 2024, arXiv 2405.15362",
    domain="m >= 2p, two chunks",
    build=zb_v,
    refusal=refusal,
    idle_span=idle_span,
    idle_makespan=idle_makespan,
    peaks=peaks,
    chunks=2,
)
