"""The benchmarks of `baremetal bench`: the options of each, and what is done with them."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import tyro

from baremetal.bench.machine import usable_cores
from baremetal.bench.overhead.measure import AGAINST, MODELS

# ---------------------------------------------------------------- step


@dataclass(frozen=True)
class StepOptions:
    """Time one training step, ours beside the peers', interleaved in one run."""

    model: str = "small"
    """micro (batch 1), micro-100 (batch 100), tiny, small, medium or large."""
    against: str = "baremetal.replay,baremetal.eager,torch"
    """Separated by commas: baremetal.replay, baremetal.eager, baremetal.reference, torch,
    torch.compile, jax, jax.scan; or empty."""
    rounds: int = 10
    """How often the contenders take turns."""
    steps: int = 0
    """Steps per turn; 0: as many as take --seconds."""
    seconds: float = 0.3
    """How long a turn lasts (one step at least)."""
    threads: int = 0
    """Threads for every contender; 0 means all usable cores."""
    json: bool = False
    """Print one JSON object."""


def _run_step(given: StepOptions) -> None:
    from baremetal.bench.step.compare import compare_steps
    from baremetal.bench.step.report import step_table
    from baremetal.bench.step.sizes import find_size

    with status() as say:
        result = compare_steps(
            find_size(given.model), _names(given.against), rounds=given.rounds, steps=given.steps,
            seconds=given.seconds, threads=given.threads or usable_cores(), progress=say,
        )  # fmt: skip
    print(_json(result) if given.json else step_table(result))


# ---------------------------------------------------------------- overhead


@dataclass(frozen=True)
class OverheadOptions:
    """Speed-up and share of the machine's rate over model size, and each step's fixed cost.

    About five minutes on two cores. Keeps what it measured, to be drawn again by --from.
    """

    models: str = ",".join(MODELS)
    """Sizes, separated by commas."""
    large: bool = False
    """The largest size, too (a minute or more for each contender)."""
    against: str = ",".join(AGAINST)
    """Contenders, as in 'bench step'. jax.scan runs with the small sizes only."""
    rounds: int = 6
    """How often the contenders take turns at each size."""
    seconds: float = 0.3
    """How long a turn lasts (one step at least)."""
    threads: int = 0
    """Threads for every contender; 0 means all usable cores."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Read this saved curve instead of measuring; 'recorded': the one that the docs show."""
    save: str = "overhead.json"
    """File for what was measured; none: nothing is kept."""
    plot: str = "overhead.png"
    """Picture (.png, .svg, .pdf); none: no picture."""
    note: str = ""
    """A sentence to keep with the result."""
    json: bool = False
    """Print one JSON object."""


def _run_overhead(given: OverheadOptions) -> None:
    from baremetal.bench.overhead.command import run_overhead

    run_overhead(
        models=_names(given.models), large=given.large, against=_names(given.against),
        rounds=given.rounds, seconds=given.seconds, threads=given.threads or usable_cores(),
        source=given.from_, save=given.save, plot=given.plot, note=given.note, as_json=given.json,
    )  # fmt: skip


# ---------------------------------------------------------------- launches


@dataclass(frozen=True)
class LaunchesOptions:
    """What one launch costs where there is nothing to compute."""

    count: int = 1000
    """Launches in a row, of one element each."""
    json: bool = False
    """Print one JSON object."""


def _run_launches(given: LaunchesOptions) -> None:
    from baremetal.bench.contender import check_at_least_one
    from baremetal.bench.overhead.launches import launches_text, measure_launches

    check_at_least_one(count=given.count)
    result = measure_launches(given.count)
    print(_json(result) if given.json else launches_text(result))


# ---------------------------------------------------------------- train


@dataclass(frozen=True)
class TrainOptions:
    """Run the default training to its end, ours beside PyTorch's, in turns."""

    against: str = "torch"
    """Peers, separated by commas: torch; empty for none."""
    steps: int = 2000
    """Length of the run."""
    turn: int = 250
    """Steps per turn; each ends with an evaluation."""
    threads: int = 0
    """Threads for every contender; 0 means all usable cores."""
    json: bool = False
    """Print one JSON object."""


def _run_train(given: TrainOptions) -> None:
    from baremetal.bench.race.compare import race, race_table

    def show(name: str, step: int, answer: dict[str, Any]) -> None:
        line = f"{name:<10} step {step:>5}  val loss {answer['val_loss']:.4f}"
        print(f"{line}  {answer['time_s']:.1f} s", file=sys.stderr)

    result = race(
        _names(given.against), steps=given.steps, turn=given.turn,
        threads=given.threads or usable_cores(), on_turn=show,
    )  # fmt: skip
    print(_json(result) if given.json else race_table(result))


# ---------------------------------------------------------------- precision


@dataclass(frozen=True)
class PrecisionOptions:
    """Train one small model in several precisions: what it learns, what it would save."""

    precisions: str = "bf16,fp16,fp8,fp8-block,nvfp4"
    """Separated by commas; float32 is always there."""
    steps: int = 300
    """Length of each run."""
    seed: int = 1337
    """Of the weights and the batches."""
    plot: str = "precision.png"
    """Picture of the loss curves (.png, .svg, .pdf); none: no picture."""
    json: bool = False
    """Print one JSON object."""


def _run_precision(given: PrecisionOptions) -> None:
    from baremetal.bench.precision.command import run_precision

    run_precision(
        _names(given.precisions), steps=given.steps, seed=given.seed, plot=given.plot,
        as_json=given.json,
    )  # fmt: skip


# ---------------------------------------------------------------- link


@dataclass(frozen=True)
class LinkOptions:
    """Time messages between two processes: shared memory beside a pipe, MPI and memcpy."""

    rounds: int = 7
    """How often the contenders take turns."""
    small: int = 500
    """Round trips of 4 KiB in a turn."""
    large: int = 5
    """Round trips of the large message in a turn."""
    mebibytes: int = 64
    """Size of the large message, MiB."""
    json: bool = False
    """Print one JSON object."""


def _run_link(given: LinkOptions) -> None:
    from baremetal.bench.contender import check_at_least_one
    from baremetal.bench.link.measure import measure_link
    from baremetal.bench.link.report import link_table

    check_at_least_one(
        rounds=given.rounds, small=given.small, large=given.large, mebibytes=given.mebibytes
    )
    with status() as say:
        result = measure_link(
            given.rounds, given.small, given.large, given.mebibytes << 20, progress=say
        )
    print(_json(result) if given.json else link_table(result))


# ---------------------------------------------------------------- pipeline


@dataclass(frozen=True)
class PipelineOptions:
    """Time stages as processes beside one process with threads: the same step, in turns."""

    model: str = "medium"
    """small or medium (as in 'bench step'); the batch is 16."""
    stages: int = 2
    """Processes of the pipeline, one thread each."""
    microbatches: int = 8
    """How many pieces the batch is cut into."""
    schedule: str = "1f1b"
    """Who works when."""
    rounds: int = 5
    """How often both take a turn."""
    steps: int = 2
    """Steps per turn."""
    json: bool = False
    """Print one JSON object."""


def _run_pipeline(given: PipelineOptions) -> None:
    from baremetal.bench.contender import check_at_least_one
    from baremetal.bench.pipeline import measure_pipeline, pipeline_size, pipeline_text

    check_at_least_one(rounds=given.rounds, steps=given.steps)
    with status() as say:
        result = measure_pipeline(
            pipeline_size(given.model), stages=given.stages, microbatches=given.microbatches,
            schedule=given.schedule, rounds=given.rounds, steps=given.steps, progress=say,
        )  # fmt: skip
    print(_json(result) if given.json else pipeline_text(result))


# ---------------------------------------------------------------- soak


@dataclass(frozen=True)
class SoakOptions:
    """Let messages and processes of tiny pipelines fail, by seed: all must be survived or named.

    Some seconds for each run, of about seven faults.
    """

    faults: int = 500
    """How many are to happen, at least."""
    seed: int = 0
    """Of the first run; the next ones count on. A run is repeated by its seed and --faults 1."""
    json: bool = False
    """Print one JSON object."""


def _run_soak(given: SoakOptions) -> None:
    from baremetal.bench.contender import check_at_least_one
    from baremetal.bench.soak.report import refuse_what_was_wrong, soak_text
    from baremetal.bench.soak.soak import soak

    check_at_least_one(faults=given.faults)
    with status() as say:
        result = soak(given.faults, given.seed, progress=say)
    print(_json(result.figures()) if given.json else soak_text(result))
    refuse_what_was_wrong(result)


# ---------------------------------------------------------------- all of them


class Benchmark(NamedTuple):
    """What it measures in a line, an example, its options, and how to run it with them."""

    summary: str
    example: str
    options: type
    run: Callable[[Any], None]


BENCHMARKS = {
    "step": Benchmark(
        "one training step beside the peers'",
        "baremetal bench step --model small --against torch,jax",
        StepOptions,
        _run_step,
    ),
    "overhead": Benchmark(
        "that for all sizes: the curve",
        "baremetal bench overhead --from recorded --plot overhead.png",
        OverheadOptions,
        _run_overhead,
    ),
    "launches": Benchmark(
        "what one launch costs", "baremetal bench launches", LaunchesOptions, _run_launches
    ),
    "link": Benchmark(
        "a message between two processes", "baremetal bench link", LinkOptions, _run_link
    ),
    "pipeline": Benchmark(
        "stages as processes beside one process",
        "baremetal bench pipeline --model small --rounds 3",
        PipelineOptions,
        _run_pipeline,
    ),
    "soak": Benchmark(
        "hundreds of faults in pipelines: survived or named, nothing left",
        "baremetal bench soak --faults 50 --seed 7",
        SoakOptions,
        _run_soak,
    ),
    "train": Benchmark(
        "the default run to its end", "baremetal bench train --steps 500", TrainOptions, _run_train
    ),
    "precision": Benchmark(
        "one training in 32, 16, 8 and 4 bits",
        "baremetal bench precision --precisions bf16,nvfp4 --steps 100",
        PrecisionOptions,
        _run_precision,
    ),
}


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line on a terminal (disable=None: and only there) that says what is being done."""
    from tqdm import tqdm

    with tqdm(disable=None, leave=False, bar_format="{desc} [{elapsed}]") as bar:
        yield bar.set_description_str


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, default=str)
