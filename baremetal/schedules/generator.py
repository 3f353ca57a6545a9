"""What a named schedule is: a function that makes it, and what is known about it on paper.

A generator is a pure function of three sizes, as the literature names them:

    p   ranks: processes, the depth of the pipeline
    m   microbatches
    v   chunks: how many stages a rank holds (virtual stages)

It returns plain data (`Schedule`), without times. Beside it stand closed forms: how long the ranks
are idle and how many activations they hold, as formulas of p, m, v and of the times below. Tests
hold every generator to its formulas, so the formulas can be used instead of it, for sizes that
nobody would care to simulate.

*Idle time* is counted in two ways that differ. A rank's span goes from its first start to its last
end; the largest span of all ranks, less the work in it, m (F + I + W), is the `idle_span`: the time
that every training step loses once steps follow one another without a barrier. The makespan goes
from the first start of all to the last end of all; less the same work it is the `idle_makespan`.
"Zero bubble" is zero in the first sense only.

*Activations* are counted in microbatches on a rank's whole share: 1 for each microbatch whose
forward has been done for all of the rank's chunks and whose weight gradients have not. They are
held from the start of F to the end of W (or of B). That count depends on the order alone, not on
times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.schedule import Schedule

Time = float | Fraction  # closed forms only add, subtract, multiply and compare


class Share(NamedTuple):
    """How long one rank's whole share takes for one microbatch, in any unit of time.

    Attributes:
        F: forward.
        I: input-gradient (the papers' B).
        W: weight-gradient.
        pair: a forward of one microbatch overlapped with the full backward of another, F&B, on
            the whole share too (twice that of one of two chunks). None for F + I + W: no gain.
    """

    F: Time
    I: Time
    W: Time
    pair: Time | None = None

    @property
    def work(self) -> Time:
        """Everything that a rank does for one microbatch: F + I + W."""
        return self.F + self.I + self.W


Idle = Callable[[int, int, int, Share], "Time | None"]


def unknown(p: int, m: int, v: int, share: Share) -> None:
    """Where no closed form is known."""


@dataclass(frozen=True)
class Generator:
    """A named schedule: how it is made, where, and its closed forms.

    Attributes:
        name: as on the command line, ``"1f1b"``.
        title: as in the literature, ``"1F1B"``.
        paper: where it comes from.
        domain: the sizes it exists for, in words: ``"m >= p"``.
        build: (p, m, v) to the schedule, for sizes in its domain.
        refusal: (p, m, v) to what is wrong with these sizes and what would fit; None if nothing.
        chunks: the v that is meant if none is given.
        idle_span: (p, m, v, `Share`) to the largest idle time within a rank's span; None where no
            closed form is known, for these times or at all.
        idle_makespan: the same for the makespan. Overlapped pairs that take less time than their
            parts can make it negative: it is the makespan less m (F + I + W).
        peaks: (p, m, v) to each rank's peak of activations, in microbatches on its whole share.
            The largest is exact; for V-Half and V-Min other ranks may hold a chunk less.
        makespan_with_latency: (p, m, v, `Share`, latency per hop) to the makespan, or None.
    """

    name: str
    title: str
    paper: str
    domain: str
    build: Callable[[int, int, int], Schedule]
    refusal: Callable[[int, int, int], str | None]
    idle_span: Idle
    idle_makespan: Idle
    peaks: Callable[[int, int, int], tuple[Fraction, ...]]
    chunks: int = 1
    makespan_with_latency: Callable[[int, int, int, Share, Time], "Time | None"] | None = None

    def __call__(self, ranks: int, microbatches: int, chunks: int | None = None) -> Schedule:
        """The schedule for these sizes.

        Raises:
            ScheduleError: a size is not positive, or they are outside the domain; says what fits.
        """
        v = self.chunks if chunks is None else chunks
        sizes = {"ranks": ranks, "microbatches": microbatches, "chunks": v}
        for word, size in sizes.items():
            if size < 1:
                raise ScheduleError(f"{self.name}: {size} {word} given, expected at least 1")
        reason = self.refusal(ranks, microbatches, v)
        if reason:
            raise ScheduleError(
                f"{self.name} has no schedule for {_counted(ranks, 'rank')}, "
                f"{_counted(microbatches, 'microbatch')} and {_counted(v, 'chunk')} per rank: "
                f"{reason}"
            )
        return self.build(ranks, microbatches, v)


def _counted(count: int, word: str) -> str:
    plural = "es" if word.endswith("h") else "s"
    return f"{count} {word}{plural if count > 1 else ''}"


# --- what several generators say about their sizes -----------------------------------------------


def anything(p: int, m: int, v: int) -> str | None:
    """One chunk per rank, and nothing else asked."""
    return fixed_chunks(v, 1)


def fixed_chunks(v: int, wanted: int) -> str | None:
    """Refuse another number of chunks than the schedule has by construction."""
    if v == wanted:
        return None
    return (
        f"a rank has exactly {wanted} chunk{'s' if wanted > 1 else ''} here; set chunks to {wanted}"
    )


def at_least(m: int, least: int, formula: str) -> str | None:
    """Refuse fewer microbatches than the pattern needs to come into its own."""
    if m >= least:
        return None
    return f"it needs at least {formula} = {least} microbatches"


def evenly(p: int, amount: Fraction | int) -> tuple[Fraction, ...]:
    """The same peak on every rank."""
    return (Fraction(amount),) * p
