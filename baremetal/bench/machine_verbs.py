"""`baremetal machine`: what hardware is described, one in full, and this computer measured."""

import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from baremetal.bench.verbs import Benchmark, status
from baremetal.errors import BaremetalError
from baremetal.machine.catalogue import KINDS, Entry, check_kind, entries, find_any
from baremetal.machine.describe import as_document, as_toml
from baremetal.trace.files import write_atomically
from baremetal.trace.tables import Column, table

# ---------------------------------------------------------------- list


@dataclass(frozen=True)
class ListOptions:
    """All hardware that is described here: chips, links, nodes, racks and fabrics."""

    kind: str = ""
    """chip, link, node, rack or fabric; empty for all."""
    json: bool = False
    """Print one JSON object."""


def _run_list(given: ListOptions) -> None:
    kinds = [check_kind(given.kind)] if given.kind else list(KINDS)
    documents = [as_document(entry) for kind in kinds for entry in entries(kind)]
    if given.json:
        print(json.dumps({"descriptions": documents}, indent=2))
        return
    short = [{**d, "aliases": ", ".join(d["aliases"])} for d in documents]
    titles = {"kind": "kind", "name": "name", "aliases": "also called", "about": "what it is"}
    print(table(short, [Column(key, title, align="<") for key, title in titles.items()]))


# ---------------------------------------------------------------- show


@dataclass(frozen=True)
class ShowOptions:
    """One description in full: every number, and where it is from."""

    name: Annotated[str, tyro.conf.Positional]
    """A name from the list, in capitals or not, or a TOML file of your own."""
    kind: str = ""
    """chip, link, node, rack or fabric, where a name or a file could mean several."""
    json: bool = False
    """Print one JSON object."""


def _run_show(given: ShowOptions) -> None:
    found = find_any(given.name, check_kind(given.kind) if given.kind else "")
    if given.json:
        print(json.dumps(as_document(found), indent=2))
    else:
        print(description_text(found))


def description_text(entry: Entry) -> str:
    """A description as people read it: its numbers in a table, their sources numbered beneath."""
    document = as_document(entry)
    fields = document["fields"]
    sources = [*dict.fromkeys(c["source"] for c in fields.values() if c["source"])]
    numbers = {source: f"[{number}]" for number, source in enumerate(sources, start=1)}
    rows = [[name, c["text"], numbers.get(c["source"], "")] for name, c in fields.items()]
    columns = [
        Column("field", align="<"), Column("value", align=">"), Column("source", align="<"),
    ]  # fmt: skip
    called = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
    head = [f"{entry.kind} {entry.thing.name}{called}", *([entry.about] if entry.about else [])]
    notes = [_note(number, source) for source, number in numbers.items()]
    return "\n".join([*head, "", table(rows, columns), "", *notes])


def _note(number: str, source: str) -> str:
    indent = " " * (len(number) + 1)
    return textwrap.fill(f"{number} {source}", width=88, subsequent_indent=indent)


# ---------------------------------------------------------------- measure


@dataclass(frozen=True)
class MeasureOptions:
    """Measure this computer, and write it as a description: --chip FILE takes it."""

    out: str = "this.toml"
    """File to write."""
    seconds: float = 0.3
    """How long to measure each number."""
    json: bool = False
    """Print one JSON object."""


def _run_measure(given: MeasureOptions) -> None:
    from baremetal.bench.this_machine import measure_this_machine

    if not (0 < given.seconds < math.inf):
        raise BaremetalError(f"--seconds {given.seconds}: expected a number above 0, such as 0.3")
    if Path(given.out).suffix != ".toml":
        raise BaremetalError(f"--out '{given.out}': expected a file that ends in .toml")
    with status() as say:
        found = measure_this_machine(given.seconds, say)
    path = write_atomically(given.out, as_toml(found).encode("utf-8"))
    if given.json:
        print(json.dumps({**as_document(found), "file": str(path)}, indent=2))
    else:
        print(f"{description_text(found)}\n\nwritten to {path}")


MACHINE_VERBS: dict[str, Benchmark] = {
    "list": Benchmark(
        "what is described", "baremetal machine list --kind link", ListOptions, _run_list
    ),
    "show": Benchmark(
        "one description, with its sources", "baremetal machine show gb300", ShowOptions, _run_show
    ),
    "measure": Benchmark(
        "this computer, into a TOML file",
        "baremetal machine measure --out this.toml",
        MeasureOptions,
        _run_measure,
    ),
}
