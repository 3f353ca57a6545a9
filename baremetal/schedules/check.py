"""The checker: proves that a schedule can be run, or says why not.

    complete    every microbatch has F and B, or F, I and W, once on each stage of its path
    ordered     what a rank hands to itself is there when it is needed
    live        the ranks never wait for each other in a circle, with the buffers given

The first two are a rank's own affair (`complete.py`). The third is proved by playing the schedule
(`native.py`): who waits for whom does not depend on how long anything takes, so if it comes to its
end once it always does. If it does not, the circle is named (`deadlock.py`).
"""

from dataclasses import dataclass
from typing import Any

from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.memory import peak_activations
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.slots import Slots, needed_slots, order_of_steps, reused_slots
from baremetal.schedules.wiring import Lane, Wiring, wire
from baremetal.trace import Column, table


@dataclass(frozen=True)
class Checked:
    """A schedule that can be run.

    Attributes:
        wiring: it, with all its messages.
        peak_activations: the most that each rank holds, in microbatches on its whole share.
        needed_slots: of each lane, the least with which no sender ever waits for one.
    """

    wiring: Wiring
    peak_activations: list[float]
    needed_slots: dict[Lane, int]

    def figures(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        schedule = self.wiring.schedule
        return {
            "schedule": schedule.name,
            "stages": len(schedule.ranks),
            "microbatches": schedule.microbatches,
            "chunks": schedule.chunks,
            "steps": self.wiring.flat.steps,
            "messages": self.wiring.messages,
            "complete": True,
            "ordered": True,
            "deadlock_free": True,
            "peak_activations": max(self.peak_activations),
            "needed_slots": {str(lane): slots for lane, slots in self.needed_slots.items()},
            "per_stage": {"peak_activations": self.peak_activations},
        }

    def text(self) -> str:
        """All of it for people."""
        schedule = self.wiring.schedule
        lines = [
            f"{schedule.name}: {len(schedule.ranks)} ranks, {schedule.microbatches} microbatches, "
            f"{self.wiring.flat.steps} steps, {self.wiring.messages} messages",
            "complete, in order, free of deadlock",
            "",
            table(
                [
                    {"rank": rank, "steps": len(steps), "held": held}
                    for rank, (steps, held) in enumerate(
                        zip(schedule.ranks, self.peak_activations, strict=True)
                    )
                ],
                ["rank", "steps", Column("held", "microbatches held", ".4g", ">")],
            ),
        ]
        if self.needed_slots:
            lines += ["", self._slots_text()]
        return "\n".join(lines)

    def _slots_text(self) -> str:
        rank_of = self.wiring.schedule.rank_of
        rows = [
            {
                "stages": str(lane),
                "ranks": f"{rank_of[lane.source]}->{rank_of[lane.target]}",
                "carries": "activations" if self.wiring.is_activations(lane) else "gradients",
                "slots": slots,
            }
            for lane, slots in self.needed_slots.items()
        ]
        columns = [
            Column("stages"), Column("ranks"), Column("carries"),
            Column("slots", "slots that are enough"),
        ]  # fmt: skip
        return table(rows, columns)


def check_schedule(schedule: Schedule, slots: Slots = None) -> Checked:
    """Prove that a schedule can be run.

    Args:
        schedule: any.
        slots: of every lane, or by lane; None, and for lanes left out: no end of them.

    Raises:
        ScheduleError: it cannot, with these slots; the message names what is missing, twice or too
            early, or the circle of who waits for whom.
    """
    wiring = wire(schedule)
    if isinstance(slots, int) and slots < 1:
        raise ScheduleError(f"{slots} slots between two stages: expected at least 1")
    order_of_steps(wiring, reused_slots(wiring, slots))
    return Checked(wiring, peak_activations(wiring.flat), needed_slots(wiring))
