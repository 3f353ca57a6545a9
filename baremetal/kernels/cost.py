"""What a kernel costs: arithmetic and memory traffic, as functions of its shapes.

A kernel's time on a machine with peak arithmetic rate P (FLOP/s) and memory bandwidth W (B/s) is
at least

    t  >=  max(flops / P, bytes / W)                     the roofline model

(S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009). The two numbers are
properties of the algorithm, not of the machine, so they are written down once, beside the
kernel, and have four readers: the roofline lesson, the model FLOPs utilisation that the trainer
prints, the virtual clock, and the cluster model.

Conventions. One fused multiply-add is 2 FLOP. Every array is counted as moved once (each input read
once, each output written once; an output that is also read, as with beta = 1, counts twice; what is
broadcast counts as often as it lies in memory, not as often as it is used): it is the traffic of a
perfect cache, hence a lower bound. A transcendental (exp, tanh) counts `TRANSCENDENTAL` FLOP,
roughly the length of its polynomial.

This file imports no numba: whoever only wants costs pays for nothing else.
"""

import math
from dataclasses import dataclass

import numpy as np

TRANSCENDENTAL = 10  # FLOP for one exp, tanh or erf: range reduction plus a degree-6 polynomial


@dataclass(frozen=True)
class Cost:
    """Arithmetic (FLOP) and memory traffic (B) of one launch, or of several added together."""

    flops: int
    size_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.size_bytes + other.size_bytes)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOP per byte: the x axis of the roofline."""
        return self.flops / self.size_bytes if self.size_bytes else float("inf")

    def roofline_s(self, peak_flops: float, bandwidth_Bps: float) -> float:
        """Least time in seconds on a machine with these two limits."""
        return max(self.flops / peak_flops, self.size_bytes / bandwidth_Bps)


ZERO = Cost(0, 0)


def moved(*arrays: np.ndarray) -> int:
    """Bytes of all these arrays, each counted once: what a kernel reads plus what it writes."""
    return sum(distinct_bytes(a) for a in arrays)


def distinct_bytes(array: np.ndarray) -> int:
    """The bytes it lies in: along an axis of stride 0 (a broadcast) the same ones come again."""
    if array.flags.c_contiguous or array.size == 0:
        return array.nbytes
    sizes = [n for n, stride in zip(array.shape, array.strides, strict=True) if stride != 0]
    return math.prod(sizes) * array.itemsize
