"""A pipeline as a search sees it: whole numbers, one column for each stage of its path.

`Line` and `Fold` say which rank has which column: the line gives each rank one stage, the fold lays
a path of twice as many stages over the ranks as a V.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Numbers:
    """All that a search needs to know of a pipeline of p ranks and s stages.

    Attributes:
        microbatches: m.
        lasts_ps: F, I and W of each stage, host overhead included, (3, s) int64.
        transit_ps: for how long a message to the next stage (row 0) and to the stage before (row 1)
            keeps its link busy, and how long it then flies (rows 2 and 3), (4, s) int64.
        limit: the most memory each rank may hold, (p,) int64.
        memory: what an F takes, what its I and what its W give back, (3,) int64.
    """

    microbatches: int
    lasts_ps: np.ndarray
    transit_ps: np.ndarray
    limit: np.ndarray
    memory: np.ndarray
