"""Our contenders: a step through Python each time, and the same step captured."""

from collections.abc import Callable

import numpy as np

from baremetal.autograd import Tensor
from baremetal.bench.step.sizes import StepSize
from baremetal.capture import capture
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


def make_our_step(size: StepSize, threads: int, captured: bool) -> Callable[[int], float]:
    """A function that does step number i and returns its loss."""
    from baremetal.kernels.native.pool import POOL

    POOL.set_threads(threads)
    model = make_model(size)
    groups = decay_groups(model.parameters(), WEIGHT_DECAY)
    optimizer = AdamW(groups, learning_rate=LEARNING_RATE, betas=BETAS)
    batches = make_batches(size)

    def arithmetic(inputs: np.ndarray, targets: np.ndarray) -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.clip(CLIP, loss)
        optimizer.step()
        return loss

    run = capture(arithmetic) if captured else arithmetic
    return lambda number: float(run(*batches[number % BATCHES]).item())
