"""What a pipeline costs on this computer: stages as processes beside one process with threads.

The same model, the same tokens, the same update; once in one process whose kernels use all cores,
once in as many stages as there are cores, one thread each. They take turns in one run.

A pipeline must idle: 1F1B for (p - 1) / (m + p - 1) of its time (m microbatches, p stages), other
schedules for less. That is the schedule's doing and not the runtime's, so it is taken out of the
comparison; how much it is with equal stages and F = I = W, the simulator says:

    efficiency = pipeline's tokens/s  /  (single process's tokens/s  x  (1 - bubble))

What is left is what the runtime costs (messages, waiting, Python between actions, stages that are
not quite equal), and what it gains (a thread that never waits for another one at a launch's end).
"""

import statistics
from collections.abc import Callable
from typing import Any

from baremetal.bench.step.sizes import GPTSize, find_size
from baremetal.data import TextData
from baremetal.errors import BaremetalError
from baremetal.schedules import Schedule
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.trace.tables import table
from baremetal.trace.units import format_percent, format_seconds
from baremetal.train.build import build_data
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import PipelineTrainer
from baremetal.train.trainer import Trainer

BATCH = 16  # sequences per step, so that there are enough microbatches


def measure_pipeline(
    size: dict[str, Any],
    *,
    stages: int = 2,
    microbatches: int = 8,
    schedule: str = "1f1b",
    rounds: int = 5,
    steps: int = 2,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Seconds per step of both, in turns.

    Args:
        size: layers, heads, width, context and batch of a GPT; batch is per step.
        stages: processes of the pipeline.
        microbatches: pieces of the batch.
        schedule: a name.
        rounds: how often both take a turn, after one turn that is not counted.
        steps: per turn.
        progress: is told what is being done.

    Returns:
        A JSON-able object: medians, `bubble` (of the makespan), `ratio` (pipeline's
        throughput over the single process's, the median over rounds) and `efficiency`.
    """
    common = TrainConfig(**size, sample_tokens=0, eval_every=10**6)
    data = build_data(common)
    single = Trainer(common, data=data)
    pipeline = _pipeline(size, stages, microbatches, schedule, data)
    try:
        times: dict[str, list[float]] = {"single": [], "pipeline": []}
        for turn in range(rounds + 1):
            for name, trainer in (("single", single), ("pipeline", pipeline)):
                progress(f"round {turn} of {rounds}: {name}")
                seconds = [trainer.train_step().time_s for _ in range(steps)]
                if turn:
                    times[name].append(statistics.median(seconds))
    finally:
        pipeline.close()
    ratio = statistics.median(
        a / b for a, b in zip(times["single"], times["pipeline"], strict=True)
    )
    bubble = simulated_bubble(pipeline.job.schedule)
    return {
        "size": size,
        "stages": stages,
        "microbatches": microbatches,
        "schedule": schedule,
        "median_step_s": {name: statistics.median(values) for name, values in times.items()},
        "bubble": bubble,
        "ratio": ratio,
        "efficiency": ratio / (1 - bubble),
    }


def simulated_bubble(schedule: Schedule) -> float:
    """The share of the makespan that ranks idle: equal stages, F = I = W, messages at once."""
    return simulate(schedule, Times.uniform(schedule.stages, 1, 1, 1)).bubble_makespan


def pipeline_size(name: str) -> dict[str, Any]:
    """The GPT of this name in `bench step`, with a batch of 16, as options of a training.

    Raises:
        BaremetalError: there is none, or it is no GPT.
    """
    size = find_size(name)
    if not isinstance(size, GPTSize):
        raise BaremetalError(f"--model {name} has no blocks to divide: choose a GPT, such as small")
    return {
        "layers": size.layers, "heads": size.heads, "width": size.width, "context": size.context,
        "batch": BATCH,
    }  # fmt: skip


def _pipeline(
    size: dict[str, Any], stages: int, microbatches: int, schedule: str, data: TextData
) -> PipelineTrainer:
    config = TrainConfig(
        **size, sample_tokens=0, eval_every=10**6, stages=stages, microbatches=microbatches,
        schedule=schedule, charge="measured", link="ideal",
    )  # fmt: skip
    return PipelineTrainer(config, data=data)


def pipeline_text(result: dict[str, Any]) -> str:
    """The object of `measure_pipeline`, for people."""
    stages, m = result["stages"], result["microbatches"]
    names = {
        "single": "one process, all cores",
        "pipeline": f"{stages} stages, {m} microbatches, {result['schedule']}",
    }
    rows = [[names[n], format_seconds(s)] for n, s in result["median_step_s"].items()]
    return "\n".join(
        [
            table(rows, ["", "median step"]),
            "",
            f"throughput of the pipeline: {format_percent(result['ratio'])} of one process's",
            f"the schedule's bubble: {format_percent(result['bubble'])}; without it: "
            f"{format_percent(result['efficiency'])}",
        ]
    )
