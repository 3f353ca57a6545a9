"""The JAX contender, written as its own users would: one jitted step, its buffers donated.

The same GPT with the same weights under the same names. The step is compiled once by XLA; weights
and optimiser state are donated, so that XLA may update them in place. Clipping and AdamW are
written out over the tree of parameters, as the step is one program to the compiler anyway.

`jax.scan` is JAX at its very best: many steps inside one `lax.scan`, one call from Python for all
of them. Training loops are not written so (somebody wants to see the loss, to evaluate, to stop),
but it shows what is left when the price of calling is gone.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from baremetal.bench.step import ours
from baremetal.bench.step.sizes import StepSize

NORM_EPS = 1e-5
ADAM_EPS = 1e-8
CLIP_EPS = 1e-6

Tree = dict[str, jax.Array]


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + NORM_EPS) * weight + bias


def linear(p: Tree, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p: Tree, name: str, x: jax.Array) -> jax.Array:
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])


def block(p: Tree, name: str, x: jax.Array, heads: int) -> jax.Array:
    """(B, T, C) -> (B, T, C): attention and MLP, each added to what came in."""
    batch, time_, width = x.shape
    qkv = linear(p, f"{name}.attention.qkv", norm(p, f"{name}.norm_1", x))
    q, k, v = jnp.moveaxis(qkv.reshape(batch, time_, 3, heads, width // heads), 2, 0)
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    x = x + linear(p, f"{name}.attention.out", mixed)
    hidden = linear(p, f"{name}.mlp.up", norm(p, f"{name}.norm_2", x))
    return x + linear(p, f"{name}.mlp.down", jax.nn.gelu(hidden, approximate=True))


def loss_of(p: Tree, tokens: jax.Array, targets: jax.Array, size: StepSize) -> jax.Array:
    """Mean cross-entropy in nats per token."""
    x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"]
    for index in range(size.layers):
        x = block(p, f"blocks.{index}", x, size.heads)
    logits = norm(p, "norm", x) @ p["token_embedding.weight"].T
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()


def adamw(p: Tree, grads: Tree, state: tuple[Tree, Tree, jax.Array]) -> tuple[Tree, Any]:
    """Clip by the global norm, then one AdamW step; matrices decay, vectors do not."""
    first, second, count = state
    count = count + 1
    beta1, beta2 = ours.BETAS
    norm_ = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
    factor = jnp.minimum(1.0, ours.CLIP / (norm_ + CLIP_EPS))
    grads = {name: g * factor for name, g in grads.items()}
    first = {n: beta1 * first[n] + (1 - beta1) * g for n, g in grads.items()}
    second = {n: beta2 * second[n] + (1 - beta2) * g * g for n, g in grads.items()}

    def updated(name: str) -> jax.Array:
        decay = ours.WEIGHT_DECAY if p[name].ndim >= 2 else 0.0
        mean = first[name] / (1 - beta1**count)
        square = second[name] / (1 - beta2**count)
        kept = p[name] * (1 - ours.LEARNING_RATE * decay)
        return kept - ours.LEARNING_RATE * mean / (jnp.sqrt(square) + ADAM_EPS)

    return {name: updated(name) for name in p}, (first, second, count)


def _start(size: StepSize) -> tuple[Tree, tuple[Tree, Tree, jax.Array], list, list]:
    """Our weights, no moments yet, and the batches."""
    weights = {n: jnp.array(a) for n, a in ours.make_model(size).state_dict().items()}
    zeros = {name: jnp.zeros_like(w) for name, w in weights.items()}
    state = (zeros, {name: jnp.zeros_like(w) for name, w in weights.items()}, jnp.zeros(()))
    inputs, targets = zip(*ours.make_batches(size), strict=True)
    return weights, state, [jnp.array(x) for x in inputs], [jnp.array(y) for y in targets]


def _one_step(carry: tuple, batch: tuple, size: StepSize) -> tuple[tuple, jax.Array]:
    p, state = carry
    loss, grads = jax.value_and_grad(loss_of)(p, *batch, size)
    return adamw(p, grads, state), loss


def make_jax_step(size: StepSize) -> Callable[[int], float]:
    """A function that does step number i in JAX and returns its loss."""
    weights, state, inputs, targets = _start(size)
    step = jax.jit(partial(_one_step, size=size), donate_argnums=0)
    carry = (weights, state)

    def do(number: int) -> float:
        nonlocal carry
        carry, loss = step(carry, (inputs[number % ours.BATCHES], targets[number % ours.BATCHES]))
        return float(loss)

    return do


def make_jax_scan(size: StepSize) -> Callable[[Sequence[int]], tuple[list[float], list[float]]]:
    """A function that does all the steps of a turn in one call: (seconds a step, losses)."""
    weights, state, inputs, targets = _start(size)
    every = jnp.stack(inputs), jnp.stack(targets)

    def scan(carry: tuple, numbers: jax.Array) -> tuple[tuple, jax.Array]:
        batches = every[0][numbers % ours.BATCHES], every[1][numbers % ours.BATCHES]
        return jax.lax.scan(partial(_one_step, size=size), carry, batches)

    run = jax.jit(scan, donate_argnums=0)
    carry = (weights, state)
    programs: dict[int, Any] = {}  # one for each number of steps, compiled before it is timed

    def do(numbers: Sequence[int]) -> tuple[list[float], list[float]]:
        nonlocal carry
        wanted = jnp.array(numbers)
        if len(numbers) not in programs:
            programs[len(numbers)] = run.lower(carry, wanted).compile()
        start = time.perf_counter()
        carry, losses = programs[len(numbers)](carry, wanted)
        found = [float(loss) for loss in losses.block_until_ready()]
        each_s = (time.perf_counter() - start) / len(found)
        return [each_s] * len(found), found

    return do
