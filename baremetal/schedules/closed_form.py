"""What the closed forms say of a schedule that is about to be played, where there are any.

A named schedule comes with formulas (`generator.py`) for equal stages and links that take no time,
some with a latency. With anything else (a link's bandwidth, host overhead, unequal stages, few
slots, a slow rank) nobody has written down a formula, and nothing is said.
"""

from baremetal.schedules.generator import Share, Time
from baremetal.schedules.options import Playing, read_time, unit_of_times
from baremetal.schedules.registry import SCHEDULES
from baremetal.schedules.report import figure_time
from baremetal.schedules.schedule import Schedule


def closed_form(name: str, schedule: Schedule, given: Playing) -> dict[str, float]:
    """`span`, `makespan` and `peak_activations` by formula, as far as there are formulas.

    Times are in units or seconds, as the options' are. Empty for a schedule of one's own.
    """
    generator = SCHEDULES.get(name)
    if generator is None or not _is_plain(given):
        return {}
    p, m, v = len(schedule.ranks), schedule.microbatches, schedule.chunks
    share = _share(given, len(schedule.paths[0]) // p)
    latency_ps = read_time("--latency", given.latency or "0")
    found: dict[str, Time | None] = {}
    if latency_ps == 0:
        work_ps = m * share.work
        span_ps, makespan_ps = (
            generator.idle_span(p, m, v, share),
            generator.idle_makespan(p, m, v, share),
        )
        found["span"] = None if span_ps is None else work_ps + span_ps
        found["makespan"] = None if makespan_ps is None else work_ps + makespan_ps
    elif generator.makespan_with_latency is not None:
        found["makespan"] = generator.makespan_with_latency(p, m, v, share, latency_ps)
    unit = unit_of_times(given)
    figures = {key: figure_time(int(t), unit) for key, t in found.items() if t is not None}
    return figures | {"peak_activations": float(max(generator.peaks(p, m, v)))}


def _is_plain(given: Playing) -> bool:
    """Whether nothing is asked for that the formulas do not know."""
    unasked = ("full_backward", "link", "host_overhead", "slots", "straggler")
    one_for_all = "," not in given.f + given.b + given.w + given.overlap
    return one_for_all and all(getattr(given, n) == getattr(Playing(), n) for n in unasked)


def _share(given: Playing, chunks: int) -> Share:
    """The times of a rank's whole share, of so many chunks."""
    pair = chunks * read_time("--overlap", given.overlap) if given.overlap else None
    return Share(
        F=chunks * read_time("--f", given.f),
        I=chunks * read_time("--b", given.b),
        W=chunks * read_time("--w", given.w),
        pair=pair,
    )
