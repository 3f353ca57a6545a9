"""Parameters that live on more than one stage, and how their copies stay equal.

If the output matrix is the token embedding, the first stage looks it up and the last multiplies
with it. In DualPipe every stage exists twice. Each copy collects the gradient of the work that was
done with it; the gradient of the parameter is their sum,

    dL/dp = Σ over copies of dL/d(copy)

So before the update the copies' gradients are added up, in the order of the stages, and each copy
gets the sum. From equal weights, equal gradients and equal moments every copy makes the same update
and they need never be compared. In the norm of the gradient a parameter counts once.

What has the same holders goes together, as one flat array: who sends how many bytes to whom is
known before the first step.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Parameter
from baremetal.nn import LanguageModel
from baremetal.pipeline.exchange import Exchange
from baremetal.pipeline.partition import Part
from baremetal.pipeline.stage import Stage

Holders = Mapping[str, tuple[int, ...]]


class Copies(NamedTuple):
    """Parameters with the same holders.

    Attributes:
        stages: which have a copy, by rising number; at least two.
        names: of the parameters, sorted.
    """

    stages: tuple[int, ...]
    names: tuple[str, ...]


def holders(model: LanguageModel, parts: Sequence[Part]) -> Holders:
    """For each trainable parameter of a model, in the order of names, the stages that have it.

    Args:
        model: the whole one.
        parts: of each stage (`parts_of_stages`).
    """
    found: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        for name in Stage(model, part).trainable():
            found.setdefault(name, []).append(number)
    return {name: tuple(found[name]) for name in sorted(found)}


def copies(every: Holders) -> list[Copies]:
    """What has to be added up before an update, each with its holders, in a fixed order."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, stages in every.items():
        if len(stages) > 1:
            groups.setdefault(stages, []).append(name)
    return [Copies(stages, tuple(sorted(groups[stages]))) for stages in sorted(groups)]


def add_copies(groups: Sequence[Copies], stages: Mapping[int, Stage], exchange: Exchange) -> None:
    """Give every copy of a parameter the sum of all copies' gradients.

    Args:
        groups: all of the pipeline's (`copies`).
        stages: those of this rank, by number.
        exchange: adds over stages.
    """
    for group in groups:
        here = [number for number in group.stages if number in stages]
        if not here:
            continue
        trainable = {number: stages[number].trainable() for number in here}
        own = {n: np.concatenate([_flat(p[name]) for name in group.names])
               for n, p in trainable.items()}  # fmt: skip
        total = exchange.sum(own, group.stages)
        for parameters in trainable.values():
            at = 0
            for name in group.names:
                parameter = parameters[name]
                parameter.grad = total[at : at + parameter.size].reshape(parameter.shape)
                at += parameter.size


def _flat(parameter: Parameter) -> np.ndarray:
    """Its gradient, or zeros if nothing was computed with this copy."""
    if parameter.grad is None:
        return np.zeros(parameter.size, parameter.dtype)
    return parameter.grad.numpy().reshape(-1)
