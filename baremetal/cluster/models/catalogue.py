"""The models that are described here, by name; and anybody's own, by file.

Each is a TOML file in `data/`, with a source beside each number:

    [model]
    name = "my-moe"
    layers = 32
    width = 4096
    heads = 32
    kv_heads = 8          # left out: as many as heads
    head_width = 128      # left out: width / heads
    vocab_size = 32000
    context = 4096

    [model.experts]       # left out: none, and then `hidden` of a dense layer must be there
    count = 8
    active = 2
    hidden = 14336

A model is called by its name or one of its aliases; capitals, blanks, `-` and `_` do not matter,
so that ``LLAMA3.1_405B`` is found as published tables spell it. Anything with a folder or `.toml`
in it is a file of the user's own.
"""

from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models.description import Experts, LatentAttention, ModelDescription
from baremetal.machine.errors import MachineError
from baremetal.machine.reading import Table, read_tables

DATA = Path(__file__).parent / "data"
_CHANGEABLE = (
    "layers", "width", "heads", "kv_heads", "head_width", "hidden", "vocab_size", "context",
    "window", "extra_predictors", "experts.count", "experts.active", "experts.hidden",
    "experts.shared_hidden", "experts.every", "experts.dense_layers",
)  # fmt: skip
_OPTIONAL = ("hidden", "learned_positions", "window", "extra_predictors")
_FLAGS = ("gated", "tied", "bias", "parallel_block", "query_key_norm", "hypothetical")


class ModelEntry(NamedTuple):
    """A description: by which other names it is called, and a sentence about it."""

    model: ModelDescription
    aliases: tuple[str, ...]
    about: str


def find_model(name_or_path: str) -> ModelDescription:
    """The model of this name, or the one that this file describes; perhaps with other numbers.

    ``"llama3-405b@layers=7"`` is the model with fewer layers, as benchmarks cut it down, and
    ``"deepseek-v3@layers=4@experts.dense_layers=1"`` one with other experts as well.

    Raises:
        ClusterError: unknown, with the nearest known name; the file is wrong; or no such number.
    """
    return find_entry(name_or_path).model


def find_entry(name_or_path: str) -> ModelEntry:
    """The model as `find_model` finds it, with what is said about it.

    Raises:
        ClusterError: unknown, with the nearest known name; the file is wrong; or no such number.
    """
    name, *changes = name_or_path.split("@")
    entry = read_model(name) if _is_path(name) else _named(name)
    for change in changes:
        entry = entry._replace(model=_changed(entry.model, change))
    return entry


def _named(name: str) -> ModelEntry:
    found = _names().get(_plain(name))
    if found is None:
        near = get_close_matches(_plain(name), list(_names()), n=1)
        hint = f"did you mean '{_names()[near[0]].model.name}'? " if near else ""
        raise ClusterError(
            f"unknown model '{name}': {hint}there are "
            f"{', '.join(entry.model.name for entry in models())}; or give a TOML file"
        )
    return found


def _changed(model: ModelDescription, change: str) -> ModelDescription:
    field, equals, value = change.partition("=")
    if field not in _CHANGEABLE or not equals or not value.isascii() or not value.isdigit():
        raise ClusterError(
            f"model {model.name}: '{change}': expected name@field=number with a field of "
            f"{', '.join(_CHANGEABLE)}"
        )
    changed: dict[str, Any] = {field: int(value)}
    if field.startswith("experts."):
        if model.experts is None:
            raise ClusterError(f"model {model.name}: '{change}': it has no experts")
        changed = {"experts": replace(model.experts, **{field.partition(".")[2]: int(value)})}
    return replace(model, name=f"{model.name}@{change}", **changed)


def models() -> list[ModelEntry]:
    """All shipped descriptions, by name."""
    return list(_shipped())


def read_model(path: str | Path) -> ModelEntry:
    """The model that a file describes.

    Raises:
        ClusterError: unreadable, a field missing, unknown or wrong.
    """
    try:
        tables = read_tables(Path(path), str(path), ("model",))
        if "model" not in tables:
            raise ClusterError("describes no model: expected a table [model]")
        return _entry(tables["model"])
    except MachineError as error:  # names the file
        raise ClusterError(str(error)) from None
    except ClusterError as error:
        raise ClusterError(f"{path}: {error}") from None


@cache
def _shipped() -> tuple[ModelEntry, ...]:
    return tuple(read_model(path) for path in sorted(DATA.glob("*.toml"), key=lambda p: p.stem))


@cache
def _names() -> dict[str, ModelEntry]:
    found: dict[str, ModelEntry] = {}
    for entry in _shipped():
        for name in (entry.model.name, *entry.aliases):
            if found.setdefault(_plain(name), entry) is not entry:
                raise ClusterError(f"two models are called '{name}'")
    return found


def _entry(table: Table) -> ModelEntry:
    aliases, about, name = table.texts("aliases"), table.text("about", ""), table.text("name")
    layers, width, heads = (table.count(f, at_least=1) for f in ("layers", "width", "heads"))
    if "head_width" not in table and width % heads:
        raise table.refusal("head_width", f"is missing, and heads {heads} do not divide {width}")
    values = {
        "kv_heads": table.count("kv_heads", at_least=1) if "kv_heads" in table else heads,
        "head_width": _count(table, "head_width", width // heads, at_least=1),
        "vocab_size": table.count("vocab_size", at_least=1),
        "context": table.count("context", at_least=1),
        "norm_parameters": _count(table, "norm_parameters", 1),
        "window_every": _count(table, "window_every", 2, at_least=1),
        **{field: _count(table, field, 0) for field in _OPTIONAL},
        **{field: table.flag(field, field == "gated") for field in _FLAGS},
    }
    experts = _experts(table) if "experts" in table else None
    latent = _latent(table) if "latent" in table else None
    model = table.make(
        ModelDescription, name=name, layers=layers, width=width, heads=heads,
        experts=experts, latent=latent, **values,
    )  # fmt: skip
    return ModelEntry(model, aliases, about)


def _experts(table: Table) -> Experts:
    inner = table.table("experts")
    experts = Experts(
        count=inner.count("count", at_least=1),
        active=inner.count("active", at_least=1),
        hidden=inner.count("hidden", at_least=1),
        shared_hidden=_count(inner, "shared_hidden", 0),
        every=_count(inner, "every", 1, at_least=1),
        dense_layers=_count(inner, "dense_layers", 0),
    )
    inner.done()
    table.take_sources(inner, "experts")
    return experts


def _latent(table: Table) -> LatentAttention:
    inner = table.table("latent")
    latent = LatentAttention(
        query_rank=_count(inner, "query_rank", 0),
        kv_rank=inner.count("kv_rank", at_least=1),
        plain_width=inner.count("plain_width", at_least=1),
        rotary_width=_count(inner, "rotary_width", 0),
        value_width=inner.count("value_width", at_least=1),
    )
    inner.done()
    table.take_sources(inner, "latent")
    return latent


def _count(table: Table, field: str, default: int, at_least: int = 0) -> int:
    return table.count(field, at_least=at_least) if field in table else default


def _is_path(text: str) -> bool:
    return text.casefold().endswith(".toml") or "/" in text or "\\" in text


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " -_")
