"""What every language model here has in common: sizes, the loss, and counts of work.

Loss. The mean over all tokens of -log p(next token), in nats; `ignore_index` targets do not count.

Work. A matrix of N weights costs 2N FLOP per token forward and 4N backward, so a model of N
parameters costs about 6N per token; tables that are only looked up cost nothing and are not in N.
Attention adds 12 x layers x width x context (scores and mixing, forward and backward, every query
against the whole context, as is customary, though a causal one needs only half of that). J. Kaplan
et al., "Scaling Laws for Neural Language Models", 2020, and the appendix of A. Chowdhery et al.,
"PaLM", 2022.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.autograd import Parameter, Tensor, ops
from baremetal.errors import BaremetalError
from baremetal.nn.attention import check_heads
from baremetal.nn.block import Recompute, ResidualBlock, check_policy
from baremetal.nn.cache import KeyValueCache
from baremetal.nn.layers import Embedding, Linear
from baremetal.nn.module import Module

IGNORE_INDEX = -100  # PyTorch's customary "no target here"


@dataclass(frozen=True)
class LanguageModelConfig:
    """The sizes that every language model has."""

    vocab_size: int
    """How many different tokens there are."""
    context: int = 64
    """The longest sequence, in tokens."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    width: int = 128
    """Size of each position's vector."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise BaremetalError(f"{name} = {getattr(self, name)}: must be at least 1")
        check_heads(self.width, self.heads, self.heads)


class LanguageModel(Module):
    """Base of the language models: `forward(tokens, cache)` gives logits (B, T, vocab_size)."""

    is_static = True
    """Whether every step has the same launches, so that it can be captured (a router has not)."""

    blocks: Sequence[ResidualBlock]
    token_embedding: Embedding
    norm: Module
    head: Linear | None  # None: the token embedding is the output matrix, too
    embedding_parts: Sequence[str] = ("token_embedding",)
    """The attributes that `embed` uses; `unembed` uses `output_parts`."""

    def __init__(self, config: LanguageModelConfig) -> None:
        self.config = config

    @property
    def recompute(self) -> Recompute:
        """What blocks compute again in backward, to keep less: "none", "selective" or "block".

        The gradients are the same bits; `block.py` says what each policy keeps.

        Raises:
            BaremetalError: on assignment of another name.
        """
        return self.blocks[0].recompute

    @recompute.setter
    def recompute(self, policy: Recompute) -> None:
        check_policy(policy)
        for block in self.blocks:
            block.recompute = policy

    @property
    def kv_heads(self) -> int:
        """Key-value heads per layer (fewer than `heads` with grouped queries)."""
        return self.config.heads

    @property
    def lookup_tables(self) -> Sequence[Parameter]:
        """Parameters that are only looked up, never multiplied with: they cost no FLOP."""
        return ()

    @property
    def output_parts(self) -> Sequence[str]:
        """The attributes that `unembed` uses: a pipeline's last stage has them and few others."""
        return ("norm", "head") if self.head is not None else ("norm", "head", "token_embedding")

    def embed(self, tokens: np.ndarray, start: int = 0) -> Tensor:
        """What the first block works on: (B, T) int -> (B, T, width).

        Args:
            tokens: the ids.
            start: the position of the first of them in its sequence.
        """
        return self.token_embedding(tokens)

    def unembed(self, x: Tensor) -> Tensor:
        """What the last block made, normed, as logits: (B, T, width) -> (B, T, vocab_size)."""
        x = self.norm(x)
        if self.head is None:
            return ops.linear(x, self.token_embedding.weight, None)
        return self.head(x)

    def forward(self, tokens: np.ndarray, cache: KeyValueCache | None = None) -> Tensor:
        """Logits; with a cache, `tokens` (B, new) continue the sequences in it."""
        start = 0 if cache is None else cache.length
        self.check_tokens(tokens, start)
        x = self.embed(tokens, start)
        for index, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache.layers[index])
        return self.unembed(x)

    def loss(
        self, tokens: np.ndarray, targets: np.ndarray, total: np.ndarray | float | None = None
    ) -> Tensor:
        """Mean cross-entropy in nats per token, a scalar.

        Args:
            tokens: (B, T) int.
            targets: (B, T) int, `IGNORE_INDEX` where nothing is to be predicted.
            total: divide by this count of tokens instead of by this batch's own: with the count
                of a whole large batch, the gradients of its parts add up to the large batch's.
                A number, or a buffer of one, which is read when the loss is computed.

        Raises:
            BaremetalError: the tokens do not fit the context, or are not in the vocabulary.
        """
        logits = self(tokens)
        loss = ops.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, total=total)
        share = 1.0
        if total is not None and not self.is_static:  # (a captured step must not read `total`)
            share = int((targets != IGNORE_INDEX).sum()) / float(np.asarray(total).item())
        side_loss = self.side_loss(self.blocks, share)
        return loss if side_loss is None else loss + side_loss

    def side_loss(self, blocks: Iterable[ResidualBlock], share: float) -> Tensor | None:
        """What these blocks add to the loss, besides what the logits say; None if nothing.

        Args:
            blocks: some of the model's, after their forward.
            share: of the tokens that the loss is a mean over, those of this (micro)batch.
        """
        return None

    def new_cache(self, batch: int = 1) -> KeyValueCache:
        """An empty key-value cache for `batch` sequences, of the parameters' dtype and device."""
        config = self.config
        like = next(self.parameters())
        return KeyValueCache(
            config.layers,
            batch,
            config.context,
            self.kv_heads,
            config.width // config.heads,
            like.dtype,
            like.device,
        )

    def flops_per_token(self, context: int | None = None) -> int:
        """Model FLOP of one training step per token: 6 N + 12 layers width context."""
        config = self.config
        context = config.context if context is None else context
        multiplied = self.num_parameters() - sum(table.size for table in self.lookup_tables)
        return 6 * multiplied + 12 * config.layers * config.width * context

    def check_tokens(self, tokens: np.ndarray, start: int = 0) -> None:
        """Refuse sequences that do not fit the context.

        Raises:
            BaremetalError: not (batch, time), nothing at all, or too long.
        """
        if tokens.ndim != 2 or tokens.size == 0:
            raise BaremetalError(
                f"tokens have shape {tokens.shape}, expected (batch, time), neither of them 0: "
                "for one sequence use tokens[None, :]"
            )
        if start + tokens.shape[1] > self.config.context:
            raise BaremetalError(
                f"{start + tokens.shape[1]} positions do not fit a context of "
                f"{self.config.context}: shorten the sequence or build a longer-context model"
            )
