"""The search for one stage per rank: many rules are tried, the best then changed a little."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from baremetal.schedules.auto_list import Line, Listed, Rules, follow, rules_to_try
from baremetal.schedules.auto_question import Question, line_of

Track = Callable[[Sequence[Any]], Iterable[Any]]
FINALISTS = 3  # of those that the rules make; the simulator has the last word
ROUNDS = 4  # of small changes, at most
EVENTS = 2_000_000  # decisions that all small changes together may take: seconds


def search_line(question: Question, goal: int, track: Track) -> list[Listed]:
    """The best few that rules make, each rule tried once, the best then changed a little."""
    line = line_of(question)
    tried: list[tuple[tuple[int, int], int, Rules, Listed]] = []

    def attempt(rules: Rules) -> tuple[int, int]:
        listed = follow(line, rules)
        ranking = question.ranking(listed.makespan_ps, listed.span_ps)
        tried.append((ranking, len(tried), rules, listed))
        tried.sort(key=lambda entry: entry[:2])
        del tried[FINALISTS:]
        return ranking

    for rules in track(list(rules_to_try(line))):
        if not tried or tried[0][0][0] > goal:
            attempt(rules)
    _improve(line, goal, tried[0][2], tried[0][0], attempt)
    return [listed for *_, listed in tried]


def _improve(
    line: Line,
    goal: int,
    rules: Rules,
    best: tuple[int, int],
    attempt: Callable[[Rules], tuple[int, int]],
) -> None:
    """Change what one rank or many want ahead, or a rank's patience; keep what helps."""
    left = EVENTS // (3 * line.ranks * line.microbatches)
    for _ in range(ROUNDS):
        before = best
        for changed in range(4 * 2 * line.ranks):
            if best[0] <= goal or left <= 0:
                return
            left -= 1
            other = _changed(rules, changed, line)
            ranking = attempt(other)
            if ranking < best:
                rules, best = other, ranking
        if best == before:
            return


def _changed(rules: Rules, number: int, line: Line) -> Rules:
    """One of the 8 p small changes, by its number."""
    rank, way = divmod(number, 8)
    which, more = divmod(way, 2)
    if which == 3:
        patience = rules.patience.copy()
        patience[rank] = float(np.clip(patience[rank] + (0.25, -0.25)[more], 0, 1))
        return replace(rules, patience=patience)
    ahead = rules.ahead.copy()
    ranks = (slice(rank, rank + 1), slice(rank, None), slice(0, rank + 1))[which]
    ahead[ranks] = np.clip(ahead[ranks] + (1, -1)[more], 1, line.microbatches)
    return replace(rules, ahead=ahead)
