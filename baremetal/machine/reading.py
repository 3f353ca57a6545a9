"""Reading a description: a TOML file in, tables that know where they stand out.

A file holds one table for each thing it describes, named after what it is, and at its end the
sources:

    [link]
    name = "800g"
    bandwidth = { value = "800 Gb/s", source = "cx8" }
    latency = { value = "2.7 us", source = "nccl" }

    [sources]
    cx8 = "NVIDIA, ConnectX-8 SuperNIC User Manual, introduction"
    nccl = "NVIDIA/nccl, src/graph/tuning.cc: hardware latencies"

A source is one word, which `[sources]` explains, or speaks for itself: a sentence, or an address.
Whoever describes a machine of their own may leave it out and write `latency = "2.7 us"` alone.

A `Table` is asked for its fields one by one and remembers for which, so that what nobody asked for
is found: a misspelt key would otherwise be a default that nobody chose. Every refusal names the
file and the field.
"""

import tomllib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from baremetal.machine.errors import MachineError, nearest
from baremetal.machine.units import Quantity, parse_ratio, parse_share

T = TypeVar("T")
Find = Callable[[str, str], Any]  # what a kind and a name stand for, as seen from a file
NOT_STATED = "not stated"


class Table:
    """One table of a description, and what has been read of it.

    Args:
        values: the table as TOML gives it.
        where: the file and the table, for messages: ``"my.toml: [link]"``.
        known_sources: what the words under ``source`` stand for.
    """

    def __init__(self, values: dict[str, Any], where: str, known_sources: dict[str, str]) -> None:
        self._values = values
        self._where = where
        self._known_sources = known_sources
        self._asked: set[str] = set()
        self.sources: dict[str, str] = {}  # field -> where its number is from

    def quantity(self, field: str, kind: Quantity, *, positive: bool = False) -> int:
        """A quantity that must be there, in its base unit; above zero, if `positive`.

        Raises:
            MachineError: missing, or not such a quantity.
        """
        value = self._number(field, kind.parse, f'a line such as {field} = "{kind.example}"')
        if positive and value == 0:
            raise self.refusal(field, f'is zero; expected a quantity such as "{kind.example}"')
        return value

    def optional(self, field: str, kind: Quantity, default: int) -> int:
        """A quantity that may be left out.

        Raises:
            MachineError: it is there, but no such quantity.
        """
        return self.quantity(field, kind) if field in self else default

    def maybe(self, field: str, kind: Quantity) -> int | None:
        """A quantity above zero that need not be known.

        Raises:
            MachineError: it is there, but no such quantity.
        """
        return self.quantity(field, kind, positive=True) if field in self else None

    def says(self, field: str, word: str) -> bool:
        """Whether a field has this word in place of a quantity; then its source is noted."""
        value = self._values.get(field)
        said = value.get("value") if isinstance(value, dict) else value
        return said == word and self._number(field, lambda _: True, "")

    def share(self, field: str) -> Fraction:
        """A part of one that must be there.

        Raises:
            MachineError: missing, or not from 0 to 1.
        """
        return self._number(field, parse_share, f'a line such as {field} = "65 %"')

    def ratio(self, field: str) -> Fraction:
        """A ratio to one that must be there, such as ``"3 : 2"`` or ``"2 : 1"``.

        Raises:
            MachineError: missing, or no such ratio.
        """
        return self._number(field, parse_ratio, f'a line such as {field} = "2 : 1"')

    def count(self, field: str, *, at_least: int = 0) -> int:
        """A whole number that must be there.

        Raises:
            MachineError: missing, or no whole number of at least so many.
        """

        def parse(value: object) -> int:
            if type(value) is not int or value < at_least:
                raise MachineError(f"{value!r} is no whole number of at least {at_least}")
            return value

        return self._number(field, parse, f"a line such as {field} = {max(at_least, 8)}")

    def flag(self, field: str, default: bool) -> bool:
        """True or false; the default, if it is not there.

        Raises:
            MachineError: it is something else.
        """
        if field not in self:
            return default
        value = self._take(field, "")
        if type(value) is not bool:
            raise self.refusal(field, f"{value!r} is neither true nor false")
        return value

    def text(self, field: str, default: str | None = None) -> str:
        """A string; one that must be there, unless there is a default.

        Raises:
            MachineError: missing, empty or no string.
        """
        if default is not None and field not in self:
            return default
        value = self._take(field, f'a line such as {field} = "..."')
        if not isinstance(value, str) or not value.strip():
            raise self.refusal(field, f"{value!r} is no text; expected a string in quotes")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of strings; empty if it is not there.

        Raises:
            MachineError: it is something else.
        """
        if field not in self:
            return ()
        values = self._take(field, "")
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.refusal(field, f'{values!r} is no list of strings; expected ["one", "two"]')
        return tuple(values)

    def reference(self, field: str, kind: str, find: Find) -> Any:
        """Another thing, described elsewhere, that this one names.

        Raises:
            MachineError: missing, or nothing of this kind is called so.
        """
        name = self.text(field)
        try:
            return find(kind, name)
        except MachineError as error:
            raise self.refusal(field, str(error)) from None

    def table(self, field: str) -> "Table":
        """A table in this one, that must be there; its sources become this one's.

        Raises:
            MachineError: missing, or no table.
        """
        value = self._take(field, f"a table [{field}]")
        if not isinstance(value, dict):
            raise self.refusal(field, f"{value!r} is no table")
        return Table(value, f"{self._where} {field}", self._known_sources)

    def take_sources(self, inner: "Table", prefix: str) -> None:
        """Note the sources of a table in this one under ``prefix.field``."""
        self.sources |= {f"{prefix}.{field}": text for field, text in inner.sources.items()}

    def keys(self) -> list[str]:
        """The fields that the file has here."""
        return list(self._values)

    def __contains__(self, field: str) -> bool:
        self._asked.add(field)  # asking whether it is there counts as knowing it
        return field in self._values

    def done(self) -> None:
        """Refuse what nobody asked for.

        Raises:
            MachineError: an unknown field, and the nearest known one.
        """
        for field in self._values:
            if field not in self._asked:
                known = sorted(self._asked)
                raise MachineError(
                    f"{self._where}: unknown field '{field}': {nearest(field, known)}"
                    f"there are {', '.join(known)}"
                )

    def refusal(self, field: str, what: str) -> MachineError:
        """An error about a field, which names the file."""
        return MachineError(f"{self._where}: {field}: {what}")

    def make(self, build: Callable[..., T], **arguments: Any) -> T:
        """The thing that this table describes; what it finds wrong is said with the file's name.

        Raises:
            MachineError: an unknown field, or numbers that do not go together.
        """
        self.done()
        try:
            return build(**arguments, sources=self.sources)
        except MachineError as error:
            raise MachineError(f"{self._where}: {error}") from None

    def _take(self, field: str, expected: str) -> Any:
        if field not in self:
            raise MachineError(f"{self._where}: {field} is missing; expected {expected}")
        return self._values[field]

    def _number(self, field: str, parse: Callable[[object], T], expected: str) -> T:
        value, source = self._take(field, expected), NOT_STATED
        if isinstance(value, dict):
            value, source = self._value_and_source(field, value)
        try:
            number = parse(value)
        except MachineError as error:
            raise self.refusal(field, str(error)) from None
        self.sources[field] = source
        return number

    def _value_and_source(self, field: str, pair: dict[str, Any]) -> tuple[Any, str]:
        unknown = sorted(pair.keys() - {"value", "source"})
        if unknown or "value" not in pair:
            wrong = f"unknown '{unknown[0]}' in it" if unknown else "it has no value"
            form = 'expected { value = "...", source = "..." }'
            raise self.refusal(field, f"{wrong}; {form}")
        source = pair.get("source", NOT_STATED)
        if not isinstance(source, str) or not source.strip():
            raise self.refusal(field, f"source {source!r} is no text")
        if is_word(source) and source not in self._known_sources:
            raise self.refusal(
                field,
                f"source '{source}' is not in [sources]: "
                f"{nearest(source, self._known_sources)}add it there, or write a sentence",
            )
        return pair["value"], self._known_sources.get(source, source)


def is_word(source: str) -> bool:
    """Whether a source is a word for `[sources]` to explain: no sentence and no address."""
    return " " not in source and "." not in source


def read_tables(path: Path, shown: str, kinds: tuple[str, ...]) -> dict[str, Table]:
    """The tables of a file, by what they describe.

    Args:
        path: the file.
        shown: how messages call it.
        kinds: what a file can describe.

    Raises:
        MachineError: unreadable, no TOML, an unknown table, or none.
    """
    document = _load(path, shown)
    sources = document.pop("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(v, str) for v in sources.values()):
        raise MachineError(f'{shown}: [sources]: expected lines such as word = "title, page"')
    for kind, values in document.items():
        if kind not in kinds or not isinstance(values, dict):
            raise MachineError(
                f"{shown}: unknown table '{kind}': {nearest(kind, kinds)}"
                f"expected {', '.join(f'[{known}]' for known in kinds)} or [sources]"
            )
    if not document:
        raise MachineError(f"{shown} describes nothing: expected a table such as [{kinds[0]}]")
    return {k: Table(values, f"{shown}: [{k}]", sources) for k, values in document.items()}


def _load(path: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise MachineError(f"{shown} is not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:  # TOML's own, an endless number, deep nesting
        raise MachineError(f"{shown} is not valid TOML: {error}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MachineError(f"cannot read {shown}: {reason}; give a TOML file") from None
