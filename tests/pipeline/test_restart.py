"""After a failure: back to the last good checkpoint and to the same bits; or how to go on."""

import os
import threading

import numpy as np
import pytest

from baremetal.checkpoint import load_checkpoint, save_checkpoint
from baremetal.pipeline.errors import RankError
from baremetal.train.command import starting_values, train
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import PipelineTrainer
from baremetal.train.restart import MOST_RESTARTS, Restarts, fit_or_say_how_to_go_on
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import Trainer

LONG_S = 60.0  # nothing here waits so long, unless it is broken
SIZES = {
    "stages": 2, "schedule": "zb-h1", "batch": 4, "microbatches": 2, "layers": 2, "width": 16,
    "heads": 2, "context": 16, "steps": 6, "warmup": 1, "eval_every": 100, "eval_batches": 1,
    "checkpoint_every": 2, "sample_tokens": 0, "charge": "unit", "dropout": 0.1, "eager": True,
}  # fmt: skip


def tensors(run):
    """All arrays of a run's last checkpoint, as bytes."""
    groups = load_checkpoint(run).tensors
    return {(g, name): array.tobytes() for g in groups for name, array in groups[g].items()}


def test_a_restarted_run_ends_with_the_bits_of_one_that_was_never_interrupted(tmp_path, capsys):
    train(TrainConfig(**SIZES, out=str(tmp_path), name="smooth"), quiet=True)
    # The first before there is a checkpoint; the second after that of step 4.
    fault = "kill rank 1 step 2 action 3, drop 0F1 step 3, raise rank 0 step 6 action 0I1"
    config = TrainConfig(**SIZES, out=str(tmp_path), name="rough", fault=fault, restart=True)
    train(config)
    assert tensors(tmp_path / "rough") == tensors(tmp_path / "smooth")
    said = [line for line in capsys.readouterr().out.splitlines() if "; restarted from" in line]
    assert len(said) == 2
    assert "rank 1 (stage 1), step 2, action " in said[0]
    assert said[0].endswith("; restarted from the beginning")
    assert (
        "rank 0 (stage 0), step 6, action 0I1 (input-gradient of stage 0, microbatch 1): "
        in said[1]
    )
    assert said[1].endswith("; restarted from step 4")


@pytest.mark.skipif(os.name != "posix", reason="there are no signals")
def test_a_death_while_the_leader_evaluates_or_saves_ends_that(tmp_path, monkeypatch, capsys):
    """It would never be done with it by itself; but a checkpoint that it was writing is whole."""
    train(TrainConfig(**SIZES, out=str(tmp_path), name="smooth"), quiet=True)
    evaluate, save = PipelineTrainer.evaluate, Trainer.save
    killed = []

    def kill(trainer, rank):
        killed.append(trainer.step)
        process = trainer.ranks.ranks._processes[rank]
        process.kill()
        process.join()

    def evaluate_for_ever(trainer):
        if not killed:
            kill(trainer, 1)
            threading.Event().wait(LONG_S)
            raise AssertionError("nothing has ended it")
        return evaluate(trainer)

    def save_without_ranks(trainer, best=False):
        dies = trainer.step == 4 and len(killed) == 1
        if dies:
            kill(trainer, 0)
        save(trainer, best)

    monkeypatch.setattr(PipelineTrainer, "evaluate", evaluate_for_ever)
    monkeypatch.setattr(Trainer, "save", save_without_ranks)
    sizes = SIZES | {"eval_every": 2}
    train(TrainConfig(**sizes, out=str(tmp_path), name="rough", restart=True))
    assert tensors(tmp_path / "rough") == tensors(tmp_path / "smooth")
    assert killed == [2, 4]
    said = [line for line in capsys.readouterr().out.splitlines() if "; restarted from" in line]
    dead = "between two commands: its process ended without a word (killed by signal 9, SIGKILL)"
    assert said == [
        f"rank 1 (stage 1), {dead}; restarted from the beginning",
        f"rank 0 (stage 0), {dead}; restarted from step 4",
    ]


class Failing:
    """A trainer that fails each time, after as many steps as `reaches` says."""

    def __init__(self, reaches):
        self.step = 0
        self.reaches = list(reaches)
        self.began_with = []

    def tensors(self):
        return {"model": {"w": np.zeros(1)}}

    def state(self):
        return {}

    def start_again(self, checkpoint):
        self.step = checkpoint.step

    def fit(self, **callbacks):
        self.began_with.append(self.step)
        if self.reaches:
            self.step = self.reaches.pop(0)
            raise RankError(1, f"rank 1 failed in step {self.step + 1}")


def test_what_always_fails_ends():
    trainer = Failing([3] * 10)
    with pytest.raises(RankError, match=f"given up after {MOST_RESTARTS} restarts"):
        Restarts(trainer).fit()
    assert trainer.began_with == [0] * (1 + MOST_RESTARTS)


def test_with_progress_between_them_there_may_be_more_failures(tmp_path):
    run = RunFolder(tmp_path)
    lines = []

    class Saving(Failing):
        def fit(self, **callbacks):
            if self.step < 20:
                save_checkpoint(
                    run.checkpoints, self.step + 1, tensors=self.tensors(), state={}, keep=1
                )
            super().fit(**callbacks)

    trainer = Saving(range(2, 10))
    Restarts(trainer, run, lambda step, line: lines.append((step, line))).fit()
    assert trainer.began_with == list(range(9))
    assert lines[2] == (3, "rank 1 failed in step 5; restarted from step 3")


def test_a_damaged_last_checkpoint_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2):
        tensors = {"model": {"w": np.full(4, step)}}
        last = save_checkpoint(run.checkpoints, step, tensors=tensors, state={}, keep=3)
    damaged = next(last.glob("model*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for step in (1, 2, 3):
        run.log({"step": step, "train_loss": 1.0, "val_loss": None, "time_s": 1.0})
    trainer = Failing([3])
    Restarts(trainer, run).fit()
    assert trainer.began_with == [0, 1]
    assert [row["step"] for row in run.rows()] == [1]  # the others are done again


def test_without_it_the_message_names_the_checkpoint_and_the_command(tmp_path):
    run = RunFolder(tmp_path / "r")
    with pytest.raises(RankError, match=r"failed in step 4\. There is no checkpoint yet"):
        fit_or_say_how_to_go_on(Failing([3]), run)
    last = save_checkpoint(run.checkpoints, 2, tensors={"model": {}}, state={}, keep=1)
    with pytest.raises(RankError) as caught:
        fit_or_say_how_to_go_on(Failing([3]), run)
    assert f"The last good checkpoint is {last}" in str(caught.value)
    assert f"go on with: baremetal train --resume {run.path} (" in str(caught.value)


def test_a_resumed_run_does_not_fail_once_more(tmp_path):
    config = TrainConfig(**SIZES, out=str(tmp_path), fault="kill rank 1 step 3", restart=True)
    values = starting_values(str(RunFolder.create(config).path), None)
    assert values["fault"] == ""
    assert values["restart"] is True
