"""Showing that work goes on without knowing how: whoever calls brings the bar.

A large corpus takes a while to read and to encode. This room draws nothing; it hands the things it
is about to do, one after the other, to a function that may count them, as `tqdm` does.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Passes `items` on one by one, and may show how many of them are done.

    `what` says in a word or two what is being done; `at_once` that the first item may take long
    already, so that waiting for its end before anything is shown would be waiting too long.
    """

    def __call__(
        self, items: Sequence[Item], what: str, *, at_once: bool = False
    ) -> Iterable[Item]: ...


def untracked(items: Sequence[Item], what: str, *, at_once: bool = False) -> Iterable[Item]:
    """Show nothing."""
    return items
