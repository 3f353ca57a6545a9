"""The step benchmark without its peers: turns, medians, the check of losses, and our contender."""

import itertools
from typing import ClassVar

import numpy as np
import pytest

from baremetal.autograd import Tensor
from baremetal.bench.step import compare, ours, two_moons
from baremetal.bench.step.ours import BATCHES, make_batches, make_model, make_our_run
from baremetal.bench.step.report import step_table
from baremetal.bench.step.sizes import SIZES, GPTSize, MLPSize, find_size
from baremetal.bench.step.turns import BLOCK_S, LONGEST_BLOCK, Turns
from baremetal.bench.step.worker import make_run, make_turns
from baremetal.cli import main
from baremetal.errors import BaremetalError
from baremetal.optim import SGD, AdamW, decay_groups

TINY = SIZES["tiny"]
LOSSES = [4.0 - 0.01 * i for i in range(10)]


class FakeContender:
    """Answers at once: `step_s` a step, with the losses it is given."""

    step_s: ClassVar = {"baremetal": 0.002, "torch": 0.003, "torch.compile": 0.001}
    losses_of: ClassVar = dict.fromkeys(("baremetal", "torch", "torch.compile"), LOSSES)
    log: ClassVar[list] = []

    def __init__(self, name, size, threads):
        self.name, self.times_s, self.losses = name, [], []
        self.log.append(("open", name))

    def warm_up(self):
        self.log.append((self.name, "warms up"))
        self.losses = self.losses_of[self.name]

    def turn(self, steps, seconds):
        self.log.append((self.name, steps, seconds))
        # One block in each turn is disturbed: the median must not care.
        self.times_s += [self.step_s[self.name]] * 3 + [1.0]

    def close(self):
        self.log.append(("close", self.name))


@pytest.fixture
def fake(monkeypatch):
    """Fake contenders that any peer's name finds."""
    kind = type("Fake", (FakeContender,), {"log": []})
    monkeypatch.setattr(compare, "StepContender", kind)
    monkeypatch.setattr(compare, "check_peer", lambda name, known: None)
    rates = itertools.cycle([0.5e12, 1e12])  # disturbed in the first round: the best counts
    monkeypatch.setattr(
        "baremetal.kernels.limits.measure_numpy_matmul_rate", lambda budget_s: next(rates)
    )
    return kind


def run(against=("torch",), **options):
    return compare.compare_steps(TINY, against, rounds=2, steps=4, threads=1, **options)


def test_contenders_take_turns_after_a_warm_up_that_does_not_count(fake):
    run()
    assert fake.log == [
        ("open", "baremetal"), ("open", "torch"),
        ("baremetal", "warms up"), ("torch", "warms up"),
        ("baremetal", 4, 0.3), ("torch", 4, 0.3),
        ("baremetal", 4, 0.3), ("torch", 4, 0.3),
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
    assert rows["torch"]["first_losses"] == LOSSES
    flops = make_model(TINY).flops_per_token() * 64
    assert result["flops_per_step"] == flops
    assert result["gemm_share"] == pytest.approx(flops / 0.002 / 1e12)
    assert rows["torch"]["gemm_share"] == pytest.approx(flops / 0.003 / 1e12)
    text = step_table(result)
    assert "1.50x" in text
    assert "torch.compile" in text
    assert result["machine"]["processor"] in text
    assert "scan" not in text  # what it means is said where there is one


def test_what_comes_next_is_told(fake):
    told = []
    run(progress=told.append)
    assert told[0] == "tiny: baremetal starts"
    assert told[-1] == "tiny: round 2 of 2, torch"


def test_losses_that_differ_are_refused_and_everything_is_closed(fake):
    fake.losses_of = fake.losses_of | {"torch": [loss * 1.00003 for loss in LOSSES]}
    with pytest.raises(BaremetalError, match="losses of 'torch' differ from ours"):
        run()
    assert fake.log[-2:] == [("close", "baremetal"), ("close", "torch")]
    fake.losses_of = fake.losses_of | {"torch": [loss * 1.000001 for loss in LOSSES]}
    run()  # rounding in another order is no difference


@pytest.mark.parametrize(
    ("number", "factor", "allowed"),
    [
        (0, 1 + 1e-4, False), (4, 1 + 1e-4, False), (5, 1 + 1e-4, True), (9, 1 + 1e-4, True),
        (9, 1.01, False), (9, 0.99, False), (0, float("nan"), False), (9, float("nan"), False),
    ],
)  # fmt: skip
def test_later_losses_may_differ_by_more_and_none_by_nan(fake, number, factor, allowed):
    losses = [loss * (factor if i == number else 1) for i, loss in enumerate(LOSSES)]
    fake.losses_of = fake.losses_of | {"torch.compile": losses}
    if allowed:
        run(against=("torch", "torch.compile"))
    else:
        with pytest.raises(BaremetalError, match=r"losses of 'torch\.compile' differ"):
            run(against=("torch", "torch.compile"))


def test_a_contender_that_cannot_start_leaves_no_other_behind(fake, monkeypatch):
    def refuse(self, name, size, threads):
        if name == "torch":
            raise BaremetalError("torch does not start")
        FakeContender.__init__(self, name, size, threads)

    monkeypatch.setattr(fake, "__init__", refuse)
    with pytest.raises(BaremetalError, match="does not start"):
        run()
    assert fake.log == [("open", "baremetal"), ("close", "baremetal")]


@pytest.mark.parametrize(
    "options",
    [["--rounds", "0"], ["--steps", "-1"], ["--threads", "4096"], ["--seconds", "0.0"]],
)
@pytest.mark.usefixtures("fake")
def test_impossible_counts_are_one_line(options, capsys):
    assert main(["bench", "step", "--model", "tiny", *options]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert " ".join(options) in error


# ---------------------------------------------------------------- sizes


def test_sizes():
    assert find_size("small") == GPTSize("small", 4, 4, 128, 64, 12)
    assert find_size("medium").tokens == 8 * 256
    assert find_size("micro") == MLPSize("micro", (2, 16, 16, 1), 1)
    assert find_size("micro-100").tokens == 100
    with pytest.raises(BaremetalError, match="micro, micro-100, tiny, small, medium, large"):
        find_size("huge")


@pytest.mark.parametrize("name", [name for name in SIZES if name != "large"])
def test_parameters_and_work_are_those_of_the_model(name):
    size = SIZES[name]
    model = make_model(size)
    assert size.parameters == model.num_parameters()
    if isinstance(size, GPTSize):
        assert size.flops_per_step == model.flops_per_token() * size.tokens
    else:
        assert size.flops_per_step == 6 * 337 * size.batch


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


def test_moons_are_two_half_circles():
    points, labels = two_moons.make_moons(1000, np.random.default_rng(0))
    assert points.shape == (1000, 2)
    assert points.dtype == labels.dtype == np.float32
    assert set(labels[:, 0]) == {1.0, -1.0}
    centre = np.where(labels > 0, (0.0, 0.0), (1.0, 0.5))
    radius = np.linalg.norm(points - centre, axis=1)
    assert radius.mean() == pytest.approx(1.0, abs=0.02)
    assert radius.std() == pytest.approx(two_moons.NOISE, abs=0.02)
    upper = labels[:, 0] > 0
    assert points[upper, 1].min() > -0.5
    assert points[~upper, 1].max() < 1.0


# ---------------------------------------------------------------- our contenders


@pytest.fixture
def one_thread():
    from baremetal.kernels.native.pool import POOL

    before = POOL.threads
    yield
    POOL.set_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["micro-100", "tiny"])
def test_our_steps_learn(name):
    losses = make_turns("baremetal", SIZES[name], 1).handle({"first": 4 * BATCHES})["losses"]
    if name == "tiny":  # at first it knows nothing
        assert losses[0] == pytest.approx(np.log(TINY.vocab_size), abs=0.3)
    assert np.mean(losses[-BATCHES:]) < np.mean(losses[:BATCHES]) - 0.05


def loop_written_out(size):
    """The step of a GPT or the MLP as anybody would write it with the library."""
    model = make_model(size)
    if isinstance(size, MLPSize):
        optimizer = SGD(model.parameters(), learning_rate=two_moons.LEARNING_RATE)
    else:
        optimizer = AdamW(
            decay_groups(model.parameters(), ours.WEIGHT_DECAY),
            learning_rate=ours.LEARNING_RATE,
            betas=ours.BETAS,
        )

    def step(inputs, targets):
        for parameter in model.parameters():
            parameter.grad = None
        if isinstance(size, MLPSize):
            loss = model.loss(Tensor(inputs), Tensor(targets))
            loss.backward()
        else:
            loss = model.loss(inputs, targets)
            loss.backward()
            optimizer.clip(ours.CLIP, loss)
        optimizer.step()
        return loss.item()

    return step


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["micro", "tiny"])
@pytest.mark.parametrize("contender", ["baremetal", "baremetal.eager"])
def test_our_steps_are_those_of_a_loop_written_out(contender, name):
    size = SIZES[name]
    run = make_our_run(contender, size, 1)
    step, batches = loop_written_out(size), make_batches(size)
    for number in range(BATCHES + 2):  # the batches come round again
        assert float(run(range(number, number + 1))) == step(*batches[number % BATCHES])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("contender", "name"),
    [
        ("baremetal.reference", "micro-100"),
        ("baremetal.reference", "tiny"),
        ("baremetal.replay", "micro"),
    ],
)
def test_the_other_ways_have_our_losses(contender, name):
    losses = [
        make_turns(each, SIZES[name], 1).handle({"first": 10})["losses"]
        for each in ("baremetal", contender)
    ]
    np.testing.assert_allclose(*losses, rtol=compare.LOSS_TOLERANCE)


# ---------------------------------------------------------------- blocks


class Clockwork:
    """A training loop that takes `step_s` a step on a clock of its own."""

    def __init__(self, step_s):
        self.step_s, self.now_s, self.calls = step_s, 0.0, []

    def __call__(self, numbers):
        self.now_s += self.step_s * len(numbers)
        self.calls.append(numbers)
        return 10.0 * numbers[-1]


@pytest.fixture
def clockwork(monkeypatch):
    def make(step_s):
        made = Clockwork(step_s)
        monkeypatch.setattr("baremetal.bench.step.turns.time.perf_counter", lambda: made.now_s)
        return made

    return make


def test_steps_are_counted_through_and_the_first_ones_give_their_losses(clockwork):
    run = clockwork(step_s=0.5)
    turns = Turns(run)
    assert turns.handle({"first": 3}) == {"losses": [0.0, 10.0, 20.0]}
    assert turns.handle({"steps": 2}) == {"times_s": [0.5, 0.5]}
    steps = [number for numbers in run.calls for number in numbers]
    assert steps == [*range(len(steps))]


@pytest.mark.parametrize("step_s", [1e-9, 1e-6, 3e-4, 0.015, 7.0])
def test_a_block_is_as_long_as_it_should_be(clockwork, step_s):
    turns = Turns(clockwork(step_s))
    turns.handle({"first": 10})
    wanted = min(LONGEST_BLOCK, max(1, BLOCK_S / step_s))
    assert turns.block == pytest.approx(wanted, abs=0.5)
    turns = Turns(clockwork(step_s), least=4)
    turns.handle({"first": 1})
    assert turns.block == pytest.approx(max(4, wanted), abs=0.5)


def test_a_turn_is_cut_into_blocks_and_a_time_is_that_of_a_step(clockwork):
    run = clockwork(step_s=0.001)
    turns = Turns(run)
    turns.handle({"first": 1})
    assert turns.block == 20
    assert turns.handle({"seconds": 0.1})["times_s"] == pytest.approx([0.001] * 5)
    run.calls.clear()
    assert turns.handle({"steps": 50})["times_s"] == pytest.approx([0.001] * 3)
    assert [len(numbers) for numbers in run.calls] == [20, 20, 10]


def test_a_new_length_is_done_once_before_it_is_timed(clockwork):
    run = clockwork(step_s=0.001)
    turns = Turns(run)
    turns.handle({"first": 1})
    run.calls.clear()
    assert len(turns.handle({"steps": 7})["times_s"]) == 1
    assert [len(numbers) for numbers in run.calls] == [7, 7]


# ---------------------------------------------------------------- peers, where installed


@pytest.mark.parametrize("size", ["micro", "tiny"])
@pytest.mark.parametrize("name", ["jax", "jax.scan", "torch"])
def test_a_peer_starts_from_our_weights_and_has_our_losses(name, size):
    """Where the peers are installed. So near, because AdamW hides most of a forgotten clipping."""
    pytest.importorskip(name.partition(".")[0])
    theirs, own = make_run(name, SIZES[size], 1), make_run("baremetal", SIZES[size], 1)
    for numbers in (range(1), range(1, 2), range(2, 12)):  # a scan of one step, and of many
        assert float(theirs(numbers)) == pytest.approx(float(own(numbers)), rel=1e-5)


def test_the_command_by_itself(capsys):
    """Ours alone, in its real process."""
    import json

    arguments = ["--model", "micro", "--against", "", "--rounds", "2", "--steps", "2", "--json"]
    assert main(["bench", "step", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    assert row["name"] == "baremetal"
    assert row["ratio"] == 1
    assert len(row["first_losses"]) == 10
    assert row["best_step_s"] <= row["median_step_s"]
