"""The ladder of a step: gains between rungs, equal bits, the exit status."""

import json

import pytest

from baremetal.bench.step import ladder
from baremetal.bench.step.ladder import RUNGS, climb_step, step_ladder_text
from baremetal.bench.step.sizes import SIZES
from baremetal.cli import main

TIMES_S = {
    "baremetal.reference": 8e-3,
    "baremetal.eager": 4e-3,
    "baremetal.replay": 1e-3,
    "baremetal": 0.5e-3,
}


@pytest.fixture
def measured(monkeypatch):
    """`compare_steps` answers at once; the losses can be changed."""
    losses = {name: [2.0, 1.0] for name in RUNGS} | {"baremetal.reference": [2.0, 1.000001]}

    def compare(size, against, **options):
        rows = [
            {
                "name": name,
                "median_step_s": TIMES_S[name],
                "best_step_s": TIMES_S[name],
                "gemm_share": 0.5,
                "first_losses": losses[name],
            }
            for name in ("baremetal", *against)
        ]
        machine = {"processor": "made up", "cores": 1, "python": "3.14", "blas": {}}
        return {
            "model": size.name,
            "dimensions": size.describe(),
            "threads": 1,
            "rows": rows,
            "machine": machine,
        }

    monkeypatch.setattr(ladder, "compare_steps", compare)
    return losses


@pytest.mark.usefixtures("measured")
def test_each_rung_is_compared_with_the_one_below():
    result = climb_step(SIZES["tiny"], rounds=1, threads=1)
    assert [rung["name"] for rung in result["rungs"]] == [*RUNGS]
    assert [rung["gain"] for rung in result["rungs"]] == [1.0, 2.0, 4.0, 2.0]
    assert [rung["in_all"] for rung in result["rungs"]] == [1.0, 2.0, 8.0, 16.0]
    assert result["rungs"][2]["saved_s"] == pytest.approx(3e-3)
    text = step_ladder_text(result)
    assert "16.00x" in text
    assert "NOT OK" not in text


def test_replay_with_other_bits_than_eager_is_an_error_and_named(measured, capsys):
    assert main(["ladder", "step", "--model", "tiny"]) == 0
    measured["baremetal"] = [2.0, 1.0000001]  # may add in another order
    assert main(["ladder", "step", "--model", "tiny"]) == 0
    measured["baremetal.replay"] = [2.0, 1.0000002]
    assert main(["ladder", "step", "--model", "tiny"]) == 1
    assert (
        capsys.readouterr().out.splitlines()[-1] == "NOT OK: baremetal.replay: losses of other bits"
    )
    assert main(["ladder", "step", "--model", "tiny", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [rung["same_bits"] for rung in printed["rungs"]] == [True, False, False, False]


def test_an_unknown_model_is_one_line(capsys):
    assert main(["ladder", "step", "--model", "huge"]) == 2
    assert "unknown model 'huge'" in capsys.readouterr().err
