"""Our contender: eager kernels, one optimiser step per call."""

from collections.abc import Callable

import numpy as np

from baremetal.bench.step.sizes import StepSize
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import AdamW, decay_groups

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.1
CLIP = 1.0
BATCHES = 10  # different batches, met in turn


def make_model(size: StepSize) -> GPT:
    """The model with the weights that every contender starts from."""
    config = GPTConfig(
        vocab_size=size.vocab_size,
        context=size.context,
        layers=size.layers,
        heads=size.heads,
        width=size.width,
    )
    return GPT(config, rng=np.random.default_rng(0))


def make_batches(size: StepSize) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same random tokens for every contender: pairs of int64 (batch, context)."""
    rng = np.random.default_rng(1)
    windows = rng.integers(0, size.vocab_size, (BATCHES, size.batch, size.context + 1))
    return [(np.ascontiguousarray(w[:, :-1]), np.ascontiguousarray(w[:, 1:])) for w in windows]


def baremetal_eager(size: StepSize, threads: int) -> Callable[[int], float]:
    """A function that does step number i and returns its loss."""
    from baremetal.kernels.native.pool import POOL

    POOL.set_threads(threads)
    model = make_model(size)
    groups = decay_groups(model.parameters(), WEIGHT_DECAY)
    optimizer = AdamW(groups, learning_rate=LEARNING_RATE, betas=BETAS)
    batches = make_batches(size)

    def step(number: int) -> float:
        inputs, targets = batches[number % BATCHES]
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.clip(CLIP, loss)
        optimizer.step()
        return float(loss.item())

    return step
