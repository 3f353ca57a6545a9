"""The command line: one command, `baremetal`, with a verb.

A thin face. Each verb's options are a dataclass, its work is done by the room that owns it, and
only the verb that is called is imported, so that `baremetal --help` answers at once.

What a person does wrong ends in one line on standard error and exit status 2; a traceback means
that we did something wrong.
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from baremetal.errors import BaremetalError


class Verb(NamedTuple):
    """A subcommand: what it does in one line, an example, and how to run it."""

    summary: str
    example: str
    run: Callable[[Sequence[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 good, 2 bad input, 130 interrupted)."""
    _use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if given[0] == "--version":
        from baremetal import __version__

        print(f"baremetal {__version__}")
        return 0
    try:
        return _find(given[0]).run(given[1:])
    except BaremetalError as error:
        print(f"baremetal: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("baremetal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        sys.stderr.close()
        return 0
    except MemoryError as error:
        print(
            f"baremetal: not enough memory ({_one_line(str(error))}): ask for less", file=sys.stderr
        )
        return 2
    except OSError as error:  # a full disk, a missing permission
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"baremetal: {error.strerror or error}{where}: what was saved is intact",
            file=sys.stderr,
        )
        return 2


def _use_utf8() -> None:
    """A Windows console may speak cp1252; what it cannot show becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    lines = [
        "baremetal: a training stack from scratch, every layer small enough to read.",
        "",
        "usage: baremetal VERB [options]      (baremetal VERB --help explains each)",
        "",
        *(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()),
        "",
        "examples:",
        *(f"  {verb.example}" for verb in VERBS.values()),
    ]
    return "\n".join(lines)


def _find(name: str) -> Verb:
    from baremetal.data.wording import did_you_mean

    if name not in VERBS:
        raise BaremetalError(
            f"unknown verb '{name}': {did_you_mean(name, [*VERBS])}there are {', '.join(VERBS)}"
        )
    return VERBS[name]


# ---------------------------------------------------------------- reading options


def _parse(
    options: type, verb: str, arguments: Sequence[str], default: Any = None, example: str = ""
) -> Any:
    """Fill a dataclass from arguments; a mistake becomes one line that names it.

    `example` stands under the description of --help; the verb's own if there is none.
    """
    import tyro

    example = example or VERBS[verb].example
    errors = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                options,
                prog=f"baremetal {verb}",
                description=f"{options.__doc__}\n\nExample: {example}",
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
                **extra,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise  # --help has been printed
        raise BaremetalError(_plain(errors.getvalue(), verb)) from None


# Headings of the parser's messages, which say nothing that the next line does not.
_HEADINGS = (
    "Parsing error",
    "Unrecognized options",
    "Value error",
    "Invalid choice",
    "Missing argument",
)


def _plain(message: str, verb: str) -> str:
    """The parser's framed, coloured message as one plain sentence."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    lines = [line.strip("│╭╮╰╯─| ") for line in text.splitlines()]
    kept = [line for line in lines if line and line not in _HEADINGS]
    sentence = _one_line(" ".join(kept)).partition(" Argument helptext:")[0]
    sentence = sentence.partition(" For full helptext")[0]
    sentence = sentence.removeprefix("Error parsing Options: ")
    return f"{sentence} (see 'baremetal {verb} --help')"


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=str))


# ---------------------------------------------------------------- train


def _run_train(arguments: Sequence[str]) -> int:
    from baremetal.pipeline.launcher import take_part

    return take_part(lambda: _train(arguments))


def _train(arguments: Sequence[str]) -> int:
    from baremetal.pipeline.launcher import all_or_none
    from baremetal.train.command import train

    with all_or_none():
        given, (config, resumed, weights) = _train_options(arguments)
    outcome = train(config, resume=resumed, start_from=weights, quiet=given.json)
    if given.json and outcome.figures:  # none: another process leads this run, and says them
        _print_json(outcome.figures)
    return 0


def _train_options(arguments: Sequence[str]) -> tuple[Any, tuple[Any, str, Any]]:
    """The options as given, and what `train` takes."""
    import tyro

    from baremetal.train.command import starting_values
    from baremetal.train.config import TrainConfig, read_values
    from baremetal.train.weights import load_weights

    @dataclass(frozen=True)
    class Options(TrainConfig):
        """Train a language model on text; writes a run folder."""

        config: str = ""
        """TOML file with any of these options; options given here win."""
        resume: str = ""
        """Run folder to continue, bit for bit, with the options it was started with.
        Or a checkpoint of it to go back to; RUN/checkpoints/best is the best one."""
        from_: Annotated[str, tyro.conf.arg(name="from")] = ""
        """Checkpoint (or run) whose weights and tokenizer to start from: fine-tuning.
        RUN/checkpoints/best is a run's best one; a Hugging Face GPT-2 or Llama is a folder with
        model.safetensors, config.json and tokenizer.json (or give the latter by --tokenizer)."""
        json: bool = False
        """Print one JSON object at the end and nothing else."""

        def __post_init__(self) -> None:
            """Only the options that result from all sources are checked, at the end."""

    # These say what options mean that are not given, so they have to be found first.
    file = _path_after("--config", arguments)
    resumed = _path_after("--resume", arguments)
    source = _path_after("--from", arguments)
    in_file = read_values(file) if file else {}
    weights = None
    if source:
        chosen = _path_after("--tokenizer", arguments) or in_file.get("tokenizer", "")
        weights = load_weights(source, chosen)
    stages = _path_after("--stages", arguments) or str(in_file.get("stages", 0))
    values = starting_values(resumed, weights, stages != "0") | in_file
    given = _parse(Options, "train", arguments, default=Options(**values))
    try:
        config = TrainConfig(**{name: getattr(given, name) for name in values})
    except BaremetalError as error:
        raise BaremetalError(f"{error} (options of {file} included)" if file else error) from None
    return given, (config, resumed, weights)


def _path_after(option: str, arguments: Sequence[str]) -> str:
    """The value of an option that is needed before all are parsed; the last one counts.

    Raises:
        BaremetalError: it is there but empty, which a script's unset variable leaves behind.
    """
    found = None
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "--"
        if argument == option and not following.startswith("--"):
            found = following
        elif argument.startswith(option + "="):
            found = argument.partition("=")[2]
    if found is not None and not found.strip():
        raise BaremetalError(f"{option} is empty: give a path, or leave the option out")
    return found or ""


# ---------------------------------------------------------------- sample


def _run_sample(arguments: Sequence[str]) -> int:
    import tyro

    from baremetal.train.sample import sample

    @dataclass(frozen=True)
    class Options:
        """Continue a prompt with a trained model."""

        checkpoint: Annotated[str, tyro.conf.Positional]
        """Run folder or checkpoint; RUN/checkpoints/best is a run's best one.
        Or a Hugging Face GPT-2 or Llama: its folder or its .safetensors file."""
        prompt: str = "\n"
        """Text to continue."""
        tokens: int = 400
        """How many tokens to write."""
        temperature: float = 0.8
        """Below 1: bolder towards the likely; 0: always the likeliest."""
        top_k: int = 0
        """Keep the k likeliest tokens; 0 keeps all."""
        top_p: float = 1.0
        """Keep the likeliest tokens that together hold this much probability."""
        seed: int = 0
        """Same seed, same text."""
        tokenizer: str = ""
        """The tokenizer.json of Hugging Face weights, where none lies beside them."""
        json: bool = False
        """Print one JSON object."""

    given = _parse(Options, "sample", arguments)
    pieces = sample(
        given.checkpoint, given.prompt, given.tokens, seed=given.seed,
        temperature=given.temperature, top_k=given.top_k, top_p=given.top_p,
        tokenizer=given.tokenizer,
    )  # fmt: skip
    if given.json:
        _print_json({"prompt": given.prompt, "text": "".join(pieces), "seed": given.seed})
        return 0
    sys.stdout.write(given.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0


# ---------------------------------------------------------------- runs


def _run_runs(arguments: Sequence[str]) -> int:
    import tyro

    from baremetal.trace.tables import table
    from baremetal.train.refusals import naming
    from baremetal.train.runs import COLUMNS, draw_runs, find_runs, summarise, write_csv

    @dataclass(frozen=True)
    class Options:
        """List and compare training runs."""

        names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
        """Runs to show; all of them if none is named."""
        folder: str = "runs"
        """Folder that holds the runs."""
        plot: str = ""
        """Draw their validation losses into this picture (.png or .svg): nats per token, or bits
        per byte where their tokenizers differ."""
        csv: str = ""
        """Write the table to this CSV file."""
        json: bool = False
        """Print one JSON object."""

    given = _parse(Options, "runs", arguments)
    runs = find_runs(given.folder)
    missing = [name for name in given.names if name not in {run.path.name for run in runs}]
    if missing:
        raise BaremetalError(f"no run called '{missing[0]}' in {given.folder}")
    chosen = [run for run in runs if not given.names or run.path.name in given.names]
    rows = [summarise(run) for run in chosen]
    if given.csv:
        with naming("--csv"):
            write_csv(rows, given.csv)
    if given.plot:
        with naming("--plot"):
            draw_runs(chosen, given.plot)
    if given.json:
        _print_json({"runs": rows})
    elif rows:
        print(table([[_cell(row[key]) for key in COLUMNS] for row in rows], COLUMNS))
    else:
        print(f"no runs in {given.folder} yet: 'baremetal train' makes one")
    return 0


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- doctor, bench, ladder


def _run_doctor(arguments: Sequence[str]) -> int:
    from baremetal.bench.doctor import run_doctor

    @dataclass(frozen=True)
    class Options:
        """Look at this machine and installation, and say what to do about anything wrong."""

        json: bool = False
        """Print one JSON object."""

    return run_doctor(_parse(Options, "doctor", arguments).json)


def _run_bench(arguments: Sequence[str]) -> int:
    from baremetal.bench.verbs import BENCHMARKS

    return _run_one_of(BENCHMARKS, "bench", "benchmark", arguments)


def _run_machine(arguments: Sequence[str]) -> int:
    from baremetal.bench.machine_verbs import MACHINE_VERBS

    return _run_one_of(MACHINE_VERBS, "machine", "verb of machine", arguments)


def _run_model(arguments: Sequence[str]) -> int:
    from baremetal.bench.model_verbs import MODEL_VERBS

    return _run_one_of(MODEL_VERBS, "model", "verb of model", arguments)


def _run_one_of(parts: Any, verb: str, called: str, arguments: Sequence[str]) -> int:
    """Run the part of a verb that its first argument names."""
    kind, rest = (arguments[0], arguments[1:]) if arguments else ("--help", arguments)
    if kind in ("-h", "--help"):
        print(f"usage: baremetal {verb} {{{','.join(parts)}}} [options]")
        print("\n".join(f"  {name:<9} {each.summary}" for name, each in parts.items()))
        print(f"example: {VERBS[verb].example}")
        return 0
    if kind not in parts:
        raise BaremetalError(f"unknown {called} '{kind}': there are {', '.join(parts)}")
    part = parts[kind]
    part.run(_parse(part.options, f"{verb} {kind}", rest, example=part.example))
    return 0


# ---------------------------------------------------------------- ladder


def _run_ladder(arguments: Sequence[str]) -> int:
    import tyro

    from baremetal.bench.ladders.command import run_ladder
    from baremetal.bench.machine import usable_cores
    from baremetal.bench.step.ladder import run_step_ladder
    from baremetal.bench.verbs import status

    @dataclass(frozen=True)
    class Options:
        """Climb a kernel from its naive version to the fast one: check, time, draw each."""

        name: Annotated[str, tyro.conf.Positional]
        """matmul, softmax, layer_norm or attention; or step: a whole training step."""
        model: str = "small"
        """The model whose step is climbed (for step), as in 'bench step'."""
        rounds: int = 5
        """How often its rungs take turns (for step)."""
        size: int = 0
        """Rows of the matrices, width of a row, or positions of context; 0: the ladder's own."""
        versions: str = ""
        """Versions to climb, separated by commas; empty for all."""
        seconds: float = 1.0
        """How long to time each version (three calls at least)."""
        plot: str = ""
        """Roofline picture (.png, .svg, .pdf); empty: ladder-NAME.png here; none: no picture."""
        json: bool = False
        """Print one JSON object."""

    given = _parse(Options, "ladder", arguments)
    if given.name == "step":
        with status() as say:
            return run_step_ladder(
                given.model, rounds=given.rounds, threads=usable_cores(), progress=say,
                as_json=given.json,
            )  # fmt: skip
    return run_ladder(
        given.name, versions=given.versions, size=given.size, plot=given.plot,
        seconds=given.seconds, as_json=given.json,
    )  # fmt: skip


# ---------------------------------------------------------------- inspect


def _run_inspect(arguments: Sequence[str]) -> int:
    from baremetal.train.inspection import InspectConfig, inspect_step, inspection_text

    given = _parse(InspectConfig, "inspect", arguments)
    result = inspect_step(given)
    if given.json:
        _print_json(result)
    else:
        print(inspection_text(result))
    return 0


# ---------------------------------------------------------------- schedule


def _run_schedule(arguments: Sequence[str]) -> int:
    from baremetal.schedules.verbs import SCHEDULE_VERBS

    kind, rest = (arguments[0], arguments[1:]) if arguments else ("--help", arguments)
    if kind in ("-h", "--help"):
        print(f"usage: baremetal schedule {{{','.join(SCHEDULE_VERBS)}}} [options]")
        print("\n".join(f"  {name:<9} {each.summary}" for name, each in SCHEDULE_VERBS.items()))
        print(f"example: {VERBS['schedule'].example}")
        return 0
    if kind not in SCHEDULE_VERBS:
        raise BaremetalError(
            f"unknown verb 'schedule {kind}': there are {', '.join(SCHEDULE_VERBS)}"
        )
    verb = SCHEDULE_VERBS[kind]
    verb.run(_parse(verb.options, "schedule", rest))
    return 0


# ---------------------------------------------------------------- simulate, validate, audit


def _run_simulate(arguments: Sequence[str]) -> int:
    from baremetal.cluster.step.verbs import SimulateOptions, run_simulate

    run_simulate(_parse(SimulateOptions, "simulate", arguments))
    return 0


def _run_validate(arguments: Sequence[str]) -> int:
    from baremetal.cluster.validation.verbs import ValidateOptions, run_validate

    run_validate(_parse(ValidateOptions, "validate", arguments))
    return 0


def _run_audit(arguments: Sequence[str]) -> int:
    from baremetal.cluster.audit.verbs import AuditOptions, run_audit

    run_audit(_parse(AuditOptions, "audit", arguments))
    return 0


# ---------------------------------------------------------------- scale


def _run_scale(arguments: Sequence[str]) -> int:
    from baremetal.train.scale import ScaleOptions, run_scale

    run_scale(_parse(ScaleOptions, "scale", arguments))
    return 0


VERBS: dict[str, Verb] = {
    "train": Verb(
        "train a language model on text",
        "baremetal train --data notes.txt --layers 4 --steps 2000",
        _run_train,
    ),
    "sample": Verb(
        "continue a prompt with a trained model",
        "baremetal sample runs/pydoc-gpt-1 --prompt 'The ' --temperature 0.8",
        _run_sample,
    ),
    "runs": Verb(
        "list and compare runs", "baremetal runs --plot losses.png --csv runs.csv", _run_runs
    ),
    "doctor": Verb(
        "check this machine and say what to do about anything wrong",
        "baremetal doctor",
        _run_doctor,
    ),
    "ladder": Verb(
        "climb a kernel's versions, from naive to fast, against this machine's limits",
        "baremetal ladder matmul --size 1024 --plot roofline.png",
        _run_ladder,
    ),
    "inspect": Verb(
        "lay a training step open: its launches, its memory, its kernels' rooflines",
        "baremetal inspect --model llama --layers 2 --folder inspection",
        _run_inspect,
    ),
    "schedule": Verb(
        "draw, check, simulate, compare and export pipeline schedules",
        "baremetal schedule draw --schedule 1f1b --stages 4 --microbatches 8",
        _run_schedule,
    ),
    "simulate": Verb(
        "predict a training step on a cluster: time, memory, and where each second goes",
        "baremetal simulate --model llama3-405b --cluster gb300-nvl72:256 --plan tp=4,pp=16",
        _run_simulate,
    ),
    "validate": Verb(
        "predict every published run, and say how far off each prediction is",
        "baremetal validate --table megatron_sc21",
        _run_validate,
    ),
    "audit": Verb(
        "hold a claimed speed-up against published runs: headroom, by part, and what it needs",
        "baremetal audit --claim 10",
        _run_audit,
    ),
    "scale": Verb(
        "the scaled-down machine on which a small pipeline behaves like a full-size one",
        "baremetal scale --full gpt-3 --stages 4 --schedule zb-v --out scaled",
        _run_scale,
    ),
    "bench": Verb(
        "measure beside PyTorch and JAX: a step, all sizes, a launch, a run, few bits",
        "baremetal bench step --model small --against torch",
        _run_bench,
    ),
    "machine": Verb(
        "show what hardware is described, or measure this computer",
        "baremetal machine show gb300",
        _run_machine,
    ),
    "model": Verb(
        "full-size models by their sizes: parameters, FLOP, sources",
        "baremetal model show deepseek-v3",
        _run_model,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
