"""A trace as a file for the Perfetto viewer (https://ui.perfetto.dev), and back.

The format is JSON, the "Trace Event Format" of Google's Chrome:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
and what Perfetto makes of it is told in https://perfetto.dev/docs/getting-started/other-formats.
The file is one object with a list of events, each with a phase `ph`:

    M  metadata   names and order of processes (`pid`) and threads (`tid`)
    X  complete   a span: `ts` and `dur` in microseconds, `cat`, `args`
    s  f          a flow's start and finish, tied by `id`; each binds to the span it stands in
    C  counter    one sample; `args` maps the series' name to its value

A track "rank 0/compute" becomes thread "compute" of process "rank 0"; a track without a slash
becomes a thread of process "baremetal".

Four things the viewer demands, each learnt from its sources and its issues:
- Microseconds may have a fraction, but a number such as 1e-05 has been misread (google/perfetto
  issue 558), so times are written as plain decimals with six places: exact picoseconds, which we
  read back without loss. The viewer itself keeps whole nanoseconds.
- Spans of one thread must nest; a partial overlap is shown wrongly (issue 4280). So overlapping
  spans of a track are spread over several threads, "link" and "link (2)".
- A flow binds to the span that is open at its time, the innermost if several are; so its two ends
  are written directly after the spans they belong to, at their starts.
- `displayTimeUnit` counts only at the head of the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically
from baremetal.trace.nesting import lanes
from baremetal.trace.recording import Trace
from baremetal.trace.spans import Span

PS_PER_US = 1_000_000
DEFAULT_PROCESS = "baremetal"

Event = dict[str, Any]
Thread = tuple[int, int]  # (pid, tid)


# Writing ------------------------------------------------------------------------------------


def write_perfetto(trace: Trace, path: str | os.PathLike[str]) -> Path:
    """Write `trace` as Trace Event JSON, atomically, and return the path.

    Argument values that JSON does not know are written as their `str`; tuples come back as lists.
    Raises BaremetalError if a flow is wrong (`Trace.validate`) or the file cannot be written.
    """
    trace.validate()
    threads = _Threads(trace)
    # One event a line: the file can be searched with grep and compared with diff.
    events = ",\n".join(_encode(event) for event in _events(trace, threads))
    text = f'{{"displayTimeUnit": "ns",\n"traceEvents": [\n{events}\n]}}\n'
    return write_atomically(path, text.encode("utf-8"))


class _Threads:
    """Gives every process a pid, and every (track, lane) a tid unique in the whole file."""

    def __init__(self, trace: Trace) -> None:
        self.process_ids: dict[str, int] = {}
        self.rows: dict[tuple[str, int], Thread] = {}
        self.lane_of: dict[int, int] = {}  # by id(span)
        for track in trace.tracks:
            spans = trace.on_track(track)
            span_lanes = lanes(spans, share=True)
            self.lane_of.update((id(s), lane) for s, lane in zip(spans, span_lanes, strict=True))
            for lane in range(max(span_lanes, default=0) + 1):
                pid = self.process_ids.setdefault(split(track)[0], len(self.process_ids) + 1)
                self.rows[track, lane] = (pid, len(self.rows) + 1)

    def of_span(self, span: Span) -> Thread:
        return self.rows[span.track, self.lane_of[id(span)]]

    def metadata(self) -> Iterator[Event]:
        for process, pid in self.process_ids.items():
            yield _metadata("process_name", (pid, 0), {"name": process})
            yield _metadata("process_sort_index", (pid, 0), {"sort_index": pid})
        for (track, lane), thread in self.rows.items():
            name = split(track)[1] + (f" ({lane + 1})" if lane else "")
            # The viewer ignores `track`; we read it, so that any track name comes back.
            yield _metadata("thread_name", thread, {"name": name, "track": track})
            yield _metadata("thread_sort_index", thread, {"sort_index": thread[1]})


def split(track: str) -> tuple[str, str]:
    """Process and thread of a track: "rank 0/compute" is ("rank 0", "compute")."""
    process, slash, thread = track.partition("/")
    return (process, thread) if slash else (DEFAULT_PROCESS, track)


def _metadata(name: str, thread: Thread, args: Event) -> Event:
    return {"ph": "M", "pid": thread[0], "tid": thread[1], "name": name, "args": args}


def _events(trace: Trace, threads: _Threads) -> Iterator[Event]:
    yield from threads.metadata()
    flow_ends: dict[int, list[Event]] = {}
    for number, flow in enumerate(trace.flows, start=1):
        common = {"id": number, "name": flow.name, "cat": "flow"}
        start = _at("s", threads.of_span(flow.source), flow.source.start_ps, **common)
        finish = _at("f", threads.of_span(flow.target), flow.target.start_ps, bp="e", **common)
        flow_ends.setdefault(id(flow.source), []).append(start)
        flow_ends.setdefault(id(flow.target), []).append(finish)
    # Parents before children, also when both start at once.
    for span in sorted(trace.spans, key=lambda s: (s.start_ps, -s.duration_ps)):
        yield _at(
            "X",
            threads.of_span(span),
            span.start_ps,
            dur=_Microseconds(span.duration_ps),
            name=span.name,
            cat=span.category,
            args=_plain(span.arguments),
        )
        yield from flow_ends.get(id(span), [])
    for counter in sorted(trace.counters, key=lambda c: c.time_ps):
        # The viewer keys counters by process and name: the thread is the series' name.
        series = {split(counter.track)[1]: _plain(counter.value)}
        thread = threads.rows[counter.track, 0]
        yield _at("C", thread, counter.time_ps, name=counter.name, args=series)


def _at(phase: str, thread: Thread, time_ps: int, **fields: Any) -> Event:
    head = {"ph": phase, "pid": thread[0], "tid": thread[1], "ts": _Microseconds(time_ps)}
    return head | fields


@dataclass(frozen=True)
class _Microseconds:
    """Picoseconds on their way into the file as microseconds."""

    time_ps: int

    def __str__(self) -> str:
        whole, fraction = divmod(abs(self.time_ps), PS_PER_US)
        sign = "-" if self.time_ps < 0 else ""
        return f"{sign}{whole}.{fraction:06d}"


def _encode(event: Event) -> str:
    # json.dumps has no way to print an exact decimal, so an event's braces are written here.
    def value(item: Any) -> str:
        if isinstance(item, _Microseconds):
            return str(item)
        return json.dumps(item, ensure_ascii=False, allow_nan=False)

    return "{" + ", ".join(f'"{key}": {value(item)}' for key, item in event.items()) + "}"


def _plain(value: Any) -> Any:
    """`value` in JSON's types: NumPy scalars as Python numbers, whatever else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)  # JSON has no NaN and no infinity either


# Reading ------------------------------------------------------------------------------------


def read_perfetto(path: str | os.PathLike[str]) -> Trace:
    """Read Trace Event JSON: spans (X), counters (C), flows (s, f) and names (M).

    Files from elsewhere are read too, in both forms of the format (an object or a bare list);
    other phases are passed over. Times are rounded to whole picoseconds. Raises BaremetalError if
    the file cannot be read or is not in the format.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise BaremetalError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BaremetalError(f"{path} is not JSON ({error}); was it cut short?") from error
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise BaremetalError(
            f"{path} is JSON but no trace: expected a list of events, or an object with one "
            'under "traceEvents"'
        )
    try:
        return _Reader().read(events)
    except (KeyError, TypeError, ArithmeticError) as error:
        raise BaremetalError(
            f"{path}: an event lacks a field or has a wrong one ({error!r}); expected the "
            "Trace Event Format"
        ) from error


@dataclass
class _Reader:
    trace: Trace = field(default_factory=Trace)
    processes: dict[int, str] = field(default_factory=dict)
    tracks: dict[Thread, str] = field(default_factory=dict)
    spans: dict[Thread, list[Span]] = field(default_factory=dict)
    flow_ends: list[tuple[Event, Span | None]] = field(default_factory=list)

    def read(self, events: list[Event]) -> Trace:
        self._names([event for event in events if event.get("ph") == "M"])
        for event in events:
            if event.get("ph") == "X":
                self._span(event)
            elif event.get("ph") == "C":
                self._counter(event)
            elif event.get("ph") in ("s", "f"):
                # The span written just before is known only now; a file from elsewhere may have
                # written it later, so the rest waits until all spans are in.
                self.flow_ends.append((event, self.spans.get(_thread(event), [None])[-1]))
        self._flows()
        return self.trace

    def _names(self, events: list[Event]) -> None:
        for event in events:
            if event["name"] == "process_name":
                self.processes[event["pid"]] = event["args"]["name"]
        for event in events:
            if event["name"] == "thread_name":
                args, process = event["args"], self.processes.get(event["pid"], event["pid"])
                track = args.get("track", f"{process}/{args['name']}")
                self.tracks[_thread(event)] = track
                self.trace.add_track(track)

    def _track(self, event: Event) -> str:
        process = self.processes.get(event.get("pid", 0), event.get("pid", 0))
        return self.tracks.get(_thread(event), f"{process}/{event.get('tid', 0)}")

    def _span(self, event: Event) -> None:
        span = self.trace.add_span(
            self._track(event),
            event.get("name", ""),
            _picoseconds(event["ts"]),
            _picoseconds(event["dur"]),
            event.get("cat", ""),
            _floats(event.get("args", {})),
        )
        self.spans.setdefault(_thread(event), []).append(span)

    def _counter(self, event: Event) -> None:
        ours = _thread(event) in self.tracks
        for series, value in event["args"].items():
            name = event["name"] if ours else f"{event['name']} {series}"
            self.trace.add_counter(
                self._track(event), name, _picoseconds(event["ts"]), _floats(value)
            )

    def _flows(self) -> None:
        sources: dict[tuple[str, Any], Span] = {}
        targets: list[tuple[str, Any, Span]] = []
        for event, before in self.flow_ends:
            span = self._bound_span(event, before)
            name, number = event.get("name", ""), event["id"]
            if span is not None and event["ph"] == "s":
                sources[name, number] = span
            elif span is not None:
                targets.append((name, number, span))
        for name, number, target in targets:
            if (name, number) in sources:
                self.trace.add_flow(sources[name, number], target, name)

    def _bound_span(self, event: Event, before: Span | None) -> Span | None:
        """The span a flow's end belongs to: the one written just before it, or the innermost."""
        time_ps = _picoseconds(event["ts"])
        if before is not None and before.start_ps == time_ps:
            return before
        spans = self.spans.get(_thread(event), [])
        around = [span for span in spans if span.start_ps <= time_ps <= span.end_ps]
        return max(around, key=lambda span: (span.start_ps, -span.end_ps), default=None)


def _thread(event: Event) -> Thread:
    return event.get("pid", 0), event.get("tid", 0)


def _picoseconds(microseconds: Decimal | int) -> int:
    return round(Decimal(microseconds) * PS_PER_US)


def _floats(value: Any) -> Any:
    """Everything but times is an ordinary float again."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    return [_floats(item) for item in value] if isinstance(value, list) else value
