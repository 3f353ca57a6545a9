"""The GPT in JAX: a loss over a dictionary of arrays, and clipping and AdamW written out.

The names of the weights are ours. The whole step is one program to the compiler anyway, so the
update is written over the tree of parameters as its formulas stand.
"""

from typing import Any

import jax
import jax.numpy as jnp

from baremetal.bench.step import ours
from baremetal.bench.step.sizes import GPTSize

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


def gpt_loss(p: Tree, tokens: jax.Array, targets: jax.Array, size: GPTSize) -> jax.Array:
    """Mean cross-entropy in nats per token."""
    x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"]
    for index in range(size.layers):
        x = block(p, f"blocks.{index}", x, size.heads)
    logits = norm(p, "norm", x) @ p["token_embedding.weight"].T
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()


def no_moments(p: Tree) -> tuple[Tree, Tree, jax.Array]:
    """AdamW's state before the first step: two moments and the count of steps."""
    first, second = ({name: jnp.zeros_like(w) for name, w in p.items()} for _ in range(2))
    return first, second, jnp.zeros(())


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
