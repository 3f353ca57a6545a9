"""`baremetal train --stages` and `baremetal scale`, called as a person would."""

import json
import multiprocessing
from pathlib import Path

import pytest

from baremetal.cli import main
from baremetal.machine import find_chip, find_link
from baremetal.train import command
from baremetal.train.config import TrainConfig, read_config

TEXT = "".join(f"the {n} quick brown foxes jump over {n % 7} lazy dogs.\n" for n in range(120))
SMALL = ("--layers", "2", "--width", "16", "--heads", "2", "--context", "16", "--batch", "4",
         "--microbatches", "2", "--stages", "2", "--data", "foxes.txt")  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foxes.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def test_a_run_in_stages_tells_its_plan_its_messages_and_its_step(capsys):
    config = TrainConfig(
        data="foxes.txt", layers=2, width=16, heads=2, context=16, batch=4, microbatches=2,
        stages=2, steps=2, warmup=1, eval_batches=1, sample_tokens=0, verbose=True,
    )  # fmt: skip
    figures = command.train(config).figures
    assert multiprocessing.active_children() == []
    shown = capsys.readouterr()
    assert "embedding, block 0" in shown.out  # the cut
    assert "1F1B: 2 ranks, 2 microbatches of 2 x 16 tokens" in shown.out
    assert "GB300: 65.0 % of 2.45 PFLOP/s in bf16" in shown.out
    assert "a message of 2.05 kB (float32) is there after 2.72 us" in shown.out
    assert shown.out.count("rank 0 -> rank 1  stage 0 -> 1") == 2
    assert shown.out.count("rank 0 <- rank 1  stage 1 -> 0") == 2
    assert "simulator:   equal to the picosecond, in all 8 steps and 4 messages" in shown.out
    (closed,) = [line for line in shown.out.splitlines() if line.startswith("closed form   ")]
    assert closed.split()[2:6] == ["33.3", "%", "33.3", "%"]
    assert "preparing 2 ranks:" in shown.err

    found = figures["pipeline"]
    assert json.loads(json.dumps(found)) == found
    assert found["simulator"]["equal"]
    assert found["step"] == 2
    assert found["closed_form"]["bubble_span"] == pytest.approx(1 / 3)
    assert found["bubble_span"] > 1 / 3  # latency, of which the formula knows nothing
    assert found["tokens_per_s_modelled"] == pytest.approx(64 / found["makespan"])
    assert 0 < found["mfu_modelled"] < 1
    assert [row["slots"] for row in found["memory"]] == [2, 1]
    picture, trace = Path(found["files"]["picture"]), Path(found["files"]["trace"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    tracks = {event["args"]["track"] for event in events if event["name"] == "thread_name"}
    assert {"rank 0/compute", "rank 1/compute", "rank 0/to rank 1", "rank 1/to rank 0"} <= tracks
    assert picture.parent == trace.parent == Path(figures["run"])
    assert not list(picture.parent.glob("*.tmp"))


def test_scale_writes_a_machine_that_reads_back_and_a_run_on_it(capsys):
    assert main(["scale", "--full", "gpt-3", "--out", "like", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["full"]["parameters"] * 2 * 8 == pytest.approx(175.2e9, rel=1e-3)  # of GPT-3
    for row in found["machine"] + found["outcome_with_full_size_times"]:
        assert row["residue"] < 1e-5, row
    assert found["unscaled"]["latency / work"] > 100 * found["machine"][1]["full"]
    chip, link = find_chip("like/chip.toml"), find_link("like/link.toml")
    assert chip.peak("bf16") == found["scaled"]["flops"]
    assert (link.bandwidth_bps, link.latency_ps) == (found["scaled"]["bandwidth_bps"], 2_700_000)
    assert "derived from GB300" in chip.sources["memory_rate"]
    config = read_config("like/train.toml")
    assert (config.stages, config.chip, config.link) == (2, "like/chip.toml", "like/link.toml")
    assert config.unit_times.count("/") == 3  # a time for each of two stages


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stretch", "long"), "--stretch 'long': expected a number above 0"),
        (("--stretch", "-1"), "--stretch '-1': expected a number above 0"),
        (("--full-chips", "0"), "expected at least 1 of each"),
        (("--modelled-precision", "nvfp4"), "--modelled-precision nvfp4: expected one of"),
        (("--stages", "1"), "--stages 1: expected at least 2"),
        (("--link", "801g"), "unknown link '801g'"),
    ],
)
def test_what_cannot_be_scaled_is_refused_in_a_line(options, said, capsys, here):
    assert main(["scale", "--out", "like", *SMALL, *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (here / "like").exists()
