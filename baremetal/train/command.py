"""`baremetal train`, from its options to its last line."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import clean_leftovers, list_checkpoints, load_checkpoint
from baremetal.errors import BaremetalError
from baremetal.nn.generate import generate
from baremetal.train.build import build_data
from baremetal.train.config import TrainConfig
from baremetal.train.console import Console
from baremetal.train.run_folder import RunFolder
from baremetal.train.stop import stop_on_signals
from baremetal.train.trainer import Trainer

# What a checkpoint decides when a run starts from its weights.
SHAPE_FIELDS = (
    "model", "layers", "heads", "kv_heads", "width", "context", "experts", "active_experts",
    "tokenizer",
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
    start_from: str = "",
    quiet: bool = False,
) -> Outcome:
    """Train as configured; shows progress, writes the run folder.

    Args:
        config: what to do.
        resume: a run folder (or checkpoint in one) to continue, bit for bit.
        start_from: a checkpoint whose weights, shape and tokenizer a new run starts with.
        quiet: no bar and no lines.
    """
    if resume and start_from:
        raise BaremetalError("--resume continues a run, --from starts a new one: give one of them")
    _use_threads(config.threads)
    trainer, run = _resumed(config, resume) if resume else _fresh(config, start_from)
    with stop_on_signals() as stop, Console(trainer, run, quiet) as console:
        _introduce(console, trainer, run)
        console.measure_peak()
        trainer.fit(
            on_step=console.on_step,
            on_evaluation=console.on_evaluation,
            should_stop=lambda: bool(stop),
        )
    figures = _figures(trainer, run, console)
    if stop.reason and trainer.step < trainer.config.steps:
        console.say(
            f"stopped by {stop.reason} after step {trainer.step}; "
            f"continue with: baremetal train --resume {run.path}"
        )
        return Outcome(figures, stop.reason)
    _finish(console, trainer, run)
    return Outcome(figures, "")


def _use_threads(threads: int) -> None:
    """Give the kernels their threads; this process is ours, so a shared BLAS gets one too."""
    from baremetal.kernels.native.blas_library import limit_shared_blas
    from baremetal.kernels.native.pool import POOL

    limit_shared_blas()
    if threads:
        POOL.set_threads(threads)


def _fresh(config: TrainConfig, start_from: str) -> tuple[Trainer, RunFolder]:
    if not start_from:
        trainer = Trainer(config)  # refuses bad data before a folder is made
    else:
        checkpoint = load_checkpoint(start_from, groups=["model"])
        config = _shaped_like(config, checkpoint.state["config"])
        tokenizer = load_model_tokenizer(checkpoint.state["tokenizer"])
        trainer = Trainer(config, data=build_data(config, tokenizer))
        trainer.model.load_state_dict(checkpoint.tensors["model"])
    run = RunFolder.create(config)
    trainer.run_folder = run
    return trainer, run


def _shaped_like(config: TrainConfig, saved: dict[str, Any]) -> TrainConfig:
    """The configuration with the shape and tokenizer of the checkpoint it starts from.

    Raises:
        BaremetalError: an option was given that the checkpoint contradicts.
    """
    usual = TrainConfig()
    for name in SHAPE_FIELDS:
        given = getattr(config, name)
        if given not in (getattr(usual, name), saved[name]):
            raise BaremetalError(
                f"--{name.replace('_', '-')} {given}, but the checkpoint was trained with "
                f"{saved[name]}: leave the option out, or start a new model without --from"
            )
    return dataclasses.replace(config, **{name: saved[name] for name in SHAPE_FIELDS})


def _resumed(config: TrainConfig, resume: str) -> tuple[Trainer, RunFolder]:
    run = run_of(resume)
    clean_leftovers(run.checkpoints)
    checkpoint = load_checkpoint(resume)
    tokenizer = load_model_tokenizer(checkpoint.state["tokenizer"])
    trainer = Trainer(config, run, data=build_data(config, tokenizer))
    trainer.restore(checkpoint)
    set_aside_after(run.checkpoints, trainer.step)
    if trainer.step >= config.steps:
        raise BaremetalError(
            f"{run.path} has done all its {config.steps} steps: give more with --steps"
        )
    run.forget_after(trainer.step)
    run.write_config(config)  # options given now hold for the next resume too
    return trainer, run


def set_aside_after(checkpoints: Path, step: int) -> None:
    """Rename checkpoints beyond `step`, so that going back does not leave the future in place.

    "The last checkpoint" means the highest step; one from before the run went back (or a damaged
    one, which is why it went back) must not be taken for it. Nothing is deleted.
    """
    for path in list_checkpoints(checkpoints):
        if int(path.name.rpartition("-")[2]) > step:
            path.rename(path.with_name(f"set-aside-{path.name}-{time.time_ns()}"))


def load_model_tokenizer(document: dict[str, Any]) -> Any:
    """The tokenizer that a checkpoint carries."""
    from baremetal.data import tokenizer_from_json

    return tokenizer_from_json(document)


def run_of(path: str | Path) -> RunFolder:
    """The run that a run folder, its checkpoints folder, or one of its checkpoints belongs to."""
    place = Path(path)
    for folder in (place, *place.parents[:2]):
        if (folder / "config.toml").is_file():
            return RunFolder.open(folder)
    return RunFolder.open(place)


def _introduce(console: Console, trainer: Trainer, run: RunFolder) -> None:
    config, data = trainer.config, trainer.data
    console.say(
        f"data    {data.corpus_name}: {len(data.train):,} training and {len(data.validation):,} "
        f"validation tokens, vocabulary {data.tokenizer.vocab_size} ({data.tokenizer.name})"
    )
    console.say(
        f"model   {config.model}, {config.layers} layers, {config.heads} heads, width "
        f"{config.width}, context {config.context}: {trainer.model.num_parameters():,} parameters"
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
        run.sample.write_text(text, encoding="utf-8")
        console.say(f"\nA sample from the trained model:\n\n{text}\n")
    console.say(f"more: baremetal sample {run.path} --prompt 'The '")


def sample_text(trainer: Trainer) -> str:
    """A sample, drawn from the run's seed."""
    tokenizer = trainer.data.tokenizer
    rng = np.random.default_rng(trainer.config.seed)
    prompt = _opening(trainer)
    tokens = generate(
        trainer.model, prompt, trainer.config.sample_tokens, rng, temperature=0.8, top_k=40
    )
    return tokenizer.decode(np.array([*prompt, *tokens]))


def _opening(trainer: Trainer) -> np.ndarray:
    """The beginning of an English sentence, or of the validation text if it cannot be spelled."""
    try:
        return trainer.data.tokenizer.encode("The ")
    except BaremetalError:
        return np.asarray(trainer.data.validation[:16])
