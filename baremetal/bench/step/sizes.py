"""The models that the step benchmark trains, from 337 parameters to some 90 million.

Two kinds with one face. The small end is the network of A. Karpathy's micrograd demo (2020,
https://github.com/karpathy/micrograd): an MLP with ReLU between its layers that learns to tell two
moons apart by the hinge loss, with SGD. Its arithmetic takes a processor well under a microsecond,
so what a step of it takes is what a framework takes for being there. The others are GPTs.

Work is counted for all alike: 6 FLOP for each parameter that is multiplied with and each token (or
point), and 12 x layers x width x context for the attention of a token (`nn/language_model.py` has
the sources).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from baremetal.errors import BaremetalError


@dataclass(frozen=True)
class StepSize(ABC):
    """What every size says of itself."""

    name: str

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens per step; points, where the model knows no tokens."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many numbers are trained."""

    @property
    @abstractmethod
    def flops_per_step(self) -> int:
        """Model FLOP of one training step."""

    @abstractmethod
    def describe(self) -> str:
        """Its dimensions in a line."""


@dataclass(frozen=True)
class GPTSize(StepSize):
    """A GPT and a batch for it; AdamW, clipping at 1.0, no dropout, tied embeddings."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocab_size: int = 65

    @property
    def tokens(self) -> int:
        return self.batch * self.context

    @property
    def parameters(self) -> int:
        return self._multiplied + self.context * self.width  # positions are only looked up

    @property
    def _multiplied(self) -> int:
        # A block: (3 + 1 + 4 + 4) C² of matrices, 9 C of their biases, 4 C of two norms.
        blocks = self.layers * (12 * self.width**2 + 13 * self.width)
        return self.vocab_size * self.width + blocks + 2 * self.width

    @property
    def flops_per_step(self) -> int:
        attention = 12 * self.layers * self.width * self.context
        return (6 * self._multiplied + attention) * self.tokens

    def describe(self) -> str:
        return (
            f"GPT, {self.layers} layer{'s' * (self.layers > 1)}, {self.heads} heads, width "
            f"{self.width}, context {self.context}, batch {self.batch}"
        )


@dataclass(frozen=True)
class MLPSize(StepSize):
    """A multilayer perceptron on points of the plane and a batch for it; hinge loss, SGD."""

    widths: tuple[int, ...]
    batch: int

    @property
    def tokens(self) -> int:
        return self.batch

    @property
    def parameters(self) -> int:
        return sum(i * o + o for i, o in pairwise(self.widths))

    @property
    def flops_per_step(self) -> int:
        return 6 * self.parameters * self.batch

    def describe(self) -> str:
        return f"MLP {'-'.join(map(str, self.widths))}, batch {self.batch}"


SIZES: dict[str, StepSize] = {
    size.name: size
    for size in (
        MLPSize("micro", (2, 16, 16, 1), batch=1),
        MLPSize("micro-100", (2, 16, 16, 1), batch=100),
        GPTSize("tiny", layers=1, heads=2, width=32, context=16, batch=4),
        GPTSize("small", layers=4, heads=4, width=128, context=64, batch=12),
        GPTSize("medium", layers=6, heads=6, width=384, context=256, batch=8),
        GPTSize("large", layers=12, heads=12, width=768, context=512, batch=2, vocab_size=4096),
    )
}


def find_size(name: str) -> StepSize:
    """The size of this name.

    Raises:
        BaremetalError: there is none.
    """
    if name not in SIZES:
        raise BaremetalError(f"unknown model '{name}': choose one of {', '.join(SIZES)}")
    return SIZES[name]
