"""A played schedule in plain text: time to the right, one line per rank.

    rank 0  F0---F1---..........B0========.....B1========
    rank 1  .....F0---B0========F1---B1========..........
            0                                           9

Every step begins with its letter and its microbatch, as far as there is room, and a fill of its
own goes on to its end, so that letters alone tell where one ends and the next begins. A rank's
second, fourth ... chunk is in lower case, and with it the mirrored copies.
"""

import textwrap

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.schedules.action import Overlap, Step
from baremetal.schedules.flat import chunk_numbers
from baremetal.schedules.report import SECONDS, figure_time, time_format
from baremetal.schedules.timeline import Timeline
from baremetal.trace import format_percent
from baremetal.trace.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from baremetal.trace.terminal import xterm_colour

IDLE = "."
FILLS = {"F": "-", "I": "=", "W": "~", "B": "=", "&": "#"}
COLOURS = {"F": BLUE, "I": VERMILION, "W": GREEN, "B": ORANGE, "&": PURPLE}
WORDS = {
    "F": "F forward",
    "I": "I input-gradient",
    "W": "W weight-gradient",
    "B": "B full backward",
    "&": "&  a forward beside a backward",
}
NARROWEST = 10  # columns of time


def draw_text(
    timeline: Timeline, width: int = 100, colour: bool = False, unit: str = SECONDS
) -> str:
    """The timeline as text, without a newline at its end.

    Args:
        timeline: what to draw.
        width: of a whole line, in characters.
        colour: whether to colour it, for a terminal that can.
        unit: whether the scale is in seconds (and their parts) or in units.

    Raises:
        BaremetalError: the width leaves less than ten characters for the time.
    """
    schedule = timeline.schedule
    labels = [f"rank {rank}" for rank in range(len(schedule.ranks))]
    indent = max(map(len, labels)) + 2
    columns = _even(width - indent, timeline)
    if columns < NARROWEST:
        raise BaremetalError(
            f"a width of {width} leaves {max(width - indent, 0)} characters for the time: give "
            f"{indent + NARROWEST} or more"
        )
    lines = []
    for rank, label in enumerate(labels):
        lines.append(label.ljust(indent) + _draw_rank(timeline, rank, columns, colour))
    end = time_format(unit)(figure_time(timeline.makespan_ps, unit))
    scale = " " * indent + "0" + end.rjust(columns - 1)
    notes = [*_legend(timeline, width), *textwrap.wrap(caption(timeline), width)]
    return "\n".join([*lines, scale, "", *notes])


def _even(columns: int, timeline: Timeline) -> int:
    """So many columns, or a few less if steps that last as long are then drawn as long."""
    moments = np.concatenate([timeline.start_ps, timeline.end_ps])
    pieces = timeline.makespan_ps // max(int(np.gcd.reduce(moments)), 1)
    return columns // pieces * pieces if 0 < 2 * pieces <= columns else columns


def caption(timeline: Timeline) -> str:
    """Both bubbles and the peak of activations, in a line."""
    return (
        f"bubble {format_percent(timeline.bubble_span)} of the largest span, "
        f"{format_percent(timeline.bubble_makespan)} of the makespan; most microbatches held on a "
        f"rank: {max(timeline.peak_activations):.4g}"
    )


def _draw_rank(timeline: Timeline, rank: int, columns: int, colour: bool) -> str:
    cells = [IDLE] * columns
    whole = max(timeline.makespan_ps, 1)
    chunk = chunk_numbers(timeline.schedule)
    starts = timeline.by_rank(timeline.start_ps)[rank].tolist()
    ends = timeline.by_rank(timeline.end_ps)[rank].tolist()
    for step, start_ps, end_ps in zip(timeline.schedule.ranks[rank], starts, ends, strict=True):
        first, last = start_ps * columns // whole, end_ps * columns // whole
        if first == last:
            continue
        box = _box(step, last - first)
        cells[first:last] = box.lower() if chunk[step.parts[0].stage] % 2 else box
        if colour:
            code = xterm_colour(COLOURS[mark(step)])
            cells[first] = f"\x1b[38;5;{code}m{cells[first]}"
            cells[last - 1] += "\x1b[0m"
    return "".join(cells)


def _box(step: Step, room: int) -> str:
    """A step in exactly so many characters."""
    text = "&".join(f"{part.kind.name}{part.microbatch}" for part in step.parts)
    if isinstance(step, Overlap) and room < len(text):
        text = f"&{step.forward.microbatch}"
    return text[:room].ljust(room, FILLS[mark(step)])


def mark(step: Step) -> str:
    """The letter of its kind, "&" for an overlapped pair."""
    return "&" if isinstance(step, Overlap) else step.kind.name


def _marks(timeline: Timeline) -> list[str]:
    used = {mark(step) for steps in timeline.schedule.ranks for step in steps}
    return [letter for letter in WORDS if letter in used]


def _legend(timeline: Timeline, width: int) -> list[str]:
    """What the letters mean, in as many lines as it takes."""
    words = [WORDS[letter] for letter in _marks(timeline)]
    if timeline.schedule.chunks > 1:
        words.append("lower case: every second chunk of a rank")
    lines = [""]
    for word in [*words, f"{IDLE} idle"]:
        longer = f"{lines[-1]}  {word}".lstrip()
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]
