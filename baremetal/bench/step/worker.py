"""One contender of the step benchmark, in a process of its own (see `bench/contender.py`).

A request {"steps": n} is answered with {"times_s": [...], "losses": [...]}.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from baremetal.bench.contender import serve
from baremetal.bench.step.sizes import StepSize, find_size

# Does the steps of these numbers: seconds of each, and their losses.
Turn = Callable[[Sequence[int]], tuple[list[float], list[float]]]


def make_turn(contender: str, size: StepSize, threads: int) -> Turn:
    """How a contender does its steps, imported only here."""
    if contender == "jax.scan":
        from baremetal.bench.step.jax_peer import make_jax_scan

        return make_jax_scan(size)
    return one_by_one(_make_step(contender, size, threads))


def _make_step(contender: str, size: StepSize, threads: int) -> Callable[[int], float]:
    if contender in ("baremetal", "baremetal.eager"):
        from baremetal.bench.step.ours import make_our_step

        return make_our_step(size, threads, captured=contender == "baremetal")
    if contender == "jax":
        from baremetal.bench.step.jax_peer import make_jax_step

        return make_jax_step(size)
    from baremetal.bench.step.torch_peer import make_torch_step

    return make_torch_step(size, threads, compiled=contender == "torch.compile")


def one_by_one(step: Callable[[int], float]) -> Turn:
    """A turn made of single steps, each timed until its loss is a number in Python."""

    def turn(numbers: Sequence[int]) -> tuple[list[float], list[float]]:
        times_s, losses = [], []
        for number in numbers:
            start = time.perf_counter()
            losses.append(step(number))
            times_s.append(time.perf_counter() - start)
        return times_s, losses

    return turn


class Rounds:
    """Does steps when asked, counting them through."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.number = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do ``request["steps"]`` steps and time each."""
        numbers = range(self.number, self.number + request["steps"])
        self.number += request["steps"]
        times_s, losses = self.turn(numbers)
        return {"times_s": times_s, "losses": losses}


def main() -> None:
    """Serve rounds on standard input and output."""
    contender, size_name, threads = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    rounds = Rounds(make_turn(contender, find_size(size_name), int(threads)))
    serve(contender, rounds.handle, answers)


if __name__ == "__main__":
    main()
