"""The JAX contender, written as its own users would: one jitted step, its buffers donated.

The same model with the same weights under the same names. The step is compiled once by XLA; weights
and optimiser state are donated, so that XLA may update them in place.

`jax.scan` is JAX at its very best: many steps inside one `lax.scan`, one call from Python for all
of them. Training loops are not written so (somebody wants to see the loss, to evaluate, to stop),
but it shows what is left when the price of calling is gone. Where that price was all the
difference, the difference vanishes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from baremetal.bench.step import ours
from baremetal.bench.step.jax_gpt import adamw, gpt_loss, no_moments
from baremetal.bench.step.jax_mlp import moon_loss, sgd
from baremetal.bench.step.sizes import GPTSize, StepSize
from baremetal.bench.step.turns import Run

Tree = dict[str, jax.Array]
Step = Callable[[tuple, tuple], tuple[tuple, jax.Array]]  # (carry, batch) -> (carry, loss)


def _start(size: StepSize) -> tuple[Step, tuple, list[tuple]]:
    """The step, not yet compiled; weights and optimiser state; the batches."""
    weights = {n: jnp.array(a) for n, a in ours.make_model(size).state_dict().items()}
    batches = [(jnp.array(x), jnp.array(y)) for x, y in ours.make_batches(size)]
    if isinstance(size, GPTSize):
        loss = partial(gpt_loss, size=size)
        return partial(_step, loss=loss, update=adamw), (weights, no_moments(weights)), batches
    return partial(_step, loss=moon_loss, update=sgd), (weights, ()), batches


def _step(carry: tuple, batch: tuple, *, loss: Callable, update: Callable) -> tuple[tuple, Any]:
    p, state = carry
    value, grads = jax.value_and_grad(loss)(p, *batch)
    return update(p, grads, state), value


def make_jax_run(size: StepSize) -> Run:
    """The training loop around one jitted step."""
    step, carry, batches = _start(size)
    step = jax.jit(step, donate_argnums=0)

    def run(numbers: range) -> jax.Array:
        nonlocal carry
        for number in numbers:
            carry, loss = step(carry, batches[number % ours.BATCHES])
        jax.block_until_ready(carry)
        return loss

    return run


def make_jax_scan(size: StepSize) -> Run:
    """All steps in one call; for each number of steps a program of its own."""
    step, carry, batches = _start(size)
    inputs, targets = (jnp.stack(each) for each in zip(*batches, strict=True))

    @partial(jax.jit, donate_argnums=0, static_argnums=2)
    def scan(carry: tuple, first: jax.Array, count: int) -> tuple[tuple, jax.Array]:
        def one(carry: tuple, number: jax.Array) -> tuple[tuple, jax.Array]:
            which = number % ours.BATCHES
            return step(carry, (inputs[which], targets[which]))

        carry, losses = jax.lax.scan(one, carry, first + jnp.arange(count))
        return carry, losses[-1]

    def run(numbers: range) -> jax.Array:
        nonlocal carry
        carry, loss = scan(carry, jnp.int32(numbers.start), len(numbers))
        jax.block_until_ready(carry)
        return loss

    return run
