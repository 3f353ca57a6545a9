"""How 220,000 GPUs of one kind differ from each other.

No two are equally fast: silicon, temperature and power limits spread them by a percent or two, a
few are far behind (a clogged filter, a slow host), and the same holds for network cards and cables.
One step waits for its slowest part many times over: each tensor-parallel group for its slowest
member, each stage for the one before, the gradients for every replica. How much of a spread of one
percent arrives at the end of the step is what `every_gpu.py` finds out.

A GPU's *slowness* is the factor by which its work takes longer:

    slowness = max(1/2, 1 + spread x normal)            x factor, for the few that straggle

All is drawn from one seed, for all GPUs at once, so that the same seed is the same cluster.

Measured spreads: MegaScale found about one host in two hundred that took a tenth longer, and lost
0.7 % of MFU to it (Z. Jiang et al., arXiv 2402.15627).
"""

from dataclasses import dataclass

import numpy as np

from baremetal.cluster.errors import ClusterError

LEAST = 0.5  # a normal distribution has no end: nothing is more than twice as fast as usual


@dataclass(frozen=True)
class Spread:
    """How much GPUs and network cards differ.

    Attributes:
        compute: standard deviation of a GPU's slowness.
        network: of a network card's.
        stragglers: share of the GPUs that are slow for a reason of their own.
        straggler_factor: by how much.

    Raises:
        ClusterError: a number is out of range.
    """

    compute: float = 0.0
    network: float = 0.0
    stragglers: float = 0.0
    straggler_factor: float = 1.1

    def __post_init__(self) -> None:
        limits = {"compute": (0, 1), "network": (0, 1), "stragglers": (0, 1)}
        limits["straggler_factor"] = (1, 1_000_000)
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ClusterError(f"spread: {name} = {value!r}; expected {least} to {most}")


@dataclass(frozen=True)
class Crowd:
    """Every GPU's slowness.

    Attributes:
        compute: of each GPU's work, (replicas, stages, tp) float64.
        network: of each GPU's card, likewise.
    """

    compute: np.ndarray
    network: np.ndarray


def draw_crowd(shape: tuple[int, int, int], spread: Spread, rng: np.random.Generator) -> Crowd:
    """Draw every GPU.

    Args:
        shape: replicas, stages of a pipeline, GPUs of a tensor-parallel group.
        spread: how much they differ.
        rng: draws; compute first, then stragglers, then network.
    """
    compute = _slowness(shape, spread.compute, rng)
    if spread.stragglers:
        compute[rng.random(shape) < spread.stragglers] *= spread.straggler_factor
    return Crowd(compute, _slowness(shape, spread.network, rng))


def _slowness(shape: tuple[int, ...], deviation: float, rng: np.random.Generator) -> np.ndarray:
    if not deviation:
        return np.ones(shape)
    return np.maximum(LEAST, 1 + deviation * rng.standard_normal(shape))
