"""DualPipeV: DualPipe cut in half, so that nothing is held twice.

Fold DualPipe's 2p ranks in the middle. Rank i and its mirror image do the same things at the same
times with the two directions exchanged, so one of the two is enough, if what it would have sent
across the middle stays with it. Then the microbatches go down the ranks through the first chunks
and up again through the second ones: the V of ZB-V, with DualPipe's order.

    stage    0   1   2   3          down: DualPipe's near direction
    rank     0   1   2   3          p = 4
    stage    7   6   5   4          and up again: the far one

Parameters are held once. With F, I, W and F&B the times of one chunk,

    idle = (p - 1)(F&B + B - 3W)        where B = I + W, and F = I = W
    peak = p + 1/2 microbatches         (2p + 1 chunks)

and elsewhere the same holds as for DualPipe; the middle is rank p - 1, with 2(m - p) - 1 pairs.

"DualPipeV", the "Cut-in-half" schedule, in the notes to github.com/deepseek-ai/DualPipe (2025),
after Sea AI Lab's "DualPipe could be better without the Dual" (2025).
"""

from fractions import Fraction

from baremetal.schedules.dualpipe import as_parts, both_directions, even, overlapped_idle
from baremetal.schedules.generator import Generator, Share, Time, at_least, evenly, fixed_chunks
from baremetal.schedules.rank_order import RankOrder
from baremetal.schedules.schedule import Schedule


def dualpipev(p: int, m: int, v: int = 2) -> Schedule:
    """DualPipe's order of a half of 2p ranks, on chunks laid out as a V."""
    ranks = tuple(
        both_directions(RankOrder((rank, 2 * p - 1 - rank)), rank, reach=p, each_way=m)
        for rank in range(p)
    )
    return Schedule("dualpipev", m, ranks, (tuple(range(2 * p)),))


def refusal(p: int, m: int, v: int) -> str | None:
    """As for DualPipe; p may be odd."""
    return fixed_chunks(v, 2) or at_least(m, 2 * p, "2p") or even(m)


def idle_makespan(p: int, m: int, v: int, share: Share) -> Time | None:
    """The formula is of a chunk's times, half a share's. Known where F = I = W."""
    whole = overlapped_idle(p, 2 * (m - p) - 1, share)
    return None if whole is None else Fraction(1, 2) * whole


def idle_span(p: int, m: int, v: int, share: Share) -> Time | None:
    """The same, where a pair takes as long as its parts."""
    return idle_makespan(p, m, v, share) if as_parts(share) else None


def peaks(p: int, m: int, v: int) -> tuple[Fraction, ...]:
    """2p + 1 chunks, on every rank."""
    return evenly(p, Fraction(2 * p + 1, 2))


DUALPIPEV = Generator(
    name="dualpipev",
    title="DualPipeV",
    paper="deepseek-ai/DualPipe, 2025; Sea AI Lab, 2025",
    domain="m >= 2p, m even, two chunks",
    build=dualpipev,
    refusal=refusal,
    idle_span=idle_span,
    idle_makespan=idle_makespan,
    peaks=peaks,
    chunks=2,
)
