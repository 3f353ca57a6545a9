"""Weight-gradients filled into a given order of F and I, compiled; `auto_fill.py` says how."""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from baremetal.kernels.native.compiler import compile_or_load
from baremetal.schedules.action import Kind

NUMBERS, PAIRS = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
FILL = types.Tuple((PAIRS, NUMBERS, NUMBERS, NUMBERS))(
    types.int64, PAIRS, PAIRS, PAIRS, PAIRS, NUMBERS, NUMBERS, types.float64, NUMBERS
)
UNSENT = -1
F, I, W = int(Kind.F), int(Kind.I), int(Kind.W)


@cache
def compiled_fill() -> Callable[..., tuple[np.ndarray, ...]]:
    """`fill` as machine code, compiled once for a machine and kept on disk."""
    return compile_or_load(lambda on_disk: numba.njit(FILL, cache=on_disk)(fill))


def fill(
    microbatches, skeleton, stages_of, lasts_ps, transit_ps, limit, memory, patience, allowed_ps
):
    """Let every rank do its F and I in the given order, and its W in between.

    Args:
        microbatches: m.
        skeleton: the F and I of each rank in order, as kind v + chunk, (p, 2 v m).
        stages_of: the stages of each rank, in the order of the path, (p, v).
        lasts_ps: F, I and W of every stage, host overhead included, (3, S).
        transit_ps: how long an activation to the next stage (row 0) and a gradient to the stage
            before (row 1) keep their link busy, and how long they then fly (rows 2, 3), (4, S).
        limit: the most memory each rank may hold, (p,).
        memory: what an F takes of it, and what its I and its W give back, (3,).
        patience: the share of a W that must fit a gap for W to fill it.
        allowed_ps: how long each rank may be idle before W fill its gaps whether they fit or not,
            (p,).

    Returns:
        kind v + chunk of each rank's steps in order, (p, 3 v m), -1 from where the memory did not
        suffice; start of its first and end of its last step in ps, (p,) each; what it was idle
        between, (p,).
    """
    p, v = stages_of.shape
    m, stages = microbatches, p * v
    rank_of = np.zeros(stages, np.int64)
    for chunk in range(v):
        rank_of[stages_of[:, chunk]] = np.arange(p)
    steps = np.full((p, 3 * v * m), -1, np.int64)
    position, at = np.zeros(p, np.int64), np.zeros(p, np.int64)  # of all steps, of the skeleton
    done = np.zeros((3, stages), np.int64)
    held, idle_ps = np.zeros(p, np.int64), np.zeros(p, np.int64)
    arrive_ps = np.full((2, stages, m), UNSENT, np.int64)  # what each F and each I needs
    arrive_ps[F, 0, :] = 0
    link_free_ps = np.zeros((p, p), np.int64)
    first_ps, clock_ps = np.full(p, -1, np.int64), np.zeros(p, np.int64)
    rank, stuck = 0, 0  # take turns until nobody could do a step in a whole round
    while stuck < p:
        stuck += 1
        while position[rank] < 3 * v * m:
            code, ready_ps = _next(
                rank, m, skeleton, at, stages_of, done, held, arrive_ps, clock_ps, idle_ps,
                lasts_ps, limit, memory, patience, allowed_ps,
            )  # fmt: skip
            if code < 0:
                break
            stuck = 0
            kind, stage = code // v, stages_of[rank, code % v]
            if position[rank] == 0:
                first_ps[rank] = ready_ps
            else:
                idle_ps[rank] += ready_ps - clock_ps[rank]
            clock_ps[rank] = ready_ps + lasts_ps[kind, stage]
            held[rank] += memory[F] if kind == F else -memory[kind]
            steps[rank, position[rank]] = code
            position[rank] += 1
            at[rank] += kind != W
            number = done[kind, stage]
            done[kind, stage] += 1
            if kind != W:
                _send(
                    kind, stage, number, rank, clock_ps[rank], rank_of, arrive_ps, link_free_ps,
                    transit_ps,
                )  # fmt: skip
        rank = (rank + 1) % p
    return steps, first_ps, clock_ps, idle_ps


@register_jitable
def _next(
    rank, m, skeleton, at, stages_of, done, held, arrive_ps, clock_ps, idle_ps, lasts_ps, limit,
    memory, patience, allowed_ps,
):  # fmt: skip
    """The rank's next step and when it can start; -1 while it waits for what has not been sent."""
    v = stages_of.shape[1]
    oldest = _oldest_weight(stages_of[rank], done)
    if at[rank] == 2 * v * m:
        return W * v + oldest, clock_ps[rank]
    code = skeleton[rank, at[rank]]
    kind, stage = code // v, stages_of[rank, code % v]
    ready_ps = arrive_ps[kind, stage, done[kind, stage]]
    if ready_ps == UNSENT:
        return -1, 0
    gap_ps = ready_ps - clock_ps[rank]
    full = kind == F and held[rank] + memory[F] > limit[rank]
    if oldest < 0:
        return (-1, 0) if full else (code, max(ready_ps, clock_ps[rank]))  # full for ever
    fits = gap_ps > 0 and gap_ps >= patience * lasts_ps[W, stages_of[rank, oldest]]
    late = gap_ps > 0 and idle_ps[rank] + gap_ps > allowed_ps[rank]
    if full or fits or late:
        return W * v + oldest, clock_ps[rank]
    return code, max(ready_ps, clock_ps[rank])


@register_jitable
def _oldest_weight(stages, done):
    """The chunk whose W of the oldest microbatch is owed, the last of equals; -1 if none is."""
    found = -1
    for chunk in range(len(stages)):
        stage = stages[chunk]
        owed = done[W, stage] < done[I, stage]
        if owed and (found < 0 or done[W, stage] <= done[W, stages[found]]):
            found = chunk
    return found


@register_jitable
def _send(kind, stage, number, rank, end_ps, rank_of, arrive_ps, link_free_ps, transit_ps):
    """What an F or an I made reaches the next stage, or the one before."""
    if kind == F and stage == len(rank_of) - 1:
        arrive_ps[I, stage, number] = end_ps  # its loss is in its forward
        return
    target = stage + 1 if kind == F else stage - 1
    if target < 0:
        return
    taker, sent_ps = rank_of[target], end_ps
    if taker != rank:
        link_free_ps[rank, taker] = max(end_ps, link_free_ps[rank, taker]) + transit_ps[kind, stage]
        sent_ps = link_free_ps[rank, taker] + transit_ps[2 + kind, stage]
    arrive_ps[kind, target, number] = sent_ps
