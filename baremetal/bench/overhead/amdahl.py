"""Amdahl's reading of the curve: what a framework's step costs before any arithmetic.

If a step's time is a fixed part and its work at some rate,

    t(F) = fixed + F / rate                       F: model FLOP of the step

then of two frameworks with equal rates the ratio is large where F is small, and falls to 1 where
the work has outgrown both fixed parts (G. Amdahl, "Validity of the single processor approach to
achieving large scale computing capabilities", AFIPS 1967: what is not removed is the limit).

The two numbers are fitted to the medians of all sizes by least squares of the logarithm,

    sum of (ln t - ln(fixed + F / rate))²

so that a microsecond and half a second count alike: the small sizes decide the fixed part and the
large ones the rate. (Plain least squares would fit the largest model and nothing else.)

The model is a simplification, and its residuals say by how much. Small matrices do not reach the
rate of large ones, and a framework that goes through its operations one by one pays for each, so
that its fixed part grows with the number of layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from baremetal.errors import BaremetalError

LEAST_SIZES = 3  # two would always be met exactly


class Fit(NamedTuple):
    """A fitted step.

    Attributes:
        fixed_s: seconds that a step takes without any work.
        rate_flops: FLOP/s of the work.
        residuals: for each size the measured time over the fitted one; 1.0 is perfect.
    """

    fixed_s: float
    rate_flops: float
    residuals: list[float]


def step_time_s(flops: float, fixed_s: float, rate_flops: float) -> float:
    """The model's time of a step, in seconds."""
    return fixed_s + flops / rate_flops


def fit_step_times(flops: Sequence[float], times_s: Sequence[float]) -> Fit:
    """Fit fixed part and rate to measured steps.

    Args:
        flops: FLOP of a step, for each size.
        times_s: its measured time, for each size.

    Raises:
        BaremetalError: fewer than three sizes.
    """
    from scipy.optimize import least_squares

    if len(flops) < LEAST_SIZES or len(flops) != len(times_s):
        raise BaremetalError(
            f"a fit of two numbers to {len(times_s)} times of {len(flops)} sizes: give a time for "
            f"each of at least {LEAST_SIZES} sizes"
        )
    work, log_times = np.asarray(flops, float), np.log(np.asarray(times_s, float))

    def misfit(logs: np.ndarray) -> np.ndarray:
        return np.log(np.exp(logs[0]) + work * np.exp(logs[1])) - log_times

    # Nothing but fixed at the smallest, nothing but work at the largest.
    start = np.array([log_times[work.argmin()], log_times[work.argmax()] - np.log(work.max())])
    found = least_squares(misfit, start, x_scale=1.0, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    fixed_s, per_flop_s = np.exp(found.x)
    return Fit(float(fixed_s), float(1 / per_flop_s), [float(r) for r in np.exp(-found.fun)])
