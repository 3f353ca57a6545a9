"""The options that the verbs of `baremetal schedule` share, and what they stand for.

A schedule is meant by its name and sizes, or by a file that holds one. A time is a bare number, in
units, or has a unit of its own ("1.5 us"); several, separated by commas, are for the stages in
their order.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from baremetal.errors import BaremetalError
from baremetal.machine import Link, find_link
from baremetal.machine.units import DURATION, SIZE
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.registry import SCHEDULES, make_schedule
from baremetal.schedules.report import PS_PER_UNIT, SECONDS, UNITS
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.text_form import read_schedule
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.times import LONGEST_PS, Times

Value = TypeVar("Value")
# 12, 1.5, 1e-3, 1/3; no number so long that reading it would take for ever
BARE = re.compile(r"[+-]?\d{1,20}(\.\d{0,20})?(e[+-]?\d{1,2})?(/\d{1,20})?", re.ASCII)
DEFAULT_STAGES, DEFAULT_MICROBATCHES = 4, 8


@dataclass(frozen=True)
class Sizes:
    """Which schedule."""

    schedule: str = "1f1b"
    """A schedule's name ('baremetal schedule compare' lists them); 'auto' for the best that can be
    found for the times and links, 'zb-v-auto' for the best V of two chunks; or a file that holds
    one: rows of actions such as '0F0 0F1 0B0 0B1', one row per rank, or PyTorch's .csv."""
    stages: int | None = None
    """Ranks: how many processes the model is divided among. 4, or as many as the file has."""
    microbatches: int | None = None
    """How many pieces the batch is cut into. 8, or as many as the file has."""
    chunks: int | None = None
    """Stages per rank; what the schedule has by itself, unless given."""


@dataclass(frozen=True)
class Playing:
    """How long everything takes."""

    f: str = "1"
    """Forward of one microbatch through one chunk: a number of units, or a time such as '1.5 ms'.
    A list, separated by commas, is for the stages in their order."""
    b: str = "1"
    """Input-gradient (the papers' B, our I), in the same way."""
    w: str = "1"
    """Weight-gradient, in the same way."""
    full_backward: str = ""
    """A full backward, where it is not the sum of both gradients."""
    overlap: str = ""
    """A forward beside a full backward, where it is not the sum of both."""
    link: str = ""
    """A link between any two ranks, by name or file ('800g'); empty: messages take no time.
    Beside a link a bare number of units counts in milliseconds."""
    bytes: str = "0"
    """Size of a message on the link ('4 MiB'); a list is for the stages that activations leave."""
    latency: str = ""
    """Latency of every message, alone or in place of the link's."""
    host_overhead: str = "0"
    """What the host adds to every step, before it counts as computing."""
    slots: int = 0
    """Messages that fit between two stages; 0: as many as anyone likes."""
    straggler: str = ""
    """Slow ranks and their factors, '1:1.5' or '0:1.1,3:2'."""
    seed: int = 0
    """Of the link's jitter and losses."""


def chosen_schedule(given: Sizes) -> Schedule:
    """The schedule that the options name.

    Raises:
        BaremetalError: no such name or file, sizes outside its domain, or a file with a fault.
    """
    if given.schedule in SCHEDULES or not _is_file(given.schedule):
        stages = DEFAULT_STAGES if given.stages is None else given.stages
        microbatches = DEFAULT_MICROBATCHES if given.microbatches is None else given.microbatches
        return make_schedule(given.schedule, stages, microbatches, given.chunks)
    schedule = read_schedule(given.schedule)
    has = {
        "--stages": (given.stages, len(schedule.ranks)),
        "--microbatches": (given.microbatches, schedule.microbatches),
        "--chunks": (given.chunks, schedule.chunks),
    }
    for option, (asked, found) in has.items():
        if asked not in (None, found):
            raise ScheduleError(
                f"{option} {asked}: the schedule in {given.schedule} has {found}; leave it out"
            )
    return schedule


def _is_file(name: str) -> bool:
    """Whether a file is meant: something with a folder, with a suffix, or that is there."""
    path = Path(name)
    return bool(path.suffix) or len(path.parts) > 1 or path.is_file()


def play(schedule: Schedule, given: Playing) -> Timeline:
    """Play the schedule with these options."""
    return simulator(schedule, given).play(
        read_times(schedule.stages, given), read_stragglers(given.straggler)
    )


def simulator(schedule: Schedule, given: Playing) -> Simulator:
    """The schedule, with the options' link, buffers and host overhead.

    Raises:
        BaremetalError: an option makes no sense.
    """
    return Simulator(schedule, **machine_options(given))


def machine_options(given: Playing) -> dict[str, Any]:
    """The options' link, buffers and host overhead, as `Simulator` takes them.

    Raises:
        BaremetalError: an option makes no sense.
    """
    if given.seed < 0:
        raise ScheduleError(f"--seed {given.seed}: expected 0 or more")
    sizes = each_value("--bytes", given.bytes, _read_size)
    return {
        "link": read_link_options(given),
        "size_bytes": sizes[0] if len(sizes) == 1 else sizes,
        "slots": read_slots(given.slots),
        "host_overhead_ps": read_time("--host-overhead", given.host_overhead),
        "seed": given.seed,
    }


def read_slots(slots: int) -> int | None:
    """How many messages fit between two stages; None: no end of them.

    Raises:
        ScheduleError: a negative number.
    """
    if slots < 0:
        raise ScheduleError(f"--slots {slots}: expected 1 or more, or 0 for no end of them")
    return slots or None


def read_times(stages: int, given: Playing, divisor: int = 1) -> Times:
    """The options' durations for so many stages, each divided by `divisor` and rounded up.

    Raises:
        BaremetalError: an option is no time, or a list of another length.
    """

    def per_stage(option: str, text: str) -> tuple[int, ...]:
        values = each_value(option, text, lambda part: read_time(option, part, divisor))
        if len(values) not in (1, stages):
            raise ScheduleError(
                f"{option} has {len(values)} times for {stages} stages: give one, or one for each"
            )
        return tuple(values * stages if len(values) == 1 else values)

    def perhaps(option: str, text: str) -> tuple[int, ...] | None:
        return per_stage(option, text) if text else None

    return Times(
        per_stage("--f", given.f), per_stage("--b", given.b), per_stage("--w", given.w),
        perhaps("--full-backward", given.full_backward), perhaps("--overlap", given.overlap),
    )  # fmt: skip


def read_time(option: str, text: str, divisor: int = 1) -> int:
    """A time in ps: a bare number of units, or one with its unit; divided, then rounded up.

    Raises:
        ScheduleError: it is neither, or negative.
    """
    exact = bare_number(text)
    if exact is not None:
        time_ps = math.ceil(exact * PS_PER_UNIT / divisor)
    else:
        try:
            time_ps = -(-DURATION.parse(text) // divisor)
        except BaremetalError as error:
            raise ScheduleError(f"{option}: {error}, or a bare number of units") from None
    if not 0 <= time_ps <= LONGEST_PS:
        raise ScheduleError(
            f"{option} {text}: expected 0 or more, and at most {LONGEST_PS // 10**12} s"
        )
    return time_ps


def bare_number(text: str) -> Fraction | None:
    """A number without a unit, exactly: 1.5, 1/3; None if it is none."""
    try:
        return Fraction(text.strip()) if BARE.fullmatch(text.strip()) else None
    except ZeroDivisionError:
        return None


def unit_of_times(given: Playing) -> str:
    """In what to give the results: bare numbers if all the times are."""
    options = (given.f, given.b, given.w, given.full_backward, given.overlap, given.latency,
               given.host_overhead)  # fmt: skip
    texts = [text for option in options if option for text in option.split(",")]
    return SECONDS if any(bare_number(text) is None for text in texts) else UNITS


def read_link_options(given: Playing) -> Link | None:
    """The link between any two ranks; None where messages take no time."""
    link = find_link(given.link) if given.link else None
    if not given.latency:
        return link
    latency_ps = read_time("--latency", given.latency)
    if link is None:
        return Link("latency", bandwidth_bps=None, latency_ps=latency_ps)
    return replace(link, latency_ps=latency_ps)


def read_stragglers(text: str) -> dict[int, Fraction]:
    """Factors by rank from '1:1.5,3:2'.

    Raises:
        ScheduleError: it has another form.
    """
    factors = {}
    for part in filter(None, text.split(",")):
        rank, _, written = part.partition(":")
        factor = bare_number(written)
        if factor is None or not re.fullmatch(r"\d{1,9}", rank.strip(), re.ASCII):
            raise ScheduleError(f"--straggler {part!r}: expected rank:factor, such as 1:1.5")
        factors[int(rank)] = factor
    return factors


def _read_size(text: str) -> int:
    if re.fullmatch(r"\d{1,20}", text.strip(), re.ASCII):
        return int(text)
    try:
        return SIZE.parse(text)
    except BaremetalError as error:
        raise ScheduleError(f"--bytes: {error}, or a bare number of bytes") from None


def each_value(option: str, text: str, read: Callable[[str], Value]) -> list[Value]:
    """One value, or several with commas between.

    Raises:
        BaremetalError: one is empty, or `read` refuses it.
    """
    parts = text.split(",")
    if not all(part.strip() for part in parts):
        raise ScheduleError(f"{option} {text!r}: expected a value, or several separated by commas")
    return [read(part) for part in parts]
