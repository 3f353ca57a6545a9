"""The small end of the benchmark: an MLP that tells two moons apart, as in micrograd's demo.

    score = W₃ relu(W₂ relu(W₁ x + b₁) + b₂) + b₃        loss = mean(relu(1 - y score)),  y = ±1

The points are two interleaved half circles with a little noise, the hinge loss is that of a support
vector machine (C. Cortes, V. Vapnik, "Support-Vector Networks", 1995), the update is plain SGD. The
demo also adds 1e-4 times the sum of squares to the loss and lowers its learning rate from step to
step; both are left out here, for all contenders.
"""

from itertools import pairwise

import numpy as np

from baremetal.autograd import Tensor, ops
from baremetal.bench.step.sizes import MLPSize
from baremetal.nn import Linear, Module

LEARNING_RATE = 0.1
NOISE = 0.1  # standard deviation of each coordinate; the moons have radius 1


class MoonMLP(Module):
    """points (B, 2) -> scores (B, 1), the sign of which is the class."""

    def __init__(self, widths: tuple[int, ...], *, rng: np.random.Generator) -> None:
        self.layers = [
            Linear(inputs, outputs, rng=rng, std=inputs**-0.5)
            for inputs, outputs in pairwise(widths)
        ]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = ops.relu(layer(x))
        return self.layers[-1](x)

    def loss(self, points: Tensor, labels: Tensor) -> Tensor:
        """Mean hinge loss, a scalar; points (B, 2), labels (B, 1) of 1 and -1."""
        return ops.mean(ops.relu(1.0 - labels * self(points)))


def make_moons(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2) float32 and labels (count, 1) float32, 1 and -1 by turns."""
    label = np.where(np.arange(count) % 2, -1.0, 1.0)
    angle = rng.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(label[:, None] > 0, upper, lower) + NOISE * rng.standard_normal((count, 2))
    return points.astype(np.float32), label[:, None].astype(np.float32)


def make_batches(size: MLPSize, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` batches of points and labels, the same for every contender."""
    points, labels = make_moons(count * size.batch, np.random.default_rng(1))
    return [
        (points[i : i + size.batch].copy(), labels[i : i + size.batch].copy())
        for i in range(0, count * size.batch, size.batch)
    ]
