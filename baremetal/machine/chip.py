"""A chip: how fast it computes, how fast its memory is, and how much of both it reaches.

The time of a piece of work follows from the roofline (S. Williams, A. Waterman, D. Patterson,
"Roofline", CACM 52(4), 2009): arithmetic and memory traffic overlap, so the slower one decides,

    time = launch overhead + max( FLOP / (efficiency x peak), bytes / (memory efficiency x rate) )

The peaks are *dense*: data sheets since Ampere like to print twice as much, which holds only where
half of a matrix is zeros in a pattern. The efficiency is what large matrix products reach of the
peak: it is stated in the description, with its source, and not hidden in the peak.

Durations are integers of picoseconds, rounded up once: `time_ps` for one launch, `sum_ps` for all
launches of an action together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from baremetal.machine.checks import check_count, check_share
from baremetal.machine.errors import MachineError
from baremetal.machine.reading import Find, Table
from baremetal.machine.units import BYTE_RATE, DURATION, FLOP_RATE, POWER, SIZE

PS_PER_S = 10**12

PRECISIONS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4")

# Computed by the same units at the same rate, on every chip described here.
SAME_RATE = {"fp16": "bf16", "mxfp8": "fp8"}

# As NumPy and PyTorch call them.
LONG_NAMES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Chip:
    """One accelerator, or one processor.

    A field is called as in the file, with its base unit behind.

    Attributes:
        name: ``"GB300"``.
        flops: dense FLOP/s by precision (see `PRECISIONS`).
        memory_bytes: capacity of its memory.
        usable_memory_bytes: what a program can have of it.
        memory_rate_Bps: B/s to and from its memory.
        efficiency: the share of `flops` that large matrix products reach.
        memory_efficiency: the share of `memory_rate_Bps` that streaming through memory reaches.
        launch_overhead_ps: from one launch to the next where there is nothing to compute.
        power_W: the most it draws; None: not known.
        sources: by field (``"flops.bf16"``), where its number is from.

    Raises:
        MachineError: a number is out of range, or a precision unknown.
    """

    name: str
    flops: Mapping[str, int] = field(hash=False)
    memory_bytes: int
    usable_memory_bytes: int
    memory_rate_Bps: int
    efficiency: Fraction
    memory_efficiency: Fraction
    launch_overhead_ps: int = 0
    power_W: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "usable_memory_bytes", "memory_rate_Bps"):
            check_count(self, name, at_least=1)
        check_count(self, "launch_overhead_ps")
        if self.power_W is not None:
            check_count(self, "power_W", at_least=1)
        for name in ("efficiency", "memory_efficiency"):
            check_share(self, name)
            if getattr(self, name) == 0:
                raise MachineError(f"chip {self.name}: {name} = 0 computes nothing")
        self._check_flops()
        if self.usable_memory_bytes > self.memory_bytes:
            raise MachineError(
                f"chip {self.name}: usable_memory_bytes = {self.usable_memory_bytes} is more than "
                f"its memory, {self.memory_bytes}"
            )

    def _check_flops(self) -> None:
        if not self.flops:
            raise MachineError(f"chip {self.name}: no FLOP/s of any precision")
        for precision, rate in self.flops.items():
            if precision not in PRECISIONS or type(rate) is not int or rate < 1:
                raise MachineError(
                    f"chip {self.name}: flops[{precision!r}] = {rate!r}; expected a positive "
                    f"integer for one of {', '.join(PRECISIONS)}"
                )

    def peak(self, precision: str) -> int:
        """Dense FLOP/s in this precision.

        Raises:
            MachineError: the chip has none, with what it has.
        """
        name = LONG_NAMES.get(precision, precision)
        for candidate in (name, SAME_RATE.get(name, name)):
            if candidate in self.flops:
                return self.flops[candidate]
        raise MachineError(
            f"chip {self.name} does not compute in {precision}: it has {', '.join(self.flops)}"
        )

    def time_ps(self, cost_flops: int, cost_bytes: int, precision: str) -> int:
        """Duration in ps of one launch of so many FLOP and bytes moved, rounded up.

        Raises:
            MachineError: the chip has no such precision.
        """
        return self.sum_ps([(cost_flops, cost_bytes)], precision)

    def sum_ps(self, costs: Iterable[tuple[int, int]], precision: str) -> int:
        """Duration in ps of launches one after another, each (FLOP, bytes); rounded up once.

        Raises:
            MachineError: the chip has no such precision.
        """
        flops_per_ps = self.efficiency * self.peak(precision) / PS_PER_S
        bytes_per_ps = self.memory_efficiency * self.memory_rate_Bps / PS_PER_S
        total = Fraction(0)
        for flops, size_bytes in costs:
            total += self.launch_overhead_ps + max(flops / flops_per_ps, size_bytes / bytes_per_ps)
        return -(-total.numerator // total.denominator)


def read_chip(table: Table, find: Find) -> Chip:
    """A chip from its table in a description.

    Raises:
        MachineError: a field is missing, unknown or wrong.
    """
    inner = table.table("flops")
    flops = {
        precision: inner.quantity(precision, FLOP_RATE, positive=True)
        for precision in PRECISIONS
        if precision in inner
    }
    inner.done()
    table.take_sources(inner, "flops")
    memory_bytes = table.quantity("memory", SIZE, positive=True)
    return table.make(
        Chip,
        name=table.text("name"),
        flops=flops,
        memory_bytes=memory_bytes,
        usable_memory_bytes=table.optional("usable_memory", SIZE, memory_bytes),
        memory_rate_Bps=table.quantity("memory_rate", BYTE_RATE, positive=True),
        efficiency=table.share("efficiency"),
        memory_efficiency=table.share("memory_efficiency"),
        launch_overhead_ps=table.optional("launch_overhead", DURATION, 0),
        power_W=table.maybe("power", POWER),
    )
