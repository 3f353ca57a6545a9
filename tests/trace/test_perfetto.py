"""Perfetto files: what is written comes back, and obeys what the viewer demands."""

import json
import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError
from baremetal.trace import Trace, read_perfetto, write_perfetto
from baremetal.trace.perfetto import split

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
tracks = st.sampled_from(["main", "rank 0/compute", "rank 0/copy", "rank 1/compute", "a/b/c", "/"])
times = st.integers(-(10**6), 10**7) | st.integers(10**17, 10**18)  # up to eleven days
arguments = st.dictionaries(
    names, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names | st.none(),
    max_size=2,
)  # fmt: skip
span_fields = st.tuples(tracks, names, times, st.integers(0, 10**7), names, arguments)


def by_time(trace):
    return sorted(trace.spans, key=lambda span: (span.start_ps, -span.duration_ps))


@given(
    fields=st.lists(span_fields, max_size=8),
    counters=st.lists(
        st.tuples(tracks, names, times, st.integers() | st.floats(-1e300, 1e300)), max_size=4
    ),
    arrows=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), names), max_size=4),
)
def test_round_trip(tmp_path_factory, fields, counters, arrows):
    trace = Trace()
    for one in fields:
        trace.add_span(*one)
    for one in counters:
        trace.add_counter(*one)
    for source, target, name in arrows:
        if max(source, target) < len(fields):
            first, second = trace.spans[source], trace.spans[target]
            if second.end_ps >= first.start_ps:
                trace.add_flow(first, second, name)
    path = tmp_path_factory.mktemp("perfetto") / "trace.json"
    back = read_perfetto(write_perfetto(trace, path))
    assert back.spans == by_time(trace)
    assert back.tracks == trace.tracks
    assert back.counters == sorted(trace.counters, key=lambda counter: counter.time_ps)
    assert sorted(map(repr, back.flows)) == sorted(map(repr, trace.flows))
    back.validate()


def events_of(path, phase):
    document = json.loads(path.read_text(encoding="utf-8"))
    return [event for event in document["traceEvents"] if event["ph"] == phase]


def test_times_are_plain_decimals_of_microseconds(tmp_path):
    trace = Trace()
    trace.add_span("t", "tiny", 1, 10)
    trace.add_span("t", "late", 1_692_108_548_132_154_500_001, 2_500_000)
    trace.add_span("t", "before", -1_500_000, 0)
    text = write_perfetto(trace, tmp_path / "t.json").read_text(encoding="utf-8")
    assert '"ts": 0.000001, "dur": 0.000010' in text
    assert '"ts": 1692108548132154.500001, "dur": 2.500000' in text
    assert '"ts": -1.500000, "dur": 0.000000' in text
    assert not re.search(r'"(ts|dur)": [-\d.]*e', text)
    assert text.startswith('{"displayTimeUnit": "ns"')  # the viewer looks for it at the head only


def test_partial_overlaps_get_threads_of_their_own(tmp_path):
    trace = Trace()
    trace.add_span("link", "a", 0, 10)
    trace.add_span("link", "b", 5, 10)
    trace.add_span("link", "inside a", 1, 2)
    path = write_perfetto(trace, tmp_path / "t.json")
    threads = {event["name"]: event["tid"] for event in events_of(path, "X")}
    assert threads["a"] == threads["inside a"] != threads["b"]
    named = {
        event["tid"]: event["args"]["name"]
        for event in events_of(path, "M")
        if event["name"] == "thread_name"
    }
    assert (named[threads["a"]], named[threads["b"]]) == ("link", "link (2)")
    assert read_perfetto(path).tracks == ["link"]


def test_processes_threads_and_counters_have_names(tmp_path):
    trace = Trace()
    trace.add_span("rank 0/compute", "a", 0, 10)
    trace.add_span("rank 0/copy", "b", 0, 10)
    trace.add_span("main", "c", 0, 10)
    trace.add_counter("rank 0/copy", "bytes in flight", 3_000_000, 7)
    path = write_perfetto(trace, tmp_path / "t.json")
    metadata = events_of(path, "M")
    processes = [e["args"]["name"] for e in metadata if e["name"] == "process_name"]
    threads = [e["args"]["name"] for e in metadata if e["name"] == "thread_name"]
    assert processes == ["rank 0", "baremetal"]
    assert threads == ["compute", "copy", "main"]
    assert len({e["tid"] for e in metadata if e["name"] == "thread_name"}) == 3
    (counter,) = events_of(path, "C")
    assert (counter["name"], counter["args"], counter["ts"]) == ("bytes in flight", {"copy": 7}, 3)


def test_a_flow_binds_to_the_outer_of_two_spans_that_start_together(tmp_path):
    trace = Trace()
    trace.add_span("t", "inner", 0, 5)
    outer = trace.add_span("t", "outer", 0, 10)
    target = trace.add_span("u", "next", 12, 5)
    trace.add_flow(outer, target, "m")
    path = write_perfetto(trace, tmp_path / "t.json")
    order = [
        (event["ph"], event["name"])
        for event in json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        if event["ph"] != "M"
    ]
    # Written right behind its span: while a viewer reads it, that span is the one on top.
    assert order == [("X", "outer"), ("s", "m"), ("X", "inner"), ("X", "next"), ("f", "m")]
    assert events_of(path, "f")[0]["bp"] == "e"
    assert read_perfetto(path).flows[0].source.name == "outer"


def test_values_that_json_does_not_know_are_written_as_text_or_numbers(tmp_path):
    trace = Trace()
    values = {
        "shape": (2, 3), "count": np.int64(7), "share": np.float32(0.5), "bad": float("nan"),
        "path": os.PathLike, "deep": {"x": [np.bool_(True), None]},
    }  # fmt: skip
    trace.add_span("t", "a", 0, 1, "", values)
    trace.add_counter("t", "c", 0, np.float32(0.25))
    back = read_perfetto(write_perfetto(trace, tmp_path / "t.json"))
    assert back.spans[0].arguments == {
        "shape": [2, 3], "count": 7, "share": 0.5, "bad": "nan",
        "path": str(os.PathLike), "deep": {"x": [True, None]},
    }  # fmt: skip
    assert back.counters[0].value == 0.25


def test_files_from_elsewhere_are_read(tmp_path):
    path = tmp_path / "other.json"
    events = [
        {"ph": "s", "pid": 1, "tid": 2, "ts": 1.5, "id": "0x1", "name": "go"},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 1, "dur": 2, "name": "outer"},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 1.25, "dur": 1, "name": "inner"},
        {"ph": "X", "pid": 1, "tid": 3, "ts": 4, "dur": 0.0000005},
        {"ph": "f", "pid": 1, "tid": 3, "ts": 4, "id": "0x1", "name": "go"},
        {"ph": "C", "pid": 1, "ts": 4, "name": "memory", "args": {"used": 3, "free": 5.5}},
        {"ph": "i", "pid": 1, "tid": 2, "ts": 3, "name": "passed over"},
        {"ph": "M", "pid": 1, "tid": 3, "name": "thread_name", "args": {"name": "worker"}},
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "app"}},
    ]
    path.write_text(json.dumps(events), encoding="utf-8")  # the bare form: a list
    trace = read_perfetto(path)
    assert [(s.track, s.name, s.start_ps, s.duration_ps) for s in trace.spans] == [
        ("app/2", "outer", 1_000_000, 2_000_000),
        ("app/2", "inner", 1_250_000, 1_000_000),
        ("app/worker", "", 4_000_000, 0),  # half a picosecond, rounded to even
    ]
    assert [(f.source.name, f.target.track, f.name) for f in trace.flows] == [
        ("inner", "app/worker", "go")
    ]
    assert [(c.name, c.value) for c in trace.counters] == [("memory used", 3), ("memory free", 5.5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"traceEvents": [', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b'{"other": 1}', "no trace"),
        (b"[1, 2]", "no trace"),
        (b'[{"ph": "X", "ts": 1}]', "lacks a field"),
        (b'[{"ph": "X", "ts": "soon", "dur": 1}]', "wrong one"),
        (b'[{"ph": "X", "ts": 1, "dur": -1}]', "duration_ps is -1000000"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(BaremetalError, match=message) as caught:
        read_perfetto(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_wrong_flow_are_refused(tmp_path):
    with pytest.raises(BaremetalError, match=r"cannot read .*none\.json"):
        read_perfetto(tmp_path / "none.json")
    trace, other = Trace(), Trace()
    trace.add_flow(trace.add_span("t", "a", 0, 1), other.add_span("t", "b", 2, 1))
    with pytest.raises(BaremetalError, match="not a span of this trace"):
        write_perfetto(trace, tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


def test_track_names_split_at_the_first_slash():
    assert split("rank 0/compute") == ("rank 0", "compute")
    assert split("a/b/c") == ("a", "b/c")
    assert split("main") == ("baremetal", "main")
