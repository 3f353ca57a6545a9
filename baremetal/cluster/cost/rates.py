"""From work to seconds: how well a product's shape fills a chip, and what memory gives.

A product of (m, k) with (k, n) takes the longer of two times (the roofline):

    arithmetic   FLOP / (peak x efficiency(m, n, k))
    memory       bytes / (rate x memory efficiency)

The efficiency is a curve with three constants per chip and precision: the most that large products
reach, and the sizes at which half of it is reached, along k (filling the pipeline of a tile) and
over m n (filling the chip with tiles).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from baremetal.cluster.cost.work import Product, Stream
from baremetal.machine.chip import Chip


@dataclass(frozen=True)
class Curve:
    """Efficiency by shape.

    Attributes:
        most: share of the peak that endless products reach.
        half_k: depth at which half of it is reached.
        half_area: m n at which half of it is.
    """

    most: float
    half_k: float = 128
    half_area: float = 512 * 512

    def at(self, m: float, n: float, k: float) -> float:
        """Share of the peak at this shape."""
        area = m * n
        return self.most * k / (k + self.half_k) * area / (area + self.half_area)


DEFAULT = {
    "bf16": Curve(0.80), "fp16": Curve(0.70), "fp8": Curve(0.70), "mxfp8": Curve(0.65),
    "nvfp4": Curve(0.50),
}  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """What a chip does in a second.

    Attributes:
        chip: which.
        curves: of products, by precision.
        attention, attention_backward: share of the bf16 peak that fused attention reaches.
        grouped: what a grouped product reaches of one whole product's rate.
        memory_Bps: that streams reach.
        launch_s: between launches.
    """

    chip: Chip
    curves: Mapping[str, Curve] = field(default_factory=lambda: DEFAULT)
    attention: float = 0.55
    attention_backward: float = 0.45
    grouped: float = 0.8
    memory_Bps: float = 0.0
    launch_s: float = 2e-6

    @classmethod
    def of(cls, chip: Chip, host_overhead_s: float = 0.0) -> "Rates":
        """Of a chip, at the common constants."""
        memory = float(chip.memory_efficiency) * chip.memory_rate_Bps
        return cls(chip, memory_Bps=memory, launch_s=2e-6 + host_overhead_s)

    def product_s(self, product: Product) -> float:
        """Seconds of a product."""
        peak = self.chip.peak(product.precision)
        if product.kind in ("attention", "attention_backward"):
            share = self.attention if product.kind == "attention" else self.attention_backward
            return product.flops / (peak * share)
        share = self.curves[product.precision].at(product.m * product.batch, product.n, product.k)
        if product.kind == "grouped":
            share *= self.grouped
        return max(product.flops / (peak * share), product.size_bytes / self.memory_Bps)

    def stream_s(self, stream: Stream) -> float:
        """Seconds of streams."""
        return stream.size_bytes / self.memory_Bps
