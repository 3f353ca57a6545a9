"""A contender in a benchmark: a process that works only when asked to.

Separate processes, because two frameworks in one would share thread pools, allocators and BLAS
settings and disturb each other in ways no user meets. A contender is a module run with `python -m`;
it reads one JSON line per request from standard input and answers each with one JSON line. In
between it sleeps in that read, so that only one contender works at a time.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.kernels.native.blas_library import HELD_BACK_BY


class Contender:
    """A worker process.

    Args:
        name: which contender.
        module: the worker module and its arguments; the thread count is added.
        threads: for every contender the same.

    Raises:
        BaremetalError: the process ends before it says that it is ready.
    """

    def __init__(self, name: str, module: Sequence[str], threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", *module, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=_environment(threads),
        )
        try:
            self._answer()
        except BaremetalError:
            self.close()
            raise

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        # A process that has died cannot be written to; why, is said where its answer is missed.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise BaremetalError(
                f"the contender '{self.name}' ended with status {status}; its own message is above"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _environment(threads: int) -> dict[str, str]:
    """What all contenders see: one thread count, and no settings that slow our BLAS alone."""
    kept = {name: value for name, value in os.environ.items() if name not in HELD_BACK_BY}
    counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if threads == 1:  # XLA takes all cores, or one
        counts["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {**kept, **counts}


def check_peer(name: str, known: Sequence[str]) -> None:
    """Refuse a peer that is unknown or not installed.

    Raises:
        BaremetalError: saying which there are, or how to install it.
    """
    if name not in known:
        raise BaremetalError(f"unknown peer '{name}': choose from {', '.join(known[1:])}")
    for package, called in (("torch", "PyTorch"), ("jax", "JAX")):
        if name.startswith(package) and importlib.util.find_spec(package) is None:
            raise BaremetalError(
                f"{called} is not installed: pip install 'baremetal[peers]' brings the peers"
            )


def check_at_least_one(**counts: int) -> None:
    """Refuse counts of rounds, steps or threads below 1.

    Raises:
        BaremetalError: naming the option.
    """
    for name, count in counts.items():
        if count < 1:
            raise BaremetalError(f"--{name} {count}: choose at least 1")


def check_threads(threads: int) -> None:
    """Refuse a number of threads that our own pool cannot use.

    Raises:
        BaremetalError: saying how many it can.
    """
    from baremetal.kernels.native.pool import POOL

    check_at_least_one(threads=threads)
    if threads > POOL.largest:
        raise BaremetalError(
            f"--threads {threads}: a process here can use 1 to {POOL.largest} (NUMBA_NUM_THREADS, "
            "set before start, raises it)"
        )


def serve(name: str, handle: Callable[[dict[str, Any]], dict[str, Any]], answers: Any) -> None:
    """The worker's side: say that we are ready, then answer requests until the input closes."""
    print(json.dumps({"ready": name}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), file=answers, flush=True)
