"""Amdahl's reading of the curve: what a framework's step costs before any arithmetic.

A step's time is a fixed part and its work at some rate. The rate is not the same for all: small
matrices do not reach that of large ones. Let it rise by a power of the work,

    t(F) = fixed + F / rate(F)            rate(F) = top_rate (F / F_top)^rise       0 <= rise <= 1

with F the model FLOP of a step and F_top those of the largest size measured. Of two frameworks with
equal rates the ratio is then large where F is small, and falls to 1 where the work has outgrown
both fixed parts (G. Amdahl, "Validity of the single processor approach to achieving large scale
computing capabilities", AFIPS 1967: what is not removed is the limit).

The three numbers are fitted to the medians of all sizes by least squares of the logarithm,

    sum of (ln t - ln t(F))²

so that a microsecond and half a second count alike: the small sizes decide the fixed part and the
large ones the rate. (Plain least squares would fit the largest model and nothing else. With one
rate for all sizes, JAX's fixed part came out larger than its whole step at the smallest size.)

Still a simplification, and its residuals say by how much. Where a framework goes through its
operations one by one, it pays for each: its fixed part is really one of a launch, and grows with
the number of layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from baremetal.errors import BaremetalError

LEAST_SIZES = 4  # three would always be met exactly
STARTS = (0.0, 0.2, 0.4)  # for the rise: the search may end in a wrong valley from one


class Fit(NamedTuple):
    """A fitted step.

    Attributes:
        fixed_s: seconds that a step takes without any work.
        top_rate_flops: FLOP/s of the work at the largest size, `top_flops`.
        top_flops: FLOP of a step at the largest size.
        rise: how the rate rises with the work; 0 for one rate at all sizes.
        residuals: for each size the measured time over the fitted one; 1.0 is perfect.
    """

    fixed_s: float
    top_rate_flops: float
    top_flops: float
    rise: float
    residuals: list[float]


def step_time_s(
    flops: float, fixed_s: float, top_rate_flops: float, top_flops: float = 1.0, rise: float = 0.0
) -> float:
    """The model's time of a step of so many FLOP, in seconds."""
    return fixed_s + flops / (top_rate_flops * (flops / top_flops) ** rise)


def fit_step_times(flops: Sequence[float], times_s: Sequence[float]) -> Fit:
    """Fit fixed part, rate and rise to measured steps.

    Args:
        flops: FLOP of a step, for each size.
        times_s: its measured time, for each size.

    Raises:
        BaremetalError: fewer than four sizes.
    """
    from scipy.optimize import least_squares

    if len(flops) < LEAST_SIZES or len(flops) != len(times_s):
        raise BaremetalError(
            f"a fit of three numbers to {len(times_s)} times of {len(flops)} sizes: give a time "
            f"for each of at least {LEAST_SIZES} sizes"
        )
    work, times = np.asarray(flops, float), np.log(np.asarray(times_s, float))
    top = work.max()

    def misfit(numbers: np.ndarray) -> np.ndarray:
        log_fixed, log_top_s, rise = numbers
        work_s = np.exp(log_top_s) * (work / top) ** (1 - rise)
        return np.log(np.exp(log_fixed) + work_s) - times

    bounds = ([-np.inf, -np.inf, 0.0], [np.inf, np.inf, 1.0])
    # Nothing but fixed at the smallest, nothing but work at the largest.
    ends = [times[work.argmin()], times[work.argmax()]]
    found = min(
        (
            least_squares(misfit, [*ends, rise], bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12)
            for rise in STARTS
        ),
        key=lambda solution: solution.cost,
    )
    log_fixed, log_top_s, rise = found.x.tolist()
    residuals = np.exp(-found.fun).tolist()
    return Fit(
        float(np.exp(log_fixed)), float(top / np.exp(log_top_s)), float(top), rise, residuals
    )
