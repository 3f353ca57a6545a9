"""Ctrl-C once and twice, SIGTERM, and `kill -9` of the supervisor: nobody and nothing is left."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from baremetal import comm
from baremetal.checkpoint import latest_checkpoint
from baremetal.comm.board import board_bytes
from baremetal.pipeline.board import Board

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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the ranks too, if they are left
        process.communicate()


@pytest.fixture
def records(tmp_path, monkeypatch):
    """The folder in which the run writes down what it has in shared memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"baremetal-{os.getuid()}"


def wait_for(condition):
    """Until something is so; for ever if it never is (the run ends by itself)."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.005)


def test_ctrl_c_finishes_the_step_and_saves_even_while_the_ranks_start(tmp_path, records):
    with training(tmp_path, "run ") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if children.is_file():  # both ranks and Python's helper are there, and import for a while
            wait_for(lambda: len(children.read_text().split()) >= 3)
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
    with training(tmp_path, "run ", "--fault", "hang rank 1 step 1 action 2") as process:
        wait_for(lambda: any(path.read_text() for path in records.glob("*.run")))
        (record,) = records.glob("*.run")
        (name,) = record.read_text(encoding="utf-8").split()
        board = Board(comm.SharedMemory.attach(name, board_bytes(2)).bytes, 2)
        wait_for(lambda: board.status(1).action == 2 and board.status(0).waits_for is not None)
        process.kill()
        # Returns when the last rank is gone, for they hold its pipes.
        process.communicate(timeout=60)
    comm.SharedMemory.attach(name, 1)  # it is still there
    assert comm.sweep_leftovers() == [name]
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(name, 1)
    assert list(records.glob("*.run")) == []
