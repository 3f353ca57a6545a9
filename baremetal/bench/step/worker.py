"""One contender of the step benchmark, in a process of its own (see `bench/contender.py`).

The requests that it answers are those of `turns.py`.
"""

import sys

from baremetal.bench.contender import serve
from baremetal.bench.step.sizes import StepSize, find_size
from baremetal.bench.step.turns import Run, Turns

SHORTEST_SCAN = 4  # steps: with one it would be the jitted step


def make_turns(contender: str, size: StepSize, threads: int) -> Turns:
    """A contender before its first step."""
    least = SHORTEST_SCAN if contender == "jax.scan" else 1
    return Turns(make_run(contender, size, threads), least)


def make_run(contender: str, size: StepSize, threads: int) -> Run:
    """A contender's training loop; its framework is imported only here."""
    if contender.startswith("baremetal"):
        from baremetal.bench.step.ours import make_our_run

        return make_our_run(contender, size, threads)
    if contender.startswith("jax"):
        from baremetal.bench.step.jax_peer import make_jax_run, make_jax_scan

        return make_jax_scan(size) if contender == "jax.scan" else make_jax_run(size)
    from baremetal.bench.step.torch_peer import make_torch_run

    return make_torch_run(size, threads, compiled=contender == "torch.compile")


def main() -> None:
    """Serve turns on standard input and output."""
    contender, size_name, threads = sys.argv[1:]
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    turns = make_turns(contender, find_size(size_name), int(threads))
    serve(contender, turns.handle, answers)


if __name__ == "__main__":
    main()
