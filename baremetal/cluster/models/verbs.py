"""`baremetal model`: what models are described, and one in full.

    baremetal model list
    baremetal model show llama3-405b --seq 8192

The options are dataclasses, from which the command line is made; `run_list` and `run_show` print.
"""

import dataclasses
import json
import textwrap
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models.catalogue import ModelEntry, find_entry, models
from baremetal.cluster.models.description import ModelDescription
from baremetal.cluster.models.flops import CONVENTIONS, forward_flops, token_flops
from baremetal.cluster.models.parameters import active_parameters, model_parameters
from baremetal.trace.tables import Column, table


@dataclass(frozen=True)
class ListOptions:
    """All models that are described here, with their parameters and FLOP per token."""

    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class ShowOptions:
    """One model in full: its sizes and where they are from, parameters and FLOP by part."""

    name: Annotated[str, tyro.conf.Positional]
    """A name from the list, in capitals or not, or a TOML file of your own."""
    seq: int = 0
    """Tokens of a sample; 0: the model's own context."""
    json: bool = False
    """Print one JSON object."""


def run_list(given: ListOptions) -> None:
    """Print the list."""
    rows = [_summary(entry) for entry in models()]
    if given.json:
        print(json.dumps({"models": rows}, indent=2))
        return
    print(table(rows, [
        Column("name", "model", align="<"), Column("parameters", format=_short),
        Column("active_parameters", "active", _short), Column("layers"), Column("width"),
        Column("experts", format=lambda count: str(count) if count else "-"), Column("context"),
        Column("flop_per_token", "FLOP a token", ".3e"), Column("about", "what it is", align="<"),
    ]))  # fmt: skip


def run_show(given: ShowOptions) -> None:
    """Print one model.

    Raises:
        ClusterError: unknown, its file is wrong, or a sample of fewer than no tokens.
    """
    if given.seq < 0:
        raise ClusterError(f"--seq {given.seq}: expected at least 1, or 0 for the model's context")
    document = model_document(find_entry(given.name), given.seq)
    print(json.dumps(document, indent=2) if given.json else model_text(document))


def model_document(entry: ModelEntry, seq: int = 0) -> dict[str, Any]:
    """All about a model as plain values.

    Args:
        entry: which.
        seq: tokens of a sample; 0: its context.

    Returns:
        ``fields`` (value and source of each size), ``parameters`` (extra predictors apart) and by
        part, ``flops`` (by convention: a sample's forward pass by part, `per_token` of training).
    """
    model, seq = entry.model, seq or entry.model.context
    flops = {
        name: {
            "forward": dict(forward_flops(model, seq, convention).parts),
            "per_token": token_flops(model, seq, convention),
        }
        for name, convention in CONVENTIONS.items()
    }
    parameters = dataclasses.asdict(model_parameters(model))
    active = dataclasses.asdict(active_parameters(model))
    return {
        **_summary(entry), "aliases": list(entry.aliases), "seq": seq, "fields": _fields(model),
        "parameters_by_part": {k: v for k, v in parameters.items() if v},
        "active_by_part": {k: v for k, v in active.items() if v},
        "active_without_embedding": active_parameters(model, embedding=False).total,
        "flops": flops,
    }  # fmt: skip


def model_text(document: dict[str, Any]) -> str:
    """The same as people read it: tables, and the sources numbered beneath."""
    fields = document["fields"]
    sources = [*dict.fromkeys(cell["source"] for cell in fields.values() if cell["source"])]
    number = {source: f"[{place}]" for place, source in enumerate(sources, start=1)}
    sizes = [[name, str(c["value"]), number.get(c["source"], "")] for name, c in fields.items()]
    counts = [
        [part, count, document["active_by_part"].get(part, 0)]
        for part, count in document["parameters_by_part"].items()
    ]
    total = ["total", *(sum(row[place] for row in counts) for place in (1, 2))]
    called = f" ({', '.join(document['aliases'])})" if document["aliases"] else ""
    return "\n\n".join([
        f"{document['name']}{called}\n{document['about']}",
        table(sizes, [Column("size", align="<"), Column("value", align=">"), "source"]),
        table(counts, [
            Column("parameters", align="<"), Column("all", format=_short),
            Column("active", format=_short),
        ], footer=[total]),
        _flops_table(document),
        "\n".join(
            textwrap.fill(f"{mark} {source}", 88, subsequent_indent="    ")
            for source, mark in number.items()
        ),
    ])  # fmt: skip


def _flops_table(document: dict[str, Any]) -> str:
    seq, flops = document["seq"], document["flops"]
    parts = list(dict.fromkeys(part for each in flops.values() for part in each["forward"]))
    # Forward and backward: three times forward.
    rows = [
        [part, *(3 * each["forward"].get(part, 0) / seq for each in flops.values())]
        for part in parts
    ]
    columns = [Column(f"FLOP a token of {seq}", align="<")]
    columns += [Column(name, format=".3e") for name in flops]
    return table(rows, columns, footer=[["total", *(each["per_token"] for each in flops.values())]])


def _summary(entry: ModelEntry) -> dict[str, Any]:
    model = entry.model
    parameters = model_parameters(model)
    return {
        "name": model.name,
        "parameters": parameters.total - parameters.predictors,
        "predictor_parameters": parameters.predictors,
        "active_parameters": active_parameters(model).total,
        "layers": model.layers,
        "width": model.width,
        "experts": model.experts.count if model.experts else 0,
        "context": model.context,
        "flop_per_token": token_flops(model),
        "hypothetical": model.hypothetical,
        "about": entry.about,
    }


def _fields(model: ModelDescription) -> dict[str, dict[str, Any]]:
    """Every size that the file gives, and the switches that are on."""
    found: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if dataclasses.is_dataclass(value):
            inner = {f"{field.name}.{k}": v for k, v in vars(value).items()}
            found |= {k: _cell(model, k, v) for k, v in inner.items() if k in model.sources}
        elif field.name in model.sources or value is True:
            found[field.name] = _cell(model, field.name, value)
    return found


def _cell(model: ModelDescription, field: str, value: Any) -> dict[str, Any]:
    return {"value": value, "source": model.sources.get(field, "")}


def _short(count: int) -> str:
    """A count as people say it: 405.85B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.2f}{letter}"
    return str(count)
