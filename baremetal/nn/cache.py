"""The key-value cache: what generation remembers so that each new token costs one position.

Without it, producing token t recomputes the keys and values of all t - 1 tokens before it, and a
text of length T costs T² / 2 positions. The keys and values of the past do not change (attention
is causal), so they are kept: one array of keys and one of values per layer, allocated once for
the whole context, filled from the left. Size: 2 x layers x context x kv_heads x head_width
elements per sequence; grouped-query attention exists to make it small.
"""

import numpy as np

from baremetal.errors import BaremetalError


class LayerCache:
    """Keys and values of one layer, (batch, context, kv_heads, head_width) each."""

    def __init__(self, batch: int, context: int, kv_heads: int, head_width: int) -> None:
        self.keys = np.empty((batch, context, kv_heads, head_width), np.float32)
        self.values = np.empty_like(self.keys)
        self.length = 0

    def append(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add (batch, new, kv_heads, head_width); returns views of everything so far.

        Raises:
            BaremetalError: the context is full.
        """
        end = self.length + keys.shape[1]
        if end > self.keys.shape[1]:
            raise BaremetalError(
                f"the cache holds {self.keys.shape[1]} positions, {end} are needed: "
                "the model's context is full; start again from the last part of the text"
            )
        self.keys[:, self.length : end] = keys
        self.values[:, self.length : end] = values
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


class KeyValueCache:
    """One `LayerCache` per layer."""

    def __init__(
        self, layers: int, batch: int, context: int, kv_heads: int, head_width: int
    ) -> None:
        self.layers = [LayerCache(batch, context, kv_heads, head_width) for _ in range(layers)]

    @property
    def length(self) -> int:
        """How many positions are remembered."""
        return self.layers[0].length if self.layers else 0
