"""What machine a figure was measured on: processor, threads, and the BLAS that was in use."""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def processor_name() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":  # platform.processor() only says "arm" there
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not say
        return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system, Python, and every BLAS with its core type."""
    # From `blas`, not from where it is written: importing that limits SciPy's BLAS to one thread.
    from baremetal.kernels.native.blas import blas_report

    blas = {  # where its file lies is nobody's business but this machine's
        package: {fact: value for fact, value in library.items() if fact != "path"}
        for package, library in blas_report().items()
    }
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": blas,
    }


def machine_lines(machine: dict[str, Any]) -> list[str]:
    """`describe_machine` as lines to print under a table."""
    lines = [f"on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}"]
    for package, library in machine["blas"].items():
        core = library["architecture"] or "unknown core type"
        version = library["version"] or ""
        lines.append(f"BLAS of {package}: {library['library']} {version}, {core}")
    return lines
