"""`baremetal train`, from its options to its last line."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import clean_leftovers, list_checkpoints, load_checkpoint
from baremetal.data.track import Track, untracked
from baremetal.errors import BaremetalError
from baremetal.nn.generate import generate
from baremetal.pipeline.launcher import all_or_none, leads, started_by_mpi
from baremetal.train.build import build_data, build_model
from baremetal.train.config import TrainConfig
from baremetal.train.console import Console, bar_when_slow
from baremetal.train.refusals import doing
from baremetal.train.run_folder import CONFIG, RunFolder
from baremetal.train.stop import stop_on_signals
from baremetal.train.trainer import Trainer
from baremetal.train.weights import SHAPE_FIELDS, Weights, weights_of

# What a run keeps for life: with another value it would not be the same run.
KEPT_FIELDS = (
    *SHAPE_FIELDS, "optimizer", "precision", "loss_scale", "sampler", "seed", "name", "out",
)  # fmt: skip


@dataclass
class Outcome:
    """How a run ended; `figures` is what --json prints."""

    figures: dict[str, Any]
    stopped_by: str


def train(
    config: TrainConfig,
    *,
    resume: str = "",
    start_from: Weights | None = None,
    quiet: bool = False,
) -> Outcome:
    """Train as configured; shows progress, writes the run folder.

    Args:
        config: what to do.
        resume: a run folder (or checkpoint in one) to continue, bit for bit.
        start_from: what a new run starts with; the configuration must have its `options`.
        quiet: no bar and no lines.

    Raises:
        BaremetalError: bad data or options, or a configuration that contradicts what it builds on.
    """
    if resume and start_from:
        raise BaremetalError("--resume continues a run, --from starts a new one: give one of them")
    _use_threads(config.threads)
    if not leads():
        follow(config, resume, start_from)
        return Outcome({}, "")
    track = untracked if quiet else bar_when_slow
    with all_or_none():
        _check_launch(config)
        if resume:
            trainer, run = _resumed(config, resume, track)
        else:
            trainer, run = _fresh(config, start_from, track)
    _start_where_others_wait(trainer)
    with (
        contextlib.closing(trainer),
        stop_on_signals() as stop,
        console_for(config)(trainer, run, quiet) as console,
    ):
        _introduce(console, trainer, run)
        console.introduce()
        console.measure_peak()
        _fit_of(trainer, run, console)(
            on_step=console.on_step,
            on_evaluation=console.on_evaluation,
            should_stop=lambda: bool(stop),
        )
    figures = _figures(trainer, run, console) | console.conclude()
    if stop.reason and trainer.step < trainer.config.steps:
        console.say(
            f"stopped by {stop.reason} after step {trainer.step}; "
            f"continue with: baremetal train --resume {run.path}"
        )
        return Outcome(figures, stop.reason)
    _finish(console, trainer, run)
    return Outcome(figures, "")


def trainer_for(config: TrainConfig) -> type[Trainer]:
    """Who trains: one process, or several."""
    if not config.stages:
        return Trainer
    from baremetal.train.pipelined import PipelineTrainer

    return PipelineTrainer


def follow(config: TrainConfig, resume: str, start_from: Weights | None) -> None:
    """Under `mpiexec`: do what the leading process says, until it ends the run. Writes nothing."""
    from baremetal.pipeline.mpi_ranks import MpiRanks
    from baremetal.pipeline.patience import Limits
    from baremetal.train.pipelined import make_job

    with all_or_none():
        _check_launch(config)
        weights = weights_of(load_checkpoint(resume)) if resume else start_from
        if weights is None:
            data = build_data(config, track=untracked)
            model = build_model(config, data.tokenizer.vocab_size)
        else:
            model = weights.build_model(seed=config.seed, dropout=config.dropout)
        job = make_job(config, model)
    MpiRanks(job, Limits(hang_s=config.hang_limit)).serve()


def _check_launch(config: TrainConfig) -> None:
    """Under `mpiexec`: as many processes as stages.

    Raises:
        BaremetalError: others.
    """
    if started_by_mpi():
        from baremetal.pipeline.mpi_ranks import check_world

        check_world(config.stages)


def _start_where_others_wait(trainer: Trainer) -> None:
    """Under `mpiexec` the others wait from now on to be told something, were it the end."""
    if started_by_mpi():
        from baremetal.train.pipelined import PipelineTrainer

        assert isinstance(trainer, PipelineTrainer)
        trainer.start()


def console_for(config: TrainConfig) -> type[Console]:
    """Who shows it."""
    if not config.stages:
        return Console
    from baremetal.train.pipeline_console import PipelineConsole

    return PipelineConsole


def _fit_of(trainer: Trainer, run: RunFolder, console: Console) -> Callable[..., None]:
    """How to run the loop: for a pipeline, what happens when one of its processes fails."""
    if not trainer.config.stages:
        return trainer.fit
    from baremetal.train.pipelined import PipelineTrainer
    from baremetal.train.restart import Restarts, fit_or_say_how_to_go_on

    assert isinstance(trainer, PipelineTrainer)
    if trainer.config.restart:
        return Restarts(trainer, run, console.went_back).fit
    return partial(fit_or_say_how_to_go_on, trainer, run)


def _use_threads(threads: int) -> None:
    """Give the kernels their threads; this process is ours, so a shared BLAS gets one too."""
    from baremetal.kernels.native.blas_library import limit_shared_blas
    from baremetal.kernels.native.pool import POOL

    limit_shared_blas()
    if threads:
        POOL.set_threads(threads)


def _fresh(
    config: TrainConfig, start_from: Weights | None, track: Track
) -> tuple[Trainer, RunFolder]:
    # Everything that can be wrong is found out before a folder is made.
    _check_in_stages(config)
    if start_from is None:
        trainer = trainer_for(config)(config, data=build_data(config, track=track))
    else:
        _check_start(config, start_from)
        model = start_from.build_model(seed=config.seed, dropout=config.dropout)
        data = build_data(config, start_from.tokenizer, track)
        trainer = trainer_for(config)(config, data=data, model=model)
    run = RunFolder.create(config)
    trainer.run_folder = run
    return trainer, run


def _check_in_stages(config: TrainConfig) -> None:
    """One process follows no schedule. (It may resume a run that did, so only a new run is asked.)

    Raises:
        BaremetalError: a schedule was asked for, and no stages.
    """
    if not config.stages and config.schedule != TrainConfig.schedule:
        raise BaremetalError(
            f"--schedule {config.schedule} without --stages: a schedule is for the processes of a "
            "pipeline; give --stages 4, or leave it away to train in one process"
        )


def _check_start(config: TrainConfig, weights: Weights) -> None:
    """A shorter context is fine, everything else about the shape is in the weights.

    Raises:
        BaremetalError: the configuration contradicts the weights.
    """
    shape = {name: value for name, value in weights.options.items() if name != "context"}
    advice = "leave the option out, or start a new model without --from"
    _refuse_contradictions(config, shape, f"the weights in {weights.path}", advice)
    if config.context > weights.sizes.context:
        raise BaremetalError(
            f"--context {config.context}, but the model in {weights.path} reads at most "
            f"{weights.sizes.context} tokens: give that or less"
        )


def _refuse_contradictions(
    config: TrainConfig, settled: Mapping[str, Any], where: str, advice: str
) -> None:
    for name, value in settled.items():
        given, option = getattr(config, name), name.replace("_", "-")
        if given != value:
            raise BaremetalError(
                f"--{option} {given!s:.80} contradicts {where}, which has --{option} "
                f"{value or repr(value)}: {advice}"
            )


def _resumed(config: TrainConfig, resume: str, track: Track) -> tuple[Trainer, RunFolder]:
    run = run_of(resume)
    with doing(f"tidy up the run's checkpoints {run.checkpoints}"):
        clean_leftovers(run.checkpoints)
    checkpoint = load_checkpoint(resume)
    saved = checkpoint.state["config"]
    kept = {name: saved[name] for name in KEPT_FIELDS if name in saved}
    advice = f"leave the option out, or start a new run with --from {resume}"
    _refuse_contradictions(config, kept, f"the run {run.path}", advice)
    weights = weights_of(checkpoint)
    model = weights.build_model(seed=config.seed, dropout=config.dropout)
    data = build_data(config, weights.tokenizer, track)
    trainer = trainer_for(config)(config, run, data=data, model=model)
    trainer.restore(checkpoint)
    if trainer.step >= config.steps:
        raise BaremetalError(
            f"{run.path} has done all its {config.steps} steps: give more with --steps"
        )
    with doing(f"set the run's later checkpoints aside in {run.checkpoints}"):
        set_aside_after(run.checkpoints, trainer.step)
    run.forget_after(trainer.step)
    run.write_config(config)  # options given now hold for the next resume too
    return trainer, run


# A pipeline's default model is deep enough, and its batch large enough, for every schedule.
PIPELINE_DEFAULTS = {"layers": 8, "batch": 16}


def starting_values(
    resume: str, start_from: Weights | None, in_stages: bool = False
) -> dict[str, Any]:
    """What options mean that are not given: as the run to resume or the weights have it.

    Args:
        resume: a run.
        start_from: weights.
        in_stages: whether it is a pipeline that trains.

    Raises:
        BaremetalError: there is no such run.
    """
    if resume:
        # What went wrong on purpose has gone wrong: it does not again.
        return asdict(run_of(resume).read_config()) | {"fault": ""}
    defaults = asdict(TrainConfig()) | (PIPELINE_DEFAULTS if in_stages else {})
    return defaults | ({} if start_from is None else start_from.options)


def set_aside_after(checkpoints: Path, step: int) -> None:
    """Rename checkpoints beyond `step`, so that going back does not leave the future in place.

    "The last checkpoint" means the highest step; one from before the run went back (or a damaged
    one, which is why it went back) must not be taken for it. Nothing is deleted.
    """
    for path in list_checkpoints(checkpoints):
        if int(path.name.rpartition("-")[2]) > step:
            path.rename(path.with_name(f"set-aside-{path.name}-{time.time_ns()}"))


def run_of(path: str | Path) -> RunFolder:
    """The run that a run folder, its checkpoints folder, or one of its checkpoints belongs to."""
    place = Path(path)
    for folder in (place, *place.parents[:2]):
        if os.path.isfile(folder / CONFIG):  # Path.is_file raises where a parent is forbidden
            return RunFolder.open(folder)
    return RunFolder.open(place)


def _introduce(console: Console, trainer: Trainer, run: RunFolder) -> None:
    config, data = trainer.config, trainer.data
    console.say(
        f"data    {data.corpus_name}: {len(data.train):,} training and {len(data.validation):,} "
        f"validation tokens, vocabulary {data.tokenizer.vocab_size} ({data.tokenizer.name})"
    )
    stored = "" if config.precision == "float32" else f", linear layers in {config.precision}"
    console.say(
        f"model   {config.model}, {config.layers} layers, {config.heads} heads, width "
        f"{config.width}, context {config.context}: {trainer.model.num_parameters():,} parameters"
        f"{stored}"
    )
    console.say(f"run     {run.path}")


def _figures(trainer: Trainer, run: RunFolder, console: Console) -> dict[str, Any]:
    val_loss = console.last_val_loss
    report = console.last_report
    return {
        "run": str(run.path),
        "step": trainer.step,
        "train_loss": None if report is None else report.train_loss,
        "val_loss": val_loss,
        "best_val_loss": trainer.best_val_loss if val_loss is not None else None,
        "bits_per_byte": None if val_loss is None else trainer.data.bits_per_byte(val_loss),
        "parameters": trainer.model.num_parameters(),
        "training_time_s": console.training_time_s,
        "peak_flops": console.peak_flops,
    }


def _finish(console: Console, trainer: Trainer, run: RunFolder) -> None:
    console.say(f"\ntrained in {console.training_time_s:.1f} s; everything is in {run.path}")
    if trainer.config.sample_tokens:
        text = sample_text(trainer)
        with doing(f"write the run's sample {run.sample}", "the checkpoints are intact"):
            run.sample.write_text(text, encoding="utf-8")
        console.say(f"\nA sample from the trained model:\n\n{text}\n")
    console.say(f"more: baremetal sample {run.path} --prompt 'The '")


def sample_text(trainer: Trainer) -> str:
    """A sample, drawn from the run's seed."""
    trainer.gather()
    tokenizer = trainer.data.tokenizer
    rng = np.random.default_rng(trainer.config.seed)
    prompt = _opening(trainer)
    tokens = generate(
        trainer.model, prompt, trainer.config.sample_tokens, rng, temperature=0.8, top_k=40,
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return tokenizer.decode(np.array([*prompt, *tokens]))


def _opening(trainer: Trainer) -> np.ndarray:
    """The beginning of an English sentence, or of the validation text if it cannot be spelled."""
    try:
        return trainer.data.tokenizer.encode("The ")
    except BaremetalError:
        return np.asarray(trainer.data.validation[:16])
