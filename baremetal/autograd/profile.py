"""Where the time goes: every launch on a device, timed and held against the roofline.

    with baremetal.profile() as profile:
        model.loss(tokens, targets).backward()
    print(profile)                          # one line per kernel
    profile.save("step.json")               # a timeline for https://ui.perfetto.dev

All arithmetic goes through one door (`Device.launch`), so one listener there sees everything. The
arithmetic and the traffic of a launch come from the kernel's cost function, its time from the
clock, and the limit from the machine: the least time it could have taken is

    max(FLOP / peak rate, bytes / bandwidth)

and the percentage of the roofline is that over the time it took. A kernel whose arrays still lie
in cache can beat the bandwidth of main memory, and then shows more than 100 %.

What is timed is the launch with its packing in Python; what Python does between launches (the tape,
the model's own code) is the difference between the wall time and the sum, and is printed too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from baremetal.autograd.device import CPU, Device
from baremetal.kernels.kernel import Kernel
from baremetal.trace import PS_PER_S, Trace, format_rate, format_seconds, summarise, summary_table
from baremetal.trace.perfetto import write_perfetto

TRACK = "kernels"


class Profile:
    """What `profile()` collects. Complete once its `with` block is left.

    Attributes:
        trace: a span per launch, with category (the kernel's family), FLOP, bytes and shapes.
        wall_s: seconds from entering the block to leaving it.
    """

    def __init__(self, peak_flops: float | None, bandwidth_Bps: float | None) -> None:
        self.trace = Trace()
        self.wall_s = 0.0
        self._peak_flops = peak_flops
        self._bandwidth_Bps = bandwidth_Bps
        self._summary: dict[str, Any] | None = None

    def listen(self, run: Any, kernel: Kernel, arrays: tuple, attributes: dict[str, Any]) -> None:
        """Run one launch and note it (a `Device` listener)."""
        start_ps = self.trace.now_ps()
        run()
        duration_ps = self.trace.now_ps() - start_ps
        cost = kernel.cost(*arrays, **attributes)
        facts = {
            "flops": cost.flops,
            "bytes": cost.size_bytes,
            "shapes": [list(a.shape) for a in arrays if a is not None],
            **attributes,
        }
        family = kernel.__module__.rpartition(".")[2]
        self.trace.add_span(TRACK, kernel.name, start_ps, duration_ps, family, facts)

    @property
    def limits(self) -> tuple[float, float]:
        """Peak rate (FLOP/s) and bandwidth (B/s): as given, else measured now, once."""
        if self._peak_flops is None or self._bandwidth_Bps is None:
            from baremetal.kernels.limits import measure_limits

            measured = measure_limits()
            self._peak_flops = self._peak_flops or measured.peak_flops
            self._bandwidth_Bps = self._bandwidth_Bps or measured.bandwidth_Bps
        return self._peak_flops, self._bandwidth_Bps

    def summary(self) -> dict[str, Any]:
        """`{"rows": [...], "total": {...}, "wall_s", "peak_flops", "bandwidth_Bps"}`, JSON-ready.

        A row per kernel, the slowest first; its keys are those of `baremetal.trace.summarise`.
        """
        if self._summary is None:
            peak_flops, bandwidth_Bps = self.limits
            self._summary = {
                **summarise(self.trace, peak_flops=peak_flops, bandwidth_Bps=bandwidth_Bps),
                "wall_s": self.wall_s,
                "peak_flops": peak_flops,
                "bandwidth_Bps": bandwidth_Bps,
            }
        return self._summary

    def table(self, top: int | None = None) -> str:
        """The summary as text; `top` shows only that many kernels."""
        summary = self.summary()
        inside_s = summary["total"]["total_s"]
        return "\n".join(
            [
                summary_table(summary, top=top),
                "",
                f"wall time {format_seconds(self.wall_s)}, of which "
                f"{format_seconds(max(self.wall_s - inside_s, 0.0))} outside launches "
                "(Python, and this profile itself)",
                f"limits: {format_rate(summary['peak_flops'])}, "
                f"{format_rate(summary['bandwidth_Bps'], 'B/s')}",
            ]
        )

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<profile of {len(self.trace.spans)} launches, {format_seconds(self.wall_s)}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the timeline as a Perfetto trace (JSON) and return the path."""
        return write_perfetto(self.trace, path)


@contextmanager
def profile(
    device: Device = CPU,
    *,
    peak_flops: float | None = None,
    bandwidth_Bps: float | None = None,
) -> Iterator[Profile]:
    """Time every launch on `device` inside the `with` block.

    Args:
        device: whose launches.
        peak_flops: the machine's arithmetic limit in FLOP/s. Default: measured when it is needed.
        bandwidth_Bps: the machine's memory limit in B/s. Default: the same.

    Raises:
        BaremetalError: the device is already being listened to.
    """
    collected = Profile(peak_flops, bandwidth_Bps)
    start_ps = collected.trace.now_ps()
    with device.listen(collected.listen):
        try:
            yield collected
        finally:
            collected.wall_s = (collected.trace.now_ps() - start_ps) / PS_PER_S
