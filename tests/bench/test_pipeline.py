"""The pipeline benchmark: what is taken out of its comparison, and what it says."""

import pytest

from baremetal.bench.pipeline import pipeline_size, pipeline_text, simulated_bubble
from baremetal.errors import BaremetalError
from baremetal.schedules import make_schedule


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 8), (1, 3)])
def test_the_bubble_of_1f1b_is_its_closed_form(p, m):
    assert simulated_bubble(make_schedule("1f1b", p, m)) == pytest.approx((p - 1) / (m + p - 1))


def test_other_schedules_have_bubbles_of_their_own():
    """ZB-H1 idles (p - 1)(F + I - W) of a makespan of that and m (F + I + W)."""
    assert simulated_bubble(make_schedule("zb-h1", 4, 8)) == pytest.approx(3 / 27)


def test_only_models_with_blocks_can_be_divided():
    assert pipeline_size("small")["layers"] == 4
    with pytest.raises(BaremetalError, match="choose a GPT"):
        pipeline_size("micro")


def test_the_text_says_what_was_taken_out():
    result = {
        "stages": 2, "microbatches": 8, "schedule": "zb-h1", "ratio": 0.9, "bubble": 0.1,
        "efficiency": 1.0, "median_step_s": {"single": 1.0, "pipeline": 1.25},
    }  # fmt: skip
    text = pipeline_text(result)
    assert "2 stages, 8 microbatches, zb-h1" in text
    assert "bubble: 10.0 %; without it: 100.0 %" in text
