"""Every GPU's actions and messages, one replica after the other, compiled.

Which step can follow which is decided by the schedule alone, so one order of the steps (found by
playing the schedule once) serves every replica, however slow its GPUs are: no queue of events is
needed, only a walk down that order. At each step the GPUs of a tensor-parallel group

    begin together    when the last of them is free, and the last of their pieces has arrived
    work              duration x own slowness
    end together      with the slowest: they meet in a collective several times in every layer

and each sends its own piece on its own network card, which may be busy with the one before.

Threads share the work by replicas: each calls this for its own range, and writes only there.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types

from baremetal.kernels.native.compiler import compile_or_load

LINE, TABLE = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
CUBE, REALS = types.Array(types.int64, 3, "C"), types.Array(types.float64, 3, "C")
PLAY = types.void(
    types.int64, types.int64, LINE, LINE, TABLE, TABLE, LINE, LINE, LINE, LINE, types.int64,
    REALS, REALS, CUBE, CUBE, TABLE,
)  # fmt: skip


@cache
def compiled_play() -> Callable[..., None]:
    """`play` as machine code that lets other threads run, kept on disk."""
    return compile_or_load(lambda on_disk: numba.njit(PLAY, nogil=True, cache=on_disk)(play))


def play(
    first, last, order, rank_of, takes, sends, link, occupancy_ps, flight_ps, duration_ps, links,
    compute, network, busy_ps, late_ps, end_ps,
):  # fmt: skip
    """Play the replicas from `first` to before `last`.

    Args:
        first, last: the replicas.
        order: the steps, each after all that it waits for, (steps,).
        rank_of: the pipeline rank of each step.
        takes, sends: messages of each step, forward and backward, or -1, (steps, 2).
        link: by which each message leaves, (messages,).
        occupancy_ps, flight_ps: of each message: what it keeps its card busy for if that is an
            ordinary one, and how long it travels.
        duration_ps: of each step on an ordinary GPU.
        links: how many there are.
        compute, network: slowness, (replicas, ranks, tp).
        busy_ps: written: each GPU's own work, (replicas, ranks, tp).
        late_ps: written: for how long each GPU was waited for by its group, at the end of steps in
            which it was the slowest, likewise.
        end_ps: written: when each rank's last step ended, (replicas, ranks).
    """
    width = compute.shape[2]
    arrive_ps = np.zeros((len(link), width), np.int64)
    free_ps = np.zeros((links, width), np.int64)
    for replica in range(first, last):
        free_ps[:] = 0
        clock_ps = end_ps[replica]
        clock_ps[:] = 0
        busy_ps[replica] = 0
        late_ps[replica] = 0
        for step in order:
            rank = rank_of[step]
            begin_ps = clock_ps[rank]
            for way in range(2):
                message = takes[step, way]
                if message >= 0:
                    for gpu in range(width):
                        begin_ps = max(begin_ps, arrive_ps[message, gpu])
            longest_ps, second_ps, slowest = np.int64(0), np.int64(0), 0
            for gpu in range(width):
                own_ps = np.int64(duration_ps[step] * compute[replica, rank, gpu] + 0.5)
                busy_ps[replica, rank, gpu] += own_ps
                if own_ps > longest_ps:
                    second_ps, longest_ps, slowest = longest_ps, own_ps, gpu
                elif own_ps > second_ps:
                    second_ps = own_ps
            late_ps[replica, rank, slowest] += longest_ps - second_ps
            over_ps = begin_ps + longest_ps
            clock_ps[rank] = over_ps
            for way in range(2):
                message = sends[step, way]
                if message >= 0:
                    card = link[message]
                    for gpu in range(width):
                        taken_ps = np.int64(
                            occupancy_ps[message] * network[replica, rank, gpu] + 0.5
                        )
                        free_ps[card, gpu] = max(over_ps, free_ps[card, gpu]) + taken_ps
                        arrive_ps[message, gpu] = free_ps[card, gpu] + flight_ps[message]
    return
