"""The tape as a picture, and as text.

    print(draw(loss))           draw(loss).save("tape.svg")          # in a notebook: draw(loss)

    4 operations, 24 B saved
    o    x (2, 3)
    |\\
    | *  linear (2, 3)  weight: w (3, 3)
    | *  relu (2, 3)    saves 24 B
    |/
    *    add (2, 3)
    *    sum  -> loss ()

Every operation has a row, in the order in which they ran (backward goes through the rows from
bottom to top), and every value that is still needed has a lane. A lane begins where the value is
made and ends at its last use: so a residual connection is a line past the branch it skips. Leaves
are circles; parameters stand beside the operation that reads them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.autograd.op import owner
from baremetal.autograd.tape import Folded, Node
from baremetal.autograd.tensor import Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically
from baremetal.trace.units import format_bytes


@dataclass
class _Row:
    """One operation or leaf: what is written, where it stands, and where its inputs come from."""

    label: str
    shape: tuple[int, ...]
    is_leaf: bool
    sequence: float
    parents: list["_Row"] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    saved: dict[int, int] | None = None  # bytes by memory; None once the tape is freed
    last_use: int = -1  # index of the row that reads this value last
    index: int = 0
    lane: int = 0


class Drawing:
    """What `draw` returns: `text`, `svg`, `save(path)`; notebooks show the SVG by themselves."""

    def __init__(self, rows: list[_Row]) -> None:
        self._rows = rows
        self.text = _text(rows)
        self.svg = _svg(rows)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<drawing of {len(self._rows)} values>"

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture (.svg) or the text (.txt) and return the path."""
        forms = {".svg": self.svg, ".txt": self.text + "\n"}
        suffix = Path(path).suffix.lower()
        if suffix not in forms:
            raise BaremetalError(f"cannot draw to {path}: choose a name that ends in .svg or .txt")
        return write_atomically(path, forms[suffix].encode("utf-8"))


def draw(tensor: Tensor) -> Drawing:
    """Draw the tape that leads to `tensor`: every operation, its inputs, and what it saved.

    After backward the shapes are still known, what was saved is not.
    """
    rows = sorted(_collect(tensor), key=lambda row: row.sequence)
    for index, row in enumerate(rows):
        row.index = index
        for parent in row.parents:
            parent.last_use = index
    _choose_lanes(rows)
    return Drawing(rows)


# ---------------------------------------------------------------- collecting


def _collect(tensor: Tensor) -> list[_Row]:
    """A row for each operation and for each leaf that is not a parameter."""
    if tensor.node is None:
        return [_leaf_row(tensor, 0.0)]
    rows: dict[Any, _Row] = {}
    waiting = [tensor.node]
    while waiting:
        node = waiting.pop()
        if node in rows:
            continue
        rows[node] = _operation_row(node)
        waiting.extend(parent for parent in node.parents if isinstance(parent, Node))
    for node in list(rows):
        _connect(node, rows)
    rows[tensor.node].label += f"  -> {tensor.name}" if tensor.name else ""
    return list(rows.values())


def _operation_row(node: Node) -> _Row:
    row = _Row(node.op.name, node.shape, False, node.sequence)
    saved = _saved(node)
    if saved is not None:
        leaves = {id(owner(p.data)) for p in node.parents if isinstance(p, Tensor)}
        arrays = {id(owner(a)): a.nbytes for a in saved if a is not None}
        # Leaves live with or without a tape: only what the tape keeps alive counts.
        row.saved = {memory: size for memory, size in arrays.items() if memory not in leaves}
    return row


def _saved(node: Node) -> Sequence[np.ndarray | None] | None:
    """The arrays that a node keeps; None once it was freed."""
    if isinstance(node, Folded):
        return node.stretch.kept() or None
    return None if node.context is None else node.context.saved


def _leaf_row(leaf: Tensor, sequence: float) -> _Row:
    return _Row(leaf.name or type(leaf).__name__, leaf.shape, True, sequence)


def _connect(node: Node, rows: dict[Any, _Row]) -> None:
    """Enter the inputs of one operation; a leaf gets its row just before its first use."""
    row = rows[node]
    for position, parent in enumerate(node.parents):
        if isinstance(parent, Parameter):
            name = node.op.input_name(position)
            row.parameters.append(f"{name}: {parent.name or 'Parameter'} {_shape(parent.shape)}")
        elif parent is not None:
            if parent not in rows:
                rows[parent] = _leaf_row(parent, node.sequence - 0.5)
            source = rows[parent]
            if source.is_leaf:
                source.sequence = min(source.sequence, node.sequence - 0.5)
            if source not in row.parents:
                row.parents.append(source)


def _choose_lanes(rows: list[_Row]) -> None:
    """Each value in the lowest free lane, or in that of an input whose last use it is."""
    busy: dict[int, _Row] = {}
    for row in rows:
        ending = [p.lane for p in row.parents if p.last_use == row.index]
        for lane in ending:
            del busy[lane]
        free = (lane for lane in range(len(rows)) if lane not in busy)
        row.lane = min(ending) if ending else next(free)
        if row.last_use > row.index:
            busy[row.lane] = row


def _shape(shape: tuple[int, ...]) -> str:
    return str(tuple(shape))


# ---------------------------------------------------------------- as text


def _text(rows: list[_Row]) -> str:
    lanes = 1 + max(row.lane for row in rows)
    heads = [f"{row.label} {_shape(row.shape)}" for row in rows]
    width = max(map(len, heads))
    lines = [_headline(rows)]
    live: dict[int, _Row] = {}
    for row, head in zip(rows, heads, strict=True):
        links = _links(row, live, lanes)
        if links.strip("| "):
            lines.append(links.rstrip())
        for parent in row.parents:
            if parent.last_use == row.index:
                del live[parent.lane]
        live[row.lane] = row
        marks = dict.fromkeys(live, "|") | {row.lane: "o" if row.is_leaf else "*"}
        gutter = " ".join(marks.get(lane, " ") for lane in range(lanes))
        lines.append(f"{gutter}  {head:<{width}}  {_notes(row)}".rstrip())
        if row.last_use < row.index:
            del live[row.lane]
    return "\n".join(lines)


def _headline(rows: list[_Row]) -> str:
    operations = [row for row in rows if not row.is_leaf]
    if not operations:
        return "a leaf: no operation made it"
    saved: dict[int, int] = {}  # what two operations save exists once
    for row in operations:
        saved.update(row.saved or {})
    is_freed = all(row.saved is None for row in operations)
    state = "freed by backward" if is_freed else f"{format_bytes(sum(saved.values()))} saved"
    if sum(len(row.saved or {}) for row in operations) > len(saved):
        state += " (what two rows share counts once)"
    return f"{len(operations)} operations, {state}"


def _notes(row: _Row) -> str:
    saved = [f"saves {format_bytes(sum(row.saved.values()))}"] if row.saved else []
    return ", ".join([*saved, *row.parameters])


def _links(row: _Row, live: dict[int, _Row], lanes: int) -> str:
    """The line above a row: from the lanes of its inputs over to its own lane."""
    cells = [" "] * (2 * lanes)
    for lane in live:
        cells[2 * lane] = "|"
    for parent in row.parents:
        if parent.lane == row.lane:
            continue
        low, high = sorted((parent.lane, row.lane))
        for place in range(2 * low + 1, 2 * high):
            if cells[place] == " ":
                cells[place] = "_"
        cells[2 * high - 1] = "\\" if parent.lane < row.lane else "/"
        if parent.last_use == row.index and parent.lane > row.lane:
            cells[2 * parent.lane] = " "
    return "".join(cells)


# ---------------------------------------------------------------- as SVG

ROW_PX, LANE_PX, MARGIN_PX, FONT_PX = 38, 26, 16, 13
HEAD_PX = 26  # for the line above the rows
BOX_HEIGHT_PX = 28
CHARACTER_PX = 0.61 * FONT_PX  # of a monospaced font
INK, MUTED, LINE, PAPER = "#1f2430", "#6b7280", "#9aa3b2", "#ffffff"
OPERATION_FILL, LEAF_FILL = "#e8eefc", "#e6f4ea"


def _svg(rows: list[_Row]) -> str:
    """A headline; lanes on the left as lines, and a box per row with what is known of it."""
    lanes = 1 + max(row.lane for row in rows)
    left = MARGIN_PX + lanes * LANE_PX
    boxes = [f"{row.label} {_shape(row.shape)}" for row in rows]
    box_width = max(map(len, boxes)) * CHARACTER_PX + 20
    notes = [_notes(row) for row in rows]
    headline = _headline(rows)
    width = left + box_width + 14 + max(map(len, notes)) * CHARACTER_PX + MARGIN_PX
    width = max(width, 2 * MARGIN_PX + len(headline) * CHARACTER_PX)
    height = 2 * MARGIN_PX + HEAD_PX + ROW_PX * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, Menlo, Consolas, '
        f'monospace" font-size="{FONT_PX}" role="img">',
        f"<title>{escape(headline)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        f'<text x="{MARGIN_PX}" y="{MARGIN_PX + FONT_PX}" fill="{INK}">{escape(headline)}</text>',
    ]
    parts += [_edge(parent, row) for row in rows for parent in row.parents]
    for row, box, note in zip(rows, boxes, notes, strict=True):
        parts += _box(row, box, note, left, box_width)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _centre(row: _Row) -> tuple[float, float]:
    """Where the dot of a row is."""
    x = MARGIN_PX + (row.lane + 0.5) * LANE_PX - LANE_PX / 4
    return x, MARGIN_PX + HEAD_PX + (row.index + 0.5) * ROW_PX


def _edge(parent: _Row, row: _Row) -> str:
    """Straight down the parent's lane, then over to the row's in one curve."""
    (x0, y0), (x1, y1) = _centre(parent), _centre(row)  # y0 <= y1 - ROW_PX
    turn = y1 - ROW_PX
    path = f"M{x0:.1f} {y0:.1f} V{turn:.1f}"
    if x0 != x1:
        middle = (turn + y1) / 2
        path += f" C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    else:
        path += f" V{y1:.1f}"
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="2"/>'


def _box(row: _Row, label: str, note: str, left: float, width: float) -> list[str]:
    x, y = _centre(row)
    fill = LEAF_FILL if row.is_leaf else OPERATION_FILL
    dot = PAPER if row.is_leaf else INK
    name, _, shape = label.partition(" (")
    return [
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{left:.1f}" y2="{y:.1f}" stroke="{LINE}" '
        'stroke-dasharray="2 4"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{dot}" stroke="{INK}" stroke-width="1.5"/>',
        f'<rect x="{left:.1f}" y="{y - BOX_HEIGHT_PX / 2:.1f}" width="{width:.1f}" '
        f'height="{BOX_HEIGHT_PX}" rx="6" fill="{fill}"/>',
        f'<text x="{left + 10:.1f}" y="{y + 4.5:.1f}" fill="{INK}">{escape(name)} '
        f'<tspan fill="{MUTED}">({escape(shape)}</tspan></text>',
        f'<text x="{left + width + 14:.1f}" y="{y + 4.5:.1f}" fill="{MUTED}">{escape(note)}</text>',
    ]
