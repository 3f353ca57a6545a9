"""A Llama-shaped language model.

What changed between GPT-2 and Llama (H. Touvron et al., "LLaMA", 2023): RMSNorm for LayerNorm,
rotary positions for learned ones, SwiGLU for GELU, no biases, an untied output matrix, and, from
Llama 2 on, grouped queries. The skeleton is the same: pre-norm residual blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.autograd import Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.nn.attention import CausalSelfAttention, check_heads, rotary_tables
from baremetal.nn.block import ResidualBlock
from baremetal.nn.cache import LayerCache
from baremetal.nn.language_model import LanguageModel, LanguageModelConfig
from baremetal.nn.layers import INIT_STD, Embedding, Linear, RMSNorm
from baremetal.nn.mlp import SwiGLU
from baremetal.nn.module import Module


@dataclass(frozen=True)
class LlamaConfig(LanguageModelConfig):
    """Sizes of a Llama (the shared ones are documented in `LanguageModelConfig`)."""

    kv_heads: int = 0
    """Key-value heads; 0 means as many as heads."""
    hidden: int = 0
    """Width inside the SwiGLU; 0 means 8/3 of the width, rounded up to a multiple of 16."""
    rotary_base: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Keeps RMSNorm's division finite."""
    tied: bool = False
    """Whether the output matrix is the token embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads, self.key_value_heads)
        if self.hidden < 0:
            raise BaremetalError(
                f"hidden = {self.hidden}: give a width, or 0 for the customary one"
            )
        if (self.width // self.heads) % 2:
            raise BaremetalError(
                f"each head is {self.width // self.heads} wide, an odd number: rotary positions "
                "turn pairs; choose a width that is an even multiple of the heads"
            )

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, with its default filled in."""
        return self.kv_heads or self.heads

    @property
    def hidden_width(self) -> int:
        """`hidden`, with its default filled in: SwiGLU has three matrices to GELU's two, so
        8/3 of the width costs what 4 times the width did."""
        return self.hidden or -(-8 * self.width // (3 * 16)) * 16


class LlamaBlock(ResidualBlock):
    """x + attention(norm(x)), then x + swiglu(norm(x)): (B, T, width) -> (B, T, width)."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rng: np.random.Generator,
        rotary: tuple[np.ndarray, np.ndarray],
    ) -> None:
        out_std = INIT_STD / np.sqrt(2 * config.layers)
        self.norm_1 = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = CausalSelfAttention(
            config.width,
            config.heads,
            rng=rng,
            kv_heads=config.key_value_heads,
            bias=False,
            rotary=rotary,
            out_std=out_std,
        )
        self.norm_2 = RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = self.make_mlp(config, rng=rng, out_std=out_std)

    def make_mlp(self, config: LlamaConfig, *, rng: np.random.Generator, out_std: float) -> Module:
        """The position-wise half; a mixture of experts replaces it."""
        return SwiGLU(config.width, config.hidden_width, rng=rng, out_std=out_std)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.attend(x, cache)
        return x + self.think(x)


class Llama(LanguageModel):
    """tokens (B, T) int -> logits (B, T, vocab_size)."""

    block_type: type[LlamaBlock] = LlamaBlock
    config: LlamaConfig

    def __init__(self, config: LlamaConfig, *, rng: np.random.Generator) -> None:
        super().__init__(config)
        rotary = rotary_tables(config.context, config.width // config.heads, config.rotary_base)
        self.token_embedding = Embedding(config.vocab_size, config.width, rng=rng)
        self.blocks = [
            self.block_type(config, rng=rng, rotary=rotary) for _ in range(config.layers)
        ]
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = (
            None if config.tied else Linear(config.width, config.vocab_size, rng=rng, bias=False)
        )
        self.name_parameters()

    @property
    def kv_heads(self) -> int:
        return self.config.key_value_heads

    @property
    def lookup_tables(self) -> Sequence[Parameter]:
        return () if self.head is None else (self.token_embedding.weight,)
