"""Every example runs as it says, in an empty folder, without a word on standard error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.strip()
    assert f"python examples/{path.name}" in path.read_text(encoding="utf-8")


@pytest.fixture
def slurm(tmp_path):
    """`slurm(...)`: what the Slurm script would start, with stand-ins for Slurm's programs."""
    programs = tmp_path / ".venv" / "bin"  # where the script looks first
    programs.mkdir(parents=True)
    for name in ("srun", "scontrol"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    given = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    script = EXAMPLES[0].with_name("pipeline_slurm.sh")

    def submit(*arguments):
        done = subprocess.run(
            ["bash", str(script), *arguments],
            cwd=tmp_path, env=os.environ | given, capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.splitlines()

    return submit


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs bash")
def test_the_slurm_script_begins_goes_on_and_ends(slurm, tmp_path):
    started, again = slurm("--schedule", "zb-h1")
    assert started.startswith("srun --mpi=pmi2 --kill-on-bad-exit=1 baremetal train --stages 4 ")
    assert started.endswith("--name pipeline-7 --schedule zb-h1")
    assert again == "scontrol requeue 7"
    (tmp_path / "runs" / "pipeline-7" / "checkpoints").mkdir(parents=True)
    resumed, again = slurm()
    assert resumed.endswith("baremetal train --resume runs/pipeline-7")
    assert again == "scontrol requeue 7"
    (tmp_path / "runs" / "pipeline-7" / "sample.txt").touch()  # what a run writes at its end
    (resumed,) = slurm()
    assert resumed.startswith("srun")
