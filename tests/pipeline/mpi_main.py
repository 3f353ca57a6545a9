"""`mpiexec -n 2 python mpi_main.py HOW train ...`: the command line, and what befalls a rank of it.

HOW: `nothing`; `killed`, `raises` or `hangs`: rank 1, at the third action of the second step;
`idle`: rank 1 is stopped by the system after the first step; `interrupted`: somebody presses Ctrl-C
(at mpiexec, whose number is in MPIEXEC_PID) during the second.
"""

import os
import signal
import sys
import threading
import time

from baremetal import cli
from baremetal.pipeline.executor import Executor
from baremetal.pipeline.worker import Worker


def befall(how, rank, step, index):
    if step != 1:
        return
    if how == "interrupted" and (rank, index) == (0, 0):
        interrupt()
    if (rank, index) == (1, 2) and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if (rank, index) == (1, 2) and how == "raises":
        raise RuntimeError("out of\nluck")
    if (rank, index) == (1, 2) and how == "hangs":
        threading.Event().wait()


def stopped_after(do_step):
    """A step, after which the system stops rank 1, before it has answered."""

    def step(self, batch, rate, origin_ns):
        result = do_step(self, batch, rate, origin_ns)
        if self.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    return step


def interrupt():
    """Returns when the signal has come here, by mpiexec and the guard."""
    arrived = []
    usual = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        arrived.append(number)
        usual(number, frame)

    signal.signal(signal.SIGINT, note)
    os.kill(int(os.environ["MPIEXEC_PID"]), signal.SIGINT)
    while not arrived:
        time.sleep(0.001)


def main():
    how = sys.argv[1]
    run = Executor.run

    def run_with_bad_luck(self, batch, clock):
        self.before_action = lambda step, index: befall(how, self.rank, step, index)
        return run(self, batch, clock)

    Executor.run = run_with_bad_luck
    if how == "idle":
        Worker.step = stopped_after(Worker.step)
    sys.exit(cli.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
