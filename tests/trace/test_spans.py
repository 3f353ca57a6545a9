"""Spans: what may be recorded, how nesting is found, what totals mean, how traces are merged."""

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError
from baremetal.trace import Flow, Span, Trace
from baremetal.trace.nesting import lanes, nest


class FakeClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self, now_ns=1_000):
        self.now_ns = now_ns

    def __call__(self):
        return self.now_ns


def split_into_calls(span, depth, draw):
    """A random call tree inside `span`: (span, depth) pairs whose nesting is known."""
    calls = [(span, depth)]
    if depth == 3 or span.duration_ps < 4:
        return calls
    cuts = sorted(draw(st.lists(st.integers(span.start_ps, span.end_ps), max_size=6)))
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        if span.duration_ps > end - start > 0:
            child = Span("t", draw(st.sampled_from("abc")), start, end - start, "abc"[depth % 3])
            calls += split_into_calls(child, depth + 1, draw)
    return calls


@st.composite
def call_trees(draw):
    return split_into_calls(Span("t", "root", 0, draw(st.integers(1, 60)), "a"), 0, draw)


spans = st.builds(
    Span, st.just("t"), st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 12), st.just("")
)


def covered(some_spans):
    """The set of unit cells that the spans cover: busy time counted the slow way."""
    return {cell for span in some_spans for cell in range(span.start_ps, span.end_ps)}


def test_a_span_refuses_a_negative_duration_and_says_which():
    with pytest.raises(BaremetalError, match=r"'send' on track 'link'.*-5.*0 or more"):
        Span("link", "send", 10, -5)


@pytest.mark.parametrize("time", [1.5, "3", None])
def test_a_span_refuses_times_that_are_no_integers(time):
    with pytest.raises(BaremetalError, match="int in picoseconds"):
        Span("t", "x", time, 1)
    with pytest.raises(BaremetalError, match="int in picoseconds"):
        Span("t", "x", 0, time)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_counter_refuses_what_cannot_be_drawn(value):
    with pytest.raises(BaremetalError, match="finite"):
        Trace().add_counter("t", "loss", 0, value)


def test_wall_time_spans_nest_and_carry_arguments():
    clock = FakeClock()
    trace = Trace(clock_ns=clock)
    clock.now_ns += 5
    with trace.span("step", "train", track="main"):
        clock.now_ns += 10
        with trace.span("matmul", track="main", flops=64) as arguments:
            clock.now_ns += 20
            arguments["bytes"] = 12
        clock.now_ns += 1
    inner, outer = trace.spans
    assert inner == Span("main", "matmul", 15_000, 20_000, "", {"flops": 64, "bytes": 12})
    assert outer == Span("main", "step", 5_000, 31_000, "train")
    assert [(n.span.name, len(n.parents), n.self_ps) for n in trace.nested()] == [
        ("step", 0, 11_000),
        ("matmul", 1, 20_000),
    ]


def test_a_body_that_raises_is_recorded_with_its_error():
    clock = FakeClock()
    trace = Trace(clock_ns=clock)

    def fail():
        with trace.span("load"):
            clock.now_ns += 3
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert trace.spans[0].arguments == {"error": "KeyError"}
    assert trace.spans[0].duration_ps == 3_000


def test_the_track_of_a_wall_span_is_its_thread():
    trace = Trace()

    def work():
        with trace.span("copy"):
            pass

    thread = threading.Thread(target=work, name="copier")
    thread.start()
    thread.join()
    work()
    assert trace.tracks == ["copier", threading.current_thread().name]


@given(call_trees())
def test_nesting_of_calls_is_recovered(calls):
    spans_given = [span for span, _ in calls]
    nodes = nest(reversed(spans_given))
    depths = {id(span): depth for span, depth in calls}
    assert all(len(node.parents) == depths[id(node.span)] for node in nodes)
    assert all(p.contains(node.span) for node in nodes for p in node.parents)
    # Self times add up to busy time, with nothing counted twice.
    assert sum(node.self_ps for node in nodes) == len(covered(spans_given))


@given(call_trees())
def test_rows_of_nested_calls_are_their_depths(calls):
    assert lanes([span for span, _ in calls], share=False) == [depth for _, depth in calls]
    assert set(lanes([span for span, _ in calls], share=True)) == {0}


@given(st.lists(spans, max_size=12))
def test_no_two_spans_of_a_row_overlap(some):
    rows = lanes(some, share=False)
    for row in set(rows):
        mine = [span for span, r in zip(some, rows, strict=True) if r == row]
        assert sum(span.duration_ps for span in mine) == len(covered(mine))


@given(st.lists(spans, max_size=12))
def test_spans_that_share_a_row_follow_or_nest(some):
    rows = lanes(some, share=True)
    for row in set(rows):
        mine = [span for span, r in zip(some, rows, strict=True) if r == row]
        for one in mine:
            for other in mine:
                apart = one.end_ps <= other.start_ps or other.end_ps <= one.start_ps
                assert apart or one.contains(other) or other.contains(one)


@given(st.lists(spans, max_size=12))
def test_self_times_are_never_negative(some):
    assert all(0 <= node.self_ps <= node.span.duration_ps for node in nest(some))


def test_totals_count_recursion_once():
    trace = Trace()
    trace.add_span("t", "f", 0, 100)
    trace.add_span("t", "f", 10, 50)
    trace.add_span("t", "g", 20, 30)
    trace.add_span("u", "f", 0, 7)
    totals = trace.total_by_name()
    assert (totals["f"].calls, totals["f"].total_ps, totals["f"].self_ps) == (3, 107, 77)
    assert (totals["g"].calls, totals["g"].total_ps, totals["g"].self_ps) == (1, 30, 30)


def test_a_span_that_starts_at_anothers_end_is_not_inside_it():
    first, empty, long = Span("t", "a", 0, 5), Span("t", "b", 5, 0), Span("t", "c", 5, 5)
    assert [len(node.parents) for node in nest([first, empty])] == [0, 0]
    assert [node.span.name for node in nest([first, empty, long])] == ["a", "c", "b"]
    assert [len(node.parents) for node in nest([first, empty, long])] == [0, 0, 1]


def test_tracks_categories_and_window():
    trace = Trace()
    assert trace.window_ps == (0, 0)
    trace.add_track("idle")
    trace.add_span("b", "x", 50, 10, "late")
    trace.add_span("a", "y", 5, 10, "early")
    trace.add_counter("c", "bytes", 2, 1)
    assert trace.tracks == ["idle", "b", "a", "c"]
    assert trace.categories == ["early", "late"]
    assert trace.ordered_categories(["late", "never"]) == ["late", "never", "early"]
    assert trace.window_ps == (2, 60)


def test_validate_wants_flows_between_own_spans():
    trace = Trace()
    here = trace.add_span("t", "send", 10, 5)
    trace.add_flow(here, Span("t", "stranger", 20, 5), "m0")
    with pytest.raises(BaremetalError, match=r"'m0': its target 'stranger'.*add_span"):
        trace.validate()


def test_validate_refuses_arrival_before_departure():
    trace = Trace()
    sent = trace.add_span("a", "send", 10, 5)
    received = trace.add_span("b", "receive", 0, 9)
    trace.add_flow(sent, received)
    with pytest.raises(BaremetalError, match="arrives before it left"):
        trace.validate()


def test_validate_refuses_partial_overlap_only_when_asked():
    trace = Trace()
    trace.add_span("t", "a", 0, 10)
    trace.add_span("t", "b", 2, 3)
    trace.validate(allow_overlap=False)
    trace.add_span("t", "c", 8, 10)
    trace.validate()
    with pytest.raises(BaremetalError, match=r"'c' \(8 to 18 ps\) overlaps"):
        trace.validate(allow_overlap=False)


def test_a_flow_lands_where_the_wait_ends():
    sent = Span("a", "send", 0, 10)
    assert Flow(sent, Span("b", "compute", 12, 5)).arrival_ps == 12
    assert Flow(sent, Span("b", "waiting receive", 3, 11)).arrival_ps == 14


def test_merge_puts_measured_traces_on_one_clock_and_keeps_flows():
    early, late = Trace(clock_ns=FakeClock(1_000)), Trace(clock_ns=FakeClock(1_007))
    for trace in (early, late):
        with trace.span("work", track="main"):
            trace.clock_ns.now_ns += 2
    late.add_flow(late.spans[0], late.add_span("main", "next", 9_000, 1), "then")
    late.add_counter("main", "bytes", 3_000, 4)
    merged = Trace.merge({"rank 0": early, "rank 1": late})
    assert merged.tracks == ["rank 0/main", "rank 1/main"]
    assert [(s.track, s.start_ps) for s in merged.spans] == [
        ("rank 0/main", 0),
        ("rank 1/main", 7_000),
        ("rank 1/main", 16_000),
    ]
    assert merged.counters[0].time_ps == 10_000
    assert merged.flows == [Flow(merged.spans[1], merged.spans[2], "then")]
    assert merged.flows[0].source is merged.spans[1]
    merged.validate()


def test_merge_leaves_modelled_time_alone():
    one, two = Trace(clock_ns=FakeClock(5)), Trace(clock_ns=FakeClock(500))
    one.add_span("s", "a", 1, 1)
    two.add_span("s", "b", 2, 2)
    assert [s.start_ps for s in Trace.merge({"p": one, "q": two}).spans] == [1, 2]


def test_connect_pairs_the_two_ends_of_messages():
    trace = Trace()
    sent = trace.add_span("a", "send", 0, 5, arguments={"sends": "act 0"})
    got = trace.add_span("b", "receive", 2, 9, arguments={"receives": "act 0"})
    trace.add_span("b", "receive", 12, 9, arguments={"receives": "act 1"})  # sender not traced
    assert trace.connect() == 1
    assert trace.flows == [Flow(sent, got, "act 0")]
    trace.add_span("a", "send", 20, 5, arguments={"sends": "act 0"})
    with pytest.raises(BaremetalError, match="sent by two spans"):
        trace.connect()


def test_a_trace_travels_between_processes():
    trace = Trace()
    one = trace.add_span("t", "a", 0, 1, "c", {"flops": 3})
    trace.add_flow(one, trace.add_span("t", "b", 1, 1))
    copy = pickle.loads(pickle.dumps(trace))
    assert copy == trace
    copy.validate()  # the flow's ends are still the trace's own spans
