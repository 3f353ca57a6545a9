"""From a model and a schedule to what executes it.

    parts = parts_of_stages(schedule, block_costs(make(), shape))
    stages = build_stages(make, parts, mine)            # of this rank
    ...                                                 # an optimiser for each
    runners = build_runners(stages, schedule, shape)

The optimisers come before the runners: their memory is part of the plans.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from baremetal.nn import LanguageModel
from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.partition import Part
from baremetal.pipeline.runner import StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage
from baremetal.schedules import Schedule


def build_stages(
    make: Callable[[], LanguageModel], parts: Sequence[Part], numbers: Iterable[int]
) -> dict[int, Stage]:
    """Some of the stages of a pipeline.

    Args:
        make: builds the whole model, the same one each time: from a seed. It is called for every
            stage, and what a stage does not need is let go before the next is made.
        parts: of all stages.
        numbers: which to build.
    """
    return {number: Stage(make(), parts[number]) for number in numbers}


def build_runners(
    stages: Mapping[int, Stage],
    schedule: Schedule,
    shape: tuple[int, int],
    *,
    eager: bool = False,
    cotangents: Mapping[int, np.ndarray | None] | None = None,
) -> dict[int, StageRunner]:
    """What executes the actions of these stages: from plans, where the model allows it.

    Args:
        stages: by number.
        schedule: says how many microbatches each has in flight, and whether backward is split.
        shape: (B, T) of a microbatch.
        eager: through Python, in any case.
        cotangents: for each stage where its optimiser keeps a loss scale (see `Passage`).
    """
    runners: dict[int, StageRunner] = {}
    for number, stage in stages.items():
        cotangent = None if cotangents is None else cotangents[number]
        if eager or not stage.model.is_static:
            runners[number] = EagerStage(stage, shape, cotangent)
        else:
            runners[number] = CapturedStage.for_schedule(stage, shape, schedule, number, cotangent)
    return runners
