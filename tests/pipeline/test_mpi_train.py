"""Pipelines over MPI, where it is installed: the same bits, the same times, the same last words."""

import contextlib
import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import mpi_jobs
import numpy as np
import pytest

from baremetal import cli
from baremetal.checkpoint import list_checkpoints, load_checkpoint
from baremetal.pipeline.launcher import leads, started_by_mpi, world_size
from baremetal.pipeline.mpi_ranks import check_world
from baremetal.train.build import build_model
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import make_job

HERE = Path(__file__).parent
MPIEXEC = shutil.which(str(Path(sys.executable).with_name("mpiexec"))) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="no MPI: extra 'mpi'"
)
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")
TEXT = "To be, or not to be, that is the question.\n" * 40
STEPS = 4


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def mpi(nothing_left_of_mpi):
    """`mpi(script, ...)`: what it said and how it ended; all its processes are gone by then."""
    mark = uuid.uuid4().hex

    def run(script, *arguments, ranks=2):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MPI_TEST": mark}
        command = [MPIEXEC, "-n", str(ranks), sys.executable, str(HERE / script), *arguments]
        if sys.platform != "win32":  # mpiexec's own number, for who wants to interrupt it
            command = ["sh", "-c", 'MPIEXEC_PID=$$ exec "$@"', "sh", *map(str, command)]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", env=environment, timeout=120,
            check=False,
        )  # fmt: skip

    yield run
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = marked(mark)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left, f"processes left: {left}"


def marked(mark):
    """The living processes with that word in their environment, where the system says."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def options(text, name, *more):
    return [
        "train", "--stages", "2", "--schedule", "1f1b", "--microbatches", "4", "--batch", "8",
        "--layers", "2", "--heads", "2", "--width", "8", "--context", "8", "--eager",
        "--sample-tokens", "0", "--steps", str(STEPS), "--checkpoint-every", "2",
        "--data", str(text), "--out", str(text.parent / "runs"), "--name", name, *more,
    ]  # fmt: skip


def lines_of_ours(done):
    """The last words of a run; never a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    found = [line for line in done.stderr.splitlines() if line.startswith("baremetal: ")]
    return [line.removeprefix("baremetal: ") for line in found]


@needs_mpi
def test_times_and_bits_are_those_of_shared_memory(mpi, tmp_path):
    """Unit and roofline charges, jitter and losses by seed; weights after some steps."""
    done = mpi("mpi_jobs.py", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    over_mpi = pickle.loads((tmp_path / "results").read_bytes())
    shared = [mpi_jobs.do(job) for job in mpi_jobs.jobs()]
    for ours, theirs in zip(over_mpi, shared, strict=True):
        assert ours["differences"] == theirs["differences"] == [None] * mpi_jobs.STEPS
        np.testing.assert_equal(ours, theirs)
    times, *_ = shared[0]["steps"][0]
    assert times["occupancy_ps"].max() > 2 * times["occupancy_ps"].min()  # something was lost


@needs_mpi
@needs_signals
def test_a_run_can_be_stopped_and_go_on_with_either_transport(mpi, text):
    """Ctrl-C under MPI, on in shared memory; and the reverse; both as if nothing had been."""
    runs = text.parent / "runs"
    assert cli.main(options(text, "whole", "--json")) == 0
    shutil.copytree(runs / "whole", runs / "half")

    stopped = mpi("mpi_main.py", "interrupted", *options(text, "stopped"))
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped by Ctrl-C after step 2; continue with" in stopped.stdout
    assert stopped.stdout.count("train loss") == 1  # only the leader speaks
    assert cli.main(["train", "--resume", str(runs / "stopped"), "--json"]) == 0

    half = list_checkpoints(runs / "half" / "checkpoints")[0]
    resumed = mpi("mpi_main.py", "nothing", "train", "--resume", str(half), "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["step"] == STEPS  # one object and nothing else
    assert resumed.stderr == ""

    whole, *others = (load_checkpoint(runs / name) for name in ("whole", "stopped", "half"))
    for other in others:
        assert other.step == whole.step == STEPS
        np.testing.assert_equal(other.tensors, whole.tensors)


@needs_mpi
@needs_signals
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("killed", "its process ended without a word (killed by signal 9, SIGKILL)"),
        ("raises", "RuntimeError: out of luck ("),
        ("hangs", "no progress for 2 s; it was ended with all others"),
    ],
)
def test_a_rank_that_fails_ends_them_all_with_the_message_of_shared_memory(mpi, text, how, cause):
    done = mpi("mpi_main.py", how, *options(text, how, "--hang-limit", "2"))
    assert done.returncode != 0  # mpiexec mixes what all processes ended with
    (said,) = lines_of_ours(done)
    where = "rank 1 (stage 1), step 2, action 1F1 (forward of stage 1, microbatch 1): "
    assert said.startswith(where + cause)


@needs_mpi
@needs_signals
def test_a_rank_that_is_stopped_between_two_steps_is_found_out(mpi, text):
    done = mpi("mpi_main.py", "idle", *options(text, "idle", "--hang-limit", "1"))
    assert done.returncode != 0
    (said,) = lines_of_ours(done)
    assert said.startswith("rank 1 (stage 1), between two commands: no progress for 1 s")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"restart": True}, ("--restart under mpiexec", "--resume")),
        ({"fault": "drop 0F1 step 2"}, ("--fault 'drop 0F1 step 2' under mpiexec", "only proc")),
    ],
)
def test_what_cannot_be_over_mpi_is_refused(monkeypatch, refused, wrong, words):
    config = TrainConfig(stages=2, schedule="1f1b", microbatches=4, batch=8, layers=2, steps=4)
    model = build_model(config, 7)
    monkeypatch.setenv("PMI_SIZE", "2")
    assert make_job(replace(config, fault="kill rank 1 step 2"), model).faults
    with refused(*words):
        make_job(replace(config, **wrong), model)


@needs_mpi
def test_another_number_of_processes_is_refused_in_one_line(mpi, text):
    done = mpi("mpi_main.py", "nothing", *options(text, "more"), ranks=3)
    assert done.returncode == 2
    wanted = "--stages 2, but mpiexec has started 3 processes: one for each stage, mpiexec -n 2"
    assert lines_of_ours(done) == [wanted]
    assert not (text.parent / "runs").exists()


def test_many_that_would_each_train_alone_are_refused(monkeypatch, refused):
    monkeypatch.setenv("PMI_SIZE", "4")
    with refused("4 processes, and without --stages each", "give --stages 4"):
        check_world(0)


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, 1),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2),
        ({"PMIX_RANK": "1", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 1),  # tasks that know nothing of each other
    ],
)
def test_launchers_are_known_by_what_they_tell(monkeypatch, environment, size):
    for name in ("PMI_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (world_size(), started_by_mpi(), leads()) == (size, size > 1, size == 1)
