"""What a GPU does for a microbatch, as a list: products, streams through memory, exchanges.

Three kinds of work meet three limits:

    Product   a matrix product (or a batch of them): FLOP, by how well its shape fills the chip
    Stream    everything else on a chip: bytes to and from memory, one pass after another
    Exchange  a collective or a message between GPUs: bytes, by the group that takes part

An action of the pipeline (F, I, W) is a list of them. Who turns it into seconds is `rates.py`.
"""

from dataclasses import dataclass
from typing import Literal

Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"]


@dataclass(frozen=True)
class Product:
    """`batch` products of (m, k) with (k, n).

    Attributes:
        name: of the part of the model, ``"qkv"``.
        m, n, k: its shape.
        batch: how many of them at once.
        precision: in which it is computed.
        kind: ``"gemm"``; ``"grouped"`` (experts of different sizes); ``"attention"`` and
            ``"attention_backward"``: both products and the softmax between them in one kernel.
        causal: only half of it is computed.
        value_bytes: of an operand's value.
    """

    name: str
    m: float
    n: float
    k: float
    batch: float = 1
    precision: str = "bf16"
    kind: Literal["gemm", "grouped", "attention", "attention_backward"] = "gemm"
    causal: bool = False
    value_bytes: float = 2

    @property
    def flops(self) -> float:
        """FLOP done: two for each multiply-add."""
        return 2 * self.batch * self.m * self.n * self.k * (0.5 if self.causal else 1)

    @property
    def size_bytes(self) -> float:
        """B moved, each operand read and the result (2 B a value) written once."""
        operands = self.m * self.k + self.k * self.n
        return self.batch * (operands * self.value_bytes + 2 * self.m * self.n)


@dataclass(frozen=True)
class Stream:
    """Memory-bound kernels: so many bytes read and written, in so many launches."""

    name: str
    size_bytes: float
    launches: float = 1


@dataclass(frozen=True)
class Exchange:
    """A collective among a group.

    Attributes:
        name: of what is exchanged.
        collective: which.
        size_bytes: of the whole vector: what each rank ends with (all-gather), begins with
            (reduce-scatter, all-reduce), or sends in all (all-to-all, send).
        group: ``"tp"``, ``"cp"``, ``"ep"``, ``"dp"``, ``"pp"``.
    """

    name: str
    collective: Collective
    size_bytes: float
    group: str


Work = Product | Stream | Exchange
