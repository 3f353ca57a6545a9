"""Every schedule that has a name, in the order in which they were thought of."""

from baremetal.schedules.dualpipe import DUALPIPE
from baremetal.schedules.dualpipev import DUALPIPEV
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.generator import Generator
from baremetal.schedules.gpipe import GPIPE
from baremetal.schedules.interleaved import INTERLEAVED
from baremetal.schedules.looped_bfs import LOOPED_BFS
from baremetal.schedules.one_f_one_b import ONE_F_ONE_B
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.v_half import V_HALF
from baremetal.schedules.v_min import V_MIN
from baremetal.schedules.zb_h1 import ZB_H1
from baremetal.schedules.zb_h2 import ZB_H2
from baremetal.schedules.zb_v import ZB_V

GENERATORS = (
    GPIPE,
    ONE_F_ONE_B,
    INTERLEAVED,
    LOOPED_BFS,
    ZB_H1,
    ZB_H2,
    ZB_V,
    V_HALF,
    V_MIN,
    DUALPIPE,
    DUALPIPEV,
)
SCHEDULES: dict[str, Generator] = {generator.name: generator for generator in GENERATORS}


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
        raise ScheduleError(
            f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}; 'auto' searches "
            "for one, and a file of your own is given by its path, as in mine.txt"
        )
    return SCHEDULES[name](ranks, microbatches, chunks)
