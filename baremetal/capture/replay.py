"""Level 1: the launch list, walked from Python.

Binding happens once: every operand becomes an array at its planned address, every launch is packed
into an address and a block of words (`kernels/native/abi.py`). After that a step is one loop over
ready-made calls,

    for address, block, items, work in calls:  drive(...)

with no tape, no modules, no shapes and no allocation. What a launch still costs is one call from
Python into compiled code.

A kernel without a native version for its operands is called as its NumPy reference, in its place.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.capture.plan import Plan
from baremetal.capture.recording import ALIGNMENT_BYTES, Operand

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch
    from baremetal.kernels.native.pool import Call


class Replay:
    """A plan bound to memory, ready to run.

    Args:
        plan: what to do.
        native: False runs the NumPy references, to compare.

    Attributes:
        arena: the memory of all transient buffers, uint8.
    """

    def __init__(self, plan: Plan, native: bool = True) -> None:
        self.plan = plan
        self.arena = _aligned_memory(plan.memory.planned_bytes)
        # A block of words holds bare addresses: what owns that memory must stay alive beside it.
        self._launches: list[Launch] = []
        self._parts = self._bind(native)

    def run(self) -> None:
        """Do the step once."""
        for part in self._parts:
            part()

    def _bound(self, operand: Operand | None) -> np.ndarray | None:
        """The operand as an array at its planned address."""
        if operand is None or operand.buffer is None:
            return None if operand is None else operand.array
        buffer = operand.buffer
        if buffer.memory is not None:
            return operand.over(buffer.memory)
        return operand.over(self.arena, self.plan.offsets[buffer])

    def _bind(self, native: bool) -> list[Callable[[], Any]]:
        """Runs of native calls, and references between them."""
        from baremetal.kernels.native.pool import POOL

        parts: list[Callable[[], Any]] = []
        calls: list[Call] = []
        for launch in self.plan.launches:
            arrays = tuple(map(self._bound, launch.operands))
            packed = launch.kernel.pack(*arrays, **launch.attributes) if native else None
            if packed is not None:
                calls += self._calls(packed)
                continue
            parts += [partial(POOL.run_all, calls)] if calls else []
            parts.append(partial(launch.kernel.reference, *arrays, **launch.attributes))
            calls = []
        return [*parts, partial(POOL.run_all, calls)] if calls else parts

    def _calls(self, packed: "Sequence[Launch]") -> "list[Call]":
        """A packed launch as what the thread pool takes."""
        self._launches += packed
        return [
            (part.address, part.block, part.items, part.items * part.work)
            for part in packed
            if part.items
        ]


def _aligned_memory(size_bytes: int) -> np.ndarray:
    memory = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size_bytes]
