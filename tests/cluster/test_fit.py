"""The fit finds constants that are known, and looks only at rows that it may look at."""

import tomllib
from dataclasses import replace

import pytest

from baremetal.cluster.cost.constants import find_constants
from baremetal.cluster.cost.software import find_software
from baremetal.cluster.models import find_model
from baremetal.cluster.plan import read_plan
from baremetal.cluster.step.pipeline import make_pipeline
from baremetal.cluster.step.replica import make_setting, step_spent
from baremetal.cluster.validation import fit as fitting
from baremetal.cluster.validation.tables import Run, read_table
from baremetal.machine.catalogue import find_cluster


def made_up(model, gpus, plan, constants):
    """A run that took exactly what the model says under these constants."""
    cluster = find_cluster(f"h100:{gpus}")
    software = find_software(cluster.software)
    setting = make_setting(
        find_model(model), cluster, read_plan(plan, gpus), "bf16", software, constants
    )
    step_s = step_spent(setting, make_pipeline(setting)).total_s
    return Run("made up", 0, model, f"h100:{gpus}", plan, "bf16", "", step_s, None, "", "")


def rows(constants):
    plans = [
        ("llama3-8b", 8, "tp=1,cp=2,mbs=1,gbs=8"), ("llama3-8b", 16, "tp=4,mbs=2,gbs=8"),
        ("llama3-8b", 8, "mbs=1,gbs=8"), ("nemotron4-15b", 16, "tp=2,mbs=2,gbs=16"),
    ]  # fmt: skip
    return [made_up(*each, constants) for each in plans]


def test_a_known_efficiency_is_found_again(monkeypatch):
    known = find_constants(find_cluster("h100:8").chip)
    known = replace(known, most={**known.most, "bf16": 0.40})
    monkeypatch.setattr(fitting, "ROUNDS", 1)
    monkeypatch.setattr(Run, "fits", True)
    found = fitting.fit(rows(known)).chips["H100"]
    assert found.most["bf16"] == pytest.approx(0.40, rel=0.1)
    assert found.most["fp8"] == known.most["fp8"]  # no row told anything about it


def test_rows_that_only_judge_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(Run, "fits", False)
    found = fitting.fit(read_table("nvidia_dgxc"))
    assert found.chips == found.software == {}


def test_what_is_written_is_what_the_product_reads(tmp_path):
    chip, software = find_cluster("h100:8").chip, find_software("nemo-2025")
    found = fitting.Fitted({"H100": find_constants(chip)}, {"nemo-2025": software})
    chips, generations = fitting.write(found, tmp_path)
    values = tomllib.loads(chips.read_text(encoding="utf-8"))["constants"]
    assert values["most"]["bf16"] == pytest.approx(found.chips["H100"].most["bf16"], abs=5e-4)
    assert values.keys() == {*fitting.CHIP, "most"}
    assert tomllib.loads(generations.read_text(encoding="utf-8"))["name"] == "nemo-2025"
