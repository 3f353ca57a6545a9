"""Muon: momentum whose update is made orthogonal, for the matrices inside the blocks.

The gradient of a weight matrix is often nearly of low rank: a few directions dominate. Muon takes
the momentum M = U S Vᵀ and steps along U Vᵀ, which gives every direction the same length. The
singular value decomposition would be far too slow, but an odd polynomial applied to M acts on its
singular values alone, and five rounds of

    X <- a X + (b A + c A²) X,     A = X Xᵀ,     (a, b, c) = (3.4445, -4.7750, 2.0315)

move all of them from anywhere in (0, 1] to between about 0.7 and 1.2, with matrix products only.

K. Jordan et al., "Muon", 2024. The step is scaled by 0.2 sqrt(max(rows, columns)) so that its
root-mean-square size is about AdamW's and learning rate and weight decay carry over (J. Liu et
al., "Muon is Scalable for LLM Training", 2025). Embeddings, output matrix, norms and biases stay
with AdamW, as both recommend.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from baremetal.autograd import Device, Parameter
from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise, reduction
from baremetal.kernels import optimizer as kernels
from baremetal.kernels.matmul import matmul
from baremetal.optim.adamw import AdamW
from baremetal.optim.optimizer import Group, Span

ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-7  # keeps the normalisation of an all-zero update finite


def orthogonalise(device: Device, x: np.ndarray) -> np.ndarray:
    """About U Vᵀ of a matrix x = U S Vᵀ (rows, columns): all singular values near 1.

    Returns a new array of the same shape and dtype; x is not changed.
    """
    # A = X Xᵀ is the smaller, the fewer rows X has: work on the transpose of a tall matrix.
    tall = x.shape[0] > x.shape[1]
    work = device.empty(x.shape[::-1] if tall else x.shape, x.dtype)
    device.launch(elementwise.copy, x.T if tall else x, work)
    _normalise(device, work)
    a, b, c = COEFFICIENTS
    rows = work.shape[0]
    gram, mixed = (device.empty((rows, rows), x.dtype) for _ in range(2))
    following = device.empty(work.shape, x.dtype)
    for _ in range(ROUNDS):
        device.launch(matmul, work, work.T, gram)
        device.launch(elementwise.copy, gram, mixed)
        device.launch(matmul, gram, gram, mixed, alpha=c, beta=b)  # b A + c A²
        device.launch(elementwise.copy, work, following)
        device.launch(matmul, mixed, work, following, beta=a)  # a X + (b A + c A²) X
        work, following = following, work
    return np.ascontiguousarray(work.T) if tall else work


def _normalise(device: Device, x: np.ndarray) -> None:
    """x /= its Frobenius norm, which bounds its largest singular value by 1."""
    squares = device.empty(x.shape, x.dtype)
    norm = device.empty((), x.dtype)
    device.launch(elementwise.square, x, squares)
    device.launch(reduction.sum, squares, norm, axis=(0, 1))
    device.launch(elementwise.sqrt, norm, norm)
    device.launch(elementwise.maximum, norm, np.asarray(TINY, x.dtype), norm)
    device.launch(elementwise.divide, x, norm, x)


class Muon(AdamW):
    """Muon for some matrices, AdamW for everything else, in one arena and one step.

    Args:
        matrices: two-dimensional parameters to be updated by Muon.
        others: groups for AdamW (embeddings, norms, biases).
        learning_rate: shared by both.
        momentum: Muon's momentum (with Nesterov's look-ahead).
        weight_decay: of the matrices.
        betas, eps: AdamW's.
    """

    def __init__(
        self,
        matrices: Sequence[Parameter],
        others: Iterable[Group] = (),
        *,
        learning_rate: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        for parameter in matrices:
            if parameter.ndim != 2:
                raise BaremetalError(
                    f"Muon updates matrices, but '{parameter.name}' has shape {parameter.shape}: "
                    "put it among the others, for AdamW"
                )
        groups = [Group(list(matrices), weight_decay), *others]
        super().__init__(groups, learning_rate=learning_rate, **options)
        self.momentum = momentum
        # The orthogonal update is not clipped or rescaled again, so its scalars are its own.
        self._plain_scalars = self.device.full(kernels.SCALARS, 1.0, np.float64)

    def _update(self, span: Span) -> None:
        if span is not self.spans[0]:
            super()._update(span)
            return
        for slot in (kernels.LEARNING_RATE, kernels.GATE):
            here = slice(slot, slot + 1)
            self.device.launch(elementwise.copy, self.scalars[here], self._plain_scalars[here])
        inside = [place for place in self.arena.places if place.stop <= span.stop]
        for parameter, start, stop in inside:
            self._update_matrix(parameter, slice(start, stop), span.weight_decay)

    def _update_matrix(self, parameter: Parameter, where: slice, weight_decay: float) -> None:
        momentum = self.moments["first_moment"][where]
        # Stepping a zero array by SGD leaves  -lr (g + mu M)  in it: Nesterov's direction, and
        # nothing at all if the gate is closed.
        direction = self.device.full(parameter.size, 0.0, self.arena.dtype)
        self.device.launch(
            kernels.sgd_momentum, direction, self.arena.grad[where], momentum, self.scalars,
            momentum_factor=self.momentum, weight_decay=0.0, nesterov=True,
        )  # fmt: skip
        step = orthogonalise(self.device, direction.reshape(parameter.shape))
        scale = -0.2 * math.sqrt(max(parameter.shape))
        self.device.launch(elementwise.multiply, step, np.asarray(scale, step.dtype), step)
        unused = self.device.full(parameter.size, 0.0, self.arena.dtype)
        self.device.launch(
            kernels.sgd_momentum, self.arena.data[where], step.reshape(-1), unused,
            self._plain_scalars, momentum_factor=0.0, weight_decay=weight_decay, nesterov=False,
        )  # fmt: skip
