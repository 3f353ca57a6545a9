"""One contender of the step benchmark, in a process of its own (see `bench/contender.py`).

A request {"steps": n} is answered with {"times_s": [...], "losses": [...]}.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from baremetal.bench.contender import serve
from baremetal.bench.step.sizes import StepSize, find_size


def make_step(contender: str, size: StepSize, threads: int) -> Callable[[int], float]:
    """The step function of a contender, imported only here."""
    if contender == "baremetal":
        from baremetal.bench.step.ours import baremetal_eager

        return baremetal_eager(size, threads)
    from baremetal.bench.step.torch_peer import make_torch_step

    return make_torch_step(size, threads, compiled=contender == "torch.compile")


class Rounds:
    """Does steps when asked, counting them through."""

    def __init__(self, step: Callable[[int], float]) -> None:
        self.step = step
        self.number = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do ``request["steps"]`` steps and time each."""
        times_s, losses = [], []
        for _ in range(request["steps"]):
            start = time.perf_counter()
            losses.append(self.step(self.number))
            times_s.append(time.perf_counter() - start)
            self.number += 1
        return {"times_s": times_s, "losses": losses}


def main() -> None:
    """Serve rounds on standard input and output."""
    contender, size_name, threads = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    rounds = Rounds(make_step(contender, find_size(size_name), int(threads)))
    serve(contender, rounds.handle, answers)


if __name__ == "__main__":
    main()
