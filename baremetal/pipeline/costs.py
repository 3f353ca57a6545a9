"""What parts of a model cost: parameters, arithmetic, or time.

For the partitioner, which wants stages of equal cost, and for the virtual clock, which charges each
action what its launches cost on the modelled chip. Costs of launches are known from their shapes
(`kernels/cost.py`); they are found by a rehearsal: one microbatch is sent through, with someone
listening at the door through which all launches go.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from baremetal.autograd import CPU
from baremetal.kernels.cost import ZERO, Cost
from baremetal.machine.chip import Chip
from baremetal.nn import LanguageModel
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.partition import Part
from baremetal.pipeline.passage import Passage
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind
from baremetal.schedules.times import Times

Measure = Literal["parameters", "flops", "time"]
UNITS: dict[Measure, str] = {"parameters": "parameters", "flops": "FLOP", "time": "s"}


def block_costs(model: LanguageModel, shape: tuple[int, int], by: Measure = "flops") -> list[float]:
    """The cost of each block of a model, the embedding's with the first, the head's with the last.

    Args:
        model: any; best one that is not needed otherwise, for it is run (not for "parameters").
        shape: (B, T) of a microbatch.
        by: numbers to train; FLOP of forward and backward of one microbatch; or their time in
            seconds on this machine, the best of three.

    Raises:
        PipelineError: another measure, or a model with gradients.
    """
    if by not in UNITS:
        raise PipelineError(f"balance by {by!r}: choose one of {', '.join(UNITS)}")
    layers = len(model.blocks)
    stages = [Stage(model, Part(i, i + 1, layers)) for i in range(layers)]
    if by == "parameters":
        # A tied matrix lies on two stages, and costs both of them memory.
        return [float(sum(p.size for _, p in stage.named_parameters())) for stage in stages]
    if by == "flops":
        every = [action_costs(stage, shape) for stage in stages]
        return [float(costs[Kind.F].flops + costs[Kind.B].flops) for costs in every]
    return [min(_time_s(stage, shape) for _ in range(3)) for stage in stages]


def action_costs(stage: Stage, shape: tuple[int, int]) -> dict[Kind, Cost]:
    """The cost of each kind of action of a stage: the sum of `launch_costs`."""
    return summed(launch_costs(stage, shape))


def summed(launches: Mapping[Kind, Sequence[Cost]]) -> dict[Kind, Cost]:
    """What the launches of each kind of action cost together."""
    return {kind: sum(costs, ZERO) for kind, costs in launches.items()}


def launch_costs(stage: Stage, shape: tuple[int, int]) -> dict[Kind, list[Cost]]:
    """The cost of every launch of each kind of action of a stage, for a microbatch of (B, T).

    Of a microbatch that adds to gradients that are there; the first of a step, which overwrites
    them, moves a little less. B is I and W.

    Raises:
        PipelineError: the stage has gradients, which a rehearsal would spoil.
    """
    found: dict[Kind, list[Cost]] = {}

    def note(kind: Kind, call: Callable[[], Any]) -> None:
        costs: list[Cost] = []

        def listen(run: Callable[[], None], kernel: Any, arrays: tuple, attributes: dict) -> None:
            run()
            costs.append(kernel.cost(*arrays, **attributes))

        with CPU.listen(listen):
            call()
        found[kind] = costs  # of the second microbatch in the end

    _rehearse(stage, shape, note, microbatches=2)
    found[Kind.B] = found[Kind.I] + found[Kind.W]
    return found


def roofline_times(
    by_stage: Sequence[Mapping[Kind, Sequence[Cost]]], chip: Chip, precision: str
) -> Times:
    """What every kind of action of every stage takes on a chip: its launches, one after another.

    Each launch by roofline, not their sum, by which one's arithmetic would hide behind another's
    traffic: launches wait for one another. Each has its overhead, if the chip has any.

    Bytes are those that move here, in float32, also where the chip computes in something narrower:
    more than it would move if it stored what it computes with.

    Args:
        by_stage: of each kind of action the costs of its launches (`launch_costs`); a kind that a
            stage never performs takes 0.
        chip: which.
        precision: in which it computes.

    Raises:
        MachineError: the chip has no such precision.
    """

    def of(kind: Kind) -> tuple[int, ...]:
        return tuple(
            chip.sum_ps([(c.flops, c.size_bytes) for c in launches.get(kind, [])], precision)
            for launches in by_stage
        )

    return Times(of(Kind.F), of(Kind.I), of(Kind.W), of(Kind.B))


def _time_s(stage: Stage, shape: tuple[int, int]) -> float:
    """Seconds that one microbatch's F, I and W take here, once everything is compiled."""
    spent: list[float] = []

    def note(kind: Kind, call: Callable[[], Any]) -> None:
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)

    _rehearse(stage, shape, note, microbatches=2)
    return sum(spent[-3:])


def _rehearse(
    stage: Stage,
    shape: tuple[int, int],
    note: Callable[[Kind, Callable[[], Any]], None],
    microbatches: int,
) -> None:
    """Send random microbatches through a stage, each action by way of ``note(kind, call)``."""
    parameters = [p for _, p in stage.named_parameters()]
    if any(p.has_gradient for p in parameters):
        raise PipelineError(f"{stage} has gradients: rehearse it before a step, after zero_grad()")
    rng = np.random.default_rng(0)  # zeros would all be routed to the same experts
    tokens = rng.integers(0, stage.model.config.vocab_size, (2, *shape))
    x, dy = rng.standard_normal((2, *stage.activation_shape(*shape))).astype(stage.dtype)
    part = stage.part
    inputs = [tokens[0] if part.is_first else x, *([tokens[1]] if part.is_last else [])]
    gradients = [] if part.is_last else [dy]
    try:
        for _ in range(microbatches):
            passage = Passage(stage)
            note(Kind.F, functools.partial(passage.forward, *inputs))
            note(Kind.I, functools.partial(passage.input_gradient, *gradients))
            note(Kind.W, passage.weight_gradient)
    finally:
        for parameter in parameters:
            parameter.zero_grad()
