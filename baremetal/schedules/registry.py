"""Every schedule that has a name, in the order in which they were thought of."""

from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.generator import Generator
from baremetal.schedules.gpipe import GPIPE
from baremetal.schedules.one_f_one_b import ONE_F_ONE_B
from baremetal.schedules.schedule import Schedule

SCHEDULES: dict[str, Generator] = {
    generator.name: generator
    for generator in (
        GPIPE,
        ONE_F_ONE_B,
    )
}


def make_schedule(name: str, ranks: int, microbatches: int, chunks: int | None = None) -> Schedule:
    """The schedule of this name for these sizes.

    Args:
        name: a key of `SCHEDULES`.
        ranks: p, how many processes the stages are divided among.
        microbatches: m, how many pieces the batch is cut into.
        chunks: v, stages per rank; None for what the schedule has by itself.

    Raises:
        ScheduleError: no such name, or sizes outside its domain; says what would fit.
    """
    if name not in SCHEDULES:
        raise ScheduleError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name](ranks, microbatches, chunks)
