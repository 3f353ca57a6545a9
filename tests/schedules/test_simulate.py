"""The compiled simulator against its readable reference, and against closed forms."""

from fractions import Fraction

import drawn_schedules as drawn
import numpy as np
import pytest
import schedule_oracle as oracle
from hypothesis import given
from hypothesis import strategies as st

from baremetal.machine import Link
from baremetal.schedules import SCHEDULES, Action, Kind, Overlap, Schedule, make_schedule
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.reference import play_slowly
from baremetal.schedules.simulate import Simulator, simulate
from baremetal.schedules.times import Times, step_durations, stretched
from baremetal.schedules.wiring import Lane, wire

# ---------------------------------------------------------------- against the reference


def reference_delays(schedule, links, sizes, seed):
    """What `Simulator` works out for all messages beforehand, one by one."""

    def delays(source, target, number, stage):
        link = links[source, target]
        fate = link.fate(seed, source, target, number)
        return link.busy_ps(sizes[stage], fate.losses), link.latency_ps + fate.jitter_ps

    return delays


def of_messages(timeline, of_message):
    """By (lane, microbatch), as the reference names messages."""
    wiring = timeline.wiring
    flat, named = wiring.flat, {}
    for message, sender in enumerate(wiring.sender.tolist()):
        lane = wiring.lanes[wiring.lane[message]]
        column = (
            flat.forward_microbatch if wiring.is_activations(lane) else flat.backward_microbatch
        )
        named[lane, int(column[sender])] = int(of_message[message])
    return named


@given(st.data())
def test_every_time_is_the_references(data):
    schedule = data.draw(drawn.schedules())
    table = data.draw(drawn.durations(schedule))
    links = drawn.given_one_for_each_pair(data.draw, schedule)
    sizes = data.draw(
        st.lists(st.integers(0, 9), min_size=schedule.stages, max_size=schedule.stages)
    )
    overhead_ps, seed = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 5))
    lanes = wire(schedule).lanes
    slots = {lane: data.draw(st.integers(1, 3)) for lane in lanes if data.draw(st.booleans())}

    expected = play_slowly(
        schedule, table, reference_delays(schedule, links, sizes, seed), overhead_ps, slots
    )
    simulator = Simulator(
        schedule, link=links, size_bytes=sizes, slots=slots, host_overhead_ps=overhead_ps, seed=seed
    )
    if any(len(end) < len(steps) for end, steps in zip(expected.end, schedule.ranks, strict=True)):
        with pytest.raises(ScheduleError, match="deadlocked"):
            simulator.play(table)
        return
    timeline = simulator.play(table)
    assert [part.tolist() for part in timeline.by_rank(timeline.start_ps)] == expected.start
    assert [part.tolist() for part in timeline.by_rank(timeline.end_ps)] == expected.end
    assert of_messages(timeline, timeline.depart_ps) == expected.depart
    assert of_messages(timeline, timeline.arrive_ps) == expected.arrive
    assert of_messages(timeline, timeline.taken_ps) == expected.taken


@pytest.mark.parametrize("latency", [0, 3, 40])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_named_schedule_as_the_generators_oracle_has_it(name, latency):
    """A third player, written apart from ours: no buffers, no bandwidth, a latency."""
    schedule = make_schedule(name, 4, 12)
    expected = oracle.Timeline(schedule, {Kind.F: 10, Kind.I: 12, Kind.W: 8}, latency)
    link = Link("latency", bandwidth_bps=None, latency_ps=latency)
    timeline = simulate(schedule, Times.uniform(schedule.stages, 10, 12, 8), link=link)
    assert timeline.makespan_ps == expected.makespan
    assert timeline.span_ps == expected.spans
    assert timeline.busy_ps == expected.busy
    ends = [part.tolist() for part in timeline.by_rank(timeline.end_ps)]
    assert {(r, k): end for r, row in enumerate(ends) for k, end in enumerate(row)} == expected.end


# ---------------------------------------------------------------- closed forms

SIZES = [(p, m) for p in (1, 2, 3, 4, 8) for m in (1, 2, 4, 8, 16)]
F, I, W = 10, 12, 8


@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_bubbles_and_peaks_without_latency(name, p, m):
    timeline = simulate(make_schedule(name, p, m), Times.uniform(p, F, I, W))
    idle, work = (p - 1) * (F + I + W), m * (F + I + W)
    assert timeline.makespan_ps == idle + work
    assert max(timeline.span_ps) == idle + work
    assert timeline.busy_ps == [work] * p
    assert timeline.bubble_span == pytest.approx(idle / (idle + work))
    assert timeline.bubble_makespan == pytest.approx(idle / (idle + work))
    held = [m] * p if name == "gpipe" else [min(p - rank, m) for rank in range(p)]
    assert timeline.peak_activations == held
    assert timeline.exposed_ps == [0] * p


@pytest.mark.parametrize("c", [1, 5, 40])
@pytest.mark.parametrize(("p", "m"), [(2, 2), (2, 8), (4, 4), (4, 16), (8, 16)])
def test_latency_in_closed_form(p, m, c):
    """validation/README: GPipe pays each hop twice, 1F1B pays with every microbatch."""
    link = Link("latency", bandwidth_bps=None, latency_ps=c)
    times = Times.uniform(p, F, I, W)
    work = (m + p - 1) * (F + I + W)
    gpipe = simulate(make_schedule("gpipe", p, m), times, link=link)
    assert gpipe.makespan_ps == work + 2 * (p - 1) * c
    if m % p == 0:
        one = simulate(make_schedule("1f1b", p, m), times, link=link)
        assert one.makespan_ps == work + (2 * (p - 1) * m // p + 2 * (p - 2)) * c


@pytest.mark.parametrize("c", [1, 20, 50])
@pytest.mark.parametrize(("p", "m"), [(2, 4), (3, 7), (4, 8), (4, 32), (8, 16)])
def test_zb_h1_hides_all_but_four_hops_of_latency(p, m, c):
    """F = I = W = 100, m >= 2p, c <= W/2: it grows by 4 (p - 1) c, whatever m. No source has it."""
    times, schedule = Times.uniform(p, 100, 100, 100), make_schedule("zb-h1", p, m)
    alone = simulate(schedule, times).makespan_ps
    late = simulate(schedule, times, link=Link("latency", None, c)).makespan_ps
    assert late - alone == 4 * (p - 1) * c


def test_beyond_half_a_w_zb_h1_pays_with_every_microbatch():
    def growth(m):
        link = Link("latency", bandwidth_bps=None, latency_ps=75)
        schedule, times = make_schedule("zb-h1", 4, m), Times.uniform(4, 100, 100, 100)
        return (
            simulate(schedule, times, link=link).makespan_ps - simulate(schedule, times).makespan_ps
        )

    assert growth(8) < growth(16) < growth(32)


def test_exposed_transfer_is_what_the_latency_costs():
    """Two ranks, one microbatch: each waits once for a message that is under way."""
    link = Link("latency", bandwidth_bps=None, latency_ps=7)
    timeline = simulate(make_schedule("gpipe", 2, 1), Times.uniform(2, 10, 10, 10), link=link)
    assert timeline.exposed_ps == [7, 7]
    assert timeline.makespan_ps == 60 + 14


def test_messages_queue_for_their_link():
    """Two of GPipe's activations, 16 ps each on the link, sent 10 ps apart: the second queues."""
    link = Link("thin", bandwidth_bps=10**12, latency_ps=3, overhead_ps=8)
    timeline = simulate(
        make_schedule("gpipe", 2, 2), Times.uniform(2, 10, 10, 10), link=link, size_bytes=1
    )
    first, second = timeline.wiring.sends[:2, 0]
    assert timeline.depart_ps[[first, second]].tolist() == [10, 26]
    assert timeline.arrive_ps[[first, second]].tolist() == [29, 45]


def test_an_overlap_sends_its_forwards_message_first():
    """Three stages on two ranks: 1F and 1B both send to rank 0, by one link, in that order."""
    F, _, _, B = Kind
    act = Action
    there = (act(F, 0, 0), act(F, 2, 0), act(B, 2, 0), act(F, 0, 1), act(F, 2, 1), act(B, 0, 0),
             act(B, 2, 1), act(B, 0, 1))  # fmt: skip
    here = (act(F, 1, 0), Overlap(act(F, 1, 1), act(B, 1, 0)), act(B, 1, 1))
    schedule = Schedule("three", 2, (there, here), ((0, 1, 2),))
    link = Link("thin", bandwidth_bps=None, latency_ps=0, overhead_ps=100)
    timeline = simulate(schedule, Times.uniform(3, 10, 10, 10), link=link)
    forward, backward = timeline.wiring.sends[len(there) + 1]
    assert timeline.depart_ps[backward] == timeline.depart_ps[forward] + 100
    assert timeline.wiring.sequence[[forward, backward]].tolist() == [1, 2]


def test_a_wait_for_a_slot_is_no_exposed_transfer():
    schedule = make_schedule("gpipe", 2, 3)
    timeline = simulate(schedule, [[1] * 6, [10] * 6], slots={Lane(0, 1): 1})
    # Rank 1 takes the first at 1 and the second at 11: the sender waits until then.
    assert timeline.by_rank(timeline.start_ps)[0][:3].tolist() == [0, 1, 11]
    assert timeline.credit_wait_ps == [9, 0]
    assert timeline.exposed_ps == [0, 0]


def test_host_overhead_is_added_to_every_step_and_counts_as_bubble():
    plain = simulate(make_schedule("1f1b", 1, 4), Times.uniform(1, 10, 10, 10))
    slow = simulate(make_schedule("1f1b", 1, 4), Times.uniform(1, 10, 10, 10), host_overhead_ps=5)
    assert plain.bubble_span == 0
    assert slow.makespan_ps == plain.makespan_ps + 8 * 5
    assert slow.host_overhead_ps == [40]
    assert slow.bubble_span == pytest.approx(40 / 160)


# ---------------------------------------------------------------- figures


def overlapped():
    """Two mirrored copies on one rank, a forward beside a backward in the middle."""
    f, b = (lambda s, k: Action(Kind.F, s, k)), (lambda s, k: Action(Kind.B, s, k))
    steps = (f(0, 0), Overlap(f(1, 1), b(0, 0)), b(1, 1))
    return Schedule("pair", 2, (steps,), ((0,), (1,)))


def test_an_overlapped_pair_has_its_own_duration():
    times = Times.uniform(2, 10, 10, 10, overlap_ps=22)
    assert step_durations(overlapped(), times).tolist() == [10, 22, 20]
    assert step_durations(overlapped(), Times.uniform(2, 10, 10, 10)).tolist() == [10, 30, 20]


def test_mirrored_copies_count_one_each_and_a_chunk_a_part():
    assert simulate(overlapped(), Times.uniform(2, 1, 1, 1)).peak_activations == [2]
    f, b = (lambda s: Action(Kind.F, s, 0)), (lambda s: Action(Kind.B, s, 0))
    chunks = Schedule("chunks", 1, ((f(0), f(1), b(1), b(0)),), ((0, 1),))
    timeline = simulate(chunks, Times.uniform(2, 1, 1, 1))
    assert timeline.peak_activations == [1]
    times, held = timeline.activations(0)
    assert times.tolist() == [0, 1, 1, 2, 2, 4, 4, 6]
    assert held.tolist() == [0.5, 0.5, 1, 1, 1, 0.5, 0.5, 0]


@given(st.integers(0, 10**15), st.fractions(Fraction(1, 4), 4, max_denominator=100))
def test_a_straggler_is_rounded_up_once(duration_ps, factor):
    written = round(float(factor), 2)
    exact = duration_ps * Fraction(str(written))
    assert 0 <= stretched(duration_ps, written) - exact < 1


def test_eleven_tenths_of_ten_are_eleven():
    assert stretched(10, 1.1) == 11
    times = Times.uniform(2, 10, 10, 10)
    slow = step_durations(make_schedule("1f1b", 2, 1), times, {1: 1.1})
    assert slow.tolist() == [10, 20, 11, 22]


def test_a_simulator_is_played_again_from_the_start():
    simulator = Simulator(make_schedule("1f1b", 4, 8), link=Link("l", 10**12, 5), size_bytes=3)
    times = Times.uniform(4, 3, 4, 5)
    assert np.array_equal(simulator.play(times).end_ps, simulator.play(times).end_ps)


# ---------------------------------------------------------------- what is refused


def test_wrong_settings_are_refused(refused):
    schedule = make_schedule("1f1b", 2, 2)
    times = Times.uniform(2, 1, 1, 1)
    with refused("times for 3", "2 stages"):
        simulate(schedule, Times.uniform(3, 1, 1, 1))
    with refused("-1", "picoseconds"):
        Times.uniform(2, -1, 1, 1)
    with refused("straggler 5", "ranks 0 to 1"):
        simulate(schedule, times, stragglers={5: 2.0})
    with refused("factor", "nan"):
        simulate(schedule, times, stragglers={1: float("nan")})
    with refused("slots", "at least 1"):
        simulate(schedule, times, slots={Lane(0, 1): 0})
    with refused("0->7"):
        simulate(schedule, times, slots={Lane(0, 7): 1})
    with refused("rank 0 sends to rank 1", "no link"):
        simulate(schedule, times, link={})
    with refused("sizes", "3"):
        simulate(schedule, times, link=Link("l", 1, 1), size_bytes=[1, 2, 3])
    with refused("fails after 1 messages"):
        simulate(schedule, times, link=Link("l", None, 1, fails_after=1))
    with refused("[4, 4]", "[1, 4]"):
        simulate(schedule, [[1], [1] * 4])
    with refused("host overhead"):
        simulate(schedule, times, host_overhead_ps=-1)
    with refused("all steps and messages together"):
        simulate(schedule, Times.uniform(2, 2**61, 2**61, 1))
    with refused("straggler 0", "for ever"):
        simulate(schedule, times, stragglers={0: 1e30})
    with refused("link slow", "more than can be counted"):
        simulate(schedule, times, link=Link("slow", 1, 1), size_bytes=2**62)
