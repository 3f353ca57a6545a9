"""A Grok-1 shaped language model: a Llama whose MLPs are mixtures of experts.

Grok-1 (xAI, released March 2024: 314 billion parameters, 64 layers, width 6,144, 48 query and 8
key-value heads, 8 experts of which 2 are active, rotary positions, tied embeddings) is, in shape,
pre-norm attention followed by a top-2 mixture. This is that shape at the size of a laptop. What it
leaves out: Grok-1's extra norms after each half-block, its output multiplier and its soft cap on
attention logits.
"""

from dataclasses import dataclass

import numpy as np

from baremetal.autograd import Tensor
from baremetal.nn.experts import Experts
from baremetal.nn.llama import Llama, LlamaBlock, LlamaConfig
from baremetal.nn.module import Module


@dataclass(frozen=True)
class GrokConfig(LlamaConfig):
    """Sizes of a mixture-of-experts model (the others are documented in `LlamaConfig`)."""

    experts: int = 8
    """Experts per block."""
    active_experts: int = 2
    """Experts that each token visits."""
    capacity_factor: float = 1.25
    """Places per expert, relative to perfect balance."""
    balance_weight: float = 0.01
    """Weight of the balance loss in the training loss (Switch Transformers' value)."""
    tied: bool = True
    """Whether the output matrix is the token embedding."""


class GrokBlock(LlamaBlock):
    """A Llama block with experts for its MLP."""

    def make_mlp(self, config: LlamaConfig, *, rng: np.random.Generator, out_std: float) -> Module:
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


class Grok(Llama):
    """tokens (B, T) int -> logits (B, T, vocab_size), through experts."""

    block_type = GrokBlock
    config: GrokConfig

    def loss(
        self, tokens: np.ndarray, targets: np.ndarray, total: np.ndarray | None = None
    ) -> Tensor:
        """Cross-entropy, plus the balance loss while training.

        With `total`, the balance term is scaled like the cross-entropy: by this microbatch's
        share of the tokens.
        """
        loss = super().loss(tokens, targets, total)
        if not self.training:
            return loss
        share = 1.0 if total is None else tokens.size / float(total[0])
        weight = self.config.balance_weight * share / len(self.blocks)
        for block in self.blocks:
            assert isinstance(block.mlp, Experts)
            assert block.mlp.balance_loss is not None
            loss = loss + block.mlp.balance_loss * weight
        return loss

    def flops_per_token(self, context: int | None = None) -> int:
        """Model FLOP per token: only the experts a token visits do work for it."""
        idle = 0
        for block in self.blocks:
            mlp = block.mlp
            assert isinstance(mlp, Experts)
            size = mlp.gate_up.size + mlp.down.size
            idle += size * (mlp.experts - mlp.active) // mlp.experts
        return super().flops_per_token(context) - 6 * idle
