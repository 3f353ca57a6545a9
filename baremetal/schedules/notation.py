"""How an action is written, ``2F0``, and what a heap of written actions says about the whole.

A word is a stage, a kind and a microbatch, as in PyTorch's `torch.distributed.pipelining`; an
overlapped pair stands in brackets, ``(1F4;1B2)OVERLAP_F_B``. The two written forms, text and CSV,
share this file: they differ only in what separates the words.
"""

import re
from collections.abc import Sequence

from baremetal.schedules.action import Action, Kind, Overlap, Step
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.schedule import Schedule

ACTION = re.compile(r"([0-9]{1,9})([FIWB])([0-9]{1,9})")
OVERLAP = re.compile(r"\(\s*(\S+?)\s*;\s*(\S+?)\s*\)OVERLAP_F_B")
EXPECTED = (
    "expected stage, kind (F, I, W or B) and microbatch, as in 2F0, or an overlapped forward and "
    "backward, as in (1F4;1B2)OVERLAP_F_B"
)


def parse_step(word: str) -> Step:
    """A written step.

    Raises:
        ScheduleError: it is none; says what is expected. The caller knows where it stands.
    """
    if match := OVERLAP.fullmatch(word):
        forward, backward = parse_action(match[1]), parse_action(match[2])
        if forward.kind is not Kind.F or backward.kind not in (Kind.I, Kind.B):
            raise ScheduleError(f"{word!r}: a pair is a forward first, then a backward (I or B)")
        return Overlap(forward, backward)
    return parse_action(word)


def parse_action(word: str) -> Action:
    """A written action that is not a pair. Raises ScheduleError."""
    match = ACTION.fullmatch(word)
    if match is None:
        raise ScheduleError(f"{word!r}: {EXPECTED}")
    return Action(Kind[match[2]], int(match[1]), int(match[3]))


def assembled(name: str, ranks: Sequence[Sequence[Step]]) -> Schedule:
    """The schedule that these steps are, with its microbatches and paths found out.

    The path is stage 0, 1, ... to the last, unless the first half of the stages sees just the first
    half of the microbatches and the other stages just the others: that is DualPipe, two paths.

    Raises:
        ScheduleError: nothing is there, or a number is left out (stages 0 and 2, but no 1).
    """
    actions = [action for steps in ranks for step in steps for action in step.parts]
    if not actions:
        raise ScheduleError(f"{name}: no actions; {EXPECTED}")
    stages = without_gap(name, "stage", {action.stage for action in actions})
    microbatches = without_gap(name, "microbatch", {action.microbatch for action in actions})
    paths: tuple[tuple[int, ...], ...] = (tuple(range(stages)),)
    if stages % 2 == 0 and microbatches > 1:
        halves = (stages // 2, -(-microbatches // 2))
        if all((stage < halves[0]) == (k < halves[1]) for _, stage, k in actions):
            paths = (tuple(range(halves[0])), tuple(range(halves[0], stages)))
    return Schedule(name, microbatches, tuple(map(tuple, ranks)), paths)


def without_gap(name: str, word: str, numbers: set[int]) -> int:
    """How many there are, if they are 0, 1, 2 ... Raises ScheduleError."""
    missing = next((n for n in range(len(numbers)) if n not in numbers), None)
    if missing is not None:
        raise ScheduleError(
            f"{name}: there is a {word} {max(numbers)} but no {word} {missing}: "
            f"{word}s are counted from 0 without a gap"
        )
    return len(numbers)
