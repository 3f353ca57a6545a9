"""How steps are timed: in blocks, each contender's loop as its users write it.

A contender is a training loop: a function that does the steps of some numbers, one after the other,
and comes back when the last one is done, with its loss where the framework left it:

    def run(numbers):
        for number in numbers:
            carry, loss = step(carry, batches[number % BATCHES])
        return loss.block_until_ready()                            # JAX

The clock stands around the whole call, and the loss is made a number after it has stopped, as in a
loop that prints every hundredth loss. A shorter step than the clock can measure is then the share
of a long block, and nobody is held up by the measuring: JAX starts a step and comes back to Python
before it is done, and may so run ahead in every block up to its last step. Reading the loss in each
step would take that away from it; from us it would take a tenth of a microsecond.

A block is as many steps as take about `BLOCK_S`, found for each contender by trying; a step that is
longer is a block by itself.
"""

import time
from collections.abc import Callable
from typing import Any, SupportsFloat

# Does the steps of these numbers and returns, when all is done, the last one's loss.
Run = Callable[[range], SupportsFloat]

BLOCK_S = 0.02  # starting and stopping the clock takes less than a ten-thousandth of it
LONGEST_BLOCK = 100_000  # steps


class Turns:
    """A contender's steps, counted through and timed in blocks.

    Args:
        run: its training loop.
        least: the shortest block, in steps.
    """

    def __init__(self, run: Run, least: int = 1) -> None:
        self._run = run
        self._least = least
        self._number = 0  # of the next step
        self._tried: set[int] = set()
        self.block = least

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request.

        {"first": n}: do n steps one by one; answered with their {"losses"}.
        {"steps": n} or {"seconds": s}: do n steps, or blocks for about s seconds (one at least);
        answered with {"times_s": seconds a step, of each block}.
        """
        if "first" in request:
            losses = [float(self._do(1)) for _ in range(request["first"])]
            self.block = self._find_block()
            return {"losses": losses}
        if "steps" in request:
            return {"times_s": self._steps(request["steps"])}
        return {"times_s": self._blocks(request["seconds"])}

    def _steps(self, count: int) -> list[float]:
        whole, rest = divmod(count, self.block)
        return [self._timed(length) for length in [self.block] * whole + [rest] * (rest > 0)]

    def _blocks(self, seconds: float) -> list[float]:
        times_s = [self._timed(self.block)]
        while sum(times_s) * self.block < seconds:
            times_s.append(self._timed(self.block))
        return times_s

    def _do(self, count: int) -> SupportsFloat:
        numbers = range(self._number, self._number + count)
        self._number += count
        self._tried.add(count)
        return self._run(numbers)

    def _timed(self, count: int) -> float:
        """Seconds a step; a block of a new length goes first unmeasured: it may be compiled."""
        if count not in self._tried:
            self._do(count)
        start = time.perf_counter()
        self._do(count)
        return (time.perf_counter() - start) / count

    def _find_block(self) -> int:
        """As many steps as take about `BLOCK_S`: one more guess for each factor of ten."""
        count = self._least
        while True:
            wanted = max(self._least, min(LONGEST_BLOCK, round(BLOCK_S / self._timed(count))))
            if wanted <= 10 * count:
                return wanted
            count *= 10
