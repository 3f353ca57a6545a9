"""What a soak came to, for people."""

from baremetal.bench.soak.soak import END_S, HANG_S, Soaked
from baremetal.errors import BaremetalError
from baremetal.trace import Column, table


def soak_text(result: Soaked) -> str:
    """How many faults of each kind, and how the runs ended."""
    rows = [{"kind": kind, "faults": count} for kind, count in sorted(result.faults.items())]
    return "\n".join(
        [
            table([*rows, {"kind": "all", "faults": result.total}], [Column("kind"), "faults"]),
            "",
            "runs with "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(result.conditions.items())),
            f"{result.runs} runs in {result.time_s:.0f} s: {result.finished} survived everything, "
            f"{result.ended} were ended by a fault; {result.continued} of those went on from a "
            "checkpoint to the end",
            f"the longest from a death or an error to the end of all processes: "
            f"{result.slowest_end_s:.1f} s (limit {END_S:g} s; a hang {HANG_S:g} s more)",
            f"wrong: {len(result.wrong)}",
        ]
    )


def refuse_what_was_wrong(result: Soaked) -> None:
    """Fail if anything was wrong.

    Raises:
        BaremetalError: naming all of it.
    """
    if result.wrong:
        raise BaremetalError(
            f"the soak found {len(result.wrong)} wrong answers: {'; '.join(result.wrong)}"
        )
