"""Going on after a failure: back to the last good checkpoint, and from there once more.

A run of many processes fails more often than one of few: if each of n fails once in a time T, the
run does once in T / n. So it must be able to lose what it did since its last checkpoint, and
nothing else. Everything that a step depends on is in a checkpoint, so a run that was restarted ends
with the same bits as one that was never interrupted.

The processes that are left are of no use (some of them are in the middle of a step): all are ended,
and new ones take the weights of the checkpoint. Where there is none yet, the run begins anew.

What always fails must end: after `MOST_RESTARTS` from the same step, the run does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import Checkpoint, CheckpointError, latest_checkpoint, load_checkpoint
from baremetal.pipeline.errors import RankError
from baremetal.train.pipelined import PipelineTrainer
from baremetal.train.run_folder import RunFolder

MOST_RESTARTS = 3  # from one step


def fit_or_say_how_to_go_on(trainer: PipelineTrainer, run: RunFolder, **callbacks: Any) -> None:
    """Run the loop once; if a rank fails, its error also says from where the run can go on.

    Raises:
        RankError: a rank failed.
    """
    try:
        trainer.fit(**callbacks)
    except RankError as error:
        raise RankError(error.rank, f"{error}. {how_to_go_on(run)}") from error


def how_to_go_on(run: RunFolder) -> str:
    """The last good checkpoint and the command that goes on from it."""
    last = latest_checkpoint(run.checkpoints) if run.checkpoints.is_dir() else None
    if last is None:
        return "There is no checkpoint yet: start again (by itself: --restart)"
    return (
        f"The last good checkpoint is {last}: go on with: baremetal train --resume {run.path} "
        "(by itself: --restart)"
    )


class Restarts:
    """Runs `fit` of a pipeline, and goes back when a rank fails.

    Args:
        trainer: at the step with which it begins.
        run: whose checkpoints it goes back to; None: to the beginning.
        went_back: told of the step to which it went, and in one line why.
    """

    def __init__(
        self,
        trainer: PipelineTrainer,
        run: RunFolder | None = None,
        went_back: Callable[[int, str], None] = lambda step, line: None,
    ) -> None:
        self._trainer, self._run, self._went_back = trainer, run, went_back
        self._beginning = _snapshot(trainer)
        self._from: list[int] = []  # steps to which it went back

    def fit(self, **callbacks: Any) -> None:
        """See `Trainer.fit`.

        Raises:
            RankError: a rank failed again and again.
        """
        while True:
            try:
                self._trainer.fit(**callbacks)
                return
            except RankError as error:
                self._go_back(error)

    def _go_back(self, error: RankError) -> None:
        checkpoint = self._last_good()
        again = self._from.count(checkpoint.step) + 1
        if again > MOST_RESTARTS:
            raise RankError(
                error.rank, f"{error} (given up after {MOST_RESTARTS} restarts from there)"
            )
        self._from.append(checkpoint.step)
        self._trainer.start_again(checkpoint)
        if self._run is not None:
            self._run.forget_after(checkpoint.step)
        where = f"step {checkpoint.step}" if checkpoint.step else "the beginning"
        self._went_back(checkpoint.step, f"{error}; restarted from {where}")

    def _last_good(self) -> Checkpoint:
        folder = None if self._run is None else self._run.checkpoints
        path = None if folder is None or not folder.is_dir() else latest_checkpoint(folder)
        if path is None:
            return self._beginning
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            return load_checkpoint(error.last_good) if error.last_good else self._beginning


def _snapshot(trainer: PipelineTrainer) -> Checkpoint:
    """What a checkpoint of now would hold, in memory."""
    tensors: dict[str, dict[str, np.ndarray]] = {
        group: {name: array.copy() for name, array in arrays.items()}
        for group, arrays in trainer.tensors().items()
    }
    return Checkpoint(trainer.step, tensors, trainer.state(), Path("the beginning"))
