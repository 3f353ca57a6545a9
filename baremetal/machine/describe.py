"""A description laid open: each field as people write it, its number, and where it is from.

The fields of every description are called as in its file, with the base unit behind: `latency_ps`
is `latency`, in ps. So one walk over a dataclass shows any of them, and writes any of them back as
the file that `reading.py` reads.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from baremetal.machine.catalogue import Entry
from baremetal.machine.link import UNLIMITED
from baremetal.machine.reading import NOT_STATED, is_word
from baremetal.machine.units import (
    BIT_RATE,
    BYTE_RATE,
    DURATION,
    FLOP_RATE,
    POWER,
    SIZE,
    show_ratio,
    show_share,
)

# The ending of a field's name says what its integer counts.
_BY_ENDING = {
    "_ps": DURATION, "_bytes": SIZE, "_bps": BIT_RATE, "_Bps": BYTE_RATE, "_W": POWER,
}  # fmt: skip


class Row(NamedTuple):
    """One field of a description.

    Attributes:
        field: as in the file; ``"flops.bf16"`` for the field of an inner table.
        text: as people write it, ``"800 Gb/s"``.
        value: as programs have it: an integer, a float for a part of one, or a name.
        unit: of `value`; empty if it has none.
        source: where it is from; empty for the name of another description.
    """

    field: str
    text: str
    value: int | float | str | None
    unit: str
    source: str


def rows(thing: Any) -> list[Row]:
    """All that a chip, link, node, rack or fabric says of itself, in the order of its fields."""
    return [row for row in _all_rows(thing) if row.value is not None or row.text]


def as_document(entry: Entry) -> dict[str, Any]:
    """A description as plain values, for JSON."""
    fields = {row.field: row._asdict() for row in rows(entry.thing)}
    for content in fields.values():
        del content["field"]
    return {
        "kind": entry.kind,
        "name": entry.thing.name,
        "aliases": list(entry.aliases),
        "about": entry.about,
        "fields": fields,
    }


def as_toml(entry: Entry) -> str:
    """A description as the file that describes it; every number with its source."""
    lines = [f"[{entry.kind}]", f"name = {_quoted(entry.thing.name)}"]
    if entry.aliases:
        lines.append(f"aliases = [{', '.join(map(_quoted, entry.aliases))}]")
    if entry.about:
        lines.append(f"about = {_quoted(entry.about)}")
    inner: dict[str, list[str]] = {}
    for row in rows(entry.thing):
        table, _, field = row.field.rpartition(".")
        (inner.setdefault(table, []) if table else lines).append(f"{field} = {_value(row)}")
    for table, content in inner.items():
        lines += ["", f"[{entry.kind}.{table}]", *content]
    return "\n".join(lines) + "\n"


def _value(row: Row) -> str:
    if not row.source:
        return _quoted(row.text)
    value = row.text if row.text.isdigit() else _quoted(row.text)
    source = f"see {row.source}" if is_word(row.source) else row.source
    return f"{{ value = {value}, source = {_quoted(source)} }}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string


def _all_rows(thing: Any) -> Iterator[Row]:
    for field in dataclasses.fields(thing):
        if field.name in ("name", "sources"):
            continue
        value = getattr(thing, field.name)
        if isinstance(value, Mapping):
            for key, rate in value.items():
                source = thing.sources.get(f"{field.name}.{key}", NOT_STATED)
                text = FLOP_RATE.show(rate)
                yield Row(f"{field.name}.{key}", text, rate, FLOP_RATE.base, source)
        elif hasattr(value, "sources"):  # another description
            yield Row(field.name, value.name, value.name, "", "")
        elif isinstance(value, str):
            yield Row(field.name, value, value, "", "")
        else:
            yield from _number(thing, field.name, value)


def _number(thing: Any, name: str, value: Any) -> Iterator[Row]:
    ending = next((ending for ending in _BY_ENDING if name.endswith(ending)), "")
    field = name.removesuffix(ending)
    if thing.sources and field not in thing.sources:
        return  # the file does not say, and a default is no finding
    source = thing.sources.get(field, NOT_STATED)
    if value is None:
        if name == "bandwidth_bps":
            yield Row(field, UNLIMITED, None, "", source)
    elif ending:
        kind = _BY_ENDING[ending]
        yield Row(field, kind.show(value), value, kind.base, source)
    elif isinstance(value, Fraction):
        text = show_ratio(value) if name == "oversubscription" else show_share(value)
        yield Row(field, text, float(value), "", source)
    else:
        yield Row(field, str(value), value, "", source)
