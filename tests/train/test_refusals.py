"""What the system refuses is told with what it was for, and costs nothing that was saved."""

import dataclasses
import errno
from pathlib import Path

import pytest

from baremetal.checkpoint import load_checkpoint
from baremetal.errors import BaremetalError
from baremetal.train.console import Console
from baremetal.train.refusals import doing, naming
from baremetal.train.run_folder import RunFolder
from baremetal.train.runs import summarise
from baremetal.train.trainer import Trainer


def raises(number):
    def fail(*_, **__):
        raise OSError(number, "as the system says it")

    return fail


def test_an_error_says_what_was_being_done():
    full = r"^cannot write x: no space left on the disk; free some space; all is well$"
    with pytest.raises(BaremetalError, match=full), doing("write x", "all is well"):
        raises(errno.ENOSPC)()
    forbidden = "^cannot read y: permission denied; check the path and its permissions$"
    with pytest.raises(BaremetalError, match=forbidden), doing("read y"):
        raises(errno.EACCES)()
    with pytest.raises(BaremetalError, match=r"^--csv: no$"), naming("--csv"):
        raise BaremetalError("no")


def test_metrics_that_cannot_be_written_are_named(tiny, monkeypatch):
    run = RunFolder.create(tiny)
    monkeypatch.setattr("pathlib.Path.open", raises(errno.ENOSPC))
    with pytest.raises(BaremetalError, match=r"run's metrics .*no space left.*--resume"):
        run.log({"step": 1})


def test_a_configuration_that_cannot_be_written_leaves_no_folder(tiny, monkeypatch):
    monkeypatch.setattr("os.replace", raises(errno.ENOSPC))
    with pytest.raises(BaremetalError, match=r"the run's configuration: cannot write .*config"):
        RunFolder.create(tiny)
    assert list(Path(tiny.out).iterdir()) == []


def test_a_name_is_no_path(tiny):
    with pytest.raises(BaremetalError, match=r"--name a/b: expected one word"):
        RunFolder.create(dataclasses.replace(tiny, name="a/b"))


def test_a_picture_that_cannot_be_written_costs_no_run(tiny, monkeypatch, capsys):
    run = RunFolder.create(tiny)
    trainer = Trainer(tiny, run)
    monkeypatch.setattr("baremetal.trace.style.write_atomically", refuse_the_picture)
    with Console(trainer, run) as console:
        console.measure_peak()
        trainer.fit(on_step=console.on_step, on_evaluation=console.on_evaluation)
    assert load_checkpoint(run.path).step == tiny.steps
    assert "warning: no picture: cannot write" in capsys.readouterr().out


def refuse_the_picture(path, content):
    raise BaremetalError(f"cannot write {path}: No space left on device")


def test_damaged_metrics_are_passed_over(tiny):
    run = RunFolder.create(tiny)
    row = b'{"step": 2, "train_loss": 1.0, "val_loss": 1.5, "time_s": 0.1}\n'
    run.metrics.write_bytes(row + b'5\n{}\n\xff\xfe\n{"step": 3')
    assert [row["step"] for row in run.rows()] == [2]
    assert summarise(run)["val_loss"] == 1.5


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tiny, monkeypatch):
    run = RunFolder.create(tiny)
    run.metrics.write_text("", encoding="utf-8")
    monkeypatch.setattr(RunFolder, "read_config", lambda self: tiny)
    monkeypatch.setattr("pathlib.Path.read_text", raises(errno.EACCES))
    assert summarise(run)["model"] == "unreadable"
