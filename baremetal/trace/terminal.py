"""A timeline in plain text: one line per track, one character per slice of time.

    stage 0  FFFFFFFF........BBBBBBBBBBBB   69.8 %
    stage 1  ..fFFFFFFFFBBBBBBBBBBBB.....   69.8 %
             0 s                   215 ps
    F forward  B backward  . idle

Each character stands for the category that fills most of its slice: a capital if something ran for
at least half of the slice, a small letter if for less, a dot if nothing ran. Where spans nest, the
inner one counts. The figure at the end is the share of the time in which the track was busy.

On a terminal with colours and block characters, blocks take the place of letters. Text that goes
to a file or a pipe has no colours, and a stream whose encoding lacks the blocks gets letters.
"""

from __future__ import annotations

import os
import shutil
import string
import sys
from collections.abc import Container, Mapping, Sequence
from itertools import groupby
from typing import TextIO

from baremetal.errors import BaremetalError
from baremetal.trace.nesting import Nested, nest
from baremetal.trace.recording import Trace
from baremetal.trace.spans import PS_PER_S
from baremetal.trace.style import PALETTE
from baremetal.trace.tables import display_width
from baremetal.trace.units import format_percent, format_seconds

IDLE = "."
FULL_BLOCK, PART_BLOCK = "█", "▒"
_MIN_CELLS = 10
_LABEL_CELLS = 24

# Time in one slice by category, in picoseconds.
Slice = dict[str, int]


def supports_colour(stream: TextIO | None = None) -> bool:
    """Whether to colour what is written to `stream` (stdout): a terminal, and nobody objects.

    Nobody objects: NO_COLOR (https://no-color.org) is unset or empty and TERM is not "dumb".
    """
    stream = sys.stdout if stream is None else stream
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and bool(getattr(stream, "isatty", lambda: False)())


def can_print(text: str, stream: TextIO | None = None) -> bool:
    """Whether `stream` (stdout) has the characters of `text` in its encoding."""
    stream = sys.stdout if stream is None else stream
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def timeline(
    trace: Trace,
    *,
    width: int | None = None,
    tracks: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    window_ps: tuple[int, int] | None = None,
    colour: bool | None = None,
    blocks: bool | None = None,
    stream: TextIO | None = None,
) -> str:
    """Draw `trace` as text, one line per track, without a newline at the end.

    `width` is the number of characters of a whole line (default: the terminal's); `tracks` and
    `window_ps` choose what is drawn (default: everything); `categories` fixes the order in which
    letters and colours are given out (default: by first start). `colour` and `blocks` default to
    what `stream` (stdout) can show. Raises BaremetalError for an unknown track or an empty window.
    """
    tracks = _known(trace, tracks)
    start_ps, end_ps = trace.window_ps if window_ps is None else window_ps
    if not trace.spans:
        return "(no spans)"
    if window_ps is not None and end_ps <= start_ps:
        raise BaremetalError(f"timeline: the window {window_ps} is empty; expected (start, end)")
    colour = supports_colour(stream) if colour is None else colour
    if blocks is None:
        blocks = colour and can_print(FULL_BLOCK + PART_BLOCK, stream)

    labels = [_shorten(track) for track in tracks]
    label_cells = max(map(display_width, labels))
    columns = shutil.get_terminal_size().columns if width is None else width
    cells = max(columns - label_cells - 2 - len("  100.0 %"), _MIN_CELLS)
    edges = slice_edges(start_ps, max(end_ps, start_ps + 1), cells)
    pen = _Pen(trace.ordered_categories(categories), colour, blocks)

    lines = []
    for track, label in zip(tracks, labels, strict=True):
        slices = fill_slices(nest(trace.on_track(track)), edges)
        busy = sum(sum(piece.values()) for piece in slices) / (edges[-1] - edges[0])
        drawn = pen.draw(slices, edges)
        pad = " " * (label_cells - display_width(label))
        lines.append(f"{label}{pad}  {drawn}  {format_percent(min(busy, 1.0)):>7}")
    lines.append(" " * (label_cells + 2) + _scale(start_ps, end_ps, cells))
    lines.append(pen.legend({span.category for t in tracks for span in trace.on_track(t)}))
    return "\n".join(lines)


def slice_edges(start_ps: int, end_ps: int, cells: int) -> list[int]:
    """The cells + 1 borders of the slices, in integers: together they cover the window exactly."""
    return [start_ps + (end_ps - start_ps) * i // cells for i in range(cells + 1)]


def fill_slices(nodes: Sequence[Nested], edges: Sequence[int]) -> list[Slice]:
    """Per slice, the time of each category; what a nested span takes is taken from its parent."""
    slices: list[Slice] = [{} for _ in edges[1:]]
    cells, length = len(slices), edges[-1] - edges[0]
    for node in nodes:
        first = max(0, (node.span.start_ps - edges[0]) * cells // length)
        last = min(cells - 1, (node.span.end_ps - edges[0]) * cells // length)
        for i in range(first, last + 1):
            inside = min(node.span.end_ps, edges[i + 1]) - max(node.span.start_ps, edges[i])
            _credit(slices[i], node, max(0, inside))
    return slices


def _credit(piece: Slice, node: Nested, time_ps: int) -> None:
    piece[node.span.category] = piece.get(node.span.category, 0) + time_ps
    if node.parents:
        parent = node.parents[-1].category
        piece[parent] = max(0, piece.get(parent, 0) - time_ps)


class _Pen:
    """Chooses one character, and perhaps one colour, for each category."""

    def __init__(self, categories: Sequence[str], colour: bool, blocks: bool) -> None:
        self.letters = category_letters(categories)
        self.numbers = {category: i for i, category in enumerate(categories)}
        self.colour = colour
        self.blocks = blocks and colour  # blocks of one colour could not be told apart

    def draw(self, slices: Sequence[Slice], edges: Sequence[int]) -> str:
        marks = [self._mark(piece, edges[i + 1] - edges[i]) for i, piece in enumerate(slices)]
        runs = groupby(marks, key=lambda mark: mark[1])
        return "".join(self._paint("".join(c for c, _ in run), key) for key, run in runs)

    def _mark(self, piece: Slice, length_ps: int) -> tuple[str, str | None]:
        """A slice's character, and the category that gives it its colour."""
        busy_ps = sum(piece.values())
        if busy_ps == 0:
            return IDLE, None
        category = max(piece, key=lambda name: piece[name])
        return self._character(category, full=2 * busy_ps >= length_ps), category

    def _character(self, category: str, full: bool) -> str:
        if self.blocks:
            return FULL_BLOCK if full else PART_BLOCK
        letter = self.letters[category]
        return letter if full else letter.lower()

    def _paint(self, text: str, category: str | None) -> str:
        if not self.colour or category is None:
            return text
        code = xterm_colour(PALETTE[self.numbers[category] % len(PALETTE)])
        return f"\x1b[38;5;{code}m{text}\x1b[0m"

    def legend(self, used: Container[str]) -> str:
        shown = [category for category in self.letters if category in used]
        marks = (self._paint(self._character(c, full=True), c) for c in shown)
        entries = [f"{m} {c or '(none)'}" for m, c in zip(marks, shown, strict=True)]
        return "  ".join([*entries, f"{IDLE} idle"])


def category_letters(categories: Sequence[str]) -> Mapping[str, str]:
    """A letter for each category: the first of its own that is free, else any, else "#"."""
    letters: dict[str, str] = {}
    for category in categories:
        own = [c for c in category.upper() if c in string.ascii_uppercase]
        free = (c for c in own + list(string.ascii_uppercase) if c not in letters.values())
        letters[category] = next(free, "#")
    return letters


def xterm_colour(hex_colour: str) -> int:
    """The nearest colour of the 6 x 6 x 6 cube that terminals number from 16 to 231."""
    levels = (0, 95, 135, 175, 215, 255)  # xterm's, source: its 256colres.pl
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    r, g, b = (min(range(6), key=lambda n: abs(levels[n] - v)) for v in (red, green, blue))
    return 16 + 36 * r + 6 * g + b


def _known(trace: Trace, tracks: Sequence[str] | None) -> Sequence[str]:
    for track in tracks or ():
        if track not in trace.tracks:
            raise BaremetalError(
                f"timeline: no track {track!r}; this trace has {', '.join(trace.tracks) or 'none'}"
            )
    return trace.tracks if tracks is None else tracks


def _shorten(label: str) -> str:
    # Keep both ends: "rank 0/compute" and "rank 0/copy" differ only at the end.
    if len(label) <= _LABEL_CELLS:
        return label
    half = (_LABEL_CELLS - 2) // 2
    return f"{label[:half]}..{label[-half:]}"


def _scale(start_ps: int, end_ps: int, cells: int) -> str:
    left, right = (format_seconds(time_ps / PS_PER_S) for time_ps in (start_ps, end_ps))
    return left + right.rjust(cells - len(left))
