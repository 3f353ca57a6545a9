"""The MLP on two moons in JAX: hinge loss and SGD."""

import jax

from baremetal.bench.step import two_moons

Tree = dict[str, jax.Array]


def moon_loss(p: Tree, points: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean hinge loss; points (B, 2), labels (B, 1)."""
    layers, x = len(p) // 2, points
    for index in range(layers):
        x = x @ p[f"layers.{index}.weight"].T + p[f"layers.{index}.bias"]
        if index < layers - 1:
            x = jax.nn.relu(x)
    return jax.nn.relu(1.0 - labels * x).mean()


def sgd(p: Tree, grads: Tree, state: tuple) -> tuple[Tree, tuple]:
    """p - learning rate x gradient; there is no state to keep."""
    return {name: p[name] - two_moons.LEARNING_RATE * grads[name] for name in p}, state
