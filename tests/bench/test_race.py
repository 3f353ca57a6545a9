"""The training race without its peers: turns, sums of times, and what is reported."""

from typing import ClassVar

import pytest

from baremetal.bench.race import compare
from baremetal.bench.race.worker import Race
from baremetal.cli import main
from baremetal.errors import BaremetalError


class FakeContender:
    """Takes `step_s` seconds a step and reports a loss that falls with the steps done."""

    step_s: ClassVar = {"baremetal": 0.25, "torch": 0.5}

    def __init__(self, name, module, threads):
        self.name, self.module, self.done, self.closed = name, module, 0, False
        self.made.append(self)

    def ask(self, request):
        if request.get("warm_up"):
            return {"val_loss": 99.0}
        self.done += request["steps"]
        losses = {"train_loss": 4 - self.done, "val_loss": 5 - self.done}
        return {"time_s": self.step_s[self.name] * request["steps"], **losses}

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    """Fake contenders; `made` lists them."""
    kind = type("Fake", (FakeContender,), {"made": []})
    monkeypatch.setattr(compare, "Contender", kind)
    monkeypatch.setattr(compare, "check_peer", lambda name, known: None)
    return kind


def test_times_of_all_turns_are_summed_and_the_last_losses_reported(fake):
    turns = []
    result = compare.race(
        ["torch"], steps=5, turn=2, threads=1, on_turn=lambda *told: turns.append(told[:2])
    )
    assert turns == [(name, done) for done in (2, 4, 5) for name in ("baremetal", "torch")]
    assert result["rows"] == [
        {"name": "baremetal", "time_s": 1.25, "ratio": 1.0, "train_loss": -1, "val_loss": 0},
        {"name": "torch", "time_s": 2.5, "ratio": 2.0, "train_loss": -1, "val_loss": 0},
    ]
    assert all(contender.closed for contender in fake.made)
    assert "2.00x" in compare.race_table(result)


def test_contenders_are_closed_when_one_fails(fake, monkeypatch):
    def fail(self, request):
        raise BaremetalError("it ended")

    monkeypatch.setattr(fake, "ask", fail)
    with pytest.raises(BaremetalError, match="it ended"):
        compare.race(["torch"], steps=5, turn=2, threads=1)
    assert [contender.closed for contender in fake.made] == [True]


@pytest.mark.parametrize("options", [["--steps", "0"], ["--turn", "0"], ["--threads", "4096"]])
@pytest.mark.usefixtures("fake")
def test_impossible_counts_are_one_line(options, capsys):
    assert main(["bench", "train", *options]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert " ".join(options) in error


def test_the_warm_up_is_done_on_a_copy(monkeypatch):
    made = []

    class Racer:
        def __init__(self):
            self.steps = 0
            made.append(self)

        def step(self):
            self.steps += 1
            return 10.0 - self.steps

        def evaluate(self):
            return 20.0 - self.steps

    monkeypatch.setattr(
        "baremetal.bench.race.worker.make_racer", lambda name, config, threads: Racer()
    )
    race = Race("baremetal", config=None, threads=1)
    assert race.handle({"warm_up": True}) == {"val_loss": 19.0}
    assert [racer.steps for racer in made] == [0, 1]  # the one that races has not moved
    answer = race.handle({"steps": 3})
    assert (answer["train_loss"], answer["val_loss"]) == (7.0, 17.0)
    assert answer["time_s"] >= 0
