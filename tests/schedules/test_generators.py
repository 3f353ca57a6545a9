"""Every named schedule: complete and in order, as long and as heavy as its closed forms say.

Times come from `schedule_oracle`, which knows nothing of how a schedule was made. Figures that
others computed are in `data/` (the columns say where they are from).
"""

import csv
from fractions import Fraction
from pathlib import Path

import pytest
import schedule_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.schedules import SCHEDULES, Action, Kind, Overlap, Share, make_schedule
from baremetal.schedules.check import check_schedule

DATA = Path(__file__).parent / "data"
TIMES = [(1, 1, 1), (2, 2, 1), (10, 12, 8), (4, 3, 2), (3, 5, 4)]
V_FAMILY = ("v-half", "v-min")
GOLDEN_NAMES = {
    "GPipe": "gpipe",
    "1F1B": "1f1b",
    "Interleaved1F1B": "interleaved",
    "LoopedBFS": "looped-bfs",
    "ZB-H1": "zb-h1",
    "ZB-H2": "zb-h2",
    "ZB-V(hand, torch order)": "zb-v",
    "ZB-V": "zb-v",
    "V-Half": "v-half",
    "V-Min": "v-min",
    "DualPipeV": "dualpipev",
}

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def play(schedule, times, latency=0, pair=None):
    return oracle.Timeline(schedule, dict(zip(Kind, times, strict=False)), latency, pair)


def share_of(times, chunks, pair=None):
    """Times of one chunk to times of a rank's whole share."""
    return Share(*(chunks * t for t in times), None if pair is None else chunks * pair)


def chunks_visited(schedule):
    """How many chunks of a rank one microbatch goes through."""
    return schedule.chunks // len(schedule.paths)


# --- what others computed ------------------------------------------------------------------------


def golden(file):
    with (DATA / file).open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            name = GOLDEN_NAMES.get(row["schedule"])
            sizes = int(row["p"]), int(row["m"]), int(row["v"])
            if name and not SCHEDULES[name].refusal(*sizes):
                columns = ("F_chunk", "B_input_chunk", "W_chunk", "T_comm")
                yield name, sizes, tuple(Fraction(row[column]) for column in columns), row


@pytest.mark.parametrize(
    "name", [name for name in SCHEDULES if name not in (*V_FAMILY, "dualpipe")]
)
def test_the_golden_figures_are_met(name):
    rows = [row for row in golden("golden_schedules_basic.csv") if row[0] == name]
    assert len(rows) >= 24
    for _, sizes, (*times, latency), row in rows:
        schedule = make_schedule(name, *sizes)
        timeline = play(schedule, times, latency)
        assert timeline.makespan == Fraction(row["makespan"]), sizes
        assert max(timeline.spans) == Fraction(row["max_stage_span"]), sizes
        peak = Fraction(row["peak_act_full_until_W(unit=1 microbatch x 1 stage)"])
        assert max(oracle.peaks(schedule)) == peak * sizes[2], sizes


@pytest.mark.parametrize("name", V_FAMILY)
def test_the_golden_figures_of_the_v_family(name):
    rows = [row for row in golden("golden_schedules_v.csv") if row[0] == name]
    assert len(rows) == 56
    for _, sizes, (*times, latency), row in rows:
        schedule = make_schedule(name, *sizes)
        timeline = play(schedule, times, latency)
        assert timeline.makespan == Fraction(row["makespan"]), (sizes, times, latency)
        assert max(timeline.spans) == timeline.makespan
        assert max(oracle.peaks(schedule)) == Fraction(row["peak_chunks"])


# Beyond the golden grid: for m = 2p the makespans at 10/12/8, at 12/14/8 with latency 1, and at
# 8/10/12 per chunk. From another, slow program that squeezes the whole plan in the authors' way,
# weights and all, and that meets the golden rows too.
FARTHER = {
    ("v-half", 3): (428, 504, 408),
    ("v-half", 5): (744, 882, 704),
    ("v-half", 10): (1506, 1792, 1418),
    ("v-half", 17): (2644, 3146, 2480),
    ("v-half", 24): (3730, 4444, 3496),
    ("v-half", 32): (4998, 5956, 4676),
    ("v-min", 3): (476, 582, 406),
    ("v-min", 5): (870, 1070, 734),
    ("v-min", 10): (1816, 2260, 1514),
    ("v-min", 17): (3126, 3904, 2608),
    ("v-min", 24): (4424, 5536, 3690),
    ("v-min", 32): (5946, 7444, 4952),
}


@pytest.mark.parametrize(("name", "p"), FARTHER)
def test_the_v_family_beyond_the_golden_grid(name, p):
    schedule = make_schedule(name, p, 2 * p)
    cases = (((10, 12, 8), 0), ((12, 14, 8), 1), ((8, 10, 12), 0))
    found = tuple(play(schedule, times, latency).makespan for times, latency in cases)
    assert found == FARTHER[name, p]


def test_zb_v_by_hand_is_the_automatic_one_where_times_are_equal():
    for name, sizes, (*times, latency), row in golden("golden_schedules_v.csv"):
        if name == "zb-v" and len(set(times)) == 1 and not latency:
            timeline = play(make_schedule(name, *sizes), times)
            assert timeline.makespan == Fraction(row["makespan"])
            assert max(timeline.spans) == Fraction(row["max_stage_span"])


def test_the_bubble_rates_of_the_zero_bubble_paper():
    """Table 5 of arXiv 2401.10241: of the largest span, to its four decimals."""
    with (DATA / "zb_table5_table9_bubble_rates.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["m"]) <= 64]
    assert len(rows) == 8
    for row in rows:
        columns = ("T_F_ms", "T_B_ms(input-grad)", "T_W_ms", "T_comm_ms")
        *times, latency = (Fraction(row[column]) for column in columns)
        m = int(row["m"])
        for column, name in (("1F1B", "1f1b"), ("ZB-H1", "zb-h1"), ("ZB-H2", "zb-h2")):
            timeline = play(make_schedule(name, int(row["p"]), m), times, latency)
            rate = 1 - m * sum(times) / max(timeline.spans)
            assert f"{float(rate):.4f}" == f"{float(row[column]):.4f}", (row["model"], m, name)


# --- the closed forms ----------------------------------------------------------------------------


@st.composite
def sizes_in_domain(draw, name, ranks=16, microbatches=64):
    """(p, m, v) that the schedule exists for."""
    generator = SCHEDULES[name]
    many = name in ("interleaved", "looped-bfs")
    v = draw(st.integers(1, 4)) if many else generator.chunks
    p = draw(st.integers(1, ranks))
    p = p + p % 2 if name == "dualpipe" else p
    fitting = [m for m in range(1, microbatches + 1) if not generator.refusal(p, m, v)]
    return p, draw(st.sampled_from(fitting)), v


@every_schedule
@given(data=st.data())
@settings(max_examples=6)
def test_idle_time_and_activations_are_the_closed_forms(name, data):
    check_closed_forms(name, *data.draw(sizes_in_domain(name)))


@every_schedule
def test_small_sizes_meet_the_closed_forms_too(name):
    generator = SCHEDULES[name]
    for p in range(1, 5):
        for m in (p, 2 * p - 1, 2 * p, 2 * p + 2):
            if not generator.refusal(p, m, generator.chunks):
                check_closed_forms(name, p, m, generator.chunks)


def check_closed_forms(name, p, m, v):
    generator = SCHEDULES[name]
    schedule = generator(p, m, v)
    for times in TIMES:
        share = share_of(times, v)
        timeline = play(schedule, times)
        work = m * share.work
        assert set(timeline.busy) == {work}
        span, makespan = (
            form(p, m, v, share) for form in (generator.idle_span, generator.idle_makespan)
        )
        assert span in (None, max(timeline.spans) - work), times
        assert makespan in (None, timeline.makespan - work), times
        assert len(set(times)) > 1 or None not in (span, makespan)
    peaks, formula = oracle.peaks(schedule), generator.peaks(p, m, v)
    visited = chunks_visited(schedule)
    assert max(peaks) == max(formula) * visited
    if name not in V_FAMILY:
        assert peaks == [peak * visited for peak in formula]


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1"])
@given(data=st.data())
@settings(max_examples=12)
def test_latency_costs_what_the_closed_form_says(name, data):
    p, m, v = data.draw(sizes_in_domain(name))
    latency = data.draw(st.sampled_from([Fraction(1, 4), Fraction(1, 2), 1, 3]))
    schedule = make_schedule(name, p, m, v)
    for times in TIMES:
        share = share_of(times, v)
        formula = SCHEDULES[name].makespan_with_latency(p, m, v, share, latency)
        assert formula in (None, play(schedule, times, latency).makespan)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_what_1f1b_pays_for_latency_is_known_for_any_number_of_microbatches(p):
    formula = SCHEDULES["1f1b"].makespan_with_latency
    for m in range(1, 4 * p + 2):
        schedule = make_schedule("1f1b", p, m)
        for times, latency in (((1, 1, 1), 1), ((2, 9, 0), Fraction(1, 8)), ((7, 1, 0), 40)):
            expected = play(schedule, times, latency).makespan
            assert formula(p, m, 1, Share(*times), latency) == expected, (m, times)
        if p > 1 and m % p == 0:
            hops = 2 * (p - 1) * m // p + 2 * (p - 2)
            assert formula(p, m, 1, Share(1, 1, 1), 1) == 3 * (m + p - 1) + hops


def test_where_latency_formulas_are_known():
    """On the border of each domain the formula is right, and beyond it there is none."""
    half, more = Fraction(1, 2), Fraction(51, 100)
    borders = [  # name, (p, m, v), times of a chunk, the largest latency
        ("zb-h1", (4, 7, 1), (1, 1, 1), half),
        ("zb-h1", (5, 9, 1), (3, 2, 2), Fraction(1)),
        ("zb-h1", (5, 17, 1), (2, 7, 1), half),
        ("interleaved", (4, 4, 2), (3, 1, 1), Fraction(2)),
        ("interleaved", (3, 9, 1), (3, 1, 1), Fraction(2)),
        ("interleaved", (4, 12, 3), (3, 1, 1), Fraction(2)),
        ("interleaved", (2, 10, 4), (1, 4, 0), Fraction(1)),
    ]
    for name, (p, m, v), times, latency in borders:
        formula, share = SCHEDULES[name].makespan_with_latency, share_of(times, v)
        expected = play(make_schedule(name, p, m, v), times, latency).makespan
        assert formula(p, m, v, share, latency) == expected, (name, p, m, v)
        assert formula(p, m, v, share, latency * more / half) is None
    zb_h1 = SCHEDULES["zb-h1"].makespan_with_latency
    assert zb_h1(4, 8, 1, Share(1, 1, 1), half) == 24 + 3 + 6
    assert zb_h1(4, 6, 1, Share(1, 1, 1), half) is None
    assert zb_h1(4, 8, 1, Share(3, 1, 2), half) is None
    assert zb_h1(4, 8, 1, Share(1, 3, 2), half) is None


@pytest.mark.parametrize("name", ["dualpipe", "dualpipev"])
@given(data=st.data())
@settings(max_examples=8)
def test_an_overlapped_pair_with_a_time_of_its_own(name, data):
    """The closed form is the middle ranks'; for other times it is at most too large."""
    p, m, v = data.draw(sizes_in_domain(name, ranks=8, microbatches=32))
    middle, pairs = (p // 2, m - p - 1) if name == "dualpipe" else (p - 1, 2 * (m - p) - 1)
    reach = p if name == "dualpipev" else p // 2
    schedule, generator = make_schedule(name, p, m), SCHEDULES[name]
    assert sum(isinstance(step, Overlap) for step in schedule.ranks[middle]) == pairs
    for pair in (4, 5, 6, 7):
        timeline, share = play(schedule, (2, 2, 2), pair=pair), share_of((2, 2, 2), v, pair)
        assert timeline.busy[middle] == v * m * 6 - pairs * (6 - pair)
        waits = (reach - 1) * (pair + 4 - 6)
        assert timeline.makespan - timeline.busy[middle] == waits
        assert timeline.makespan - v * m * 6 == generator.idle_makespan(p, m, v, share)
        assert generator.idle_span(p, m, v, share) in (None, waits)
        assert (generator.idle_span(p, m, v, share) is None) == (pair != 6)
    assert max(play(schedule, (10, 12, 8)).spans) - v * m * 30 <= (reach - 1) * (30 + 20 - 24)


@pytest.mark.parametrize("p", [3, 4, 8])
def test_v_half_does_not_pay_with_every_microbatch_for_unequal_times(p):
    for times, latency in (((10, 12, 8), 0), ((12, 10, 8), 0), ((10, 10, 10), 1)):
        short, long = (
            play(make_schedule("v-half", p, m), times, latency).makespan - 2 * m * 30
            for m in (2 * p, 5 * p)
        )
        assert short == long


@pytest.mark.parametrize("p", [3, 4, 5, 6, 8])
def test_what_a_period_of_v_min_lasts(p):
    for F, I, W in ((1, 1, 1), (10, 12, 8), (12, 10, 8), (2, 3, 4), (6, 2, 9), (2, 9, 6)):
        short, long = (
            play(make_schedule("v-min", p, m), (F, I, W)).makespan for m in (2 * p, 5 * p)
        )
        assert long - short == 3 * p * max(2 * (F + I + W), 6 * F, 6 * I)


@pytest.mark.parametrize(("name", "p"), [("v-half", 16), ("v-min", 17), ("v-min", 20)])
def test_no_rank_of_the_v_family_waits_while_it_owes_a_weight_gradient(name, p):
    schedule = make_schedule(name, p, 2 * p)
    timeline = play(schedule, (1, 1, 1))
    for rank, steps in enumerate(schedule.ranks):
        owed = end = 0
        for index, step in enumerate(steps):
            assert not owed or timeline.start[rank, index] == end, (rank, step)
            owed += (step.kind is Kind.I) - (step.kind is Kind.W)
            end = timeline.end[rank, index]


@pytest.mark.parametrize("name", V_FAMILY)
@pytest.mark.parametrize(("p", "m"), [(32, 256), (31, 70), (27, 54), (24, 49), (17, 100), (1, 256)])
def test_the_v_family_far_beyond_the_grid(name, p, m):
    """Complete, without deadlock, and as long and heavy as the closed forms for odd p, too."""
    schedule, generator = make_schedule(name, p, m), SCHEDULES[name]
    check_schedule(schedule)
    timeline = play(schedule, (1, 1, 1))
    assert timeline.makespan - 6 * m == generator.idle_makespan(p, m, 2, Share(2, 2, 2))
    assert max(timeline.spans) == timeline.makespan
    assert max(oracle.peaks(schedule)) == 2 * max(generator.peaks(p, m, 2))


# --- complete and in order -----------------------------------------------------------------------


@every_schedule
@given(data=st.data())
@settings(max_examples=15)
def test_every_stage_does_every_microbatch_once_and_in_order(name, data):
    p, m, v = data.draw(sizes_in_domain(name, ranks=8, microbatches=24))
    schedule = make_schedule(name, p, m, v)
    assert (schedule.name, schedule.microbatches, len(schedule.ranks)) == (name, m, p)
    done = {}
    for rank, actions in enumerate(schedule.actions_by_rank()):
        for kind, stage, microbatch in actions:
            assert schedule.rank_of[stage] == rank
            done.setdefault((stage, microbatch), []).append(kind)
    for order in done.values():
        assert order in ([Kind.F, Kind.B], [Kind.F, Kind.I, Kind.W])
    visits = {(stage, k) for k in range(m) for stage in schedule.path_of(k)}
    assert done.keys() == visits


@every_schedule
def test_a_schedule_is_the_same_every_time(name):
    assert make_schedule(name, 4, 8) == make_schedule(name, 4, 8)


# --- the pictures --------------------------------------------------------------------------------

PICTURES = {
    "gpipe": (3, 4),
    "1f1b": (3, 5),
    "interleaved": (2, 4),
    "looped-bfs": (2, 3),
    "zb-h1": (3, 5),
    "zb-h2": (3, 5),
    "zb-v": (2, 4),
    "v-half": (2, 4),
    "v-min": (2, 4),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_in_the_docstring_is_the_schedule(name):
    schedule = make_schedule(name, *PICTURES[name])
    text = __import__(SCHEDULES[name].build.__module__, fromlist=["_"]).__doc__
    drawn = [line.split()[2:] for line in text.splitlines() if line.startswith("    rank ")]
    assert [row for row in drawn if "." in row] == drawn_rows(schedule)


def drawn_rows(schedule):
    """For each rank a word per unit of time: the first of two chunks in small letters."""
    timeline = play(schedule, (1, 1, 1))
    rows = [["."] * timeline.makespan for _ in schedule.ranks]
    for (rank, index), start in timeline.start.items():
        action = schedule.ranks[rank][index]
        small = schedule.chunks == 2 and action.stage < len(schedule.ranks)
        word = f"{action.kind.name}{action.microbatch}"
        rows[rank][start] = word.lower() if small else word
        rows[rank][start + 1 : timeline.end[rank, index]] = ["-"] * (action.kind is Kind.B)
    return rows


# --- outside the domain --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("gpipe", (4, 8, 2), "exactly 1 chunk here; set chunks to 1"),
        ("1f1b", (4, 8, 3), "set chunks to 1"),
        ("interleaved", (4, 10, 2), "multiple of the 4 ranks: 8 or 12 would do"),
        ("interleaved", (4, 3, 2), "multiple of the 4 ranks: 4 would do"),
        ("looped-bfs", (4, 3, 2), "at least p = 4 microbatches"),
        ("zb-h1", (4, 3, None), "at least p = 4 microbatches"),
        ("zb-h2", (4, 6, None), "at least 2p - 1 = 7 microbatches"),
        ("zb-v", (4, 7, None), "at least 2p = 8 microbatches"),
        ("zb-v", (4, 8, 1), "exactly 2 chunks here; set chunks to 2"),
        ("v-half", (4, 7, None), "at least 2p = 8 microbatches"),
        ("v-min", (4, 8, 3), "set chunks to 2"),
        ("dualpipe", (3, 8, None), "an even number of ranks: 4 would do"),
        ("dualpipe", (4, 9, None), "an even number of microbatches: 10 would do"),
        ("dualpipe", (4, 6, None), "at least 2p = 8 microbatches"),
        ("dualpipe", (4, 8, 3), "a stage and a copy of another here; leave chunks out"),
        ("dualpipev", (3, 7, None), "an even number of microbatches: 8 would do"),
        ("dualpipev", (3, 4, None), "at least 2p = 6 microbatches"),
        ("gpipe", (0, 4, None), "0 ranks given, expected at least 1"),
        ("zb-v", (2, -1, None), "-1 microbatches given"),
        ("interleaved", (2, 4, 0), "0 chunks given"),
        ("zb-h3", (2, 4, None), "no schedule is called 'zb-h3'; there are gpipe, 1f1b"),
    ],
)
def test_sizes_outside_the_domain_are_refused_with_what_would_fit(name, sizes, words, refused):
    with refused(name, words):
        make_schedule(name, *sizes)


@every_schedule
def test_what_a_refusal_proposes_fits(name):
    """Each schedule takes p = 4 and m = 8, and says its domain."""
    generator = SCHEDULES[name]
    assert generator.refusal(4, 8, generator.chunks) is None
    assert generator.domain
    assert generator.paper
    assert generator.title


def test_a_stage_belongs_to_one_rank_and_dualpipe_has_two_paths():
    schedule = make_schedule("dualpipe", 4, 8)
    assert schedule == make_schedule("dualpipe", 4, 8, chunks=2)  # the copy counted
    assert schedule.paths == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert schedule.rank_of == (0, 1, 2, 3, 3, 2, 1, 0)
    assert schedule.ranks[0][0] == Action(Kind.F, 0, 0)
    assert schedule.ranks[3][0] == Action(Kind.F, 4, 4)


def test_dualpipe_says_nothing_of_unequal_times():
    for name in ("dualpipe", "dualpipev"):
        for times in ((1, 1, 2), (1, 2, 1), (2, 1, 1)):
            share = Share(*times)
            assert SCHEDULES[name].idle_makespan(4, 8, SCHEDULES[name].chunks, share) is None
            assert SCHEDULES[name].idle_span(4, 8, SCHEDULES[name].chunks, share) is None
