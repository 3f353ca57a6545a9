"""What a profile prints: every name with its calls, its time, and how near it came to the limit.

    name    calls     time    share     mean    FLOP       B  FLOP/s     B/s  roofline  limit
    ------  -----  -------  -------  -------  ------  ------  ------  ------  --------  -------
    matmul      2  3.00 ms   75.0 %  1.50 ms   200 M  6.00 M  66.7 G  2.00 G    66.7 %  compute
    gelu        1  1.00 ms   25.0 %  1.00 ms  1.00 M  8.00 M  1.00 G  8.00 G    80.0 %  memory
    ------  -----  -------  -------  -------  ------  ------  ------  ------  --------  -------
    total       3  4.00 ms  100.0 %        -   201 M  14.0 M  50.2 G  3.50 G    70.0 %  compute

`time` runs from start to end of the spans of a name; `share` is of *self* time, which leaves out
the spans inside, so that the shares add up to all the time in which anything ran. Where spans carry
`flops` (FLOP) and `bytes` (B) in their arguments, there are their sums and rates; and where the
machine's two limits are given, the share of the roofline: the least time that the calls need by
roofline.py, summed call by call, over the time they took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.trace.nesting import Nested
from baremetal.trace.recording import Trace
from baremetal.trace.roofline import shortest_time_s
from baremetal.trace.spans import PS_PER_S, Span
from baremetal.trace.tables import Column, table
from baremetal.trace.units import format_count, format_percent, format_seconds


@dataclass(slots=True)
class _Limits:
    peak_flops: float | None  # FLOP/s
    bandwidth_Bps: float | None

    def __post_init__(self) -> None:
        for what in ("peak_flops", "bandwidth_Bps"):
            value = getattr(self, what)
            if value is not None and not value > 0:
                raise BaremetalError(f"summary: {what} is {value}, expected a number above 0")


@dataclass(slots=True)
class _Sum:
    """Sums over some spans. Work and limit count only the spans that say their work."""

    calls: int = 0
    total_ps: int = 0
    self_ps: int = 0
    working_ps: int = 0  # the time of the spans that say their work
    flops: float | None = None
    size_bytes: float | None = None
    shortest_s: float = 0.0

    def add_work(self, span: Span, limits: _Limits) -> None:
        if not _says_work(span):
            return
        flops, size_bytes = span.arguments.get("flops"), span.arguments.get("bytes")
        self.working_ps += span.duration_ps
        if flops is not None:
            self.flops = (self.flops or 0) + flops
        if size_bytes is not None:
            self.size_bytes = (self.size_bytes or 0) + size_bytes
        if limits.peak_flops and limits.bandwidth_Bps:
            self.shortest_s += shortest_time_s(
                flops or 0, size_bytes or 0, limits.peak_flops, limits.bandwidth_Bps
            )


def _says_work(span: Span) -> bool:
    return span.arguments.get("flops") is not None or span.arguments.get("bytes") is not None


def summarise(
    trace: Trace,
    *,
    peak_flops: float | None = None,
    bandwidth_Bps: float | None = None,
    category: str | None = None,
) -> dict[str, Any]:
    """`{"rows": [...], "total": {...}}` in JSON's types; the name with most self time comes first.

    Every row has `name`, `calls`, `total_s`, `self_s`, `share` (0 to 1) and `mean_s`; `flops`,
    `bytes`, `flops_per_s` and `bytes_per_s`, None where no span says them; `roofline` (0 to 1) and
    `limit` ("compute" or "memory"), None unless `peak_flops` (FLOP/s) and `bandwidth_Bps` (B/s)
    are given. A span inside one of the same name adds a call but neither time nor work twice; the
    total counts the work of the outermost spans that say any, over all the busy time. `category`
    keeps only its spans. Raises BaremetalError if a limit is not above zero.
    """
    limits = _Limits(peak_flops, bandwidth_Bps)
    sums: dict[str, _Sum] = {}
    total = _Sum()
    for node in trace.nested():
        if category is None or node.span.category == category:
            _add_to_name(sums.setdefault(node.span.name, _Sum()), node, limits)
            _add_to_total(total, node, limits)
    total.total_ps = total.working_ps = total.self_ps
    by_time = sorted(sums.items(), key=lambda item: -item[1].self_ps)
    return {
        "rows": [_row(name, one, total.self_ps, limits) for name, one in by_time],
        # A mean over calls of different things would mean nothing.
        "total": _row("total", total, total.self_ps, limits) | {"mean_s": None},
    }


def _add_to_name(one: _Sum, node: Nested, limits: _Limits) -> None:
    one.calls += 1
    one.self_ps += node.self_ps
    if all(parent.name != node.span.name for parent in node.parents):
        one.total_ps += node.span.duration_ps
        one.add_work(node.span, limits)


def _add_to_total(total: _Sum, node: Nested, limits: _Limits) -> None:
    total.calls += 1
    total.self_ps += node.self_ps
    # A layer that states its work contains the kernels that state theirs: count the layer.
    if not any(_says_work(parent) for parent in node.parents):
        total.add_work(node.span, limits)


def _row(name: str, one: _Sum, busy_ps: int, limits: _Limits) -> dict[str, Any]:
    working_s = one.working_ps / PS_PER_S

    def per_second(amount: float | None) -> float | None:
        return None if amount is None or working_s == 0 else amount / working_s

    says_work = one.flops is not None or one.size_bytes is not None
    roofline = per_second(one.shortest_s) if limits.peak_flops and limits.bandwidth_Bps else None
    return {
        "name": name,
        "calls": one.calls,
        "total_s": one.total_ps / PS_PER_S,
        "self_s": one.self_ps / PS_PER_S,
        "share": one.self_ps / busy_ps if busy_ps else 0.0,
        "mean_s": one.total_ps / PS_PER_S / one.calls if one.calls else 0.0,
        "flops": one.flops,
        "bytes": one.size_bytes,
        "flops_per_s": per_second(one.flops),
        "bytes_per_s": per_second(one.size_bytes),
        "roofline": roofline if says_work else None,
        "limit": _limit(one, limits) if says_work else None,
    }


def _limit(one: _Sum, limits: _Limits) -> str | None:
    if not (limits.peak_flops and limits.bandwidth_Bps):
        return None
    arithmetic_s = (one.flops or 0) / limits.peak_flops
    return "compute" if arithmetic_s >= (one.size_bytes or 0) / limits.bandwidth_Bps else "memory"


_COLUMNS = (
    Column("name", align="<"),
    Column("calls"),
    Column("total_s", "time", format_seconds),
    Column("self_s", "self", format_seconds),
    Column("share", None, format_percent),
    Column("mean_s", "mean", format_seconds),
    # The unit stands in the heading, or the table of a real step would be too wide to read.
    Column("flops", "FLOP", format_count),
    Column("bytes", "B", format_count),
    Column("flops_per_s", "FLOP/s", format_count),
    Column("bytes_per_s", "B/s", format_count),
    Column("roofline", None, format_percent),
    Column("limit", align="<"),
)
_OPTIONAL = ("flops", "bytes", "flops_per_s", "bytes_per_s", "roofline", "limit")


def summary_table(
    summary: Mapping[str, Any], *, top: int | None = None, title: str = "", colour: bool = False
) -> str:
    """The result of `summarise` as text; columns in which nothing stands are left out.

    `top` shows only that many names; the total below is of all.
    """
    rows = summary["rows"]
    shown = rows if top is None else rows[:top]
    empty = {key for key in _OPTIONAL if all(row[key] is None for row in rows)}
    if all(row["self_s"] == row["total_s"] for row in rows):
        empty.add("self_s")  # nothing nests: both columns would say the same
    footer = [summary["total"]]
    if len(shown) < len(rows):
        footer = [summary["total"] | {"name": f"total of {len(rows)}"}]
    columns = [column for column in _COLUMNS if column.key not in empty]
    return table(shown, columns, footer=footer, title=title, colour=colour)
