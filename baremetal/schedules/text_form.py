"""A schedule written by hand: one line for each rank, its actions in order.

    # 1F1B on two ranks, two microbatches
    0F0 0F1 0B0 0B1
    1F0 1B0 1F1 1B1

Spaces separate, `#` begins a comment, empty lines are nothing. That is all: when things happen
follows from the order, and whether the order can work at all the checker says.
"""

import re
from pathlib import Path

from baremetal.schedules.action import Step
from baremetal.schedules.csv_form import from_csv
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.notation import assembled, parse_step
from baremetal.schedules.schedule import Schedule


def from_text(text: str, name: str = "by hand") -> Schedule:
    """Read the text form.

    Args:
        text: lines of actions.
        name: what the schedule is called, in messages too.

    Raises:
        ScheduleError: a word is no action (names line, column and what is expected), or the whole
            is no schedule.
    """
    ranks = []
    for number, line in enumerate(text.splitlines(), start=1):
        written = line.partition("#")[0]
        if written.strip():
            ranks.append(parse_line(written, f"{name}, line {number}"))
    return assembled(name, ranks)


def parse_line(line: str, where: str) -> list[Step]:
    """One rank's steps. Raises ScheduleError with the column."""
    steps = []
    for word in re.finditer(r"\S+", line):
        try:
            steps.append(parse_step(word[0]))
        except ScheduleError as error:
            raise ScheduleError(f"{where}, column {word.start() + 1}: {error}") from None
    return steps


def to_text(schedule: Schedule) -> str:
    """Write the text form, a comment with the name first."""
    return f"# {schedule.name}: {schedule.microbatches} microbatches\n{schedule}\n"


def read_schedule(path: Path | str) -> Schedule:
    """Read a file: `.csv` as CSV, anything else as text. The schedule is called as the file.

    Raises:
        ScheduleError: the file cannot be read, or what is in it is no schedule.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ScheduleError(f"cannot read the schedule {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScheduleError(f"cannot read the schedule {path}: it is not UTF-8 text") from error
    read = from_csv if path.suffix.lower() == ".csv" else from_text
    return read(text, path.name)
