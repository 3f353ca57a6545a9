"""What `native.py` does, with NumPy over a group's GPUs, to be read and compared with.

begin = max(clock of the rank, arrivals of all pieces)
end   = begin + max over the group of round(duration x slowness)
piece leaves when its card is free, keeps it busy, and arrives a flight later
"""

import numpy as np

from baremetal.cluster.events.crowd import Crowd
from baremetal.schedules.wiring import Wiring


def play_replica(
    wiring: Wiring,
    order: np.ndarray,
    occupancy_ps: np.ndarray,
    flight_ps: np.ndarray,
    duration_ps: np.ndarray,
    crowd: Crowd,
    replica: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Busy ps and lateness of each GPU, (ranks, tp), and when each rank ends, (ranks,)."""
    compute, network = crowd.compute[replica], crowd.network[replica]
    ranks, width = compute.shape
    rank_of = wiring.flat.ranks()
    clock_ps = np.zeros(ranks, np.int64)
    busy_ps, late_ps = np.zeros((ranks, width), np.int64), np.zeros((ranks, width), np.int64)
    arrive_ps = np.zeros((wiring.messages, width), np.int64)
    free_ps = np.zeros((len(wiring.links), width), np.int64)
    for step in order.tolist():
        rank = int(rank_of[step])
        taken = [m for m in wiring.takes[step].tolist() if m >= 0]
        begin_ps = max([int(clock_ps[rank]), *(int(arrive_ps[m].max()) for m in taken)])
        own_ps = np.floor(duration_ps[step] * compute[rank] + 0.5).astype(np.int64)
        busy_ps[rank] += own_ps
        ranked = np.sort(np.append(own_ps, 0))
        late_ps[rank, int(own_ps.argmax())] += ranked[-1] - ranked[-2]
        clock_ps[rank] = begin_ps + own_ps.max()
        for message in (m for m in wiring.sends[step].tolist() if m >= 0):
            card = wiring.link[message]
            keeps_ps = np.floor(occupancy_ps[message] * network[rank] + 0.5).astype(np.int64)
            free_ps[card] = np.maximum(clock_ps[rank], free_ps[card]) + keeps_ps
            arrive_ps[message] = free_ps[card] + flight_ps[message]
    return busy_ps, late_ps, clock_ps
