"""What the lessons share (`tutorials/lesson.py`), where it could go wrong unseen."""

import importlib.util
import os
import subprocess
import sys

import pytest

LESSON = """\
import multiprocessing
from contextlib import nullcontext

from lesson import starting

print("from the first line")
spawn = multiprocessing.get_context("spawn")
process = spawn.Process(target=print, args=("in the process",))
with {guard}():
    process.start()
process.join()
print("ended with", process.exitcode, "and is still", __file__.rpartition("_")[2])
"""


def run(tmp_path, root, guard):
    """A lesson without `if __name__ == "__main__"` that starts a process, run as a script."""
    script = tmp_path / "08_lesson.py"
    script.write_text(LESSON.format(guard=guard), encoding="utf-8")
    path = os.pathsep.join([str(root / "tutorials"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
    )


def test_a_process_that_a_lesson_starts_does_not_run_the_lesson_again(tmp_path, root):
    done = run(tmp_path, root, "starting")
    assert done.stdout.splitlines() == [
        "from the first line",
        "in the process",
        "ended with 0 and is still lesson.py",
    ], done.stderr


def test_without_it_the_lesson_would_begin_anew(tmp_path, root):
    done = run(tmp_path, root, "nullcontext")
    assert done.stdout.count("from the first line") == 2
    assert "ended with 0" not in done.stdout


@pytest.fixture
def lesson(root):
    """The module, imported from where the lessons find it."""
    spec = importlib.util.spec_from_file_location("lesson", root / "tutorials" / "lesson.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whole_numbers_are_equal_to_the_last_digit_and_others_to_the_ninth(lesson):
    lesson.check("ps", 33_043_855_360, 33_043_855_360, miss="")
    lesson.check("s", 0.3, 0.1 + 0.2, miss="")
    with pytest.raises(lesson.PredictionMissed, match="33043855361 found"):
        lesson.check("ps", 33_043_855_360, 33_043_855_361, miss="a picosecond")
