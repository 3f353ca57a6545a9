"""Muon: momentum whose update is made orthogonal, for the matrices inside the blocks.

The gradient of a weight matrix is often nearly of low rank: a few directions dominate. Muon takes
the momentum M = U S Vᵀ and steps along U Vᵀ, which gives every direction the same length. The
singular value decomposition would be far too slow, but an odd polynomial applied to M acts on its
singular values alone, and five rounds of

    X <- a X + (b A + c A²) X,     A = X Xᵀ,     (a, b, c) = (3.4445, -4.7750, 2.0315)

move all that lie in [0.002, 1] into [0.68, 1.21], with matrix products only. (They do not converge
to 1: a polynomial that does lifts the small ones more slowly. M is divided by its Frobenius norm
first, which puts all singular values into [0, 1].)

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
from baremetal.optim.arena import Place
from baremetal.optim.optimizer import Group, Span

ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEP_SIZE = 0.2  # root-mean-square size of AdamW's typical step, relative to the learning rate
TINY = 1e-7  # keeps the normalisation of an all-zero update finite


def orthogonalise(device: Device, x: np.ndarray) -> np.ndarray:
    """About U Vᵀ of a matrix x = U S Vᵀ (rows, columns): all singular values near 1.

    Returns a new array of the same shape and dtype; x is not changed. Zeros give zeros.
    """
    # A = X Xᵀ is the smaller, the fewer rows X has: work on the transpose of a tall matrix.
    tall = x.shape[0] > x.shape[1]
    work = _copy(device, x.T if tall else x)
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
    return _copy(device, work.T) if tall else work


def _copy(device: Device, x: np.ndarray) -> np.ndarray:
    out = device.empty(x.shape, x.dtype)
    device.launch(elementwise.copy, x, out)
    return out


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
        momentum: Muon's momentum (with Nesterov's look-ahead), from 0 up to 1.
        weight_decay: of the matrices.
        **options: AdamW's `betas` and `eps`, and those of `Optimizer`.

    A matrix's momentum is kept as its first moment; its second moment stays zero.
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
        matrices = [parameter for parameter in matrices if parameter.requires_grad]
        _check_matrices(matrices)
        if not 0.0 <= momentum < 1.0:
            raise BaremetalError(f"momentum {momentum}: must lie in [0, 1)")
        groups = [Group(matrices, weight_decay), *others]
        super().__init__(groups, learning_rate=learning_rate, **options)
        self.momentum = momentum
        # Muon's two launches need other numbers than AdamW's one; see `_update`.
        self._direction_scalars = self.device.full(kernels.SCALARS, 0.0, np.float64)
        self._step_scalars = self.device.full(kernels.SCALARS, 0.0, np.float64)

    def _update(self, span: Span) -> None:
        if span is not self.spans[0]:
            super()._update(span)
            return
        # The gradient is unscaled and clipped on its way into the momentum, and the momentum is
        # taken as it is, whatever the learning rate: minus minus one.
        self._set_scalars(self._direction_scalars, {kernels.LEARNING_RATE: -1.0})
        # The orthogonal step has its size by construction: it is not scaled again.
        self._set_scalars(self._step_scalars, {kernels.CLIP_FACTOR: 1.0, kernels.LOSS_SCALE: 1.0})
        for place in self.arena.places:
            if place.stop <= span.stop:
                self._update_matrix(place, span.weight_decay)

    def _set_scalars(self, scalars: np.ndarray, changes: dict[int, float]) -> None:
        """Today's scalars with other numbers in some slots; by launches, to be recordable."""
        self.device.launch(elementwise.copy, self.scalars, scalars)
        for slot, value in changes.items():
            self.device.launch(elementwise.fill, scalars[slot : slot + 1], value=value)

    def _update_matrix(self, place: Place, weight_decay: float) -> None:
        parameter, start, stop = place
        where = slice(start, stop)
        # SGD with rate -1 turns zeros into  g + mu M,  Nesterov's direction, and leaves them (and
        # the momentum) alone if the gate is closed.
        direction = self.device.full(parameter.size, 0.0, self.arena.dtype)
        self.device.launch(
            kernels.sgd_momentum, direction, self.arena.grad[where],
            self.moments["first_moment"][where], self._direction_scalars,
            momentum_factor=self.momentum, weight_decay=0.0, nesterov=True,
        )  # fmt: skip
        step = orthogonalise(self.device, direction.reshape(parameter.shape))
        scale = STEP_SIZE * math.sqrt(max(parameter.shape))
        self.device.launch(elementwise.multiply, step, np.asarray(scale, step.dtype), step)
        # Without momentum SGD is  p - lr (step + wd p);  its buffer is scratch: the direction's.
        self.device.launch(
            kernels.sgd_momentum, self.arena.data[where], step.reshape(-1), direction,
            self._step_scalars, momentum_factor=0.0, weight_decay=weight_decay, nesterov=False,
        )  # fmt: skip


def _check_matrices(matrices: Sequence[Parameter]) -> None:
    if not matrices:
        raise BaremetalError("Muon got no trainable matrices: give it some, or use AdamW")
    for parameter in matrices:
        if parameter.ndim != 2:
            raise BaremetalError(
                f"Muon updates matrices, but '{parameter.name}' has shape {parameter.shape}: "
                "put it among the others, for AdamW"
            )
