"""Schedules against their closed forms."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.optim import learning_rate

PEAK, STEPS, WARMUP, FINAL = 4e-3, 110, 10, 0.1
NAMES = ["cosine", "linear", "wsd", "constant"]


def rate(step, schedule, **changes):
    options = {"peak": PEAK, "steps": STEPS, "warmup": WARMUP, "final": FINAL, **changes}
    return learning_rate(step, schedule=schedule, **options)


@pytest.mark.parametrize("schedule", NAMES)
def test_warmup_is_a_straight_line_that_ends_at_the_peak(schedule):
    for step in range(WARMUP):
        assert rate(step, schedule) == pytest.approx(PEAK * (step + 1) / WARMUP)
    assert rate(WARMUP - 1, schedule) == rate(WARMUP, schedule) == PEAK
    assert rate(0, schedule, warmup=0) == PEAK


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        # share of the way from final to peak at 0, 1/4, 1/2, 9/10 and the end of the 100 steps
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.cos(math.pi / 10)) / 2, 0]),
        ("linear", [1, 0.75, 0.5, 0.1, 0]),
        ("wsd", [1, 1, 1, 0.5, 0]),
        ("constant", [1, 1, 1, 1, 1]),
    ],
)
def test_the_way_down_is_its_closed_form(schedule, shares):
    for progress, share in zip((0, 0.25, 0.5, 0.9, 1), shares, strict=True):
        step = WARMUP + round(progress * (STEPS - WARMUP))
        assert rate(step, schedule) == pytest.approx(PEAK * (FINAL + (1 - FINAL) * share))


@pytest.mark.parametrize("schedule", NAMES)
def test_after_the_end_nothing_changes_any_more(schedule):
    assert rate(STEPS + 50, schedule) == rate(STEPS, schedule)
    end = PEAK if schedule == "constant" else 0.0
    assert rate(STEPS, schedule, final=0.0) == pytest.approx(end)


@given(st.sampled_from(NAMES), st.integers(1, 60), st.integers(0, 80), st.floats(0, 1))
def test_rates_rise_to_the_peak_and_never_rise_again(schedule, steps, warmup, final):
    rates = [
        rate(step, schedule, steps=steps, warmup=warmup, final=final) for step in range(steps + 5)
    ]
    assert all(0 <= r <= PEAK * (1 + 1e-12) for r in rates)
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert rising == sorted(rising)
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(falling))


def test_impossible_schedules_are_refused(refused):
    with refused("'exponential'", "cosine, linear, wsd, constant"):
        rate(0, "exponential")
    for wrong in ({"warmup": -1}, {"final": 1.1}, {"final": -0.1}, {"final": math.nan}):
        with refused("expected"):
            rate(0, "cosine", **wrong)
    with refused("step -1"):
        rate(-1, "cosine")
