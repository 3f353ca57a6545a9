"""What a step's matrix products would read and compute if a chip took their operands as stored.

Our own kernels read every operand back into float32 first, so the bytes of their products say
nothing. A tensor core reads the codes. This walks the launches of a captured step and gives each
operand of a product the bytes of what it was read back from: the costs of `quantize` and
`dequantize`, put where the reading would happen.

What an operand is, is read off the plan as well: fixed memory is a weight; what was made before
the loss is an activation; what was made after it is a gradient.
"""

from dataclasses import dataclass
from typing import NamedTuple

from baremetal.bench.precision.rates import BY_BITS, bits_of
from baremetal.capture.plan import Plan
from baremetal.capture.recording import Operand, RecordedLaunch
from baremetal.errors import BaremetalError
from baremetal.kernels.fused import Fused

PRODUCTS = ("matmul", "linear")  # the kernels; their last operand is the result
LOSS = "cross_entropy"
WEIGHTS, ACTIVATIONS, GRADIENTS = ROLES = ("weights", "activations", "gradients")


class Source(NamedTuple):
    """What an array of a product is, and how it would arrive."""

    role: str
    format: str
    size_bytes: int


@dataclass(frozen=True)
class Account:
    """One step's matrix products.

    Attributes:
        read_bytes: what they read, by role.
        written_bytes: their results, in float32.
        flops: by the bits of their operands: 32, 16, 8, 4.
    """

    read_bytes: dict[str, int]
    written_bytes: int
    flops: dict[int, int]

    def least_time_s(self) -> float:
        """The products at the published rates of a GB300, and nothing else: modelled."""
        return sum(flops / BY_BITS[bits] for bits, flops in self.flops.items())

    def share(self, bits: int) -> float:
        """Of all FLOP of the products, those between operands of so many bits (0 to 1)."""
        return self.flops.get(bits, 0) / sum(self.flops.values())


def account_for(plan: Plan) -> Account:
    """Go through a captured training step once, with one launch for each kernel.

    Raises:
        BaremetalError: launches were fused, or it is no training step.
    """
    sources = _Sources(plan)
    read_bytes, written_bytes = dict.fromkeys(ROLES, 0), 0
    flops: dict[int, int] = {}
    for launch in plan.launches:
        sources.note(launch)
        if launch.kernel.name not in PRODUCTS:
            continue
        *operands, result = [operand for operand in launch.operands if operand is not None]
        read = [sources.of(operand) for operand in operands]
        for source in read:
            read_bytes[source.role] += source.size_bytes
        written_bytes += _size_bytes(result)
        bits = bits_of(read[0].format, read[1].format)
        flops[bits] = flops.get(bits, 0) + launch.cost.flops
    return Account(read_bytes, written_bytes, flops)


class _Sources:
    """For each buffer that was read back, what it was read back from."""

    def __init__(self, plan: Plan) -> None:
        losses = [i for i, x in enumerate(plan.launches) if x.kernel.name == LOSS]
        if not losses or any(isinstance(x.kernel, Fused) for x in plan.launches):
            raise BaremetalError(
                "this plan's launches cannot be told apart, some are fused or its loss is missing: "
                "capture a training step with fuse='none'"
            )
        self.loss = losses[0]
        self.codes: dict[int, str] = {}  # buffer of codes -> role of what they stand for
        self.read_back: dict[int, Source] = {}  # buffer of float32 -> where it came from

    def note(self, launch: RecordedLaunch) -> None:
        """Remember where the results of storing and of reading back come from."""
        if launch.kernel.name == "quantize":
            x, _, codes = launch.operands
            assert x is not None
            self.codes[_key(codes)] = self.of(x).role
        elif launch.kernel.name == "dequantize":
            codes, scales, out = launch.operands
            assert codes is not None
            size_bytes = _size_bytes(codes) + (0 if scales is None else self.of(scales).size_bytes)
            role = self.codes[_key(codes)]
            self.read_back[_key(out)] = Source(role, launch.attributes["format"], size_bytes)

    def of(self, operand: Operand) -> Source:
        """What this operand of a product (or of `quantize`) is."""
        found = self.read_back.get(_key(operand))
        if found is not None:
            return found
        size_bytes = _size_bytes(operand)
        if operand.buffer is None:
            return Source(WEIGHTS, "float32", size_bytes)
        role = ACTIVATIONS if operand.buffer.first < self.loss else GRADIENTS
        return Source(role, "float32", size_bytes)


def _key(operand: Operand | None) -> int:
    return -1 if operand is None or operand.buffer is None else operand.buffer.number


def _size_bytes(operand: Operand) -> int:
    """Of the array as the launch sees it."""
    size = 1
    for n in operand.shape:
        size *= n
    return size * operand.dtype.itemsize
