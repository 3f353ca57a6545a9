"""The small layers: linear, embedding, norms, dropout.

Every random initialisation draws from a generator that is passed in, so the same seed gives the
same model on every machine. Weights are normal with standard deviation 0.02, biases zero, as in
GPT-2 (A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and the
released code).
"""

import numpy as np

from baremetal.autograd import CPU, Device, Parameter, Tensor, ops
from baremetal.autograd.storage import LinearStorage
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import fill
from baremetal.nn.module import Module

INIT_STD = 0.02


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float = INIT_STD) -> Parameter:
    """A float32 parameter drawn from a normal distribution with mean 0."""
    return Parameter(rng.standard_normal(shape, dtype=np.float32) * np.float32(std))


def zeros(*shape: int) -> Parameter:
    """A float32 parameter of zeros."""
    return Parameter(np.zeros(shape, np.float32))


def ones(*shape: int) -> Parameter:
    """A float32 parameter of ones."""
    return Parameter(np.ones(shape, np.float32))


class Linear(Module):
    """y = x Wᵀ + b:  (..., in_features) -> (..., out_features).  W is (out, in), as in PyTorch.

    Attributes:
        storage: how x, W and the gradient of y are stored on their way into the products; None for
            float32, as they are. `nn/precision.py` sets it.
    """

    storage: LinearStorage | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rng: np.random.Generator,
        bias: bool = True,
        std: float = INIT_STD,
    ) -> None:
        self.weight = normal(rng, (out_features, in_features), std)
        self.bias = zeros(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.storage is None:
            return ops.linear(x, self.weight, self.bias)
        return ops.stored_linear(x, self.weight, self.bias, storage=self.storage)


class Embedding(Module):
    """Rows of a table by index: int (...) -> (..., width)."""

    def __init__(
        self, entries: int, width: int, *, rng: np.random.Generator, std: float = INIT_STD
    ) -> None:
        self.weight = normal(rng, (entries, width), std)

    def forward(self, indices: np.ndarray) -> Tensor:
        return ops.embedding(self.weight, indices)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, whose size is `width`.

    J. Ba, J. Kiros, G. Hinton, "Layer Normalization", 2016.
    """

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        self.weight = ones(width)
        self.bias = zeros(width) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x²) + eps) * weight over the last axis: LayerNorm without mean and bias.

    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        self.weight = ones(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class DropoutState:
    """Where the dropout of a whole model gets its bits from: seed, step and first sample.

    The three numbers live in one device buffer that every dropout layer reads, so changing the
    step changes every mask. A bit is a function of (seed, step, layer, sample, position) and of
    nothing else: however a batch is cut into microbatches or a model into stages, each sample
    meets the same bits.

    Attributes:
        buffer: (3,) int64 on the device: seed, step, first sample.
    """

    SEED, STEP, FIRST_SAMPLE = 0, 1, 2

    def __init__(self, seed: int = 0, device: Device = CPU) -> None:
        if not 0 <= seed < 2**63:
            raise BaremetalError(f"dropout seed {seed}: choose one from 0 up to 2**63 - 1")
        self.device = device
        self.buffer = device.numbers(seed, 0, 0, dtype=np.int64)

    def set(self, step: int, first_sample: int = 0) -> None:
        """Choose the bits for this step; `first_sample` counts samples within the step's batch."""
        self.buffer[self.STEP] = step
        self.buffer[self.FIRST_SAMPLE] = first_sample

    def begin_microbatch(self, first_sample: int) -> None:
        """The same by a launch, for within a step: a captured one repeats it."""
        place = self.buffer[self.FIRST_SAMPLE : self.FIRST_SAMPLE + 1]
        self.device.launch(fill, place, value=first_sample)


class Dropout(Module):
    """Zero each element with probability p while training, scale the rest by 1 / (1 - p).

    N. Srivastava et al., "Dropout", JMLR 15, 2014. The mask is recomputed, never stored.
    """

    def __init__(self, p: float, *, state: DropoutState, layer: int) -> None:
        if not 0.0 <= p < 1.0:
            raise BaremetalError(f"dropout probability {p}: choose one from 0 up to, not with, 1")
        self.p = p
        self.layer = layer
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        return ops.dropout(x, self.state.buffer, p=self.p, layer=self.layer)
