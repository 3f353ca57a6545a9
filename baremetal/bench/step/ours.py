"""Our contenders: one training step, run in four ways.

    baremetal.reference    through Python, each kernel its NumPy version
    baremetal.eager        through Python, each kernel compiled
    baremetal.replay       captured: the launches walked as a table (level 1)
    baremetal              captured: the whole step one compiled function (level 2, our best)

The models, the data and the settings here are also what the peers start from.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from baremetal.autograd import CPU, Device, Tensor
from baremetal.bench.step import two_moons
from baremetal.bench.step.sizes import GPTSize, MLPSize, StepSize
from baremetal.bench.step.turns import Run
from baremetal.capture import Level, capture
from baremetal.nn import GPT, GPTConfig, Module
from baremetal.optim import SGD, AdamW, decay_groups

LEARNING_RATE = 1e-3  # of the GPTs
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.1
CLIP = 1.0
BATCHES = 10  # different batches, met in turn

LEVELS: dict[str, Level] = {"baremetal": "native", "baremetal.replay": "replay"}  # of capture
CONTENDERS = (*LEVELS, "baremetal.eager", "baremetal.reference")

Batch = tuple[np.ndarray, np.ndarray]


def make_model(size: StepSize) -> Module:
    """The model with the weights that every contender starts from."""
    rng = np.random.default_rng(0)
    if isinstance(size, MLPSize):
        return two_moons.MoonMLP(size.widths, rng=rng)
    assert isinstance(size, GPTSize)
    config = GPTConfig(
        vocab_size=size.vocab_size,
        context=size.context,
        layers=size.layers,
        heads=size.heads,
        width=size.width,
    )
    return GPT(config, rng=rng)


def make_batches(size: StepSize) -> list[Batch]:
    """The same data for every contender.

    For a GPT pairs of random tokens, int64 (batch, context) each; for an MLP points (batch, 2) and
    labels (batch, 1), float32.
    """
    if isinstance(size, MLPSize):
        return two_moons.make_batches(size, BATCHES)
    assert isinstance(size, GPTSize)
    rng = np.random.default_rng(1)
    windows = rng.integers(0, size.vocab_size, (BATCHES, size.batch, size.context + 1))
    return [(np.ascontiguousarray(w[:, :-1]), np.ascontiguousarray(w[:, 1:])) for w in windows]


def make_step(size: StepSize, device: Device = CPU) -> Callable[[Any, Any], Tensor]:
    """A function of inputs and targets that does one training step and returns its loss."""
    model: Any = make_model(size)
    if device is not CPU:
        model.to(device=device)
    if isinstance(size, MLPSize):
        return _moon_step(model, device)
    groups = decay_groups(model.parameters(), WEIGHT_DECAY)
    optimizer = AdamW(groups, learning_rate=LEARNING_RATE, betas=BETAS, device=device)

    def step(inputs: np.ndarray, targets: np.ndarray) -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.clip(CLIP, loss)
        optimizer.step()
        return loss

    return step


def _moon_step(model: two_moons.MoonMLP, device: Device) -> Callable[[Any, Any], Tensor]:
    optimizer = SGD(
        model.parameters(), learning_rate=two_moons.LEARNING_RATE, momentum=0.0, device=device
    )

    def step(points: np.ndarray, labels: np.ndarray) -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(Tensor(points, device=device), Tensor(labels, device=device))
        loss.backward()
        optimizer.step()
        return loss

    return step


def make_our_run(contender: str, size: StepSize, threads: int) -> Run:
    """The training loop of one of our four contenders."""
    from baremetal.kernels.native.pool import POOL

    POOL.set_threads(threads)
    batches = make_batches(size)
    step = _in_its_way(contender, size)

    def run(numbers: range) -> Tensor:
        for number in numbers:
            loss = step(*batches[number % BATCHES])
        return loss

    return run


def _in_its_way(contender: str, size: StepSize) -> Callable[[Any, Any], Tensor]:
    if contender == "baremetal.reference":
        return make_step(size, Device("reference", kernels="reference"))
    step = make_step(size)
    return capture(step, level=LEVELS[contender]) if contender in LEVELS else step
