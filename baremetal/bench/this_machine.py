"""This computer as a chip: measured, and written as a description like any other.

Two rates and a fixed cost (`kernels/limits.py`, `overhead/launches.py`) are what a roofline needs:

    fp32, fp64        FLOP/s of large matrix products, our own kernels, all cores
    memory rate       B/s of c = a + b over arrays beyond the caches
    launch overhead   from one launch to the next in a captured step, where nothing is computed

They are what was reached, not what a data sheet promises: the efficiencies beside them are 100 %.
"""

import ctypes
import datetime
import os
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from baremetal.bench.machine import processor_name, usable_cores
from baremetal.bench.overhead.launches import measure_launches
from baremetal.kernels.limits import measure_bandwidth, measure_matmul_rate
from baremetal.machine.catalogue import Entry
from baremetal.machine.chip import PS_PER_S, Chip

NAME = "this computer"
DIGITS = 4  # of what is measured; the next run differs in the third


def measure_this_machine(budget_s: float = 0.3, progress: Callable[[str], None] = print) -> Entry:
    """The computer that this runs on, each of its numbers measured for about `budget_s` seconds."""
    progress("matrix products in float32")
    fp32 = measure_matmul_rate(np.float32, budget_s)
    progress("matrix products in float64")
    fp64 = measure_matmul_rate(np.float64, budget_s)
    progress("memory")
    rate_Bps = measure_bandwidth(budget_s)
    progress("launches")
    launch_s = measure_launches(budget_s=budget_s / 2)["per_launch_s"]["replay"]
    memory_bytes = physical_memory_bytes()
    today = datetime.date.today().isoformat()
    measured = f"measured on {today} on {usable_cores()} cores of {processor_name()}"
    fields = ("flops.fp64", "flops.fp32", "memory_rate", "launch_overhead")
    full = "by definition: the rates are what was reached"
    chip = Chip(
        name=NAME,
        flops={"fp64": rounded(fp64), "fp32": rounded(fp32)},
        memory_bytes=memory_bytes,
        usable_memory_bytes=memory_bytes,
        memory_rate_Bps=rounded(rate_Bps),
        efficiency=Fraction(1),
        memory_efficiency=Fraction(1),
        launch_overhead_ps=rounded(launch_s * PS_PER_S),
        sources=dict.fromkeys(fields, measured)
        | {"memory": "what the operating system reports"}
        | {"efficiency": full, "memory_efficiency": full},
    )
    return Entry("chip", chip, (), f"{processor_name()}, {usable_cores()} cores")


def rounded(value: float) -> int:
    """The nearest integer of `DIGITS` significant digits."""
    return int(float(f"{value:.{DIGITS - 1}e}"))


def physical_memory_bytes() -> int:
    """Main memory in bytes, as the operating system reports it."""
    if sys.platform == "win32":
        return _windows_memory_bytes()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _windows_memory_bytes() -> int:
    """`GlobalMemoryStatusEx`: 64 bytes, of which the first four say so, and bytes 8 to 15 count."""
    status = (ctypes.c_uint64 * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    library = ctypes.__dict__["windll"].kernel32  # not there on other systems
    if not library.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("the system does not say how much memory it has")
    return int(status[1])
