"""Training with recomputation: the same run to the last bit, and what each policy costs."""

import dataclasses
import json

import numpy as np
import pytest

from baremetal.capture import lower_bound
from baremetal.capture import plan as plan_module
from baremetal.checkpoint import load_checkpoint
from baremetal.cli import main
from baremetal.nn import MLP
from baremetal.nn.block import POLICIES
from baremetal.train import recomputation
from baremetal.train.build import build_data
from baremetal.train.recomputation import compare_policies, comparison_table
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import NonFiniteError, Trainer

SMALL = ["--layers", "2", "--heads", "2", "--width", "32", "--context", "32", "--batch", "4"]


def outcome(trainer):
    reports = []
    trainer.fit(on_step=reports.append)
    losses = [(report.train_loss, report.gradient_norm) for report in reports]
    state = {**trainer.model.state_dict(), **trainer.optimizer.state_dict()}
    return losses, {name: array.tobytes() for name, array in state.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.2, "accumulate": 2},
        {"dropout": 0.2, "accumulate": 2, "eager": True},
        {"model": "llama", "kv_heads": 1},
        {"model": "moe", "experts": 3, "active_experts": 2},
    ],
)
def test_a_run_has_the_same_bits_under_every_policy(tiny, options):
    runs = [
        outcome(Trainer(dataclasses.replace(tiny, recompute=policy, **options)))
        for policy in POLICIES
    ]
    assert runs[0] == runs[1] == runs[2]


def test_a_run_may_go_on_under_another_policy(tiny):
    config = dataclasses.replace(tiny, dropout=0.2)
    whole = outcome(Trainer(config))[1]
    run = RunFolder.create(config)
    first = Trainer(config, run)
    first.fit(should_stop=lambda: first.step >= 3)
    second = Trainer(dataclasses.replace(config, recompute="block"), run)
    second.restore(load_checkpoint(run.path))
    assert outcome(second)[1] == whole
    assert 'recompute = "none"' in (run.path / "config.toml").read_text(encoding="utf-8")


def test_the_culprit_of_an_overflow_is_found_as_ever(tiny):
    trainer = Trainer(dataclasses.replace(tiny, recompute="block"))
    trainer.train_step()
    state = trainer.model.state_dict()
    for name in ("blocks.0.mlp.up.weight", "blocks.0.mlp.down.weight"):
        state[name][...] = 1e30
    before = {name: array.copy() for name, array in state.items()}
    with pytest.raises(NonFiniteError, match=r"in the output of blocks\.0\.mlp"):
        trainer.train_step()
    for name, array in before.items():
        np.testing.assert_array_equal(array, state[name])


class OverflowsBackwards(MLP):
    """Forwards it adds a number that has become 0; backwards, a gradient times 1e50."""

    def forward(self, x):
        y = super().forward(x)
        return y + ((((y * 1e-25) * 1e-25) * 1e25) * 1e25)


@pytest.mark.parametrize("eager", [False, True])
def test_the_culprit_in_a_backward_pass_is_found_as_ever(tiny, eager):
    """A recomputed launch belongs to no node that the search has seen: it is done without."""
    trainer = Trainer(dataclasses.replace(tiny, recompute="block", eager=eager))
    trainer.model.blocks[0].mlp.__class__ = OverflowsBackwards
    where = r"in the gradient of blocks\.0\.mlp \(OverflowsBackwards\), kernel 'multiply'"
    with pytest.raises(NonFiniteError, match=where):
        trainer.train_step()


def test_policies_side_by_side(tiny, monkeypatch):
    # One cache line less than there is: or "at least" could not be told from "as planned".
    monkeypatch.setattr(plan_module, "lower_bound", lambda lifetimes: lower_bound(lifetimes) - 64)
    config = dataclasses.replace(tiny, layers=3, width=32, heads=2, context=32)
    comparison = compare_policies(config, build_data(config), rounds=1)
    rows = comparison["rows"]
    assert [row["recompute"] for row in rows] == [*POLICIES]
    assert all(row["same_bits"] and row["median_step_s"] > 0 for row in rows)
    assert 1.0 == rows[0]["memory_ratio"] > rows[1]["memory_ratio"] > rows[2]["memory_ratio"]
    assert 1.0 == rows[0]["flops_ratio"] < rows[1]["flops_ratio"] < rows[2]["flops_ratio"] < 4 / 3
    assert all(row["bound_bytes"] + 64 <= row["planned_bytes"] for row in rows)
    lines = comparison_table(comparison).splitlines()
    assert len(lines) == 2 + len(POLICIES)
    assert all(line.endswith("yes") for line in lines[2:])
    rows[1]["same_bits"] = False
    assert comparison_table(comparison).splitlines()[3].endswith("NO")


def test_a_policy_with_other_bits_is_said(tiny, monkeypatch):
    monkeypatch.setattr(recomputation, "_bits", lambda trainer: trainer.config.recompute)
    rows = compare_policies(tiny, build_data(tiny), rounds=1)["rows"]
    assert [row["same_bits"] for row in rows] == [True, False, False]


def test_inspect_shows_the_smaller_plan_beside_the_others(tmp_path, corpus, capsys):
    arguments = ["--data", str(corpus), *SMALL, "--folder", str(tmp_path / "inspection"), "--json"]
    assert main(["inspect", *arguments, "--recompute", "block", "--compare-recompute"]) == 0
    result = json.loads(capsys.readouterr().out)
    plan, rows = result["plan"], result["recompute"]["rows"]
    assert plan["planned_bytes"] == rows[2]["planned_bytes"] < 0.8 * rows[0]["planned_bytes"]
    assert plan["flops"] == rows[2]["flops"] > rows[0]["flops"]


def test_a_policy_that_there_is_not_is_refused_in_one_line(corpus, capsys):
    for verb in ("train", "inspect"):
        assert main([verb, "--data", str(corpus), "--recompute", "everything"]) == 2
        error = capsys.readouterr().err
        assert "everything" in error
        assert len(error.strip().splitlines()) == 1
