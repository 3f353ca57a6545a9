"""Timing a plan, launch by launch: where a step's time goes once nothing is left to decide.

The plan's launches are run one at a time from Python, each between two looks at the clock. That is
slower than a replay, which never comes back to Python in between, but it is the only way to see
them apart. Every launch is a span that carries its cost, so that the summary can hold it against
the roofline, and the bytes that are alive in the arena are a counter beside it.
"""

from baremetal.capture.plan import Plan
from baremetal.capture.replay import Replay
from baremetal.trace import Trace

TRACK, MEMORY = "kernels", "arena"


def measure_plan(plan: Plan, replay: Replay, repeats: int = 3) -> Trace:
    """Do the step `repeats` times, really (weights move), and return the last as a trace.

    The earlier ones warm the caches up; one step would be enough, several are steadier.
    """
    for _ in range(repeats - 1):
        replay.run_one_by_one()
    trace = Trace()
    alive_bytes = plan.alive_bytes()
    for number, (launch, run) in enumerate(zip(plan.launches, replay.launches(), strict=True)):
        start_ps = trace.now_ps()
        run()
        duration_ps = trace.now_ps() - start_ps
        family = launch.kernel.__module__.rpartition(".")[2]
        facts = {
            "flops": launch.cost.flops,
            "bytes": launch.cost.size_bytes,
            "shapes": [list(operand.shape) for operand in launch.operands if operand is not None],
        }
        trace.add_span(TRACK, launch.kernel.name, start_ps, duration_ps, family, facts)
        trace.add_counter(MEMORY, "alive (B)", start_ps, alive_bytes[number])
    return trace
