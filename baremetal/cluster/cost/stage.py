"""What each action of each stage lasts, and by which cause.

A stage's F, I and W are the sums of their works. Seconds are kept by cause, so that the end result
can say where each went; what runs beside arithmetic is counted only as far as it sticks out:

    exposed = duration - hidden share x duration        (hidden: `Software.hides_tp`, ...)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from baremetal.cluster.cost.collectives import Group, Wires, collective_s
from baremetal.cluster.cost.held import chunk_layers
from baremetal.cluster.cost.layer import (
    Actions,
    Sizes,
    block_actions,
    embedding_actions,
    head_actions,
    predictor_actions,
)
from baremetal.cluster.cost.rates import Rates
from baremetal.cluster.cost.spent import Spent
from baremetal.cluster.cost.work import Exchange, Product, Work

Seconds = Mapping[str, float]  # by cause


@dataclass(frozen=True)
class Setting:
    """What a stage's times depend on, besides the stage."""

    sizes: Sizes
    rates: Rates
    wires: Wires
    groups: Mapping[str, Group]


@dataclass(frozen=True)
class StageTimes:
    """Seconds by cause of each action of one chunk.

    Attributes:
        forward, input_gradient, weight_gradient: of F, I and W.
    """

    forward: Seconds
    input_gradient: Seconds
    weight_gradient: Seconds

    @property
    def parts(self) -> tuple[Seconds, Seconds, Seconds]:
        """F, I and W."""
        return self.forward, self.input_gradient, self.weight_gradient


def stage_times(setting: Setting) -> list[StageTimes]:
    """Of every chunk, in the order of the model.

    Raises:
        ClusterError: layers that do not divide.
    """
    sizes = setting.sizes
    chunks = chunk_layers(sizes.model.layers, sizes.plan)
    kinds: dict[tuple[bool, bool], StageTimes] = {}
    found = []
    for number, layers in enumerate(chunks):
        total = Spent(), Spent(), Spent()
        for layer in layers:
            key = sizes.model.has_experts(layer), sizes.model.has_window(layer)
            if key not in kinds:
                kinds[key] = _timed(setting, block_actions(sizes, layer), recomputes=True)
            _add(total, kinds[key])
        if number == 0:
            _add(total, _timed(setting, embedding_actions(sizes)))
        if number == len(chunks) - 1:
            _add(total, _timed(setting, head_actions(sizes)))
            for _ in range(sizes.model.extra_predictors):
                _add(total, _timed(setting, predictor_actions(sizes)))
        found.append(StageTimes(*total))
    return found


def _add(total: tuple[Spent, Spent, Spent], times: StageTimes) -> None:
    for spent, part in zip(total, times.parts, strict=True):
        spent.add(part)


def _timed(setting: Setting, actions: Actions, recomputes: bool = False) -> StageTimes:
    forward = _seconds(setting, actions.forward)
    back = _seconds(setting, actions.input_gradient)
    if recomputes and setting.sizes.plan.recompute == "full":
        for cause, seconds in forward.items():
            back["recomputation" if cause == "products" else cause] += seconds
    return StageTimes(forward, back, _seconds(setting, actions.weight_gradient))


def _seconds(setting: Setting, works: Iterable[Work]) -> Spent:
    spent = Spent()
    rates, software = setting.rates, setting.sizes.software
    for work in works:
        if isinstance(work, Product):
            spent["products"] += rates.product_s(work)
            spent["launches"] += rates.launch_s
        elif isinstance(work, Exchange):
            seconds = collective_s(
                setting.wires, work.collective, work.size_bytes, setting.groups[work.group]
            )
            spent[work.group] += seconds * (1 - getattr(software, f"hides_{work.group}"))
        else:
            spent["memory"] += rates.stream_s(work) * software.stream_passes
            spent["launches"] += work.launches * rates.launch_s
    return spent
