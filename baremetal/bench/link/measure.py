"""One message from process to process: how long a small one takes, how fast a large one flows.

    4 KiB     the time of one way: what a step of a pipeline pays for each message
    64 MiB    bytes per second, beside memcpy's: what is left of the memory's rate

Contenders take turns within each round, memcpy among them, so that a disturbance meets all; what is
compared is the median over the rounds of each round's ratio. Both processes
keep to a core of their own, but for the pipe (see `echo.core_of_its_own`).

    shared memory   our lane: copied into the slot, copied out of it, summed twice on the way
    in place        the same, but the message is in the slot already: summed there, copied out
    pipe            multiprocessing.Pipe, bytes only (no pickling), no checksum
    mpi             Send and Recv of mpi4py, no checksum; where it is installed
"""

import importlib.util
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.bench.link.echo import (
    LanePlayer,
    Turn,
    answer_turns,
    core_of_its_own,
    make_lanes,
    play_pipe,
)
from baremetal.bench.machine import describe_machine
from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.errors import BaremetalError

SMALL_BYTES = 4096
CONTENDERS = ("shared memory", "in place", "pipe", "mpi")
LATENCY_TARGET_S = 10e-6
RATE_TARGET = 0.6  # of memcpy
WARM_UP = (2000, 2)  # round trips before those that count: until both have a core of their own


def measure_link(
    rounds: int,
    small_count: int,
    large_count: int,
    large_bytes: int,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure all contenders in turns.

    Args:
        rounds: how often everybody gets a turn.
        small_count, large_count: round trips of each size in a turn.
        large_bytes: size of the large message, B.
        progress: told what is being done.

    Returns:
        A JSON-able object: `contenders` (each with `latency_s`, `rate_Bps`, `share_of_memcpy`,
        medians), `memcpy_Bps`, the targets, and what it was measured on.

    Raises:
        BaremetalError: there is not enough shared memory, or MPI fails.
    """
    sizes = (SMALL_BYTES, large_bytes)
    counts = (small_count, large_count)
    latencies: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    memcpy: list[float] = []
    with _peer_process(sizes) as play:
        for number in range(rounds):
            memcpy.append(large_bytes / _memcpy_s(large_bytes, large_count))
            for name in _rotated(contenders(), number):
                progress(f"round {number + 1} of {rounds}: {name}")
                small_s, large_s = (
                    _mpi_times(sizes, counts) if name == "mpi"
                    else [list(play(Turn(name, size, counts[size]))) for size in (0, 1)]
                )  # fmt: skip
                latencies.setdefault(name, []).extend(small_s)
                rates.setdefault(name, []).append(large_bytes / (statistics.median(large_s) / 2))
    return {
        "small_bytes": SMALL_BYTES,
        "large_bytes": large_bytes,
        "rounds": rounds,
        "memcpy_Bps": statistics.median(memcpy),
        "contenders": {
            name: {
                "latency_s": statistics.median(latencies[name]) / 2,
                "rate_Bps": statistics.median(rates[name]),
                "share_of_memcpy": _median_ratio(rates[name], memcpy),
            }
            for name in latencies
        },
        "latency_target_s": LATENCY_TARGET_S,
        "share_target": RATE_TARGET,
        "machine": describe_machine(),
    }


def contenders() -> tuple[str, ...]:
    """Those that can be measured here."""
    return CONTENDERS if mpi_launcher() else CONTENDERS[:-1]


def mpi_launcher() -> str | None:
    """The path of `mpiexec`, if MPI is installed: the one beside this Python, or the system's."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    return shutil.which(Path(sys.executable).with_name("mpiexec")) or shutil.which("mpiexec")


def _rotated(names: Sequence[str], by: int) -> list[str]:
    """Another one begins in every round."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def _median_ratio(rates: Sequence[float], baseline: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(rates, baseline, strict=True))


def _memcpy_s(size_bytes: int, count: int) -> float:
    """Median seconds of copying so much memory that has been touched before."""
    source, target = np.ones(size_bytes, np.uint8), np.ones(size_bytes, np.uint8)
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@contextmanager
def _peer_process(sizes: tuple[int, ...]) -> Iterator[Callable[[Turn], Iterator[float]]]:
    """The other process; yields what plays a turn with it."""
    spawn = multiprocessing.get_context("spawn")
    with Exchange(make_lanes(sizes)) as exchange:
        orders, their_orders = spawn.Pipe()
        pipe, their_pipe = spawn.Pipe()
        arguments = (exchange.address, their_orders, their_pipe)
        process = spawn.Process(target=answer_turns, args=arguments, daemon=True)
        process.start()
        their_orders.close()
        their_pipe.close()
        try:
            _expect_ready(orders)
            ends = Endpoint(exchange.address, 0)
            players = [LanePlayer(ends, size, first=True) for size in range(len(sizes))]

            def play(turn: Turn) -> Iterator[float]:
                longer = turn._replace(round_trips=turn.round_trips + WARM_UP[turn.size])
                orders.send(longer)
                player = players[turn.size]
                if turn.contender == "pipe":
                    seconds = play_pipe(pipe, player.buffer, longer.round_trips)
                else:
                    seconds = player.play(longer.round_trips, turn.contender == "in place")
                with core_of_its_own(0, turn.contender):
                    return iter(list(seconds)[WARM_UP[turn.size] :])

            yield play
            orders.send(None)
            process.join()
        finally:
            process.kill()
            process.join()


def _expect_ready(orders: Any) -> None:
    try:
        orders.recv()
    except EOFError:
        raise BaremetalError(
            "the other process of the benchmark ended; its own message is above"
        ) from None


def _mpi_times(sizes: Sequence[int], counts: Sequence[int]) -> list[list[float]]:
    """Seconds of each round trip, by size; MPI is started anew, for its ranks wait spinning."""
    numbers = [str(number) for pair in zip(sizes, counts, WARM_UP, strict=True) for number in pair]
    command = [
        str(mpi_launcher()), "-n", "2", sys.executable, "-m", "baremetal.bench.link.mpi_peer",
        *numbers,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BaremetalError(f"mpiexec ended with status {done.returncode}: {' '.join(reason)}")
    return json.loads(done.stdout)
