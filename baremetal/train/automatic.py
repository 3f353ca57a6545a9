"""``baremetal train --schedule auto``: a schedule found for this model on the modelled machine.

The model is cut as for any schedule with as many stages, each stage's actions are charged as they
will be in the run (the chip's roofline of what their kernels cost, or the configured times), and
`schedules/auto.py` looks for the order that takes the least time over the configured link. With
`--charge measured` nobody knows the times beforehand, and the roofline stands in for them.
"""

from collections.abc import Mapping

import numpy as np

from baremetal.machine import Chip, Link
from baremetal.machine.units import DURATION
from baremetal.nn import LanguageModel
from baremetal.pipeline.costs import block_costs, launch_costs, roofline_times
from baremetal.pipeline.partition import partition
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Schedule
from baremetal.schedules.auto import find_schedule
from baremetal.schedules.auto_options import V_AUTO, bar_when_slow, chunks_of, read_limit
from baremetal.schedules.times import Factor, Times
from baremetal.train.config import TrainConfig


def automatic_schedule(
    config: TrainConfig,
    model: LanguageModel,
    unit_times: Times | None,
    chip: Chip,
    link: Link,
    stragglers: Mapping[int, Factor],
) -> tuple[Schedule, list[float]]:
    """The best schedule that can be found, and the costs of the blocks that it was found with.

    Args:
        config: sizes, machine and memory limit.
        model: to measure costs on, needed for nothing else.
        unit_times: of the stages' actions; None: the chip's roofline.
        chip, link: of the modelled machine.
        stragglers: factors by rank.

    Raises:
        BaremetalError: more stages than blocks, or nothing fits.
    """
    shape = config.batch // config.microbatches, config.context
    stages = config.stages * max(chunks_of(config.schedule, config.chunks), 1)
    partition([1.0] * len(model.blocks), stages)  # enough blocks? Their costs take a while.
    costs = block_costs(model, shape, config.balance)
    times = unit_times
    if times is None:
        model.recompute = config.recompute
        parts = partition(costs, stages)
        by_stage = [launch_costs(Stage(model, part), shape) for part in parts]
        times = roofline_times(by_stage, chip, config.modelled_precision)
    found = find_schedule(
        times,
        config.microbatches,
        ranks=config.stages,
        track=bar_when_slow,
        placement="v" if config.schedule == V_AUTO else "any",
        memory_limit=read_limit(config.memory_limit),
        stragglers=stragglers,
        link=link,
        size_bytes=int(np.prod(shape)) * config.width * np.dtype(np.float32).itemsize,
        slots=config.slots or None,
        host_overhead_ps=DURATION.parse(config.host_overhead),
        seed=config.seed,
    )
    return found.schedule, costs
