"""Spans, counters and flows: what happened, where, from when to when.

A *span* is one thing that lasted: a kernel launch, a forward pass of one microbatch, a wait for a
message. It sits on a *track* (a thread, a pipeline stage, a link). A *counter* is a number that
changes with time (bytes in use). A *flow* is an arrow from one span to another (a message). A
`Trace` (recording.py) holds them.

All times are **integer picoseconds** from the trace's own zero. Integers, because a schedule is
simulated and then executed, and the two must agree to the last digit; picoseconds, because one
cycle of a 2 GHz chip is 500 of them and 64 bits of them last 106 days. Measured time comes from
`time.perf_counter_ns` and modelled time from a virtual clock; both land in the same format, so one
set of views (terminal, picture, Perfetto, summary) serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from baremetal.errors import BaremetalError

PS_PER_NS = 1_000
PS_PER_S = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted from `start_ps` for `duration_ps` on `track`.

    `category` groups spans for colours and legends ("forward", "send"); `arguments` carry what
    else is known, in JSON types. The summary reads `flops` (FLOP) and `bytes` (B) from them.
    Raises BaremetalError if a time is no integer or the duration is negative.
    """

    track: str
    name: str
    start_ps: int
    duration_ps: int
    category: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_integer(self.start_ps, f"span {self.name!r}: start_ps")
        _require_integer(self.duration_ps, f"span {self.name!r}: duration_ps")
        if self.duration_ps < 0:
            raise BaremetalError(
                f"span {self.name!r} on track {self.track!r}: duration_ps is {self.duration_ps}, "
                "expected 0 or more; was the end subtracted from the start?"
            )

    @property
    def end_ps(self) -> int:
        return self.start_ps + self.duration_ps

    def contains(self, other: Span) -> bool:
        return self.start_ps <= other.start_ps and other.end_ps <= self.end_ps


@dataclass(frozen=True, slots=True)
class Counter:
    """The number `name` on `track` has `value` from `time_ps` on. The value must be finite."""

    track: str
    name: str
    time_ps: int
    value: float

    def __post_init__(self) -> None:
        _require_integer(self.time_ps, f"counter {self.name!r}: time_ps")
        if not abs(self.value) < float("inf"):  # written so that NaN fails too
            raise BaremetalError(
                f"counter {self.name!r}: value is {self.value}, expected a finite number; "
                "leave the sample out instead"
            )


@dataclass(frozen=True, slots=True)
class Flow:
    """An arrow from the end of `source` to `target`: a message, or "this waited for that"."""

    source: Span
    target: Span
    name: str = ""

    @property
    def arrival_ps(self) -> int:
        """Where the arrow lands: the start of `target`, or its end.

        A receive that was posted before the message left is a span that *waits*: the message
        arrives when the span ends.
        """
        waited = self.target.start_ps < self.source.end_ps
        return self.target.end_ps if waited else self.target.start_ps


def _require_integer(value: object, what: str) -> None:
    if not isinstance(value, int):
        raise BaremetalError(
            f"{what} is {value!r} ({type(value).__name__}), expected an int in picoseconds; "
            "round up once, with int(math.ceil(seconds * 1e12))"
        )
