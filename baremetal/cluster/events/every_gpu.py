"""One step of a whole cluster, each GPU by itself.

`dp` replicas of a pipeline of `pp` ranks, each a tensor-parallel group of `tp` GPUs: every action
of every GPU and every piece of every message is an event with a time of its own.

    per replica   the schedule, played for its own GPUs (`native.py`)
    per stage     gradients are exchanged when the last replica has finished that stage, at the pace
                  of the slowest card of the ring
    step          the last stage to end

What comes out: the step's time, what an ideal cluster (every slowness 1) would have taken, and for
every GPU its work and for how long others waited for it, so that the culprits have names.

Where every GPU is the same, the end of each rank is that of `schedules/simulate.py` to the
picosecond: the same schedule object, the same rules.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.events.crowd import Crowd
from baremetal.schedules.schedule import Schedule
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.times import Times, step_durations


@dataclass(frozen=True)
class EveryGpu:
    """What happened in a step.

    Attributes:
        step_ps: until the last GPU was done.
        pipeline_ps: until the last replica's pipeline was.
        end_ps: of each rank's pipeline work, (replicas, ranks) int64.
        busy_ps: each GPU's own work, (replicas, ranks, tp) int64.
        late_ps: for how long its group waited for it alone, likewise.
        gradients_ps: of each stage's exchange, (ranks,) int64.
        events: actions and pieces of messages, over all GPUs.
    """

    step_ps: int
    pipeline_ps: int
    end_ps: np.ndarray
    busy_ps: np.ndarray
    late_ps: np.ndarray
    gradients_ps: np.ndarray
    events: int

    @property
    def replica_ps(self) -> np.ndarray:
        """When each replica's pipeline was done, (replicas,) int64."""
        return self.end_ps.max(axis=1)

    def latest(self, count: int) -> list[tuple[tuple[int, int, int], int]]:
        """The GPUs that were waited for most: (replica, rank, place in its group) and ps."""
        flat = self.late_ps.ravel()
        worst = np.argsort(flat)[::-1][:count]
        places = zip(*np.unravel_index(worst, self.late_ps.shape), strict=True)
        return [
            ((int(a), int(b), int(c)), int(flat[w]))
            for (a, b, c), w in zip(places, worst, strict=True)
        ]


def play_every_gpu(
    schedule: Schedule,
    times: Times,
    crowd: Crowd,
    *,
    gradients_ps: np.ndarray | None = None,
    threads: int = 0,
    **setting: Any,
) -> EveryGpu:
    """Play one step.

    Args:
        schedule: of every replica.
        times: of an ordinary group's actions.
        crowd: every GPU.
        gradients_ps: of each stage's exchange among the replicas, between ordinary cards, (ranks,)
            int64; None: there is none.
        threads: that work at it; 0: one for each processor.
        setting: link, size_bytes, host_overhead_ps as for `Simulator`; a size is that of one
            GPU's piece.

    Raises:
        ClusterError: the crowd has another number of ranks than the schedule.
        ScheduleError: as `Simulator`.
    """
    from baremetal.cluster.events.native import compiled_play  # numba: not before it is needed

    replicas, ranks, width = crowd.compute.shape
    if ranks != len(schedule.ranks):
        raise ClusterError(
            f"every GPU: a crowd of {ranks} pipeline ranks for a schedule of {len(schedule.ranks)}"
        )
    simulator = Simulator(schedule, **setting)
    wiring, flat = simulator.wiring, simulator.wiring.flat
    duration_ps = step_durations(flat, times) + simulator.host_overhead_ps
    order = step_order(simulator, duration_ps)
    busy_ps = np.empty(crowd.compute.shape, np.int64)
    late_ps = np.empty(crowd.compute.shape, np.int64)
    end_ps = np.empty((replicas, ranks), np.int64)
    play, rank_of = compiled_play(), flat.ranks()

    def part(first: int, last: int) -> None:
        play(
            first, last, order, rank_of, wiring.takes, wiring.sends, wiring.link,
            simulator.occupancy_ps, simulator.flight_ps, duration_ps, len(wiring.links),
            crowd.compute, crowd.network, busy_ps, late_ps, end_ps,
        )  # fmt: skip

    _in_threads(part, replicas, threads or os.cpu_count() or 1)
    exchange_ps = np.zeros(ranks, np.int64)
    if gradients_ps is not None:  # at the pace of the slowest card of a stage's rings
        slowest = crowd.network.max(axis=(0, 2))
        exchange_ps = np.rint(gradients_ps * slowest).astype(np.int64)
    return EveryGpu(
        step_ps=int((end_ps.max(axis=0) + exchange_ps).max()),
        pipeline_ps=int(end_ps.max()),
        end_ps=end_ps,
        busy_ps=busy_ps,
        late_ps=late_ps,
        gradients_ps=exchange_ps,
        events=replicas * width * (flat.steps + wiring.messages),
    )


def step_order(simulator: Simulator, duration_ps: np.ndarray) -> np.ndarray:
    """The steps of a schedule, each after all that it waits for, (steps,) int64.

    Found by playing it once; it holds for any durations.
    """
    from baremetal.schedules.loop import play_to_the_end  # numba: not before it is needed

    played = play_to_the_end(
        simulator.wiring, simulator.reuses, simulator.occupancy_ps, simulator.flight_ps, duration_ps
    )
    return played.order


def _in_threads(part: Any, replicas: int, threads: int) -> None:
    """Each thread plays a run of replicas; the compiled loop lets the others work meanwhile."""
    edges = np.linspace(0, replicas, min(threads, replicas) + 1).astype(int)
    with ThreadPoolExecutor(max_workers=len(edges) - 1) as pool:
        for done in [pool.submit(part, a, b) for a, b in pairwise(edges)]:
            done.result()
