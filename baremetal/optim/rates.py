"""Learning-rate schedules: pure functions of the step.

    cosine    warm up linearly, then half a cosine down to `final` (I. Loshchilov, F. Hutter,
              "SGDR", ICLR 2017, without its restarts)
    linear    warm up, then a straight line down
    wsd       warm up, stay, and go down only in the last fifth (warmup-stable-decay: S. Hu et al.,
              "MiniCPM", 2024)
    constant  warm up, stay

Warm-up exists because Adam's averages are noise in the first steps. The way down ends at step
number `steps`, the first that is not taken any more: the last step taken is just above `final`.
"""

import math
from typing import Literal, get_args

from baremetal.errors import BaremetalError

DecayName = Literal["cosine", "linear", "wsd", "constant"]
DECAY_SHARE = 0.2  # the part of a warmup-stable-decay run that decays


def learning_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    schedule: DecayName = "cosine",
    warmup: int = 0,
    final: float = 0.1,
) -> float:
    """The learning rate of step `step`, counted from 0.

    Args:
        peak: the largest rate.
        steps: length of the run.
        schedule: one of cosine, linear, wsd, constant.
        warmup: steps of linear rise; the first step already has peak / warmup.
        final: the rate at the end as a fraction of the peak, 0 to 1 (unused by constant).

    Raises:
        BaremetalError: an unknown schedule, or a number out of its range.
    """
    if schedule not in get_args(DecayName):
        raise BaremetalError(
            f"unknown schedule '{schedule}': choose one of {', '.join(get_args(DecayName))}"
        )
    if step < 0 or warmup < 0 or not 0.0 <= final <= 1.0:
        raise BaremetalError(
            f"step {step}, warmup {warmup}, final {final}: expected step and warmup of 0 or more, "
            "and final from 0 to 1"
        )
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return peak * (final + (1.0 - final) * _shape(schedule, progress))


def _shape(schedule: str, progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1 (except for constant)."""
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "wsd":
        return min((1.0 - progress) / DECAY_SHARE, 1.0)
    return 1.0
