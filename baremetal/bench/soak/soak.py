"""The soak: hundreds of faults, and after each the same three questions.

    is it right?      a run that finishes has the bits of one without faults, and in each step the
                      simulator's times
    is it said?       one that does not ends soon, and its message names rank, action and cause
    is it clean?      no process, no shared memory, no file, no open handle is left

Runs are drawn by number (`draw.py`), so whatever is found can be repeated: ``--seed N --faults 1``.
A part of the runs that end is continued, as `--restart` does: from the last checkpoint, with new
processes. What they come to is compared with clean steps of the same processes from the same
beginning, which costs no second start: to start is what takes the time.
"""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

from baremetal import comm
from baremetal.bench.soak.draw import (
    BUSY,
    HOPELESS,
    OUTSIDE,
    RATE,
    STEPS,
    STOPPED,
    Drawn,
    batch,
    draw,
)
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.faults import faults_after
from baremetal.pipeline.patience import Limits
from baremetal.pipeline.run import PipelineRun, ProcessRanks
from baremetal.pipeline.words import describe_action, rank_name

HANG_S = 3.0
END_S = 5.0  # a stage that dies or raises ends the run within this
SILENT = ("stop", "hang", STOPPED)  # whoever does this is found out by its silence alone
State = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@dataclass
class Soaked:
    """What came of it.

    Attributes:
        faults: how many happened, by kind.
        conditions: in how many runs each step was slower than it could be, by kind.
        runs, finished, ended, continued: runs; those that came to their end at once, that were
            ended by a fault, and how many of these went on from a checkpoint to the end.
        slowest_end_s: from a death or an error to the end of the run, the longest.
        wrong: one line for each answer that was wrong.
        time_s: in all.
    """

    faults: Counter = field(default_factory=Counter)
    conditions: Counter = field(default_factory=Counter)
    runs: int = 0
    finished: int = 0
    ended: int = 0
    continued: int = 0
    slowest_end_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    time_s: float = 0.0

    @property
    def total(self) -> int:
        """All faults."""
        return sum(self.faults.values())

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "faults": self.total, "by_kind": dict(sorted(self.faults.items()))}


def soak(faults: int, seed: int = 0, progress: Callable[[str], None] = lambda line: None) -> Soaked:
    """Let things go wrong until so many faults have happened.

    Args:
        faults: at least so many.
        seed: of the first run; each next has one more.
        progress: told how far it is.
    """
    result, began = Soaked(), time.monotonic()
    with _folder_of_its_own() as folder:
        # What is opened once and for good is there before we count: a helper process, a folder.
        resource_tracker.ensure_running()
        comm.sweep_leftovers()
        before = _left(folder)
        while result.total < faults:
            drawn = draw(seed + result.runs)
            result.runs += 1
            result.wrong += [f"seed {drawn.seed}: {line}" for line in _one(drawn, result)]
            after = _left(folder)
            if after != before:
                result.wrong.append(f"seed {drawn.seed}: left behind: {before} became {after}")
                before = after
            result.faults.update(drawn.happened())
            result.conditions.update(drawn.conditions())
            progress(f"{result.total} of {faults} faults in {result.runs} runs")
    result.time_s = time.monotonic() - began
    return result


def _one(drawn: Drawn, result: Soaked) -> list[str]:
    """One run, to whatever end; returns what was wrong with it."""
    job, wrong = drawn.job, []
    run = PipelineRun(job, Limits(hang_s=HANG_S))
    start = last = run.state()
    with contextlib.closing(run):
        for step in range(STEPS):
            began = time.monotonic()
            try:
                wrong += _step(run, drawn, step)
            except RankError as error:
                took_s = time.monotonic() - began
                wrong += _judge(drawn, step, str(error)) + _check_patience(drawn, took_s)
                if drawn.end not in SILENT:
                    result.slowest_end_s = max(took_s, result.slowest_end_s)
                break
            last = run.state() if drawn.goes_on and step < drawn.end_step else last
        else:
            result.finished += 1
            return wrong + ["it should have ended"] * bool(drawn.end) + _compare(run, drawn, start)
    result.ended += 1
    wrong += _check_gone(run)
    if drawn.goes_on:
        result.continued += 1
        wrong += _go_on(drawn, step, start, last)
    return wrong


def _step(run: PipelineRun, drawn: Drawn, step: int) -> list[str]:
    """One step, and whether its times are the simulator's."""
    if drawn.end in (OUTSIDE, STOPPED, BUSY) and step == drawn.end_step:
        _from_outside(_processes(run), drawn)
    done = run.step(batch(step, drawn.job.schedule.microbatches), RATE)
    difference = first_difference(done.executed, run.simulate(done))
    return [] if difference is None else [f"step {step + 1}: {difference}"]


def _from_outside(ranks: ProcessRanks, drawn: Drawn) -> None:
    """A rank is killed or stopped, which the next step finds out; or whoever leads is ended."""
    number = signal.SIGSTOP if drawn.end == STOPPED else signal.SIGKILL
    with ranks.interruptible():
        os.kill(ranks.process_ids[drawn.end_rank], number)
        if drawn.end == BUSY:
            threading.Event().wait(2 * END_S)  # what comes after it, comes too late


def _judge(drawn: Drawn, step: int, said: str) -> list[str]:
    """Is it the right message?"""
    schedule = drawn.job.schedule
    where = "between two commands"
    if drawn.end_action is not None:
        where = describe_action(schedule, drawn.end_rank, drawn.end_step, drawn.end_action)
    cause = {
        "raise": "an error on purpose",
        "exit": "its process ended without a word (exit code 3)",
        "kill": "(killed by signal 9, SIGKILL)",
        OUTSIDE: "(killed by signal 9, SIGKILL)",
        BUSY: "(killed by signal 9, SIGKILL)",
        STOPPED: f"no progress for {HANG_S:g} s",
        "stop": f"no progress for {HANG_S:g} s",
        "hang": f"no progress for {HANG_S:g} s",
        HOPELESS: "is damaged, its checksum is not what was sent",
    }.get(drawn.end, "nothing")
    expected = f"{rank_name(schedule, drawn.end_rank)}, {where}: "
    if step == drawn.end_step and said.startswith(expected) and cause in said:
        return []
    return [f"expected '{expected}... {cause}', but in step {step + 1}: {said}"]


def _check_patience(drawn: Drawn, took_s: float) -> list[str]:
    """Was it ended in time?"""
    limit_s = END_S + (HANG_S if drawn.end in SILENT else 0.0)
    return [f"{drawn.end} took {took_s:.1f} s to end the run"] if took_s > limit_s else []


def _check_gone(run: PipelineRun) -> list[str]:
    """After a run: its processes and its memory."""
    ranks = _processes(run)
    wrong = [f"process {number} is still there" for number in ranks.process_ids if _lives(number)]
    with contextlib.suppress(comm.CommError):
        comm.SharedMemory.attach(ranks.exchange.address.name, 1)
        wrong.append("its shared memory is still there")
    return wrong


def _processes(run: PipelineRun) -> ProcessRanks:
    assert isinstance(run.ranks, ProcessRanks)  # `mpiexec` has started none of us
    return run.ranks


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _go_on(drawn: Drawn, reached: int, start: State, last: State) -> list[str]:
    """From the last good state, with new processes and without what has happened, to the end."""
    job = replace(drawn.job, faults=faults_after(drawn.job.faults, reached), first_step=reached)
    drawn = replace(drawn, job=job, end="", end_step=STEPS)
    wrong: list[str] = []
    with PipelineRun(job, Limits(hang_s=HANG_S)) as run:
        run.load(*last)
        for step in range(reached, STEPS):
            wrong += _step(run, drawn, step)
        return wrong + _compare(run, drawn, start)


def _compare(run: PipelineRun, drawn: Drawn, start: State) -> list[str]:
    """What the run came to, beside the same steps without faults from the same beginning."""
    found = run.state()
    run.load(*start)
    for step in range(STEPS):
        run.step(batch(step, drawn.job.schedule.microbatches), RATE)
    wanted = run.state()
    wrong = [
        f"{name} has other bits than without faults"
        for ours, theirs in zip(found, wanted, strict=True)
        for name in theirs
        if ours[name].tobytes() != theirs[name].tobytes()
    ]
    return wrong[:1]


# ---------------------------------------------------------------- what is left


@contextlib.contextmanager
def _folder_of_its_own() -> Iterator[Path]:
    """A folder for temporary files, for us and the ranks, that nobody else writes to."""
    before, setting = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR")
            if setting is not None:
                os.environ["TMPDIR"] = setting


def _left(folder: Path) -> dict[str, int]:
    """How many of each there are: processes, files, open handles (where the system tells)."""
    handles = Path("/proc/self/fd")
    return {
        "processes": len(multiprocessing.active_children()),
        "files": sum(path.is_file() for path in folder.rglob("*")),
        "handles": len(list(handles.iterdir())) if handles.is_dir() else 0,
    }
