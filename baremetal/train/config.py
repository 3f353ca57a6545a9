"""Everything a training run can be told, in one flat frozen dataclass.

The command line is made from it, a TOML file can fill it, and every run writes the one it used
beside its results: `config.toml` in the run folder is enough to repeat the run.
"""

import dataclasses
import json
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baremetal.capture.fusion import chosen_fusions
from baremetal.checkpoint.errors import plain_reason
from baremetal.data.wording import did_you_mean
from baremetal.errors import BaremetalError
from baremetal.nn.block import Recompute
from baremetal.optim.rates import DecayName

LOSS_SCALES = "a number above 0, 'dynamic' or 'auto'"
LARGEST_RATE = 1e30  # beyond it a float32 update overflows whatever the gradient is

ModelName = Literal["gpt", "llama", "moe"]
OptimizerName = Literal["adamw", "sgd", "muon"]
SamplerName = Literal["random", "epoch"]
ClockName = Literal["virtual", "wall"]
ChargeName = Literal["roofline", "unit", "measured"]
BalanceName = Literal["flops", "parameters", "time"]
PrecisionName = Literal["float32", "bf16", "fp16", "fp8", "fp8-block", "nvfp4"]


@dataclass(frozen=True)
class TrainConfig:
    """A training run: data, model, optimiser, and what to write down.

    Example: `baremetal train --data notes.txt --layers 2 --steps 500`
    """

    data: str = "pydoc"
    """Corpus: 'pydoc' or 'stdlib' (they come with Python), or a UTF-8 text file or folder."""
    tokenizer: str = "char"
    """'char', 'byte', 'bpe:SIZE' (trained here) or the path of a tokenizer.json."""

    model: ModelName = "gpt"
    """Architecture: GPT-2's, Llama's, or a mixture of experts (Grok-1's shape)."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    kv_heads: int = 0
    """Key-value heads for llama and moe (grouped queries); 0 means as many as heads."""
    width: int = 128
    """Size of each position's vector."""
    context: int = 64
    """Tokens per sample (the block)."""
    dropout: float = 0.0
    """Probability of zeroing an activation while training (gpt only)."""
    experts: int = 8
    """Experts per block (moe only)."""
    active_experts: int = 2
    """Experts that each token visits (moe only)."""

    recompute: Recompute = "none"
    """What backward computes again to save memory: nothing, cheap activations, or whole blocks."""

    steps: int = 2000
    """Optimiser steps."""
    batch: int = 12
    """Samples per microbatch."""
    accumulate: int = 1
    """Microbatches per step; their gradients add up to that of one large batch."""
    sampler: SamplerName = "random"
    """Windows at random places, or shuffled without repetition."""
    optimizer: OptimizerName = "adamw"
    """Which update rule."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    decay: DecayName = "cosine"
    """How the learning rate goes down after its peak."""
    warmup: int = 100
    """Steps of linear rise."""
    final_rate: float = 0.1
    """Last learning rate, as a fraction of the peak."""
    weight_decay: float = 0.1
    """Decay of matrices (vectors do not decay)."""
    beta1: float = 0.9
    """AdamW: decay rate of the average gradient (for sgd and muon: momentum)."""
    beta2: float = 0.99
    """AdamW: decay rate of the average squared gradient."""
    precision: PrecisionName = "float32"
    """How the blocks' linear layers store their matrices (gpt, llama); the CPU gains no speed."""
    loss_scale: str = "auto"
    """Factor of the loss in backward, or 'dynamic'; 'auto' is dynamic for fp16 and 1 otherwise."""
    clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    seed: int = 1337
    """Names the initial weights, the order of the data and the dropout bits."""

    eval_every: int = 250
    """Steps between evaluations (there is one at the end in any case)."""
    eval_batches: int = 40
    """Batches per evaluation, spread evenly over the validation text."""
    checkpoint_every: int = 500
    """Steps between checkpoints (there is one at the end in any case)."""
    keep: int = 3
    """How many checkpoints stay."""
    sample_tokens: int = 400
    """Length of the sample at the end; 0 for none."""

    stages: int = 0
    """Pipeline: how many processes the model is divided among; 0 trains in one."""
    schedule: str = "1f1b"
    """Pipeline: who works when: a name ('schedule compare' shows all), a file, auto, zb-v-auto."""
    memory_limit: str = ""
    """Pipeline: for --schedule auto: microbatches that a process may hold; empty for no limit."""
    microbatches: int = 8
    """Pipeline: how many pieces a batch is cut into."""
    chunks: int = 0
    """Pipeline: stages per process; 0 means what the schedule has by itself."""
    chip: str = "gb300"
    """Pipeline: the modelled chip ('baremetal machine list'), or a TOML file."""
    link: str = "800g"
    """Pipeline: the modelled link between neighbours, or a TOML file; 'ideal' takes no time."""
    modelled_precision: str = "bf16"
    """Pipeline: in which the modelled chip computes (here it is float32)."""
    clock: ClockName = "virtual"
    """Pipeline: time is modelled, or 'wall': links are waited for, work counts as measured."""
    charge: ChargeName = "roofline"
    """Pipeline: what an action costs: the chip's roofline, --unit-times, or what was measured."""
    unit_times: str = "1 ms, 1 ms, 1 ms"
    """Pipeline: times of F, I and W of a stage, for --charge unit."""
    balance: BalanceName = "flops"
    """Pipeline: what the stages are made equal in."""
    slots: int = 0
    """Pipeline: messages a lane between two stages holds; 0: enough that none ever waits."""
    host_overhead: str = "0 us"
    """Pipeline: modelled time that the host adds to every action."""
    degrade: float = 1.0
    """Pipeline: share of the link's bandwidth that is left."""
    jitter: str = ""
    """Pipeline: the most a message is late, as in '2 us', drawn by seed; '': as the link says."""
    straggler: str = ""
    """Pipeline: slower processes, as in '2:1.5, 3:1.1' (modelled time)."""
    fault: str = ""
    """Pipeline: what goes wrong on purpose: 'kill rank 1 step 20 action 5, drop 0F3 step 2'."""
    restart: bool = False
    """Pipeline: after a failure go on from the last good checkpoint."""
    hang_limit: float = 60.0
    """Pipeline: seconds without progress after which a process counts as hung."""
    verbose: bool = False
    """Pipeline: print every message of the first step."""

    name: str = ""
    """Name of the run; empty means data, model and a number."""
    out: str = "runs"
    """Folder that holds the run folders."""
    threads: int = 0
    """Threads for the kernels; 0 means all cores."""
    eager: bool = False
    """Run every step through Python instead of replaying a captured one (the same bits)."""
    native: bool = False
    """Compile the captured step into one function (small kernels may round differently)."""
    fuse: str = "all"
    """Fusions of the captured step: all, none, or names with commas between (the same bits)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float):
                _require(name, value, math.isfinite(value), "a finite number")
        for name in ("layers", "heads", "width", "context", "batch", "accumulate", "keep"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "warmup", "sample_tokens", "threads", "kv_heads", "clip", "seed"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("stages", "chunks", "slots"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _require("microbatches", self.microbatches, self.microbatches >= 1, "at least 1")
        _require("hang_limit", self.hang_limit, self.hang_limit > 0, "more than 0")
        for name in ("eval_every", "eval_batches", "checkpoint_every"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("beta1", "beta2", "dropout"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 up to 1")
        rate = self.learning_rate
        _require("learning_rate", rate, 0 < rate <= LARGEST_RATE, f"above 0, up to {LARGEST_RATE}")
        _require("final_rate", self.final_rate, 0 <= self.final_rate <= 1, "from 0 to 1")
        chosen_fusions(self.fuse)  # says which there are
        if self.native and self.eager:
            raise BaremetalError("--native and --eager: a step is compiled or run through Python")
        if self.native and self.model == "moe":
            raise BaremetalError(
                "--native --model moe: a mixture of experts routes in Python, so that its steps "
                "cannot be compiled as a whole: leave --native away, or train gpt or llama"
            )
        self._check_precision()
        self._check_pipeline()
        if self.width % self.heads:
            raise BaremetalError(
                f"width {self.width} is no multiple of {self.heads} heads: each head takes an "
                f"equal slice; try width {self.heads * (self.width // self.heads + 1)}"
            )

    def _check_pipeline(self) -> None:
        if not self.stages and not self.fault:
            return
        if not self.stages:
            raise BaremetalError(
                f"--fault {self.fault} without --stages: the processes of a pipeline fail, and "
                "their messages; give --stages 2 or more"
            )
        if self.batch % self.microbatches:
            raise BaremetalError(
                f"--batch {self.batch} --microbatches {self.microbatches}: microbatches are of "
                f"equal size; try --batch {self.microbatches * -(-self.batch // self.microbatches)}"
            )
        if self.accumulate != 1:
            raise BaremetalError(
                f"--accumulate {self.accumulate} with --stages: a pipeline's microbatches are its "
                "accumulation; give --microbatches"
            )
        for name in ("native", "precision", "loss_scale"):
            default = next(f.default for f in dataclasses.fields(self) if f.name == name)
            if getattr(self, name) != default:
                raise BaremetalError(
                    f"--{name.replace('_', '-')} {getattr(self, name)} with --stages: pipeline "
                    "stages are replayed in float32; leave it away"
                )

    def _check_precision(self) -> None:
        scale = self.fixed_loss_scale
        is_scale = scale is None or 0 < scale < math.inf
        _require("loss_scale", self.loss_scale, is_scale, LOSS_SCALES)
        if self.model == "moe" and self.precision != "float32":
            raise BaremetalError(
                f"--precision {self.precision} of a mixture of experts: the experts' products have "
                "no narrow storage here; choose --precision float32, or --model gpt or llama"
            )

    @property
    def fixed_loss_scale(self) -> float | None:
        """The number that --loss-scale names (NaN if it is none); None: it is dynamic."""
        if self.loss_scale == "auto":
            return None if self.precision == "fp16" else 1.0
        if self.loss_scale == "dynamic":
            return None
        try:
            return float(self.loss_scale)
        except ValueError:
            return math.nan

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step learns from."""
        return self.batch * self.accumulate * self.context

    def to_toml(self) -> str:
        """This configuration as a TOML file, with each field's meaning beside it."""
        notes = field_notes()
        lines = []
        for field in dataclasses.fields(self):
            # JSON's strings, numbers and booleans are valid TOML.
            value = json.dumps(getattr(self, field.name), ensure_ascii=False)
            lines += [f"# {notes[field.name]}", f"{field.name} = {value}", ""]
        return "\n".join(lines)


def _require(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        option = name.replace("_", "-")
        raise BaremetalError(f"--{option} {value}: expected {expected}")


def field_notes() -> dict[str, str]:
    """The docstring under each field, by field name, read from the class's own source."""
    import ast
    import inspect

    (definition,) = ast.parse(inspect.getsource(TrainConfig)).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            notes[statement.target.id] = ast.literal_eval(following.value)
    return notes


def config_from_mapping(values: Mapping[str, Any], origin: str) -> TrainConfig:
    """A configuration from plain values, each checked against its field's type.

    Raises:
        BaremetalError: an unknown key or a wrong type, named with `origin`, or values that do not
            go together.
    """
    return TrainConfig(**checked_values(values, origin))


def checked_values(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The values, each of a known name and of its field's type; together they may still be wrong.

    Raises:
        BaremetalError: an unknown key or a wrong type, named with `origin`.
    """
    kinds = typing.get_type_hints(TrainConfig)
    values = _with_todays_names(values)
    checked = {}
    for key, value in values.items():
        if key not in kinds:
            raise BaremetalError(
                f"{origin} has an unknown key '{key}': {did_you_mean(key, [*kinds])}"
                "see 'baremetal train --help' for what there is"
            )
        checked[key] = _checked(key, value, kinds[key], origin)
    return checked


def _with_todays_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Configurations of before there were pipelines call the learning rate's `decay` `schedule`."""
    if values.get("schedule") in typing.get_args(DecayName) and "decay" not in values:
        return {"decay" if key == "schedule" else key: value for key, value in values.items()}
    return values


def _checked(key: str, value: Any, kind: Any, origin: str) -> Any:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise BaremetalError(f"{origin}: {key} = {value!r}: choose one of {', '.join(choices)}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise BaremetalError(
            f"{origin}: {key} = {value!r} is of type {type(value).__name__}, expected "
            f"{kind.__name__}"
        )
    return value


def read_config(path: str | Path) -> TrainConfig:
    """A configuration from a TOML file; keys that are left out keep their defaults.

    Raises:
        BaremetalError: unreadable, not TOML, unknown keys or wrong values, in one line.
    """
    values = read_values(path)
    try:
        return TrainConfig(**values)
    except BaremetalError as error:
        raise BaremetalError(f"{path}: {error}") from None


def read_values(path: str | Path) -> dict[str, Any]:
    """What a TOML file says, and nothing else: other options may still change its meaning.

    Raises:
        BaremetalError: unreadable, not TOML, an unknown key or a value of the wrong type.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BaremetalError(f"the configuration {path} is not UTF-8: {error}") from None
    except OSError as error:
        raise BaremetalError(
            f"cannot read the configuration {path}: {plain_reason(error)}; give a TOML file"
        ) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BaremetalError(f"{path} is not valid TOML: {error}") from None
    return checked_values(values, str(path))
