"""One contender in a process of its own, doing rounds of steps when told to.

Separate processes, because two frameworks in one would share thread pools, allocators and BLAS
settings and disturb each other in ways no user meets. The parent writes one JSON line per round
({"steps": n}) and this answers with one ({"times_s": [...], "losses": [...]}); in between it
sleeps in a read, so that only one contender works at a time.
"""

import json
import sys
import time
from collections.abc import Callable

from baremetal.bench.step.sizes import StepSize, find_size


def make_step(contender: str, size: StepSize, threads: int) -> Callable[[int], float]:
    """The step function of a contender, imported only here."""
    if contender == "baremetal":
        from baremetal.bench.step.ours import baremetal_eager

        return baremetal_eager(size, threads)
    from baremetal.bench.step.torch_peer import make_torch_step

    return make_torch_step(size, threads, compiled=contender == "torch.compile")


def main() -> None:
    """Serve rounds on standard input and output until the input closes."""
    contender, size_name, threads = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    step = make_step(contender, find_size(size_name), int(threads))
    print(json.dumps({"ready": contender}), file=answers, flush=True)
    number = 0
    for line in sys.stdin:
        times_s, losses = [], []
        for _ in range(json.loads(line)["steps"]):
            start = time.perf_counter()
            losses.append(step(number))
            times_s.append(time.perf_counter() - start)
            number += 1
        print(json.dumps({"times_s": times_s, "losses": losses}), file=answers, flush=True)


if __name__ == "__main__":
    main()
