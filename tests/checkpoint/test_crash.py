"""kill -9 at every stage of a save: something whole is always there, and the next save works.

The child process kills itself, so each moment is hit exactly; nothing here sleeps or races. A
kill leaves what was written in the system's memory, so this shows the order of the names; that
the bytes are on the disk before the name is shown by the order of the calls, in test_save_load.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baremetal.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify,
)

WRITER = Path(__file__).with_name("killed_writer.py")

WRITING = [
    "cleaned",
    "made the folder",
    "half of model.safetensors",
    "wrote model.safetensors",
    "half of optimizer.safetensors",
    "wrote optimizer.safetensors",
    "half of state.json",
    "wrote state.json",
    "half of manifest.json",
    "wrote manifest.json",
]
NEW_STEP = [
    *WRITING,
    "renamed",
    "marked best",
    "condemned step-00000001",
    "half deleted",
    "deleted step-00000001",
]
SAME_STEP = [
    *WRITING,
    "set the former one aside",
    "renamed",
    "half deleted",
    "deleted the former one",
    "marked best",
]


def tensors_at(step):
    return {"model": {"w": np.full(500, float(step))}, "optimizer": {"m": np.ones(300)}}


def start(folder):
    """Steps 1 and 2, saved in peace."""
    for step in (1, 2):
        save_checkpoint(folder, step, tensors_at(step), {"by": "us"}, keep=2)


def kill_a_writer(folder, step, keep, moment):
    command = [sys.executable, str(WRITER), str(folder), str(step), str(keep), moment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (-9, 137), f"it was not killed at {moment!r}: {done.stderr}"


def stages_of(folder, step, keep):
    """Every stage that save_checkpoint passes in this situation."""
    stages = []
    save_checkpoint(folder, step, tensors_at(step), {}, keep, best=True, on_stage=stages.append)
    return stages


def test_no_stage_is_forgotten(tmp_path):
    start(tmp_path / "a")
    assert stages_of(tmp_path / "a", 3, 2) == [s for s in NEW_STEP if "half" not in s]
    start(tmp_path / "b")
    assert stages_of(tmp_path / "b", 2, 2) == [s for s in SAME_STEP if "half" not in s]


@pytest.mark.parametrize("moment", NEW_STEP)
def test_killed_while_saving_a_new_step(tmp_path, moment):
    start(tmp_path)
    kill_a_writer(tmp_path, 3, 2, moment)
    published = moment in NEW_STEP[NEW_STEP.index("renamed") :]
    check_whole(tmp_path, step=3 if published else 2, by="the killed one" if published else "us")
    check_next_save(tmp_path, best=moment in NEW_STEP[NEW_STEP.index("marked best") :])


@pytest.mark.parametrize("moment", SAME_STEP)
def test_killed_while_replacing_a_step(tmp_path, moment):
    start(tmp_path)
    kill_a_writer(tmp_path, 2, 1, moment)
    published = moment in SAME_STEP[SAME_STEP.index("renamed") :]
    check_whole(tmp_path, step=2, by="the killed one" if published else "us")
    check_next_save(tmp_path, best=moment == "marked best")


def check_whole(folder, step, by):
    """Whatever is listed is whole, and the last one is the one it should be, number for number."""
    for checkpoint in list_checkpoints(folder):
        verify(checkpoint)
    loaded = load_checkpoint(latest_checkpoint(folder))
    assert (loaded.step, loaded.state) == (step, {"by": by})
    assert np.array_equal(loaded.tensors["model"]["w"], np.full(500, float(step)))
    assert np.array_equal(loaded.tensors["optimizer"]["m"], np.ones(300))


def check_next_save(folder, best):
    """The next writer tidies up: exactly the last two, and the best one if it came so far."""
    marked = (folder / "best").read_text(encoding="utf-8").strip() if best else None
    steps = [load_checkpoint(p).step for p in list_checkpoints(folder)]
    save_checkpoint(folder, 4, tensors_at(4), {"by": "us"}, keep=2)
    kept = {f"step-{step:08d}" for step in [*steps, 4][-2:]}
    expected = kept | ({"best", marked} if marked else set())
    assert {p.name for p in folder.iterdir()} == expected
    check_whole(folder, step=4, by="us")
