"""`baremetal inspect`: five files, figures that belong together, refusals in one line."""

import dataclasses
import json

import pytest

from baremetal.capture import lower_bound
from baremetal.capture import plan as plan_module
from baremetal.cli import main
from baremetal.train.inspection import OWN, InspectConfig, inspection_text

SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--batch", "2"]


def test_every_option_reaches_the_run():
    given = {
        "data": "text", "tokenizer": "byte", "model": "llama", "layers": 3, "heads": 2,
        "kv_heads": 1, "width": 32, "context": 16, "dropout": 0.1, "recompute": "block", "batch": 5,
        "accumulate": 2, "optimizer": "muon", "fuse": "chains", "precision": "bf16",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(InspectConfig)} == {*given, *OWN}
    config = vars(InspectConfig(**given).train_config())
    assert {name: config[name] for name in given} == given
    assert config["steps"] == 1


def test_four_files_and_their_figures(tmp_path, corpus, capsys, monkeypatch):
    # One cache line less than there is: or "at least" could not be told from "as planned".
    monkeypatch.setattr(plan_module, "lower_bound", lambda lifetimes: lower_bound(lifetimes) - 64)
    folder = tmp_path / "new" / "inspection"
    arguments = ["--data", str(corpus), *SMALL, "--folder", str(folder), "--json"]
    assert main(["inspect", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == [
        "arena.png", "plan.txt", "roofline.png", "step.json", "step.py",
    ]  # fmt: skip
    plan = result["plan"]
    assert plan["bound_bytes"] + 64 <= plan["planned_bytes"] <= plan["total_bytes"]
    assert sum(row["calls"] for row in result["kernels"]["rows"]) == plan["launches"]
    assert result["kernels"]["total"]["flops"] == plan["flops"]
    program = (folder / "step.py").read_text(encoding="utf-8")
    compile(program, "step.py", "exec")
    assert "def step(arena, workspace, fixed_at, bodies_at, threads):" in program
    assert "blocks.0.attention.qkv.weight.grad, float32" in program
    text = (folder / "plan.txt").read_text(encoding="utf-8")
    assert len(text.splitlines()) == plan["launches"] + 2
    assert "causal_attention_backward" in text
    # A kernel above the roof is explained; where all are under it there is nothing to explain.
    for roofline, explained in ((0.5, False), (1.2, True)):
        for row in result["kernels"]["rows"]:
            row["roofline"] = None  # as where the machine's limits are not known
        result["kernels"]["rows"][0]["roofline"] = roofline
        assert ("more than 100 % of the roofline" in inspection_text(result)) is explained


def test_for_a_person(tmp_path, corpus, capsys):
    folder = tmp_path / "inspection"
    arguments = ["--data", str(corpus), "--model", "llama", *SMALL, "--folder", str(folder)]
    assert main(["inspect", *arguments]) == 0
    out = capsys.readouterr().out
    assert "one step: " in out
    assert f"written: {folder / 'arena.png'}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "moe"], "--model moe cannot be captured"),
        (["--heads", "3"], "no multiple of 3 heads"),
        (["--folder", "in-the-way"], "--folder in-the-way: cannot be made"),
        (["--model", "rnn"], "rnn"),
    ],
)
def test_refusals_are_one_line(arguments, words, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in-the-way").write_text("", encoding="utf-8")
    assert main(["inspect", "--data", str(corpus), *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
