"""What each action of each stage lasts, and by which cause.

A stage's F, I and W are the sums of their works. Seconds are kept by cause, so that the end result
can say where each went; what runs beside arithmetic is counted only as far as it sticks out:

    exposed = duration - hidden share x duration        (hidden: `Software.hides_tp`, ...)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from baremetal.cluster.cost.collectives import Group, Wires, collective_s
from baremetal.cluster.cost.layer import (
    Actions,
    Sizes,
    block_actions,
    embedding_actions,
    head_actions,
)
from baremetal.cluster.cost.rates import Rates
from baremetal.cluster.cost.spent import Spent
from baremetal.cluster.cost.work import Exchange, Product, Work
from baremetal.cluster.errors import ClusterError
from baremetal.cluster.plan import Plan

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
    """Seconds by cause of each action of one chunk, without and with the gradients' order.

    Attributes:
        forward, input_gradient, weight_gradient: of F, I and W.
    """

    forward: Seconds
    input_gradient: Seconds
    weight_gradient: Seconds


def chunk_layers(layers: int, plan: Plan) -> list[range]:
    """Which layers each chunk holds, in the order of the model.

    Raises:
        ClusterError: they do not divide, and the plan does not say how.
    """
    chunks = plan.pp * plan.vp
    counts = list(plan.layers)
    if not counts:
        if layers < chunks - 2:  # the ends may hold nothing but embedding and head
            raise ClusterError(
                f"plan: {layers} layers in pp x vp = {plan.pp} x {plan.vp} chunks: give fewer"
            )
        # As even as can be; the ends, which hold embedding and head, get the smaller share.
        counts = [layers // chunks] * chunks
        inner = [*range(1, chunks - 1), 0, chunks - 1] if chunks > 2 else [*range(chunks)]
        for chunk in inner[: layers % chunks]:
            counts[chunk] += 1
    if len(counts) == plan.pp and plan.vp > 1:
        counts = [count // plan.vp for _ in range(plan.vp) for count in counts]
    if sum(counts) != layers or len(counts) != chunks:
        raise ClusterError(
            f"plan: layers={':'.join(map(str, plan.layers))} are {sum(counts)} in {len(counts)} "
            f"chunks; expected {layers} in pp = {plan.pp} stages or pp x vp = {chunks} chunks"
        )
    ends = [sum(counts[: i + 1]) for i in range(chunks)]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def stage_times(setting: Setting) -> list[StageTimes]:
    """Of every chunk, in the order of the model."""
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
        found.append(StageTimes(*total))
    return found


def _add(total: tuple[Spent, Spent, Spent], times: StageTimes) -> None:
    parts = times.forward, times.input_gradient, times.weight_gradient
    for spent, part in zip(total, parts, strict=True):
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
            seconds = work.times * collective_s(
                setting.wires, work.collective, work.size_bytes, setting.groups[work.group]
            )
            spent[work.group] += seconds * (1 - getattr(software, f"hides_{work.group}"))
        else:
            spent["memory"] += rates.stream_s(work) * software.stream_passes
            spent["launches"] += work.launches * rates.launch_s
    return spent
