"""Ctrl-C, SIGTERM and kill -9, in real processes."""

import json
import os
import signal
import subprocess
import sys

import pytest

from baremetal.checkpoint import latest_checkpoint, load_checkpoint

POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")


def start(tiny, tmp_path, steps: int) -> subprocess.Popen:
    """A training process; returns once its first checkpoint lines are on standard output."""
    config = tmp_path / "config.toml"
    changed = {"steps": steps, "name": "r", "eval_every": 1, "checkpoint_every": 1}
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**vars(tiny), **changed}.items()]
    config.write_text("\n".join(lines), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "baremetal.cli", "train", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and "val loss" in line and int(line.split()[1]) >= 2:
            return process
    raise AssertionError(f"the run ended early: {process.communicate()[1]}")


@POSIX_ONLY
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_save_and_leave(tiny, tmp_path, number):
    process = start(tiny, tmp_path, steps=100_000)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "continue with: baremetal train --resume" in out
    checkpoint = load_checkpoint(tmp_path / "runs" / "r")
    assert f"after step {checkpoint.step};" in out


@POSIX_ONLY
def test_kill_leaves_a_valid_checkpoint_and_resume_works(tiny, tmp_path):
    process = start(tiny, tmp_path, steps=100_000)
    process.kill()
    process.communicate()
    run = tmp_path / "runs" / "r"
    step = load_checkpoint(run).step
    assert step >= 1
    done = subprocess.run(
        [sys.executable, "-m", "baremetal.cli", "train", "--resume", str(run),
         "--steps", str(step + 2), "--json"],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["step"] == step + 2
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))  # no step twice
    assert latest_checkpoint(run / "checkpoints").name == f"step-{step + 2:08d}"
