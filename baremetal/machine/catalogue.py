"""What hardware is described here, by name; and anybody's own, by file.

The descriptions are TOML files in `data/`, a folder for each kind; a chip is called by its name or
by one of its `aliases`, in capitals or not. Anything with a folder or `.toml` in it is a file of
the user's own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from baremetal.machine.chip import Chip, read_chip
from baremetal.machine.cluster import Cluster, read_cluster
from baremetal.machine.errors import MachineError, nearest
from baremetal.machine.fabric import Fabric, read_fabric
from baremetal.machine.link import Link, read_link
from baremetal.machine.node import Node, read_node
from baremetal.machine.rack import Rack, read_rack
from baremetal.machine.reading import Find, Table, read_tables

DATA = Path(__file__).parent / "data"


class Kind(NamedTuple):
    """A kind of thing: its folder in `data/`, and who reads its table."""

    folder: str
    read: Callable[[Table, Find], Any]


# Each kind names things of kinds above it only.
KINDS = {
    "chip": Kind("chips", read_chip),
    "link": Kind("links", read_link),
    "node": Kind("nodes", read_node),
    "rack": Kind("racks", read_rack),
    "fabric": Kind("fabrics", read_fabric),
    "cluster": Kind("clusters", read_cluster),
}


class Entry(NamedTuple):
    """A description: what it is of, by which names it is called, and a sentence about it."""

    kind: str
    thing: Any
    aliases: tuple[str, ...]
    about: str


def find_chip(name_or_path: str) -> Chip:
    """The chip of this name, or the one that this file describes.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    return find("chip", name_or_path).thing


def find_link(name_or_path: str) -> Link:
    """The link of this name, or the one that this file describes.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    return find("link", name_or_path).thing


def find_node(name_or_path: str) -> Node:
    """The node of this name, or the one that this file describes.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    return find("node", name_or_path).thing


def find_rack(name_or_path: str) -> Rack:
    """The rack of this name, or the one that this file describes.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    return find("rack", name_or_path).thing


def find_fabric(name_or_path: str) -> Fabric:
    """The fabric of this name, or the one that this file describes.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    return find("fabric", name_or_path).thing


def find_cluster(text: str) -> Cluster:
    """The cluster of a kind and a number of GPUs, ``"h100:8192"``; the kind may be a file.

    Raises:
        MachineError: unknown, the file is wrong, or the number is none.
    """
    kind, colon, number = text.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit() or int(number) < 1:
        raise MachineError(
            f"cluster '{text}': expected a kind and a number of GPUs, such as gb300-nvl72:256"
        )
    return replace(find("cluster", kind).thing, gpus=int(number))


def find(kind: str, name_or_path: str) -> Entry:
    """The description of this kind by a name in any capitals, or in this file.

    Raises:
        MachineError: unknown, with the nearest known name and the list; or the file is wrong.
    """
    if _is_path(name_or_path):
        return read_file(name_or_path, kind)
    by_name = _names(kind)
    wanted = _plain(name_or_path)
    if wanted not in by_name:
        raise MachineError(
            f"unknown {kind} '{name_or_path}': {nearest(wanted, by_name)}there are "
            f"{', '.join(entry.thing.name for entry in entries(kind))}; or give a TOML file"
            + (" ('baremetal machine measure' writes this computer's)" if kind == "chip" else "")
        )
    return by_name[wanted]


def find_any(name_or_path: str, kind: str = "") -> Entry:
    """The description called so, of this kind or, if none is given, of the first that has one.

    Raises:
        MachineError: unknown, or the file is wrong.
    """
    if _is_path(name_or_path):
        path = Path(name_or_path)
        tables = read_tables(path, name_or_path, tuple(KINDS))
        return _read(path, name_or_path, kind or next(iter(tables)))
    kinds = [kind] if kind else list(KINDS)
    wanted = _plain(name_or_path)
    for each in kinds:
        if wanted in _names(each):
            return _names(each)[wanted]
    known = {name for each in kinds for name in _names(each)}
    raise MachineError(
        f"unknown {kind or 'name'} '{name_or_path}': {nearest(wanted, known)}"
        "'baremetal machine list' shows all; or give a TOML file"
    )


def check_kind(kind: str) -> str:
    """The kind, if there is such a one.

    Raises:
        MachineError: there is not.
    """
    if kind not in KINDS:
        raise MachineError(f"unknown kind '{kind}': there are {', '.join(KINDS)}")
    return kind


def entries(kind: str) -> list[Entry]:
    """All shipped descriptions of a kind, by name."""
    return list(_shipped(kind))


def read_file(path: str | Path, kind: str) -> Entry:
    """The description of this kind in a file.

    Raises:
        MachineError: unreadable, wrong, or of something else.
    """
    return _read(Path(path), str(path), kind)


@cache
def _shipped(kind: str) -> tuple[Entry, ...]:
    files = sorted((DATA / KINDS[kind].folder).glob("*.toml"), key=lambda path: path.stem)
    return tuple(_read(path, path.name, kind) for path in files)


@cache
def _names(kind: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in _shipped(kind):
        for name in (entry.thing.name, *entry.aliases):
            if found.setdefault(_plain(name), entry) is not entry:
                raise MachineError(f"two descriptions of a {kind} are called '{name}'")
    return found


def _read(path: Path, shown: str, kind: str) -> Entry:
    tables = read_tables(path, shown, tuple(KINDS))
    if kind not in tables:
        raise MachineError(
            f"{shown} describes no {kind} but {', '.join(tables)}: expected a table [{kind}]"
        )
    return _entry(tables, path.parent, kind)


def _entry(tables: dict[str, Table], folder: Path, kind: str) -> Entry:
    table = tables[kind]
    aliases, about = table.texts("aliases"), table.text("about", "")
    thing = KINDS[kind].read(table, partial(_seen_from, tables, folder))
    return Entry(kind, thing, aliases, about)


def _seen_from(tables: dict[str, Table], folder: Path, kind: str, name: str) -> Any:
    """What a name in a file means: a thing in that file, or beside it, or one shipped."""
    if kind in tables and _plain(tables[kind].text("name")) == _plain(name):
        return _entry(tables, folder, kind).thing
    return find(kind, str(folder / name) if _is_path(name) else name).thing


def _is_path(text: str) -> bool:
    return text.casefold().endswith(".toml") or "/" in text or "\\" in text


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "-")
