"""Seconds by cause: where time goes, added up."""

from collections.abc import Mapping


class Spent(dict[str, float]):
    """Seconds by cause; a cause that is not there has none."""

    def __missing__(self, cause: str) -> float:
        return 0.0

    def add(self, other: Mapping[str, float], times: float = 1.0) -> None:
        """Add another's seconds, so many times."""
        for cause, seconds in other.items():
            self[cause] += times * seconds

    @property
    def total_s(self) -> float:
        """Of all causes."""
        return sum(self.values())
