"""`baremetal doctor`: is everything in order on this machine, and what to do if not.

Each check looks at one thing and says what it found, whether that is good, and, where it is not,
what to do. Nothing is changed. A "warning" costs speed; a "failure" means that something will not
work.
"""

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from baremetal.bench.machine import processor_name, usable_cores

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "ml-dtypes", "tyro", "matplotlib")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    found: str
    state: Literal["good", "warning", "failure"] = "good"
    advice: str = ""


def examine() -> list[Finding]:
    """Run every check; one that breaks becomes a failure, not a crash."""
    findings: list[Finding] = []
    for check in (_system, _versions, _blas, _threads, _cache, _kernels, _speed):
        try:
            findings += check()
        except Exception as error:
            findings.append(
                Finding(
                    check.__name__.strip("_"),
                    f"{type(error).__name__}: {error}",
                    "failure",
                    "this check itself broke: please report it with the lines above",
                )
            )
    return findings


def _system() -> Iterable[Finding]:
    yield Finding("processor", f"{processor_name()}, {usable_cores()} usable cores")
    yield Finding("system", platform.platform())


def _versions() -> Iterable[Finding]:
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    yield Finding("packages", ", ".join(versions))


def _blas() -> Iterable[Finding]:
    # From `blas`, not from where it is written: importing that limits SciPy's BLAS to one thread.
    from baremetal.kernels.native.blas import blas_report
    from baremetal.kernels.native.matmul import OWN_PRODUCT

    whose = "our own (AVX-512)" if OWN_PRODUCT else "SciPy's BLAS"
    yield Finding("large float32 products", whose)
    for package, library in blas_report().items():
        core = library["architecture"] or "unknown core type"
        found = (
            f"{library['library']} {library['version'] or ''}, {core}, "
            f"{library['threads'] or '?'} threads, {library['path'] or 'no file'}"
        )
        warning = library["warning"]
        yield Finding(f"BLAS of {package}", found, "warning" if warning else "good", warning)


def _threads() -> Iterable[Finding]:
    import numba

    from baremetal.kernels.native.pool import POOL

    fill = np.zeros(2 * POOL.threads, np.float32)
    _touch(fill)
    layer = numba.threading_layer()
    cores = usable_cores()
    found = f"{POOL.threads} threads, layer '{layer}'"
    if POOL.threads < cores:
        yield Finding(
            "thread pool", found, "warning",
            f"{cores} cores are usable: unset NUMBA_NUM_THREADS and OMP_NUM_THREADS",
        )  # fmt: skip
    else:
        yield Finding("thread pool", found)


def _touch(array: np.ndarray) -> None:
    """One launch large enough to start the threads."""
    from baremetal.kernels.elementwise import copy

    large = np.zeros(1 << 18, np.float32)
    copy.run(large, np.empty_like(large))
    copy.run(array, np.empty_like(array))


def _cache() -> Iterable[Finding]:
    from baremetal.kernels.native.compiler import cache_folder, cache_root

    folder = cache_folder()
    if folder is None:
        yield Finding(
            "kernel cache", f"{cache_root()} cannot be written", "warning",
            "kernels are compiled at every start: set BAREMETAL_CACHE_DIR to a writable folder",
        )  # fmt: skip
        return
    files = [file for file in folder.rglob("*.nbc") if file.is_file()]
    size_bytes = sum(file.stat().st_size for file in files)
    yield Finding("kernel cache", f"{folder}: {len(files)} kernels, {size_bytes / 1e6:.1f} MB")


def _kernels() -> Iterable[Finding]:
    from baremetal.kernels.matmul import matmul

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((65, 33)), rng.standard_normal((33, 17))
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-12)):
        x, y = a.astype(dtype), b.astype(dtype)
        out = np.empty((65, 17), dtype)
        matmul.run(x, y, out)
        error = float(np.abs(out - a @ b).max())
        good = error < tolerance
        yield Finding(
            f"matrix product {np.dtype(dtype).name}",
            f"largest error {error:.1e}",
            "good" if good else "failure",
            "" if good else "BLAS gives wrong results: reinstall SciPy (pip install -U scipy)",
        )


def _speed() -> Iterable[Finding]:
    from baremetal.kernels.limits import measure_limits, measure_numpy_matmul_rate

    limits = measure_limits(budget_s=0.2)
    numpy_rate = measure_numpy_matmul_rate(budget_s=0.2)
    yield Finding(
        "matrix products", f"{limits.peak_flops / 1e9:.0f} GFLOP/s (NumPy's own "
        f"{numpy_rate / 1e9:.0f} GFLOP/s)"
    )  # fmt: skip
    yield Finding("memory bandwidth", f"{limits.bandwidth_Bps / 1e9:.1f} GB/s")


def report_text(findings: list[Finding]) -> str:
    """The findings as lines, advice beneath what needs it, and one line of summary."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = {"good": "ok", "warning": "warn", "failure": "FAIL"}[finding.state]
        lines.append(f"{mark:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':<6}{'':<{width}}  -> {finding.advice}")
    bad = sum(finding.state != "good" for finding in findings)
    lines.append("everything is in order" if not bad else f"{bad} of these need attention")
    return "\n".join(lines)


def run_doctor(as_json: bool, show: Callable[[str], None] = print) -> int:
    """Print the report; the exit status is 1 if anything failed, 0 otherwise."""
    import json

    findings = examine()
    if as_json:
        show(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(report_text(findings))
    return 1 if any(finding.state == "failure" for finding in findings) else 0
