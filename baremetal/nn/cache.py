"""The key-value cache: what generation remembers so that each new token costs one position.

Without it, producing token t recomputes the keys and values of all t - 1 tokens before it, and a
text of length T costs T² / 2 positions. The keys and values of the past do not change (attention
is causal), so they are kept: one array of keys and one of values per layer, allocated once for
the whole context, filled from the left. Size: 2 x layers x context x kv_heads x head_width
elements per sequence; grouped-query attention exists to make it small.
"""

from typing import Any

import numpy as np

from baremetal.autograd import CPU, Device
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import copy


class LayerCache:
    """Keys and values of one layer, (batch, context, kv_heads, head_width) each.

    Attributes:
        length: how many positions are filled.
    """

    def __init__(
        self,
        batch: int,
        context: int,
        kv_heads: int,
        head_width: int,
        dtype: Any = np.float32,
        device: Device = CPU,
    ) -> None:
        self.device = device
        self.keys = device.empty((batch, context, kv_heads, head_width), dtype)
        self.values = device.empty(self.keys.shape, dtype)
        self.length = 0

    def append(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add (batch, new, kv_heads, head_width); returns views of everything so far.

        Raises:
            BaremetalError: the context is full, or the cache was made for other sizes.
        """
        batch, context, kv_heads, head_width = self.keys.shape
        end = self.length + keys.shape[1]
        wanted = (batch, keys.shape[1], kv_heads, head_width)
        if keys.shape != wanted or values.shape != wanted:
            raise BaremetalError(
                f"keys {keys.shape} and values {values.shape} for a cache made for {wanted}: make "
                "one with model.new_cache(batch), of the model and the batch that use it"
            )
        if end > context:
            raise BaremetalError(
                f"the cache holds {context} positions, {end} are needed: "
                "the model's context is full; start again from the last part of the text"
            )
        self.device.launch(copy, keys, self.keys[:, self.length : end])
        self.device.launch(copy, values, self.values[:, self.length : end])
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


class KeyValueCache:
    """One `LayerCache` per layer."""

    def __init__(
        self,
        layers: int,
        batch: int,
        context: int,
        kv_heads: int,
        head_width: int,
        dtype: Any = np.float32,
        device: Device = CPU,
    ) -> None:
        self.layers = [
            LayerCache(batch, context, kv_heads, head_width, dtype, device) for _ in range(layers)
        ]

    @property
    def length(self) -> int:
        """How many positions are remembered."""
        return self.layers[0].length if self.layers else 0

    @property
    def size_bytes(self) -> int:
        """How much memory the keys and values take."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)
