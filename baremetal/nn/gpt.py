"""A GPT-2 shaped language model.

    tokens (B, T) -> token embedding + position embedding
                  -> blocks:  x = x + attention(norm(x));  x = x + mlp(norm(x))
                  -> final norm -> logits over the vocabulary (B, T, V)

Pre-norm residual blocks, learned positions, GELU, and an output matrix tied to the token embedding
(A. Radford et al., 2019). The two projections that write into the residual stream start smaller by
1 / sqrt(2 layers), so that the stream's variance does not grow with depth. (GPT-2's dropout of
attention weights is left out: the fused kernel never has those weights in memory.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.autograd import Parameter, Tensor
from baremetal.nn.attention import CausalSelfAttention
from baremetal.nn.block import ResidualBlock
from baremetal.nn.cache import LayerCache
from baremetal.nn.language_model import LanguageModel, LanguageModelConfig
from baremetal.nn.layers import INIT_STD, Dropout, DropoutState, Embedding, LayerNorm, Linear
from baremetal.nn.mlp import MLP


@dataclass(frozen=True)
class GPTConfig(LanguageModelConfig):
    """Sizes of a GPT (the shared ones are documented in `LanguageModelConfig`)."""

    dropout: float = 0.0
    """Probability of zeroing an activation while training."""
    bias: bool = True
    """Whether linear layers and norms have biases."""
    tied: bool = True
    """Whether the output matrix is the token embedding."""
    norm_eps: float = 1e-5
    """Keeps LayerNorm's division finite."""


class Block(ResidualBlock):
    """x + attention(norm(x)), then x + mlp(norm(x)): (B, T, width) -> (B, T, width)."""

    def __init__(
        self, config: GPTConfig, index: int, *, rng: np.random.Generator, dropout: DropoutState
    ) -> None:
        out_std = INIT_STD / np.sqrt(2 * config.layers)
        self.norm_1 = LayerNorm(config.width, bias=config.bias, eps=config.norm_eps)
        self.attention = CausalSelfAttention(
            config.width, config.heads, rng=rng, bias=config.bias, out_std=out_std
        )
        self.norm_2 = LayerNorm(config.width, bias=config.bias, eps=config.norm_eps)
        self.mlp = MLP(config.width, rng=rng, bias=config.bias, out_std=out_std)
        # Layer numbers name the dropout's bits: two per block, 0 is the embedding's.
        self.dropout_1 = Dropout(config.dropout, state=dropout, layer=2 * index + 1)
        self.dropout_2 = Dropout(config.dropout, state=dropout, layer=2 * index + 2)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout_1(self.attend(x, cache))
        return x + self.dropout_2(self.think(x))


class GPT(LanguageModel):
    """tokens (B, T) int -> logits (B, T, vocab_size).

    Args:
        config: the sizes.
        rng: draws the initial weights.
        dropout_seed: names the dropout bits of this run.

    Attributes:
        dropout_state: set its step (and first sample) before each training step.
    """

    config: GPTConfig
    embedding_parts = ("token_embedding", "position_embedding", "dropout")

    def __init__(
        self, config: GPTConfig, *, rng: np.random.Generator, dropout_seed: int = 0
    ) -> None:
        super().__init__(config)
        self.dropout_state = DropoutState(dropout_seed)
        self.token_embedding = Embedding(config.vocab_size, config.width, rng=rng)
        self.position_embedding = Embedding(config.context, config.width, rng=rng)
        self.dropout = Dropout(config.dropout, state=self.dropout_state, layer=0)
        self.blocks = [
            Block(config, index, rng=rng, dropout=self.dropout_state)
            for index in range(config.layers)
        ]
        self.norm = LayerNorm(config.width, bias=config.bias, eps=config.norm_eps)
        self.head = (
            None if config.tied else Linear(config.width, config.vocab_size, rng=rng, bias=False)
        )
        self.name_parameters()

    @property
    def lookup_tables(self) -> Sequence[Parameter]:
        positions = self.position_embedding.weight
        return (positions,) if self.head is None else (positions, self.token_embedding.weight)

    def embed(self, tokens: np.ndarray, start: int = 0) -> Tensor:
        """The tokens' vectors plus the positions', through dropout: (B, T) -> (B, T, width)."""
        positions = np.arange(start, start + tokens.shape[1])
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
