"""Ctrl-C once and twice, SIGTERM, and `kill -9` of the supervisor: nobody and nothing is left."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest

from baremetal import comm
from baremetal.checkpoint import latest_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")

OPTIONS = (
    "--stages 2 --microbatches 2 --layers 2 --batch 2 --width 8 --heads 2 --context 8 --steps 1000 "
    "--eval-every 1000 --eval-batches 1 --sample-tokens 0 --charge unit --eager --name r"
)


@contextmanager
def training(folder, until, *options):
    """A run in a process group of its own, from when it has printed a line that begins so."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "baremetal.cli", "train", *OPTIONS.split(),
         "--out", str(folder / "runs"), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        env=os.environ | {"TMPDIR": str(folder)}, start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith(until):
                break
        else:
            raise AssertionError(f"the run ended early: {process.communicate()[1]}")
        yield process
    finally:
        with process:  # whoever holds the pipes is waited for: the ranks have inherited them
            process.kill()
            process.communicate()


@pytest.fixture
def records(tmp_path, monkeypatch):
    """The folder in which the run writes down what it has in shared memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"baremetal-{os.getuid()}"


def test_ctrl_c_finishes_the_step_and_saves_even_while_the_ranks_start(tmp_path, records):
    with training(tmp_path, "run ") as process:
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to everybody
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "stopped by Ctrl-C after step 1; continue with: baremetal train --resume" in out
    assert latest_checkpoint(tmp_path / "runs" / "r" / "checkpoints") is not None
    assert list(records.glob("*.run")) == []


def test_twice_ends_at_once(tmp_path, records):
    """In a step that would never end; a second signal of the same number might be merged."""
    with training(tmp_path, "step ", "--fault", "hang rank 1 step 2 action 1F1") as process:
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "baremetal: interrupted"
    assert "Traceback" not in err
    assert list(records.glob("*.run")) == []


def test_kill_of_the_supervisor_ends_the_ranks_and_the_next_start_cleans_up(tmp_path, records):
    # One rank hangs, the other waits for it: neither would notice by itself.
    with training(tmp_path, "step ", "--fault", "hang rank 1 step 2 action 1F1") as process:
        process.kill()
        process.communicate()  # returns when the last rank is gone, for they hold its pipes
    (record,) = records.glob("*.run")
    (name,) = record.read_text(encoding="utf-8").split()
    comm.SharedMemory.attach(name, 1)  # it is still there
    assert comm.sweep_leftovers() == [name]
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(name, 1)
    assert list(records.glob("*.run")) == []
