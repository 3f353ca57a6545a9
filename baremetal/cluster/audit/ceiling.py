"""Where a run's missing time is, as a product of factors, and what each could give at most.

A step's time is a sum by cause (`step/`). Taking causes away one after the other splits the peak
over what is reached into factors that multiply:

    peak / reached = memory x communication x bubble x rest x kernels

    memory          norms, activations, casts: everything bound by memory, for nothing
    communication   every exchange within a stage, and of gradients, hidden
    bubble          every stage always busy; with it, messages between stages
    rest            optimiser, launches, straggling, recomputation
    kernels         products at the peak instead of what their shapes reach

They are removed in this order, each from what the ones before have left; each alone, with the
others as they are, is Amdahl's reading:

    alone = step / (step - what it takes)
"""

from collections.abc import Mapping
from dataclasses import dataclass

GROUPS: Mapping[str, tuple[str, ...]] = {
    "memory": ("memory",),
    "communication": ("tp", "cp", "ep", "data"),
    "bubble": ("bubble",),
    "rest": ("optimiser", "launches", "straggling", "recomputation"),
}


@dataclass(frozen=True)
class Factor:
    """One part of the ceiling.

    Attributes:
        name: what is made perfect.
        takes_s: s of the step that this frees.
        product: its factor in the product of all.
        alone: times faster if only this is perfect.
    """

    name: str
    takes_s: float
    product: float
    alone: float


def ceiling(breakdown_s: Mapping[str, float], model_s: float) -> list[Factor]:
    """The factors of a step, whose product is step / model_s.

    Args:
        breakdown_s: of the step, by cause.
        model_s: model FLOP at the chip's peak.
    """
    step_s = sum(breakdown_s.values())
    left_s = step_s
    found = []
    for name, causes in GROUPS.items():
        takes_s = sum(breakdown_s.get(cause, 0.0) for cause in causes)
        found.append(_factor(name, takes_s, left_s, step_s))
        left_s -= takes_s
    found.append(_factor("kernels", left_s - model_s, left_s, step_s))
    return found


def _factor(name: str, takes_s: float, left_s: float, step_s: float) -> Factor:
    return Factor(name, takes_s, left_s / (left_s - takes_s), step_s / (step_s - takes_s))
