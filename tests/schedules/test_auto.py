"""Automatic schedules: never worse than those by hand, within their memory, near the bound."""

import csv
import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import schedule_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.cli import main
from baremetal.machine import Link
from baremetal.schedules import SCHEDULES, Action, Kind, Schedule, ScheduleError, make_schedule
from baremetal.schedules.auto import find_schedule
from baremetal.schedules.auto_bound import lower_bound
from baremetal.schedules.auto_list import as_schedule, follow, rules_to_try
from baremetal.schedules.auto_memory import most_held
from baremetal.schedules.auto_question import Question, line_of
from baremetal.schedules.check import check_schedule
from baremetal.schedules.flat import flatten
from baremetal.schedules.memory import peak_activations
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times

TABLE = Path(__file__).parent / "data" / "zb_table5_table9_bubble_rates.csv"
GOLDEN = TABLE.parent / "golden_schedules_v.csv"
MS = 10**9


def latency(ps):
    return Link("latency", bandwidth_bps=None, latency_ps=ps)


@st.composite
def questions(draw, chunks=1):
    """Sizes, times that may differ from stage to stage, a link, a limit."""
    p, m = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    stages = p * chunks
    each = st.integers(1, 30)
    uneven = st.lists(each, min_size=stages, max_size=stages).map(tuple)
    of_kind = st.one_of(each.map(lambda time: (time,) * stages), uneven)
    times = Times(draw(of_kind), draw(of_kind), draw(of_kind))
    link = Link(
        "drawn",
        bandwidth_bps=draw(st.sampled_from([None, 8 * 10**12, 10**12])),
        latency_ps=draw(st.integers(0, 12)),
    )
    limit = draw(st.one_of(st.none(), st.integers(1, 2 * p), st.just(Fraction(5, 2))))
    return Question(
        times, p, m, memory_limit=limit, metric=draw(st.sampled_from(["makespan", "span"])),
        kept_for_weights=draw(st.sampled_from([1, Fraction(2, 5), 0])),
        link=link, size_bytes=draw(st.integers(0, 9)),
        host_overhead_ps=draw(st.sampled_from([0, 0, 3])),
    )  # fmt: skip


def answer(question):
    wish = {name: value for name, value in vars(question).items() if name != "times"}
    return find_schedule(question.times, wish.pop("microbatches"), **wish)


def play(schedule, question):
    return simulate(
        schedule, question.times, link=question.link, size_bytes=question.size_bytes,
        host_overhead_ps=question.host_overhead_ps,
    )  # fmt: skip


def measure(timeline, metric):
    return timeline.makespan_ps if metric == "makespan" else max(timeline.span_ps)


def held_at_most(schedule, kept):
    """By rank, counted one action after the other."""
    for actions in schedule.actions_by_rank():
        held = most = Fraction(0)
        for action in actions:
            if action.kind is Kind.F:
                held += Fraction(1, schedule.chunks)
                most = max(most, held)
            share = {Kind.I: 1 - kept, Kind.W: kept, Kind.B: 1, Kind.F: 0}[action.kind]
            held -= share * Fraction(1, schedule.chunks)
        yield most


# --- what is promised ----------------------------------------------------------------------------


@given(question=questions())
@settings(max_examples=50)
def test_no_worse_than_any_by_hand_that_fits_and_complete_and_within_memory(question):
    found = answer(question)
    check_schedule(found.schedule)
    limit = question.limits[0]
    kept = Fraction(question.kept_for_weights)
    assert max(held_at_most(found.schedule, kept)) <= limit
    assert found.timeline.makespan_ps == play(found.schedule, question).makespan_ps
    best = measure(found.timeline, question.metric)
    for name, generator in SCHEDULES.items():
        if generator.refusal(question.ranks, question.microbatches, 1):
            continue
        schedule = generator(question.ranks, question.microbatches, 1)
        if len(schedule.paths) == 1 and max(held_at_most(schedule, kept)) <= limit:
            assert best <= measure(play(schedule, question), question.metric), name
            assert name in found.by_hand
    assert found.gap >= 0


V_SHAPED = ("zb-v", "v-half", "v-min", "dualpipev")


@given(question=questions(chunks=2), placement=st.sampled_from(["any", "v"]))
@settings(max_examples=25)
def test_with_two_chunks_it_is_no_worse_than_those_by_hand(question, placement):
    question = replace(question, placement=placement)
    names = V_SHAPED + (("interleaved", "looped-bfs") if placement == "any" else ())
    sizes = question.ranks, question.microbatches, 2
    by_hand = [SCHEDULES[n](*sizes) for n in names if not SCHEDULES[n].refusal(*sizes)]
    kept, limit = Fraction(question.kept_for_weights), question.limits[0]
    fitting = [s for s in by_hand if max(held_at_most(s, kept)) <= limit]
    try:
        found = answer(question)
    except ScheduleError:  # nothing fits, and the command line's test reads the words
        assert not fitting
        return
    check_schedule(found.schedule)
    assert found.schedule.name == ("auto" if placement == "any" else "zb-v-auto")
    assert measure(found.timeline, question.metric) <= min(
        (measure(play(schedule, question), question.metric) for schedule in fitting),
        default=float("inf"),
    )
    assert max(held_at_most(found.schedule, kept)) <= limit
    if placement == "v":
        assert found.timeline.makespan_ps >= found.bound.makespan_ps
        assert max(found.timeline.span_ps) >= found.bound.span_ps
    else:
        assert found.bound is None


def golden_rows():
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["schedule"] == "ZB-V"]


@pytest.mark.parametrize("row", golden_rows(), ids=lambda r: f"{r['p']}-{r['m']}-{r['W_chunk']}")
def test_zb_v_auto_against_the_published_search(row):
    """Makespans no longer; largest spans within 0.4 %: some of theirs are shorter by that."""
    p, m = int(row["p"]), int(row["m"])
    columns = ("F_chunk", "B_input_chunk", "W_chunk", "T_comm")
    *times, comm = (int(float(row[column])) for column in columns)
    for metric, column, slack in (("makespan", "makespan", 1), ("span", "max_stage_span", 1.004)):
        found = find_schedule(
            Times.uniform(2 * p, *times), m, ranks=p, memory_limit=p, metric=metric,
            link=latency(comm), placement="v",
        )  # fmt: skip
        assert measure(found.timeline, metric) <= float(row[column]) * slack


def test_zb_v_auto_beats_the_order_by_hand_where_times_are_unequal():
    times = Times.uniform(4, 10, 12, 8)
    found = find_schedule(times, 4, ranks=2, memory_limit=2, metric="span", placement="v")
    assert max(simulate(make_schedule("zb-v", 2, 4), times).span_ps) == 248
    assert max(found.timeline.span_ps) <= 244


@pytest.mark.parametrize("name", SCHEDULES)
def test_memory_is_counted_as_elsewhere(name):
    schedule = make_schedule(name, 4, 8)
    flat = flatten(schedule)
    assert list(map(float, most_held(flat, Fraction(1)))) == peak_activations(flat)
    if len(schedule.paths) == 1:
        kept = Fraction(3, 7)
        assert most_held(flat, kept) == list(held_at_most(schedule, kept))


def test_the_same_question_has_the_same_answer():
    times = Times((5, 9, 4, 7), (6, 8, 9, 4), (3, 9, 5, 5))
    first, second = (find_schedule(times, 13, memory_limit=5) for _ in range(2))
    assert first.source == "search"
    assert first.schedule == second.schedule


# --- the table of the zero-bubble paper ----------------------------------------------------------


def rows_of_the_table():
    """But for two with 32 ranks, which take seconds each: `docs/schedules.md` has the command."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["p"]) * int(row["m"]) < 4000]


@pytest.mark.parametrize("row", rows_of_the_table(), ids=lambda row: f"{row['model']}-{row['m']}")
def test_the_automatic_columns_of_the_zero_bubble_paper(row):
    """Tables 5 and 9 of arXiv 2401.10241: no worse than printed, with its account of memory."""
    p, m = int(row["p"]), int(row["m"])
    columns = ("T_F_ms", "T_B_ms(input-grad)", "T_W_ms", "T_comm_ms")
    *times, comm = (int(Fraction(row[column]) * MS) for column in columns)
    by_w, by_f = (next(c for c in row if c.startswith(start)) for start in ("mem_W", "mem_F"))
    kept = Fraction(-int(row[by_w]), int(row[by_f]))
    for column, limit in (("ZB-1p", p), ("ZB-2p", 2 * p)):
        found = find_schedule(
            Times.uniform(p, *times), m, memory_limit=limit, kept_for_weights=kept, metric="span",
            link=latency(comm),
        )  # fmt: skip
        assert max(held_at_most(found.schedule, kept)) <= limit
        cost = max(found.timeline.span_ps)
        if m <= 64:
            by_kind = dict(zip(Kind, times, strict=False))
            assert cost == max(oracle.Timeline(found.schedule, by_kind, comm).spans)
        assert (cost - m * sum(times)) / cost <= float(row[column]) + 1e-3
        assert found.gap < 0.02


# --- the bound -----------------------------------------------------------------------------------


def orders(m):
    """All orders of m F, I and W on a rank in which every W follows its I and every I its F."""
    for kinds in set(itertools.permutations("FIW" * m)):
        counts = dict.fromkeys("FIW", 0)
        for kind in kinds:
            counts[kind] += 1
            if not counts["F"] >= counts["I"] >= counts["W"]:
                break
        else:
            yield "".join(kinds)


def written(rank, kinds):
    count = dict.fromkeys("FIW", 0)
    for kind in kinds:
        yield Action(Kind[kind], rank, count[kind])
        count[kind] += 1


@given(question=questions())
@settings(max_examples=5)
@pytest.mark.parametrize(("p", "m"), [(2, 2), (3, 2), (1, 3)])
def test_no_order_at_all_beats_the_bound_or_by_much_the_search(p, m, question):
    each = [tuple((row * p)[:p]) for row in question.times.by_kind()[:3].tolist()]
    question = Question(
        Times(*each), p, m, memory_limit=question.memory_limit, metric=question.metric,
        link=question.link, size_bytes=question.size_bytes,
    )  # fmt: skip
    bound = lower_bound(line_of(question, fastest=True))
    found = answer(question)
    best = None
    for choice in itertools.product(list(orders(m)), repeat=p):
        ranks = tuple(tuple(written(rank, kinds)) for rank, kinds in enumerate(choice))
        schedule = Schedule("any", m, ranks, (tuple(range(p)),))
        if max(held_at_most(schedule, Fraction(1))) > question.limits[0]:
            continue
        try:
            timeline = play(schedule, question)
        except ScheduleError:
            continue  # the ranks wait for each other
        assert timeline.makespan_ps >= bound.makespan_ps
        assert max(timeline.span_ps) >= bound.span_ps
        shortest = measure(timeline, question.metric)
        best = shortest if best is None else min(best, shortest)
    assert measure(found.timeline, question.metric) <= best * 1.02


@pytest.mark.parametrize("metric", ["makespan", "span"])
@pytest.mark.parametrize("times", [(10, 10, 10), (10, 12, 8), (12, 10, 9), (4, 5, 2)])
def test_equal_stages_come_within_two_per_cent_of_the_bound(metric, times):
    """From 1F1B's memory on, with and without latency."""
    for p, m in ((2, 8), (4, 12), (8, 32)):
        for limit in (p, p + 1, 3 * p // 2, 2 * p - 1, 2 * p, None):
            for comm in (0, 1):
                found = find_schedule(
                    Times.uniform(p, *times), m, memory_limit=limit, metric=metric,
                    link=latency(comm),
                )  # fmt: skip
                assert found.gap <= 0.02, (p, m, limit, comm, found.source)


def test_zb_h1_is_the_best_there_is_in_the_memory_of_1f1b():
    for latency_ps in (0, 3):
        found = find_schedule(
            Times.uniform(6, 10, 12, 8), 20, memory_limit=6, link=latency(latency_ps)
        )
        assert (found.source, found.gap) == ("zb-h1", 0)
        assert found.bound.makespan_ps == 20 * 30 + 5 * (10 + 12 - 8 + 4 * latency_ps)


def test_a_fused_backward_counts_in_the_bound():
    times = Times.uniform(3, 10, 10, 10, full_backward_ps=14)
    found = find_schedule(times, 6, memory_limit=3)
    assert found.source == "1f1b"
    assert found.bound.makespan_ps <= found.timeline.makespan_ps == 8 * 24


# --- rules ---------------------------------------------------------------------------------------


@given(question=questions())
@settings(max_examples=20)
def test_every_set_of_rules_ends_and_the_simulator_agrees(question):
    """The order that ranks chose, played in that order, is no later."""
    line = line_of(question)
    for rules in list(rules_to_try(line))[::7]:
        listed = follow(line, rules)
        assert (listed.kinds >= 0).all()
        timeline = play(as_schedule("listed", listed, question.microbatches), question)
        assert timeline.makespan_ps <= listed.makespan_ps


def test_a_forward_that_arrives_where_there_is_no_room_wakes_its_rank():
    """Else the rank would sleep for ever: a W that it owes is all that has to be done first."""
    line = line_of(Question(Times((9, 8, 9), (6, 14, 7), (10, 9, 6)), 3, 3, memory_limit=2))
    for rules in rules_to_try(line):
        assert (follow(line, rules).kinds >= 0).all()


# --- slow ranks, few slots -----------------------------------------------------------------------


def test_slow_ranks_and_few_slots_are_reckoned_with():
    for setting in ({"stragglers": {2: Fraction(3, 2)}}, {"slots": 1}, {"slots": 2}):
        found = find_schedule(Times.uniform(4, 10, 12, 8), 12, memory_limit=6, **setting)
        check_schedule(found.schedule, setting.get("slots"))
        assert found.timeline.makespan_ps <= min(ps for ps, _ in found.by_hand.values())
        assert found.gap >= 0


def test_a_limit_for_each_rank():
    found = find_schedule(Times.uniform(3, 5, 5, 5), 9, memory_limit=[2, 3, 1])
    held = list(held_at_most(found.schedule, 1))
    assert all(most <= limit for most, limit in zip(held, (2, 3, 1), strict=True))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"memory_limit": Fraction(1, 2)}, "a memory limit of 0.5 microbatches: a rank holds 1"),
        ({"memory_limit": [1, 2]}, "2 memory limits for 3 ranks: give one, or one for each"),
        ({"ranks": 2}, "times for 3 stages on 2 ranks"),
        ({"metric": "bubble"}, "expected makespan or span"),
        ({"kept_for_weights": 2}, "2 of the activations kept for W: expected 0 to 1"),
        ({"microbatches": 0}, "3 ranks and 0 microbatches: expected at least 1 of each"),
    ],
)
def test_questions_that_make_no_sense(wish, words, refused):
    microbatches = wish.pop("microbatches", 4)
    with refused("", words):
        find_schedule(Times.uniform(3, 1, 1, 1), microbatches, **wish)


# --- on the command line -------------------------------------------------------------------------

AUTO = ["--schedule", "auto", "--stages", "3", "--microbatches", "6", "--memory-limit", "4"]


def test_simulate_says_what_was_found(capsys):
    arguments = ["schedule", "simulate", *AUTO, "--f", "10", "--b", "12", "--w", "8"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    automatic = found["automatic"]
    assert found["schedule"] == "auto"
    assert found["peak_activations"] <= 4
    assert found["makespan"] <= automatic["by_hand"]["zb-h1"]["makespan"]
    assert found["makespan"] == pytest.approx(
        automatic["lower_bound"]["makespan"] * (1 + automatic["gap"])
    )
    assert main(arguments) == 0
    assert "lower bound of the makespan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["draw", *AUTO, "--width", "100"], "rank 0  F0"),
        (["check", *AUTO], "complete, in order, free of deadlock"),
        (["export", *AUTO], "# auto: 6 microbatches"),
        (["compare", "--auto", "--stages", "2", "--memory-limit", "1"], "\nauto "),
        (["compare", "--auto", "--stages", "2", "--memory-limit", "2"], "\nzb-v-auto "),
        (["check", "--schedule", "zb-v-auto"], "complete, in order, free of deadlock"),
    ],
)
def test_the_other_verbs_know_it(verb, words, capsys):
    assert main(["schedule", *verb]) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory-limit", "much"], "--memory-limit much: expected a number of microbatches"),
        (["--kept-for-weights", "all"], "--kept-for-weights all: expected a number, 0 to 1"),
        (["--schedule", "zb-v-auto", "--chunks", "3"], "zb-v-auto has two chunks per rank"),
        (["--chunks", "2", "--memory-limit", "1"], "no schedule with 2 chunks per rank fits"),
        (["--stages", "0"], "--stages 0: expected at least 1"),
    ],
)
def test_bad_options_in_one_line(options, words, capsys):
    assert main(["schedule", "simulate", "--schedule", "auto", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
