"""From work to seconds: how well a product's shape fills a chip, and what memory gives.

A product of (m, k) with (k, n) takes the longer of two times (the roofline):

    arithmetic   FLOP / (peak x efficiency(m, n, k))
    memory       bytes / (rate x share of it that streams reach)

    efficiency(m, n, k) = most x k / (k + half_k) x m n / (m n + half_area)

so that it falls along k, where a tile's pipeline has to fill first, and over m n, where there are
too few tiles for the chip. `constants.py` says what these are and where they are from.
"""

from dataclasses import dataclass

from baremetal.cluster.cost.constants import Constants
from baremetal.cluster.cost.work import Product, Stream
from baremetal.machine.chip import Chip


@dataclass(frozen=True)
class Rates:
    """What a chip does in a second.

    Attributes:
        chip: which.
        constants: what it reaches.
        host_overhead_s: that the host adds to every launch.
    """

    chip: Chip
    constants: Constants
    host_overhead_s: float = 0.0

    @property
    def memory_Bps(self) -> float:  # noqa: N802  (B is bytes)
        """B/s that streams reach."""
        return self.constants.memory * self.chip.memory_rate_Bps

    @property
    def launch_s(self) -> float:
        """From one kernel to the next."""
        return self.constants.launch_s + self.host_overhead_s

    def efficiency(self, product: Product) -> float:
        """Share of the peak that a product of this shape reaches."""
        constants = self.constants
        if product.kind == "attention":
            return constants.attention
        if product.kind == "attention_backward":
            return constants.attention_backward
        area = product.m * product.n * product.batch
        share = constants.reached(product.precision)
        share *= product.k / (product.k + constants.half_k) * area / (area + constants.half_area)
        if product.kind == "grouped":
            rows = min(product.m, product.n, product.k)  # of an expert: the tokens that it is sent
            share *= rows / (rows + constants.half_rows)
        return share

    def product_s(self, product: Product) -> float:
        """Seconds of a product."""
        arithmetic = product.flops / (self.chip.peak(product.precision) * self.efficiency(product))
        if product.kind in ("attention", "attention_backward"):
            return arithmetic
        return max(arithmetic, product.size_bytes / self.memory_Bps)

    def stream_s(self, stream: Stream) -> float:
        """Seconds of streams."""
        return stream.size_bytes / self.memory_Bps
