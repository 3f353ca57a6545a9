"""The step benchmark without its peers: turns, medians, the check of losses, and our contender."""

import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from baremetal.bench.step import compare, ours, worker
from baremetal.bench.step.ours import BATCHES, make_batches, make_model, make_our_step
from baremetal.bench.step.report import step_table
from baremetal.bench.step.sizes import SIZES, StepSize, find_size
from baremetal.cli import main
from baremetal.errors import BaremetalError
from baremetal.optim import AdamW, decay_groups

TINY = SIZES["tiny"]
LOSSES = [4.0 - 0.01 * i for i in range(100)]


class FakeContender:
    """Answers at once: `step_s` a step, with the losses it is given."""

    step_s: ClassVar = {"baremetal": 0.002, "torch": 0.003, "torch.compile": 0.001}
    losses_of: ClassVar = dict.fromkeys(("baremetal", "torch", "torch.compile"), LOSSES)
    log: ClassVar[list] = []

    def __init__(self, name, size, threads):
        self.name, self.times_s, self.losses, self.done = name, [], [], 0
        self.log.append(("open", name))

    def round(self, steps, counted=True):
        self.log.append((self.name, steps, counted))
        self.losses += self.losses_of[self.name][self.done : self.done + steps]
        self.done += steps
        if counted:
            # One step in each round is disturbed: the median must not care.
            self.times_s += [self.step_s[self.name]] * (steps - 1) + [1.0]

    def close(self):
        self.log.append(("close", self.name))


@pytest.fixture
def fake(monkeypatch):
    """Fake contenders that any peer's name finds."""
    kind = type("Fake", (FakeContender,), {"log": []})
    monkeypatch.setattr(compare, "StepContender", kind)
    monkeypatch.setattr(compare, "check_peer", lambda name, known: None)
    monkeypatch.setattr("baremetal.kernels.limits.measure_numpy_matmul_rate", lambda: 1e12)
    return kind


def run(against=("torch",), rounds=2, steps=4):
    return compare.compare_steps(TINY, against, rounds=rounds, steps=steps, threads=1)


def test_contenders_take_turns_after_a_warm_up_that_does_not_count(fake):
    run()
    assert fake.log == [
        ("open", "baremetal"), ("open", "torch"),
        ("baremetal", 10, False), ("torch", 10, False),
        ("baremetal", 4, True), ("torch", 4, True),
        ("baremetal", 4, True), ("torch", 4, True),
        ("close", "baremetal"), ("close", "torch"),
    ]  # fmt: skip


def test_figures_are_medians_and_ratios_to_ours(fake):
    result = run(against=("torch", "torch.compile", "torch", "baremetal"))
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["baremetal", "torch", "torch.compile"]  # each once, ours first
    assert rows["torch"]["median_step_s"] == 0.003
    assert rows["torch"]["ratio"] == pytest.approx(1.5)
    assert rows["torch.compile"]["ratio"] == pytest.approx(0.5)
    assert rows["baremetal"]["tokens_per_s"] == pytest.approx(4 * 16 / 0.002)
    flops = make_model(TINY).flops_per_token() * 64
    assert result["flops_per_step"] == flops
    assert result["gemm_share"] == pytest.approx(flops / 0.002 / 1e12)
    text = step_table(result)
    assert "1.50x" in text
    assert "torch.compile" in text
    assert result["machine"]["processor"] in text


def test_losses_that_differ_are_refused_and_everything_is_closed(fake):
    fake.losses_of = fake.losses_of | {"torch": [loss * 1.01 for loss in LOSSES]}
    with pytest.raises(BaremetalError, match="losses of 'torch' differ from ours"):
        run()
    assert fake.log[-2:] == [("close", "baremetal"), ("close", "torch")]
    fake.losses_of = fake.losses_of | {"torch": [loss * 1.0001 for loss in LOSSES]}
    run()  # rounding in another order is no difference


def test_a_contender_that_cannot_start_leaves_no_other_behind(fake, monkeypatch):
    def refuse(self, name, size, threads):
        if name == "torch":
            raise BaremetalError("torch does not start")
        FakeContender.__init__(self, name, size, threads)

    monkeypatch.setattr(fake, "__init__", refuse)
    with pytest.raises(BaremetalError, match="does not start"):
        run()
    assert fake.log == [("open", "baremetal"), ("close", "baremetal")]


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--steps", "-1"], ["--threads", "4096"]])
@pytest.mark.usefixtures("fake")
def test_impossible_counts_are_one_line(options, capsys):
    assert main(["bench", "step", "--model", "tiny", *options]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert " ".join(options) in error


# ---------------------------------------------------------------- our contender


def test_sizes():
    assert find_size("small") == StepSize("small", 4, 4, 128, 64, 12)
    assert find_size("medium").tokens == 8 * 256
    with pytest.raises(BaremetalError, match="tiny, small, medium, large"):
        find_size("huge")


def test_every_contender_gets_the_same_model_and_tokens():
    for (inputs, targets), (again, _) in zip(make_batches(TINY), make_batches(TINY), strict=True):
        assert inputs.shape == targets.shape == (4, 16)
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.flags.c_contiguous
        assert targets.flags.c_contiguous
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        np.testing.assert_array_equal(inputs, again)
    first, second = make_model(TINY).state_dict(), make_model(TINY).state_dict()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.fixture
def one_thread():
    from baremetal.kernels.native.pool import POOL

    before = POOL.threads
    yield
    POOL.set_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_our_steps_learn():
    step = make_our_step(TINY, 1, captured=True)
    losses = [step(i) for i in range(4 * BATCHES)]
    assert losses[0] == pytest.approx(np.log(TINY.vocab_size), abs=0.3)  # it knows nothing yet
    assert np.mean(losses[-BATCHES:]) < np.mean(losses[:BATCHES]) - 0.05


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("captured", [False, True])
def test_our_steps_are_those_of_a_loop_written_out(captured):
    step = make_our_step(TINY, 1, captured)
    model = make_model(TINY)
    optimizer = AdamW(
        decay_groups(model.parameters(), ours.WEIGHT_DECAY),
        learning_rate=ours.LEARNING_RATE,
        betas=ours.BETAS,
    )
    batches = make_batches(TINY)
    for number in range(BATCHES + 2):  # the batches come round again
        for parameter in model.parameters():
            parameter.grad = None
        loss = model.loss(*batches[number % BATCHES])
        loss.backward()
        optimizer.clip(ours.CLIP, loss)
        optimizer.step()
        assert step(number) == loss.item()


def test_rounds_count_steps_through(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(clock))
    rounds = worker.Rounds(worker.one_by_one(lambda number: 10.0 * number))
    assert rounds.handle({"steps": 2}) == {"times_s": [1, 1], "losses": [0.0, 10.0]}
    assert rounds.handle({"steps": 1}) == {"times_s": [1], "losses": [20.0]}


@pytest.mark.parametrize(("name", "compiled"), [("torch", False), ("torch.compile", True)])
def test_the_peer_is_imported_only_when_it_is_the_contender(monkeypatch, name, compiled):
    stub = ModuleType("baremetal.bench.step.torch_peer")
    stub.make_torch_step = lambda size, threads, compiled: (size, threads, compiled)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.setattr("baremetal.bench.step.torch_peer", stub, raising=False)
    assert worker._make_step(name, TINY, 2) == (TINY, 2, compiled)


@pytest.mark.parametrize("name", ["jax", "jax.scan", "torch"])
def test_a_peer_starts_from_our_weights_and_has_our_losses(name):
    """Where the peers are installed: the same arithmetic, for more steps than a rounding hides."""
    pytest.importorskip(name.partition(".")[0])
    _, theirs = worker.make_turn(name, TINY, 1)(range(12))
    _, own = worker.make_turn("baremetal", TINY, 1)(range(12))
    np.testing.assert_allclose(theirs, own, rtol=compare.LOSS_TOLERANCE)


def test_the_command_by_itself(capsys):
    """Ours alone, in its real process."""
    import json

    arguments = ["--model", "tiny", "--against", "", "--rounds", "2", "--steps", "2", "--json"]
    assert main(["bench", "step", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    assert row["name"] == "baremetal"
    assert row["ratio"] == 1
    assert len(row["first_losses"]) == 10
    assert row["best_step_s"] <= row["median_step_s"]
