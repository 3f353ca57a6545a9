"""What one launch costs when there is nothing to compute: a thousand additions of two numbers.

    NumPy         np.add(a, b, out=c), called from Python: the yardstick
    eager         Device.launch: the arguments are packed, then the kernel runs
    one by one    packed beforehand, called from Python
    replay        the table of a captured step, walked by compiled code (level 1)

And once, for each launch, the first call, which runs it, writes it down, plans its memory and binds
it to addresses; the last two also by themselves.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from baremetal.autograd import CPU
from baremetal.capture import Lifetime, capture, plan_arena
from baremetal.capture.replay import Replay
from baremetal.kernels.elementwise import add
from baremetal.kernels.limits import best_time_s
from baremetal.trace.tables import table
from baremetal.trace.units import format_seconds


def measure_launches(count: int = 1000, budget_s: float = 0.2) -> dict[str, Any]:
    """Seconds per launch, each the best of many rounds of `count` launches.

    Returns:
        A JSON-able object: `launches`, `per_launch_s` (of each way to run them) and `once_s` (of
        each thing that happens once for a launch).
    """
    one, out = np.ones(1, np.float32), np.empty(1, np.float32)

    def chain(x: np.ndarray) -> np.ndarray:
        for _ in range(count):
            y = CPU.empty((1,), np.float32)
            CPU.launch(add, x, one, y)
            x = y
        return x

    def by_numpy() -> None:
        for _ in range(count):
            np.add(one, one, out=out)

    def eagerly() -> None:
        for _ in range(count):
            CPU.launch(add, one, one, out)

    replay, once_s = _prepare(chain, one)
    calls = [*replay.launches()]

    def one_by_one() -> None:
        for call in calls:
            call()

    ways = {
        "numpy": by_numpy, "eager": eagerly, "one by one": one_by_one, "replay": replay.run,
    }  # fmt: skip
    return {
        "launches": count,
        "per_launch_s": {n: best_time_s(run, budget_s) / count for n, run in ways.items()},
        "once_s": {name: seconds / count for name, seconds in once_s.items()},
    }


def _prepare(chain: Callable[..., Any], first: np.ndarray) -> tuple[Replay, dict[str, float]]:
    """The replay of a chain of launches, and the seconds that making it took."""
    chain(first)  # compiles
    once_s: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        once_s[name] = time.perf_counter() - start
        return result

    step = capture(chain)
    timed("first call, in all", lambda: step(first))
    lifetimes = [Lifetime(b.size_bytes, b.first, b.last) for b in step.plan.transient]
    timed("planning memory", lambda: plan_arena(lifetimes))
    replay = timed("binding", lambda: Replay(step.plan))
    return replay, once_s


def launches_text(result: dict[str, Any]) -> str:
    """The object of `measure_launches`, for people."""
    rows = [[name, format_seconds(s)] for name, s in result["per_launch_s"].items()]
    once = [[name, format_seconds(s)] for name, s in result["once_s"].items()]
    return "\n".join(
        [
            f"{result['launches']} launches of one element, seconds per launch",
            "",
            table(rows, ["run", "each time"]),
            "",
            table(once, ["before the first replay", "once"]),
        ]
    )
