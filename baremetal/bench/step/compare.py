"""Contenders in turn, round after round: the machine's moods hit all of them alike.

On a shared machine a figure measured now and another measured a minute later cannot be compared.
So every contender runs in a process of its own, and they take turns in short rounds,

    ours, peer, ours, peer, ...

each figure is the median over all of a contender's steps, and what is reported first is the ratio
of the peer's median to ours. The contenders do the same arithmetic from the same weights on the
same tokens, and that is checked: their first losses must agree.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from baremetal.bench.contender import Contender, check_at_least_one, check_peer, check_threads
from baremetal.bench.step.ours import make_model
from baremetal.bench.step.sizes import StepSize
from baremetal.errors import BaremetalError

CONTENDERS = ("baremetal", "baremetal.eager", "torch", "torch.compile", "jax", "jax.scan")
COMPARED_LOSSES = 10
LOSS_TOLERANCE = 2e-3  # relative; float32 sums in another order drift apart by about 1e-5 a step


class StepContender(Contender):
    """A contender in single training steps, and what it has measured."""

    def __init__(self, name: str, size: StepSize, threads: int) -> None:
        self.times_s: list[float] = []
        self.losses: list[float] = []
        super().__init__(name, ["baremetal.bench.step.worker", name, size.name], threads)

    def round(self, steps: int, counted: bool = True) -> None:
        """Do some steps; times of uncounted ones (warm-up) are thrown away."""
        answer = self.ask({"steps": steps})
        self.losses += answer["losses"]
        if counted:
            self.times_s += answer["times_s"]


def compare_steps(
    size: StepSize, against: Sequence[str], *, rounds: int, steps: int, threads: int
) -> dict[str, Any]:
    """Benchmark and return one JSON-able object.

    Args:
        size: the model.
        against: peers, from `CONTENDERS`.
        rounds: how often the contenders take turns.
        steps: steps per turn.
        threads: for every contender.

    Raises:
        BaremetalError: an unknown or missing peer, no rounds, steps or threads to speak of, or
            losses that do not agree.
    """
    check_at_least_one(rounds=rounds, steps=steps)
    check_threads(threads)
    for name in against:
        check_peer(name, CONTENDERS)
    names = list(dict.fromkeys(["baremetal", *against]))
    contenders: list[StepContender] = []
    try:
        for name in names:  # one by one: should a later one fail, the earlier are closed
            contenders.append(StepContender(name, size, threads))
        for contender in contenders:
            contender.round(max(COMPARED_LOSSES, steps), counted=False)
        for _ in range(rounds):
            for contender in contenders:
                contender.round(steps)
    finally:
        for contender in contenders:
            contender.close()
    _check_losses(contenders)
    return _report(size, contenders, threads)


def _check_losses(contenders: Sequence[StepContender]) -> None:
    ours = np.array(contenders[0].losses[:COMPARED_LOSSES])
    for peer in contenders[1:]:
        theirs = np.array(peer.losses[:COMPARED_LOSSES])
        if not np.allclose(ours, theirs, rtol=LOSS_TOLERANCE):
            raise BaremetalError(
                f"the first {COMPARED_LOSSES} losses of '{peer.name}' differ from ours, so the "
                f"times do not compare: {theirs.round(4).tolist()} against {ours.round(4).tolist()}"
            )


def _report(size: StepSize, contenders: Sequence[StepContender], threads: int) -> dict[str, Any]:
    from baremetal.bench.machine import describe_machine
    from baremetal.kernels.limits import measure_numpy_matmul_rate

    gemm_rate = measure_numpy_matmul_rate()
    ours_s = statistics.median(contenders[0].times_s)
    flops = make_model(size).flops_per_token() * size.tokens
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
                "first_losses": contender.losses[:COMPARED_LOSSES],
            }
        )
    return {
        "model": size.name,
        "threads": threads,
        "flops_per_step": flops,
        "gemm_rate_flops": gemm_rate,
        "gemm_share": flops / ours_s / gemm_rate,
        "rows": rows,
        "machine": describe_machine(),
    }
