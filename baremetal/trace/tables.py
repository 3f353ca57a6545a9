"""The one table of the project: text columns, numbers flush right, nothing but ASCII around them.

Every command that reports figures makes a list of dictionaries; `--json` prints that list as it
is, and the pretty form is `table(rows, columns)` of the same list:

    >>> rows = [{"kernel": "matmul", "time_s": 0.0123}, {"kernel": "gelu", "time_s": 4.5e-05}]
    >>> print(table(rows, ["kernel", Column("time_s", "time", format_seconds)]))
    kernel     time
    ------  -------
    matmul  12.3 ms
    gelu    45.0 us
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.trace.units import MISSING

Row = Mapping[str, Any] | Sequence[Any]

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
# 12, -1.5e-3, 1,024, 3.2 ms, 45.1 GFLOP/s, 12 %, 2x, nan; and the dash that stands for nothing
_QUANTITY = re.compile(r"[-+]?([\d.,]*\d(e[-+]?\d+)?|inf|nan)( ?[%A-Za-z][A-Za-z/%]*)?$|-$")


@dataclass(frozen=True)
class Column:
    """How one column is read, headed and printed.

    `key` finds the cell in a row that is a mapping; in a row that is a sequence, position does.
    `format` is a function from a value to text or a format specification such as ".2f"; a value
    of None is printed as "-". `align` is "<", ">" or None: right if all its cells are quantities.
    """

    key: str
    title: str | None = None
    format: Callable[[Any], str] | str | None = None
    align: str | None = None

    def text(self, value: Any) -> str:
        if value is None:
            return MISSING
        if callable(self.format):
            text = self.format(value)
        elif self.format is not None:
            text = format(value, self.format)
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
        # A newline inside a cell (a token, a message) would break the row.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(
    rows: Sequence[Row],
    columns: Sequence[Column | str] | None = None,
    *,
    footer: Sequence[Row] = (),
    title: str = "",
    colour: bool = False,
) -> str:
    """Rows as text, one line each, without a newline at the end.

    `columns` defaults to the keys of the first row, each printed plainly; `footer` rows (totals)
    stand below a rule; `colour` makes title and heads bold and should be
    `supports_colour(sys.stdout)`. Raises BaremetalError if a row has no cell for a column.
    """
    heads = _columns(rows, columns)
    body = [_cells(row, heads) for row in rows]
    foot = [_cells(row, heads) for row in footer]
    titles = [c.key if c.title is None else c.title for c in heads]
    widths = [max(map(display_width, column)) for column in zip(titles, *body, *foot, strict=True)]
    aligns = [_align(c, [r[i] for r in body + foot]) for i, c in enumerate(heads)]

    def line(cells: Sequence[str]) -> str:
        padded = (_pad(c, w, a) for c, w, a in zip(cells, widths, aligns, strict=True))
        return "  ".join(padded).rstrip()

    def strong(text: str) -> str:
        return f"{_BOLD}{text}{_PLAIN}" if colour else text

    rule = "  ".join("-" * width for width in widths)
    lines = [strong(title)] if title else []
    lines += [strong(line(titles)), rule, *map(line, body)]
    if foot:
        lines += [rule, *map(line, foot)]
    return "\n".join(lines)


def display_width(text: str) -> int:
    """How many terminal cells the text takes: 2 for a wide East Asian one, 0 for an accent."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _columns(rows: Sequence[Row], columns: Sequence[Column | str] | None) -> list[Column]:
    if columns is None:
        if not rows or not isinstance(rows[0], Mapping):
            raise BaremetalError(
                "table: no columns given and the first row is no mapping to take them from; "
                'pass columns, e.g. table(rows, ["name", "time"])'
            )
        columns = list(rows[0])
    return [Column(c) if isinstance(c, str) else c for c in columns]


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    if isinstance(row, Mapping):
        missing = [c.key for c in columns if c.key not in row]
        if missing:
            raise BaremetalError(
                f"table: a row has no {missing[0]!r}, only {', '.join(map(str, row))}; "
                "put None where there is no value"
            )
        return [c.text(row[c.key]) for c in columns]
    if len(row) != len(columns):
        raise BaremetalError(
            f"table: a row has {len(row)} cells for {len(columns)} columns: {row!r}; "
            "put None where there is no value"
        )
    return [c.text(value) for c, value in zip(columns, row, strict=True)]


def _align(column: Column, cells: Sequence[str]) -> str:
    if column.align is not None:
        return column.align
    quantities = all(_QUANTITY.match(cell) for cell in cells)
    return ">" if quantities and any(cell != MISSING for cell in cells) else "<"


def _pad(text: str, width: int, align: str) -> str:
    space = " " * (width - display_width(text))
    return space + text if align == ">" else text + space
