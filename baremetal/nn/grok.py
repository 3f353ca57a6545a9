"""A Grok-1 shaped language model: a Llama whose MLPs are mixtures of experts.

Grok-1 (xAI, released in March 2024: 314 billion parameters, 64 layers, width 6,144, 48 query and 8
key-value heads, 8 experts of which 2 are active, rotary positions, tied embeddings; github.com/
xai-org/grok-1, README, run.py and model.py) is, in shape, pre-norm attention followed by a top-2
mixture. This is that shape at the size of a laptop. What it leaves out: Grok-1's second norm after
each half-block, its multipliers on embeddings and outputs, and its soft cap on attention logits.
What differs: its experts are gated by GELU, ours by SiLU; its two chosen probabilities are used as
they are, ours are divided by their sum. (xAI published no training code, hence no capacity and no
balance loss of theirs; ours are those of `experts.py`.)
"""

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from baremetal.autograd import Tensor, checkpoint
from baremetal.errors import BaremetalError
from baremetal.nn.block import ResidualBlock
from baremetal.nn.experts import Experts
from baremetal.nn.llama import Llama, LlamaBlock, LlamaConfig


@dataclass(frozen=True)
class GrokConfig(LlamaConfig):
    """Sizes of a mixture-of-experts model (the others are documented in `LlamaConfig`)."""

    experts: int = 8
    """Experts per block."""
    active_experts: int = 2
    """Experts that each token visits."""
    capacity_factor: float = 1.25
    """Places per expert while training, relative to perfect balance."""
    balance_weight: float = 0.01
    """Weight of the balance loss in the training loss (Switch Transformers' value)."""
    tied: bool = True
    """Whether the output matrix is the token embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance_weight < 0:
            raise BaremetalError(f"balance_weight = {self.balance_weight}: must not be negative")


class GrokBlock(LlamaBlock):
    """A Llama block with experts for its MLP."""

    mlp: Experts

    def make_mlp(self, config: LlamaConfig, *, rng: np.random.Generator, out_std: float) -> Experts:
        assert isinstance(config, GrokConfig)
        return Experts(
            config.width,
            config.hidden_width,
            experts=config.experts,
            active=config.active_experts,
            capacity_factor=config.capacity_factor,
            rng=rng,
            out_std=out_std,
        )

    def think(self, x: Tensor) -> Tensor:
        """experts(norm_2(x)); what experts compute is too much interwoven to leave parts out."""
        return self.mlp(self.norm_2(x))

    def recomputed(self, x: Tensor) -> Tensor:
        """`forward`, of which only x is kept; the balance loss is a result, too."""

        def both(x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.forward(x)
            return y, self.mlp.take_balance_loss()

        y, self.mlp.balance_loss = checkpoint(both)(x)
        return y


class Grok(Llama):
    """tokens (B, T) int -> logits (B, T, vocab_size), through experts."""

    block_type = GrokBlock
    is_static = False  # each router decides anew who computes what
    config: GrokConfig
    blocks: list[GrokBlock]

    def side_loss(self, blocks: Iterable[ResidualBlock], share: float) -> Tensor | None:
        """The balance losses of these blocks' last forward, weighted; None while not training.

        Of one microbatch it is, as the cross-entropy is, its share of the tokens that count.
        """
        if not self.training or self.config.balance_weight == 0:
            return None
        weight = self.config.balance_weight * share / self.config.layers
        terms = [block.mlp.take_balance_loss() * weight for block in blocks]
        return functools.reduce(operator.add, terms)

    @property
    def dropped(self) -> int:
        """How many visits to experts found no place in the last forward, over all blocks."""
        return sum(block.mlp.dropped for block in self.blocks)

    def flops_per_token(self, context: int | None = None) -> int:
        """Model FLOP per token: only the experts a token visits do work for it."""
        idle = 0
        for block in self.blocks:
            size = block.mlp.gate_up.size + block.mlp.down.size
            idle += size * (block.mlp.experts - block.mlp.active) // block.mlp.experts
        return super().flops_per_token(context) - 6 * idle
