"""The list scheduler's loop, compiled. What it decides, and why, is told in `auto_list.py`.

It is the simulator turned round: there an order is given and times follow, here each rank chooses
its next step when it is free, from what has arrived. The rank that is free first chooses first, so
whatever it needs to know about others has been decided already.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from baremetal.kernels.native.compiler import compile_or_load
from baremetal.schedules.action import Kind

NUMBERS, PAIRS = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
FRACTIONS = types.Array(types.float64, 1, "C")
DECIDE = types.Tuple((PAIRS, NUMBERS, NUMBERS))(
    types.int64, PAIRS, PAIRS, NUMBERS, NUMBERS, NUMBERS, FRACTIONS, types.boolean, types.boolean
)
NEVER = 2**62
F, I, W = int(Kind.F), int(Kind.I), int(Kind.W)


@cache
def compiled_decide() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`decide` as machine code, compiled once for a machine and kept on disk."""
    return compile_or_load(lambda on_disk: numba.njit(DECIDE, cache=on_disk)(decide))


def decide(microbatches, lasts_ps, transit_ps, limit, memory, ahead, patience, eager, level):
    """Let every rank choose its steps, one after the other.

    Args:
        microbatches: m.
        lasts_ps: F, I and W of every rank, host overhead included, (3, p).
        transit_ps: how long an activation to the next rank (row 0) and a gradient to the rank
            before (row 1) keep their link busy, and how long they then fly (rows 2, 3), (4, p).
        limit: the most memory each rank may hold, (p,).
        memory: what an F takes of it, and what its I and its W give back, (3,).
        ahead: of two that could be done, F before I while fewer forwards than this are ahead of
            the gradients, (p,).
        patience: the share of a W that must fit a gap for W to fill it, (p,) float64.
        eager: do a forward beyond `ahead` rather than wait.
        level: fill a gap in any case on the rank that has been idle longest.

    Returns:
        The kinds of each rank's steps in order, (p, 3m); start of its first and end of its last
        step in ps, (p,) each.
    """
    p, m = lasts_ps.shape[1], microbatches
    kinds = np.full((p, 3 * m), -1, np.int64)
    done = np.zeros((3, p), np.int64)  # how many F, I and W each rank has done
    arrive_ps = np.full((2, p, m), NEVER, np.int64)  # what each F and each I needs
    arrive_ps[0, 0, :] = 0
    link_free_ps = np.zeros((2, p), np.int64)
    first_ps, clock_ps = np.full(p, -1, np.int64), np.zeros(p, np.int64)
    idle_ps = np.zeros(p, np.int64)
    wake_ps = np.full(p, NEVER, np.int64)  # when each rank next looks for something to do
    wake_ps[0] = 0
    for _ in range(20 * p * m + p):
        rank = np.argmin(wake_ps)
        now = wake_ps[rank]
        if now == NEVER:
            break
        kind, later = _choice(
            rank, now, m, done, arrive_ps, clock_ps, idle_ps, lasts_ps, transit_ps, limit[rank],
            memory, ahead[rank], patience[rank], eager, level,
        )  # fmt: skip
        if kind < 0:
            wake_ps[rank] = later
            continue
        position = done[F, rank] + done[I, rank] + done[W, rank]
        kinds[rank, position] = kind
        if position == 0:
            first_ps[rank] = now
        else:
            idle_ps[rank] += now - clock_ps[rank]
        clock_ps[rank] = now + lasts_ps[kind, rank]
        number = done[kind, rank]
        done[kind, rank] += 1
        wake_ps[rank] = NEVER if position + 1 == 3 * m else clock_ps[rank]
        if kind == W:
            continue
        if kind == F and rank == p - 1:
            arrive_ps[I, rank, number] = clock_ps[rank]  # its loss is in its forward
            continue
        other = rank + 1 if kind == F else rank - 1
        if other < 0:
            continue
        free_ps = max(clock_ps[rank], link_free_ps[kind, rank]) + transit_ps[kind, rank]
        link_free_ps[kind, rank] = free_ps
        arrive_ps[kind, other, number] = free_ps + transit_ps[2 + kind, rank]
        if done[W, other] < m:
            woken_ps = max(clock_ps[other], arrive_ps[kind, other, number])
            wake_ps[other] = min(wake_ps[other], woken_ps)
    return kinds, first_ps, clock_ps


@register_jitable
def _choice(
    rank, now, m, done, arrive_ps, clock_ps, idle_ps, lasts_ps, transit_ps, limit, memory, ahead,
    patience, eager, level,
):  # fmt: skip
    """What to do now, or -1 and when to look again."""
    f, i, w = done[F, rank], done[I, rank], done[W, rank]
    room = memory[F] * (f + 1) - memory[I] * i - memory[W] * w <= limit
    forward_ps = _expected(F, rank, rank - 1, f, now, m, arrive_ps, clock_ps, lasts_ps, transit_ps)
    gradient_ps = _expected(I, rank, rank + 1, i, now, m, arrive_ps, clock_ps, lasts_ps, transit_ps)
    can_forward, can_gradient = forward_ps <= now and room, gradient_ps <= now
    wanted = f - i < ahead
    if can_forward and wanted:
        return F, NEVER
    if can_gradient:
        return I, NEVER
    if can_forward and eager and gradient_ps - now >= patience * lasts_ps[F, rank]:
        return F, NEVER
    soon_ps = gradient_ps
    if room and (wanted or eager) and forward_ps > now:
        soon_ps = min(soon_ps, forward_ps)
    if w < i:
        gap_ps = soon_ps - now
        fits = gap_ps >= patience * lasts_ps[W, rank]
        behind = level and idle_ps[rank] + gap_ps > idle_ps.max()
        if fits or behind or (forward_ps <= now and not room):
            return W, NEVER
    known_ps = arrive_ps[I, rank, i] if i < m else NEVER
    if f < m and arrive_ps[F, rank, f] > now:  # without room, too: then a W may make some
        known_ps = min(known_ps, arrive_ps[F, rank, f])
    return -1, known_ps


@register_jitable
def _expected(kind, rank, other, number, now, m, arrive_ps, clock_ps, lasts_ps, transit_ps):
    """When the next F or I can start: its message's arrival, or if unsent the earliest possible."""
    if number == m:
        return NEVER
    if arrive_ps[kind, rank, number] < NEVER:
        return arrive_ps[kind, rank, number]
    if other < 0 or other == len(clock_ps):
        return NEVER  # the last rank's gradients wait for its own forwards
    started_ps = max(now, clock_ps[other])
    return (
        started_ps + lasts_ps[kind, other] + transit_ps[kind, other] + transit_ps[2 + kind, other]
    )
