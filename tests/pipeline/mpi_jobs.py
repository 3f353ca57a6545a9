"""Jobs that are done on both transports, and what is compared: `mpiexec -n 2 python mpi_jobs.py F`.

The leader writes the results to the file F.
"""

import pickle
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pipeline_models import tiny_job, windows

from baremetal.machine import find_chip, find_link
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.launcher import leads
from baremetal.pipeline.mpi_ranks import MpiRanks
from baremetal.pipeline.run import PipelineRun
from baremetal.pipeline.runner import Batch
from baremetal.schedules import make_schedule
from baremetal.schedules.times import Times

STEPS, RANKS, MICROBATCHES = 2, 2, 4
TIMES = (
    "start_ps", "end_ps", "duration_ps", "depart_ps", "arrive_ps", "taken_ps", "occupancy_ps",
)  # fmt: skip


def jobs():
    """One stage or two for each rank; links that lose and delay; a lane on which senders wait."""
    moody = replace(
        find_link("800g"), jitter_ps=10**6, loss=Fraction(1, 4), retransmit_timeout_ps=10**7
    )
    common = {"link": moody, "eager": True, "seed": 5, "host_overhead_ps": 17}
    unit = Times.uniform(2, 10**6, 10**6 + 1, 10**6 - 1)
    yield tiny_job(
        make_schedule("gpipe", RANKS, MICROBATCHES), charge="unit", times=unit, slots=1, **common
    )
    yield tiny_job(
        make_schedule("zb-v", RANKS, MICROBATCHES), charge="roofline", chip=find_chip("gb300"),
        stragglers={1: 1.5}, **common,
    )  # fmt: skip


def do(job):
    """Timelines, losses and final weights; and where the simulator differs, which is nowhere."""
    found = {"steps": [], "differences": []}
    with PipelineRun(job) as run:
        for number in range(STEPS):
            done = run.step(Batch(*windows(number, MICROBATCHES), number), 1e-2)
            times = {name: getattr(done.executed, name) for name in TIMES}
            found["steps"].append((times, done.losses, done.gradient_norm))
            found["differences"].append(first_difference(done.executed, run.simulate(done)))
        found["weights"], found["optimizer"] = run.state()
    return found


def main():
    results = []
    for job in jobs():
        if leads():
            results.append(do(job))
        else:
            MpiRanks(job).serve()
    if leads():
        Path(sys.argv[1]).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
