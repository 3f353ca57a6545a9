"""The soak: what it draws can happen, what is wrong it says, and a short one finds nothing."""

from collections import Counter
from dataclasses import replace

import pytest

from baremetal.bench.soak.draw import ENDS, draw
from baremetal.bench.soak.report import refuse_what_was_wrong, soak_text
from baremetal.bench.soak.soak import END_S, HANG_S, Soaked, _check_patience, _judge, soak
from baremetal.errors import BaremetalError
from baremetal.pipeline.faults import check_faults

FIRST = 579  # a run that survives everything, then one that is ended and continued; two ranks each


def test_what_is_drawn_can_happen_and_everything_is_drawn():
    kinds = Counter()
    for seed in range(100):
        drawn = draw(seed)
        check_faults(drawn.job.faults, drawn.job.wiring)
        kinds.update(drawn.happened())
    assert {"drop", "corrupt", "duplicate", "reorder", *ENDS} == kinds.keys()


def test_the_same_number_is_the_same_run():
    assert draw(5).job.faults == draw(5).job.faults
    assert draw(5).job.faults != draw(6).job.faults


def ended_by(end):
    return next(drawn for drawn in map(draw, range(1000)) if drawn.end == end)


def test_another_message_than_expected_is_wrong():
    drawn = ended_by("kill")
    rank, action = drawn.end_rank, drawn.end_action
    todo = drawn.job.schedule.ranks[rank][action]
    (wrong,) = _judge(drawn, drawn.end_step, "rank 7 fell asleep")
    assert wrong.startswith(f"expected 'rank {rank} (stage")
    assert f"step {drawn.end_step + 1}, action {todo} (" in wrong
    assert wrong.endswith(f"but in step {drawn.end_step + 1}: rank 7 fell asleep")
    right = wrong.partition("'")[2].partition("... ")[0] + "it ended (killed by signal 9, SIGKILL)"
    assert _judge(drawn, drawn.end_step, right) == []
    assert _judge(drawn, drawn.end_step + 1, right) != []
    assert _judge(replace(drawn, end="exit"), drawn.end_step, right) != []


def test_whoever_takes_too_long_to_end_is_wrong():
    assert _check_patience(ended_by("raise"), END_S - 1) == []
    assert _check_patience(ended_by("raise"), END_S + 1) != []
    assert _check_patience(ended_by("stop"), END_S + HANG_S - 1) == []


def test_a_short_soak_finds_nothing_wrong():
    runs = [draw(FIRST), draw(FIRST + 1)]
    assert (runs[0].end, runs[1].goes_on) == ("", True)
    happened = Counter(kind for drawn in runs for kind in drawn.happened())
    result = soak(sum(happened.values()), FIRST)
    assert result.wrong == []
    assert (result.runs, result.finished, result.ended, result.continued) == (2, 1, 1, 1)
    assert result.faults == happened
    text = soak_text(result)
    assert "2 runs" in text
    assert "wrong: 0" in text
    refuse_what_was_wrong(result)


def test_what_is_wrong_fails_the_command():
    with pytest.raises(BaremetalError, match="2 wrong answers: seed 3: a; seed 4: b"):
        refuse_what_was_wrong(Soaked(wrong=["seed 3: a", "seed 4: b"]))
