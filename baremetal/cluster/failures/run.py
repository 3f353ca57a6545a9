"""A long run with failures, event by event: what the formulas average, drawn from a seed.

    work - save - work - save - ...     a failure: restart, back to what was saved

It is the oracle of `checkpoint.py`, and goes where no formula does: two kinds of checkpoint, spare
racks that run out and are repaired, replicas that are replaced while the others go on.

Two kinds of checkpoint: one in the memory of a peer, cheap and frequent, which a failure of one
node survives; one in storage, dear and rare, for what takes more than a node with it (`broad`).

With `replaces_replica` a failure stops all replicas for `stall_s` only; then the others go on, and
the one that failed is away for `restart_s`: of dp replicas, dp - away are at work (A fault-tolerant
data-parallel run at 100,000 GPUs: arXiv 2602.00277, 44 to 80 % effective, stall 10 to 3 minutes).
"""

from dataclasses import dataclass

import numpy as np

from baremetal.cluster.errors import ClusterError


@dataclass(frozen=True)
class Policy:
    """What is done against failures.

    Attributes:
        save_s: how long a checkpoint in storage stops the work.
        every_s: work between two of them.
        restart_s: to find out what failed, replace it, load and go on.
        memory_save_s: how long one in a peer's memory does; 0 with `memory_every_s` 0: there is
            none.
        memory_every_s: work between two of those.
        broad: share of failures that only storage survives.
        spares: racks that wait; without one left the run waits for a repair.
        repair_s: until what failed is a spare again.
        replicas: of the model.
        replaces_replica: the others go on.
        stall_s: for which all stand if it does.
    """

    save_s: float
    every_s: float
    restart_s: float
    memory_save_s: float = 0.0
    memory_every_s: float = 0.0
    broad: float = 1.0
    spares: int = 10**9
    repair_s: float = 0.0
    replicas: int = 1
    replaces_replica: bool = False
    stall_s: float = 0.0

    def __post_init__(self) -> None:
        if self.every_s <= 0:
            raise ClusterError(f"policy: every_s = {self.every_s}; expected work above 0 s")
        if self.memory_every_s and self.memory_every_s > self.every_s:
            raise ClusterError(
                f"policy: memory checkpoints every {self.memory_every_s} s are rarer than those in "
                f"storage, every {self.every_s} s"
            )
        if not 0 <= self.broad <= 1:
            raise ClusterError(f"policy: broad = {self.broad}; expected 0 to 1")


@dataclass(frozen=True)
class Outcome:
    """Where the time of a run went, s; they add up to `total_s`.

    Attributes:
        work_s: that counts.
        saving_s: in checkpoints.
        lost_s: work and saving that had to be done again.
        restart_s: restarting, stalled, or short of replicas.
        waiting_s: for a spare.
        failures: how many.
    """

    work_s: float
    saving_s: float
    lost_s: float
    restart_s: float
    waiting_s: float
    failures: int

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.work_s + self.saving_s + self.lost_s + self.restart_s + self.waiting_s

    @property
    def goodput(self) -> float:
        """Share that counts."""
        return self.work_s / self.total_s


def run(policy: Policy, mtbf_s: float, total_s: float, rng: np.random.Generator) -> Outcome:
    """Draw one run of about this length.

    Args:
        policy: what is done.
        mtbf_s: mean time between failures, of the whole cluster.
        total_s: until the first checkpoint after this time.
        rng: draws failures, and how broad they are.
    """
    if policy.replaces_replica:
        return _with_replicas(policy, mtbf_s, total_s, rng)
    return _all_or_nothing(policy, mtbf_s, total_s, rng)


def _all_or_nothing(
    policy: Policy, mtbf_s: float, total_s: float, rng: np.random.Generator
) -> Outcome:
    """Everybody stops at a failure, and starts from what was saved."""
    every_s = policy.memory_every_s or policy.every_s
    now_s, next_s = 0.0, rng.exponential(mtbf_s)
    stored_s = held_s = saving_s = lost_s = restart_s = waiting_s = 0.0  # work in storage, memory
    since_saving_s, failures = 0.0, 0  # saving since storage: lost with it
    repaired: list[float] = []
    while now_s < total_s:
        to_storage = held_s + every_s - stored_s >= policy.every_s - 1e-9
        save_s = policy.save_s if to_storage else policy.memory_save_s
        if now_s + every_s + save_s <= next_s:
            now_s += every_s + save_s
            held_s += every_s
            saving_s += save_s
            since_saving_s += save_s
            if to_storage:
                stored_s, since_saving_s = held_s, 0.0
            continue
        lost_s += next_s - now_s
        failures += 1
        if rng.random() < policy.broad:
            lost_s += held_s - stored_s + since_saving_s
            saving_s -= since_saving_s
            held_s, since_saving_s = stored_s, 0.0
        now_s, waited_s = _spare(next_s, repaired, policy)
        waiting_s += waited_s
        now_s, next_s, again_s, more = _restarted(now_s, policy.restart_s, mtbf_s, rng)
        restart_s += again_s
        failures += more
    return Outcome(held_s, saving_s, lost_s, restart_s, waiting_s, failures)


def _spare(now_s: float, repaired: list[float], policy: Policy) -> tuple[float, float]:
    """When a spare is there, and how long that took; `repaired`: when those away come back."""
    repaired[:] = [time_s for time_s in repaired if time_s > now_s]
    repaired.append(now_s + policy.repair_s)
    if len(repaired) <= policy.spares:
        return now_s, 0.0
    ready_s = sorted(repaired)[len(repaired) - policy.spares - 1]
    return ready_s, ready_s - now_s


def _restarted(
    now_s: float, restart_s: float, mtbf_s: float, rng: np.random.Generator
) -> tuple[float, float, float, int]:
    """When a restart has succeeded, when the next failure comes, seconds spent, failures in it."""
    spent_s, more = 0.0, 0
    while True:
        until_s = rng.exponential(mtbf_s)
        if until_s >= restart_s:
            return now_s + restart_s, now_s + until_s, spent_s + restart_s, more
        now_s, spent_s, more = now_s + until_s, spent_s + until_s, more + 1


def _with_replicas(
    policy: Policy, mtbf_s: float, total_s: float, rng: np.random.Generator
) -> Outcome:
    """A failure stalls all for a moment; its replica is away, the others go on."""
    work_s = restart_s = now_s = 0.0
    away: list[float] = []
    failures = 0
    while now_s < total_s:
        gap_s = rng.exponential(mtbf_s)
        # Between failures replicas come back one by one.
        worked_s, short_s = _worked(now_s, gap_s, away, policy.replicas)
        work_s += worked_s
        restart_s += short_s + policy.stall_s
        now_s += gap_s + policy.stall_s
        away = [time_s for time_s in away if time_s > now_s]
        away.append(now_s + policy.restart_s)
        failures += 1
    saving_s = work_s * policy.save_s / (policy.every_s + policy.save_s)
    return Outcome(work_s - saving_s, saving_s, 0.0, restart_s, 0.0, failures)


def _worked(now_s: float, gap_s: float, away: list[float], replicas: int) -> tuple[float, float]:
    """Seconds of full work in a gap, and what is short of it."""
    missing = sum(min(max(time_s - now_s, 0.0), gap_s) for time_s in away) / replicas
    short_s = min(missing, gap_s)
    return gap_s - short_s, short_s
