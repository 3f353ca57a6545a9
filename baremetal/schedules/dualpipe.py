"""DualPipe: microbatches enter at both ends, and a forward of one runs with a backward of another.

Every rank holds two stages: rank i its own, i, and a mirrored copy of p - 1 - i. Half of the
microbatches go down the ranks 0 ... p - 1 through the one set, the other half up the ranks
p - 1 ... 0 through the copies. So parameters are held twice, and the gradients of the two copies
must be summed. (Stage p + s of this schedule is the copy of stage s.)

    stages on ranks 0 to 3    0   1   2   3      first half of the microbatches, downwards
                              7   6   5   4      second half, upwards: 4 is a copy of 0, 7 of 3

In the steady phase each step of a rank is an *overlap* F&B: the forward of a microbatch that comes
one way and the backward of one that comes the other way. Neither waits for the other's
communication (in DeepSeek's models, the all-to-all of experts). With h = min(i, p - 1 - i), the
rank's distance from its end, and f, F the forwards of the near and the far direction:

    f x 2 (p/2 - 1 - h)                 nothing has come from the far end yet
    (f F) x (h + 1)                     now it has
    (I W F) x (p/2 - 1 - h)             gradients of the far direction; W at once, to fill a wait
    (f&B F&b) x (m/2 - p + h + 1)       steady
    (B F&b) x (p/2 - 1 - h)             the near direction has nothing left to let in
    (B b) x (h + 1)                     of these 2 (h + 1) backwards the second half put off their W
    (W i) x (p/2 - 1 - h), W x (h + 1)  so that there is one for each wait, and the rest at the end

    idle = (p/2 - 1)(F&B + B - 3W)      where B = I + W, and F = I = W
    peak = p + 1 microbatches           (a rank's share is one stage: a microbatch visits one copy)

For unequal F, I and W the formula is at most too large (10, 12, 8: two a rank). Where a pair takes
another time than its parts, ranks differ in their work, since the outer ones have fewer pairs. The
formula is then the idle time, within the makespan, of the two ranks in the middle, which have
m - p - 1 pairs and m (F + I + W) - (m - p - 1)(F + I + W - F&B) of work.

DeepSeek-AI, "DeepSeek-V3 Technical Report", arXiv 2412.19437, section 3.2.1, figure 5 and table 2.
"""

from fractions import Fraction

from baremetal.schedules.action import Step
from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly
from baremetal.schedules.rank_order import RankOrder
from baremetal.schedules.schedule import Schedule

NEAR, FAR = 0, 1  # the two chunks of a rank, by the end at which their microbatches enter


def dualpipe(p: int, m: int, v: int = 1) -> Schedule:
    """Both directions on every rank; the upper half of the ranks mirrors the lower half."""
    ranks = []
    for rank in range(p):
        down, up = (rank, 0), (2 * p - 1 - rank, m // 2)  # (stage, its first microbatch)
        near, far = (down, up) if rank < p // 2 else (up, down)
        order = RankOrder(stages=(near[0], far[0]), first=(near[1], far[1]))
        depth = min(rank, p - 1 - rank)
        ranks.append(both_directions(order, depth, reach=p // 2, each_way=m // 2))
    return Schedule("dualpipe", m, tuple(ranks), (tuple(range(p)), tuple(range(p, 2 * p))))


def both_directions(order: RankOrder, depth: int, reach: int, each_way: int) -> tuple[Step, ...]:
    """One rank's steps, phase by phase as above.

    Args:
        order: an empty order whose chunk 0 is the near direction's and chunk 1 the far one's.
        depth: h, the rank's distance from the end at which the near direction enters.
        reach: p/2, how many ranks there are to the middle.
        each_way: microbatches in each direction.
    """
    outer = reach - 1 - depth  # ranks between this one and the middle
    for _ in range(2 * outer):
        order.forward(NEAR)
    for _ in range(depth + 1):
        order.forward(NEAR)
        order.forward(FAR)
    for _ in range(outer):
        order.input_gradient(FAR)
        order.weight_gradient()
        order.forward(FAR)
    steady(order, outer, rounds=each_way - 2 * reach + depth + 1)
    for _ in range(outer):
        order.backward(FAR)
        order.overlap(forward=FAR, backward=NEAR)
    for k in range(2 * (depth + 1)):
        chunk = NEAR if k % 2 else FAR
        if k < depth + 1:
            order.backward(chunk)
        else:
            order.input_gradient(chunk)
    for _ in range(outer):
        order.weight_gradient()
        order.input_gradient(NEAR)
    while order.owed:
        order.weight_gradient()
    return tuple(order.steps)


def steady(order: RankOrder, outer: int, rounds: int) -> None:
    """Overlapped pairs, one each way.

    In the middle the very first pair is done in two steps: the neighbour across the middle waits
    for that forward, and would otherwise have it only when the backward is done too.
    """
    for k in range(rounds):
        if k == 0 and outer == 0:
            order.forward(NEAR)
            order.backward(FAR)
        else:
            order.overlap(forward=NEAR, backward=FAR)
        order.overlap(forward=FAR, backward=NEAR)


def refusal(p: int, m: int, v: int) -> str | None:
    """Two halves of ranks, two halves of microbatches."""
    if v != 1:
        return "a microbatch visits one stage of a rank here; set chunks to 1"
    if p % 2:
        return f"it needs an even number of ranks: {p + 1} would do"
    return at_least(m, 2 * p, "2p") or even(m)


def even(m: int) -> str | None:
    """The microbatches come in pairs, one each way."""
    return f"it needs an even number of microbatches: {m + 1} would do" if m % 2 else None


def overlapped_idle(reach: int, pairs: int, share: Share) -> Time | None:
    """The makespan less all F, I and W, of whatever `share` is the time of. Known where F = I = W.

    The middle waits for (reach - 1)(F&B + B - 3W), and saves F + B - F&B with each of its pairs. So
    this may be negative: less time is needed than the parts of the work would take one by one.
    """
    F, I, W, pair = share
    if not F == I == W:
        return None
    together = share.work if pair is None else pair
    return (reach - 1) * (together + I + W - 3 * W) - pairs * (share.work - together)


def as_parts(share: Share) -> bool:
    """Whether a pair takes as long as its parts, so that all ranks have the same work."""
    return share.pair is None or share.pair == share.work


def idle_span(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where F = I = W and a pair takes as long as its parts. A share is one stage."""
    return idle_makespan(p, m, v, share) if as_parts(share) else None


def idle_makespan(p: int, m: int, v: int, share: Share) -> Time | None:
    """Known where F = I = W."""
    return overlapped_idle(p // 2, m - p - 1, share)


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """One more than 1F1B's largest, on every rank."""
    return evenly(p, p + 1)


DUALPIPE = Generator(
    name="dualpipe",
    title="DualPipe",
    paper="DeepSeek-AI, arXiv 2412.19437",
    domain="p even, m >= 2p, m even",
    build=dualpipe,
    refusal=refusal,
    idle_span=idle_span,
    idle_makespan=idle_makespan,
    peaks=peaks,
)
