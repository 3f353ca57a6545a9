"""A trace: the container into which spans, counters and flows are recorded, and its sums.

A process records its own trace, in wall time with `span()` or in modelled time with `add_span`;
`merge` puts those of several processes side by side, `connect` draws the messages between them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.trace.nesting import Nested, lanes, nest
from baremetal.trace.spans import PS_PER_NS, Counter, Flow, Span


@dataclass(slots=True)
class Total:
    """What all spans of one name add up to. `total_ps` counts recursion once."""

    calls: int = 0
    total_ps: int = 0
    self_ps: int = 0


@dataclass
class Trace:
    """Spans, counters and flows of one process, or of several merged into one.

    `clock_ns` is read by `span()` only: any function that returns integer nanoseconds. Two traces
    are equal when they hold the same events in the same order.
    """

    spans: list[Span] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    clock_ns: Callable[[], int] = field(default=time.perf_counter_ns, compare=False, repr=False)

    def __post_init__(self) -> None:
        # A dict is an ordered set: tracks are drawn in the order in which they first appeared.
        self._tracks: dict[str, None] = dict.fromkeys(
            [span.track for span in self.spans] + [counter.track for counter in self.counters]
        )
        self.origin_ns = self.clock_ns()  # the wall clock's reading at this trace's zero
        self.is_measured = False  # becomes true with the first reading of the wall clock

    # Recording -----------------------------------------------------------------------------

    def add_track(self, track: str) -> None:
        """Fix a track's place in the order, or show one on which nothing happens."""
        self._tracks.setdefault(track)

    def add_span(
        self,
        track: str,
        name: str,
        start_ps: int,
        duration_ps: int,
        category: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> Span:
        """Append a span and return it (to draw a flow from it). Raises as `Span` does."""
        span = Span(track, name, start_ps, duration_ps, category, arguments or {})
        self.spans.append(span)
        self._tracks.setdefault(track)
        return span

    def add_counter(self, track: str, name: str, time_ps: int, value: float) -> Counter:
        """Append a sample of a counter and return it. Raises as `Counter` does."""
        counter = Counter(track, name, time_ps, value)
        self.counters.append(counter)
        self._tracks.setdefault(track)
        return counter

    def add_flow(self, source: Span, target: Span, name: str = "") -> Flow:
        """Append an arrow between two spans of this trace and return it."""
        flow = Flow(source, target, name)
        self.flows.append(flow)
        return flow

    def now_ps(self) -> int:
        """Wall time since this trace was made, in picoseconds."""
        self.is_measured = True
        return (self.clock_ns() - self.origin_ns) * PS_PER_NS

    @contextmanager
    def span(
        self, name: str, category: str = "", track: str | None = None, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """Measure the body of a `with` in wall time; spans opened inside nest.

        Yields the dictionary of arguments, so that what is known only at the end can be added.
        The track is the current thread's name unless given. A body that raises is recorded too,
        with the exception's type under the argument `error`.

            with trace.span("matmul", flops=2 * M * N * K):
                A @ B
        """
        start_ps = self.now_ps()
        try:
            yield arguments
        except BaseException as error:
            arguments["error"] = type(error).__name__
            raise
        finally:
            end_ps = self.now_ps()
            where = threading.current_thread().name if track is None else track
            self.add_span(where, name, start_ps, end_ps - start_ps, category, arguments)

    # Reading -------------------------------------------------------------------------------

    @property
    def tracks(self) -> list[str]:
        """Track names in the order in which they were first used."""
        return list(self._tracks)

    @property
    def categories(self) -> list[str]:
        """Categories by their earliest start: the same colours whatever the recording order."""
        ordered = sorted(self.spans, key=lambda span: span.start_ps)
        return list(dict.fromkeys(span.category for span in ordered))

    def ordered_categories(self, first: Sequence[str] | None) -> list[str]:
        """The categories in `first`, then the others of this trace: fixed colours, none missing."""
        return list(dict.fromkeys([*(first or ()), *self.categories]))

    @property
    def window_ps(self) -> tuple[int, int]:
        """The earliest start and the latest end of everything recorded; (0, 0) if nothing was."""
        starts = [s.start_ps for s in self.spans] + [c.time_ps for c in self.counters]
        ends = [s.end_ps for s in self.spans] + [c.time_ps for c in self.counters]
        return min(starts, default=0), max(ends, default=0)

    def on_track(self, track: str) -> list[Span]:
        return [span for span in self.spans if span.track == track]

    def nested(self) -> list[Nested]:
        """Every span with its parents on the same track, track by track, parents first."""
        by_track: dict[str, list[Span]] = {track: [] for track in self._tracks}
        for span in self.spans:
            by_track.setdefault(span.track, []).append(span)
        return [node for spans in by_track.values() for node in nest(spans)]

    def total_by_name(self) -> dict[str, Total]:
        """Calls, total and self time of each name, in picoseconds.

        A span inside another of the same name adds a call but no total: its time is in already.
        """
        totals: dict[str, Total] = {}
        for node in self.nested():
            total = totals.setdefault(node.span.name, Total())
            total.calls += 1
            total.self_ps += node.self_ps
            if all(parent.name != node.span.name for parent in node.parents):
                total.total_ps += node.span.duration_ps
        return totals

    def validate(self, *, allow_overlap: bool = True) -> None:
        """Raise BaremetalError if a flow or, on request, an overlap cannot be meant.

        A flow must join two spans of this trace and may not arrive before it left. With
        `allow_overlap=False`, two spans on one track must follow each other or nest.
        """
        known = {id(span) for span in self.spans}
        for flow in self.flows:
            _validate_flow(flow, known)
        if not allow_overlap:
            for track in self.tracks:
                _refuse_overlap(self.on_track(track))

    # Joining -------------------------------------------------------------------------------

    @classmethod
    def merge(cls, traces: Mapping[str, Trace]) -> Trace:
        """One trace from those of several processes; track `t` of process `p` becomes `p/t`.

        Measured traces are shifted onto one clock: `perf_counter_ns` counts from the same moment
        in every process of a machine (CLOCK_MONOTONIC, mach_absolute_time and
        QueryPerformanceCounter are all system-wide). Modelled traces already share their zero.
        """
        origins = [trace.origin_ns for trace in traces.values() if trace.is_measured]
        merged = cls()
        if origins:
            merged.origin_ns, merged.is_measured = min(origins), True
        for process, trace in traces.items():
            shift_ns = trace.origin_ns - merged.origin_ns if trace.is_measured else 0
            merged._absorb(trace, f"{process}/", shift_ns * PS_PER_NS)
        return merged

    def _absorb(self, trace: Trace, prefix: str, shift_ps: int) -> None:
        moved: dict[int, Span] = {}
        for track in trace.tracks:
            self.add_track(prefix + track)
        for span in trace.spans:
            moved[id(span)] = replace(
                span, track=prefix + span.track, start_ps=span.start_ps + shift_ps
            )
        self.spans.extend(moved.values())
        for counter in trace.counters:
            self.add_counter(
                prefix + counter.track, counter.name, counter.time_ps + shift_ps, counter.value
            )
        for flow in trace.flows:
            self.add_flow(moved[id(flow.source)], moved[id(flow.target)], flow.name)

    def connect(self, sends: str = "sends", receives: str = "receives") -> int:
        """Draw a flow for every message whose two ends are both here; return how many.

        A sender knows only its own span, a receiver only its own. Each writes the message's name
        into its span's arguments, `sends` on one side and `receives` on the other, and after
        `merge` this finds the pairs. Raises BaremetalError if two spans send the same message.
        """
        senders: dict[Any, Span] = {}
        for span in self.spans:
            message = span.arguments.get(sends)
            if message is not None and senders.setdefault(message, span) is not span:
                raise BaremetalError(
                    f"message {message!r} is sent by two spans, {senders[message].name!r} and "
                    f"{span.name!r}; give every message a name of its own"
                )
        before = len(self.flows)
        for span in self.spans:
            message = span.arguments.get(receives)
            if message in senders:
                self.add_flow(senders[message], span, str(message))
        return len(self.flows) - before


def _validate_flow(flow: Flow, known: set[int]) -> None:
    for end, span in (("source", flow.source), ("target", flow.target)):
        if id(span) not in known:
            raise BaremetalError(
                f"flow {flow.name!r}: its {end} {span.name!r} is not a span of this trace; "
                "pass the spans that add_span returned"
            )
    if flow.target.end_ps < flow.source.start_ps:
        raise BaremetalError(
            f"flow {flow.name!r} arrives before it left: {flow.target.name!r} ends at "
            f"{flow.target.end_ps} ps and {flow.source.name!r} starts at "
            f"{flow.source.start_ps} ps; are the two clocks the same?"
        )


def _refuse_overlap(spans: list[Span]) -> None:
    for row, span in zip(lanes(spans, share=True), spans, strict=True):
        if row > 0:
            raise BaremetalError(
                f"span {span.name!r} ({span.start_ps} to {span.end_ps} ps) overlaps another on "
                f"track {span.track!r} without nesting in it; put it on a track of its own"
            )
