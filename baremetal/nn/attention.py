"""Causal self-attention: every position looks at itself and at what came before it.

    attention(q, k, v) = softmax(q kᵀ / sqrt(d) + causal mask) v        per head

(A. Vaswani et al., "Attention Is All You Need", 2017.) The queries, keys and values of all heads
come out of one matrix product, side by side in the last dimension:

    x (B, T, width)  ->  [ q: H heads | k: K heads | v: K heads ]  (B, T, (H + 2K) d)

and the fused kernel reads its three parts in place. With K < H several query heads share one
key-value head (grouped-query attention, J. Ainslie et al., 2023), which shrinks the key-value
cache. Positions are either learned and added before the first block, or rotary: q and k are
rotated by an angle proportional to their position (J. Su et al., "RoFormer", 2021), so that their
product depends on the distance only.
"""

import numpy as np

from baremetal.autograd import Tensor, ops
from baremetal.errors import BaremetalError
from baremetal.nn.cache import LayerCache
from baremetal.nn.layers import INIT_STD, Linear
from baremetal.nn.module import Module


def rotary_tables(
    context: int, head_width: int, base: float = 10_000.0
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of position * base^(-2i/d): two float32 arrays (context, head_width / 2).

    Raises:
        BaremetalError: an odd head width (rotation turns pairs of numbers), or a base below 1.
    """
    if head_width % 2:
        raise BaremetalError(
            f"heads of width {head_width} cannot be rotated, rotary positions turn pairs of "
            "numbers: choose a width that is an even multiple of the heads"
        )
    if not base >= 1.0:
        raise BaremetalError(f"rotary base {base}: expected 1 or more, customary is 10000")
    frequencies = base ** (-np.arange(0, head_width, 2) / head_width)
    angles = np.arange(context)[:, None] * frequencies  # float64, rounded once at the end
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def check_heads(width: int, heads: int, kv_heads: int) -> None:
    """Refuse head counts that do not divide what they must.

    Raises:
        BaremetalError: `heads` does not divide `width`, or `kv_heads` does not divide `heads`.
    """
    if heads < 1 or width % heads:
        nearest = f"; try width {heads * (width // heads + 1)}" if heads > 0 else ""
        raise BaremetalError(
            f"width {width} is no multiple of {heads} heads: each head takes an equal slice"
            f"{nearest}"
        )
    if kv_heads < 1 or heads % kv_heads:
        raise BaremetalError(
            f"{heads} heads cannot share {kv_heads} key-value heads equally: "
            "choose a divisor of the number of heads"
        )


class CausalSelfAttention(Module):
    """Multi-head or grouped-query causal self-attention: (B, T, width) -> (B, T, width).

    Args:
        width: model width; must be a multiple of `heads`.
        heads: query heads.
        kv_heads: key-value heads; must divide `heads`. Default: as many as `heads`.
        rotary: tables from `rotary_tables`, or None for no rotation.
        out_std: standard deviation of the output projection's initial weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rng: np.random.Generator,
        kv_heads: int | None = None,
        bias: bool = True,
        rotary: tuple[np.ndarray, np.ndarray] | None = None,
        out_std: float = INIT_STD,
    ) -> None:
        kv_heads = heads if kv_heads is None else kv_heads
        check_heads(width, heads, kv_heads)
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        packed = (heads + 2 * kv_heads) * self.head_width
        self.qkv = Linear(width, packed, rng=rng, bias=bias)
        self.out = Linear(width, width, rng=rng, bias=bias, std=out_std)
        self.rotary = rotary

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width); with a cache, x continues the sequences in it.

        Raises:
            BaremetalError: a cache while gradients are recorded; a full or unfitting cache.
        """
        return self.mix(self.project(x), cache)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side: (B, T, width) -> (B, T, (H + 2K) d)."""
        return self.qkv(x)

    def mix(self, packed: Tensor, cache: LayerCache | None = None) -> Tensor:
        """All that comes after `project`: (B, T, (H + 2K) d) -> (B, T, width)."""
        packed = self._rotate(packed, 0 if cache is None else cache.length)
        if cache is None:
            mixed = ops.causal_attention_packed(packed, heads=self.heads, kv_heads=self.kv_heads)
        else:
            mixed = self._attend_cached(packed, cache)
        return self.out(mixed)

    def _rotate(self, packed: Tensor, start: int) -> Tensor:
        """Rotate the q and k heads of (B, T, (H + 2K) d) by their positions; v stays."""
        if self.rotary is None:
            return packed
        batch, time, _ = packed.shape
        context = len(self.rotary[0])
        if start + time > context:
            raise BaremetalError(
                f"{start + time} positions do not fit rotary tables for {context}: shorten the "
                "sequence or make the tables longer"
            )
        cos, sin = (table[start : start + time] for table in self.rotary)
        by_head = packed.reshape(batch, time, self.heads + 2 * self.kv_heads, self.head_width)
        turned = ops.rotary(by_head, cos, sin, rotated=self.heads + self.kv_heads)
        return turned.reshape(batch, time, -1)

    def _attend_cached(self, packed: Tensor, cache: LayerCache) -> Tensor:
        """The new queries against all keys so far; no gradients (generation only)."""
        if packed.requires_grad:
            raise BaremetalError(
                "a key-value cache keeps values off the tape, so nothing could be learnt through "
                "it: generate inside 'with no_grad():', or train without a cache"
            )
        batch, time, _ = packed.shape
        by_head = packed.data.reshape(batch, time, -1, self.head_width)
        q, k, v = np.split(by_head, [self.heads, self.heads + self.kv_heads], axis=2)
        keys, values = cache.append(k, v)
        parts = (Tensor(part, device=packed.device) for part in (q, keys, values))
        mixed = ops.causal_attention(*parts)
        return mixed.reshape(batch, time, -1)
