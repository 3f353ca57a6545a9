"""Contenders in turn, round after round: the machine's moods hit all of them alike.

On a shared machine a figure measured now and another measured a minute later cannot be compared.
So every contender runs in a process of its own, and they take turns in short rounds,

    ours, peer, ours, peer, ...

each figure is the median over all of a contender's blocks of steps (`turns.py` says what a block
is and when the clock stops), and what is reported first is the ratio of the peer's median to ours.
NumPy's matrix product takes its turn in every round, and the best of its rates is the yardstick of
the shares. Before each turn there is a rest: the threads of whoever was last go on spinning for a
while, waiting for more work (OpenBLAS's for some 30 ms), and would take the next one's core.

The contenders do the same arithmetic from the same weights on the same data, and that is checked:
their first losses must agree.

`baremetal` is the captured step as one compiled function. What a ratio to it means is "against a
step called in a loop, as training loops are written": the row `jax.scan` has all steps of a block
in one call, and where dispatch was all the difference, there it is gone.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from baremetal.bench.contender import Contender, check_at_least_one, check_peer, check_threads
from baremetal.bench.step import ours
from baremetal.bench.step.sizes import StepSize
from baremetal.errors import BaremetalError

PEERS = ("torch", "torch.compile", "jax", "jax.scan")
CONTENDERS = (*ours.CONTENDERS, *PEERS)  # the first is the one that all are compared with
COMPARED_LOSSES = 10
REST_S = 0.1  # before each turn
# Relative. Float32 sums in another order moved no loss by more than 5e-7, up to medium. A
# forgotten clipping, of which AdamW hides nearly all, moved the tiny ones by 2e-5 and more.
LOSS_TOLERANCE = 1e-5
# Of the later ones: each step starts from the rounding of those before, and at large size ten
# steps made 1.2e-4 of it, where the first five losses agreed to 3e-7.
EARLY, LATE_TOLERANCE = 5, 1e-3
TURN_S = 0.3  # how long a turn takes unless its steps are given

Progress = Callable[[str], None]


class StepContender(Contender):
    """A contender in single training steps, and what it has measured."""

    def __init__(self, name: str, size: StepSize, threads: int) -> None:
        self.times_s: list[float] = []
        self.losses: list[float] = []
        super().__init__(name, ["baremetal.bench.step.worker", name, size.name], threads)

    def warm_up(self) -> None:
        """Compile what is to be compiled, and keep the first losses; no time of it counts."""
        self.losses = self.ask({"first": COMPARED_LOSSES})["losses"]

    def turn(self, steps: int, seconds: float) -> None:
        """Do some steps, or some seconds' worth for `steps` 0."""
        request = {"steps": steps} if steps else {"seconds": seconds}
        self.times_s += self.ask(request)["times_s"]


def compare_steps(
    size: StepSize,
    against: Sequence[str],
    *,
    rounds: int,
    threads: int,
    steps: int = 0,
    seconds: float = TURN_S,
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Benchmark and return one JSON-able object.

    Args:
        size: the model.
        against: contenders beside `baremetal`, from `CONTENDERS`.
        rounds: how often the contenders take turns.
        threads: for every contender.
        steps: steps per turn; 0 for as many as take `seconds`.
        seconds: how long a turn lasts, where its steps are not given.
        progress: told what comes next.

    Raises:
        BaremetalError: an unknown or missing peer, no rounds, steps or threads to speak of, or
            losses that do not agree.
    """
    check_counts(rounds, steps, seconds)
    check_threads(threads)
    for name in against:
        check_peer(name, CONTENDERS)
    names = list(dict.fromkeys(["baremetal", *against]))
    contenders: list[StepContender] = []
    rates: list[float] = []
    try:
        for name in names:  # one by one: should a later one fail, the earlier are closed
            progress(f"{size.name}: {name} starts")
            contenders.append(StepContender(name, size, threads))
        for contender in contenders:
            progress(f"{size.name}: {contender.name} warms up")
            contender.warm_up()
        _check_losses(contenders)
        for number in range(rounds):
            for contender in contenders:
                progress(f"{size.name}: round {number + 1} of {rounds}, {contender.name}")
                time.sleep(REST_S)
                contender.turn(steps, seconds)
            time.sleep(REST_S)
            rates.append(_matmul_rate(threads))
    finally:
        for contender in contenders:
            contender.close()
    return _report(size, contenders, threads, max(rates))


def check_counts(rounds: int, steps: int, seconds: float) -> None:
    """Refuse what cannot be measured.

    Raises:
        BaremetalError: naming the option.
    """
    check_at_least_one(rounds=rounds)
    if steps < 0:
        raise BaremetalError(f"--steps {steps}: choose at least 1, or 0 for turns of --seconds")
    if not 0 < seconds <= 3600:
        raise BaremetalError(f"--seconds {seconds}: a turn may last up to 3600 s, and not 0")


def _check_losses(contenders: Sequence[StepContender]) -> None:
    ours = np.array(contenders[0].losses)
    for peer in contenders[1:]:
        theirs = np.array(peer.losses)
        late = np.arange(len(ours)) >= EARLY
        allowed = np.where(late, LATE_TOLERANCE, LOSS_TOLERANCE)
        if not (np.abs(ours - theirs) <= allowed * np.abs(theirs)).all():
            raise BaremetalError(
                f"the first {COMPARED_LOSSES} losses of '{peer.name}' differ from ours, so the "
                f"times do not compare: {theirs.round(6).tolist()} against {ours.round(6).tolist()}"
            )


def _matmul_rate(threads: int) -> float:
    """FLOP/s of NumPy's matrix product with as many threads; it takes its turn as all others do."""
    from threadpoolctl import threadpool_limits

    from baremetal.kernels.limits import measure_numpy_matmul_rate

    with threadpool_limits(threads, user_api="blas"):
        return measure_numpy_matmul_rate(budget_s=0.1)


def _report(
    size: StepSize, contenders: Sequence[StepContender], threads: int, gemm_rate: float
) -> dict[str, Any]:
    from baremetal.bench.machine import describe_machine

    ours_s = statistics.median(contenders[0].times_s)
    rows = []
    for contender in contenders:
        median_s = statistics.median(contender.times_s)
        rows.append(
            {
                "name": contender.name,
                "median_step_s": median_s,
                "best_step_s": min(contender.times_s),
                "tokens_per_s": size.tokens / median_s,
                "ratio": median_s / ours_s,
                "gemm_share": size.flops_per_step / median_s / gemm_rate,
                "first_losses": contender.losses,
            }
        )
    return {
        "model": size.name,
        "dimensions": size.describe(),
        "threads": threads,
        "flops_per_step": size.flops_per_step,
        "gemm_rate_flops": gemm_rate,
        "gemm_share": size.flops_per_step / ours_s / gemm_rate,
        "rows": rows,
        "machine": describe_machine(),
    }
