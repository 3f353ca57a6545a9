"""The curve: every size of the step benchmark in turn, against every peer.

Each size is an interleaved run of its own (`bench/step/compare.py`). What comes out is one object
that can be kept, and drawn and fitted again later (`reading.py`): everything derived is left out of
it, except that each row keeps its ratio to the replayed step.
"""

from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from typing import Any

from baremetal.bench.machine import describe_machine
from baremetal.bench.overhead.launches import measure_launches
from baremetal.bench.step.compare import check_counts, compare_steps
from baremetal.bench.step.sizes import find_size

MODELS = ("micro", "micro-100", "tiny", "small", "medium")
AGAINST = ("baremetal.replay", "baremetal.eager", "torch", "torch.compile", "jax", "jax.scan")
# A scan removes the price of a call, which is nothing beside a step of many milliseconds.
SCANNED = ("micro", "micro-100", "tiny", "small")
PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "torch", "jax")

Progress = Callable[[str], None]


def measure_curve(
    models: Sequence[str],
    against: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    threads: int,
    note: str = "",
    progress: Progress = lambda what: None,
    keep: Callable[[dict[str, Any]], None] = lambda curve: None,
) -> dict[str, Any]:
    """Run the step benchmark for each size; returns one JSON-able object.

    Args:
        models: sizes by name, the smallest first.
        against: contenders beside `baremetal`.
        rounds, seconds, threads: of each run, see `compare_steps`.
        note: kept with the result: what a reader must know of how it was measured.
        progress: told what comes next, `announcements` times.
        keep: given the curve so far after each size, so that an interruption loses little.

    Raises:
        BaremetalError: as `compare_steps` does; before anything is measured, if it can be known.
    """
    sizes = [find_size(name) for name in models]
    check_counts(rounds, 0, seconds)
    progress("launches of one element")
    curve: dict[str, Any] = {
        "date": date.today().isoformat(),
        "note": note,
        "threads": threads,
        "rounds": rounds,
        "models": [],
        "launches": measure_launches(),
        "machine": describe_machine(),
        "versions": versions(),
    }
    for size in sizes:
        result = compare_steps(
            size, contenders_for(size.name, against), rounds=rounds, seconds=seconds,
            threads=threads, progress=progress,
        )  # fmt: skip
        del result["machine"]  # the same for all
        curve["models"].append(result)
        keep(curve)
    return curve


def contenders_for(model: str, against: Sequence[str]) -> list[str]:
    """Which contenders run at this size."""
    return [name for name in against if name != "jax.scan" or model in SCANNED]


def announcements(models: Sequence[str], against: Sequence[str], rounds: int) -> int:
    """How often `progress` will be told something: start, warm-up and turns of each contender."""
    contenders = sum(1 + len(contenders_for(model, against)) for model in models)
    return contenders * (2 + rounds) + 1


def versions() -> dict[str, str]:
    """The versions of what took part and is installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
