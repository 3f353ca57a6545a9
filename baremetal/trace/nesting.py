"""Which span lies inside which, and which can share a row.

Spans on one track may nest, as calls do: the *self time* of a span is its duration without that of
the spans directly inside it, and self times add up to busy time without counting anything twice.
Parents need not be recorded: of spans on one track, the parent is the shortest one around.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from baremetal.trace.spans import Span


@dataclass(slots=True)
class Nested:
    """A span with the spans around it, outermost first, and the time it spent in none inside."""

    span: Span
    parents: tuple[Span, ...]
    self_ps: int


def nest(spans: Iterable[Span]) -> list[Nested]:
    """Find each span's parents among `spans`, which share a track; parents come first.

    One pass over the spans by start, longest first, with a stack of those still open. Of two spans
    that overlap without one containing the other, neither is the other's parent.
    """
    nodes: list[Nested] = []
    open_nodes: list[Nested] = []
    for span in sorted(spans, key=lambda s: (s.start_ps, -s.duration_ps)):
        while open_nodes and not _is_inside(span, open_nodes[-1].span):
            open_nodes.pop()
        node = Nested(span, tuple(n.span for n in open_nodes), span.duration_ps)
        if open_nodes:
            # Children that overlap each other must not push their parent below zero.
            parent = open_nodes[-1]
            parent.self_ps = max(0, parent.self_ps - span.duration_ps)
        open_nodes.append(node)
        nodes.append(node)
    return nodes


def _is_inside(span: Span, other: Span) -> bool:
    # A span that starts where the other ends follows it, even if it lasts no time at all.
    return span.start_ps < other.end_ps and other.contains(span)


def lanes(spans: list[Span], *, share: bool) -> list[int]:
    """For each span the row, from 0, that it takes when its track is drawn in several rows.

    With `share=False` no two spans of a row overlap: nested spans go one row down, as in a flame
    graph. With `share=True` a row may hold nested spans, and only partial overlaps are separated,
    which is what the Perfetto viewer demands of one thread.
    """
    rows: list[list[int]] = []  # per row, the ends of its open spans, outermost first
    row_of = [0] * len(spans)
    by_start = sorted(range(len(spans)), key=lambda i: (spans[i].start_ps, -spans[i].duration_ps))
    for i in by_start:
        row_of[i] = _first_fit(rows, spans[i], share)
        rows[row_of[i]].append(spans[i].end_ps)
    return row_of


def _first_fit(rows: list[list[int]], span: Span, share: bool) -> int:
    for row, open_ends in enumerate(rows):
        while open_ends and open_ends[-1] <= span.start_ps:
            open_ends.pop()
        if not open_ends or (share and span.end_ps <= open_ends[-1]):
            return row
    rows.append([])
    return len(rows) - 1
