"""One workspace for all launches: memory that a kernel needs while it runs.

Some kernels go in two steps with something in between: partial sums of each band of rows, the
second half of a product. Run by itself, such a kernel takes fresh memory for that (`scratch` in
`kernels/native/abi.py`). In a plan the launches run one after another, so one piece, as large as
the neediest launch wants, serves them all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from baremetal.autograd.memory import ALIGNMENT_BYTES, aligned_memory
from baremetal.autograd.op import owner
from baremetal.capture.arena import aligned

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch


class Workspace:
    """Collects what launches need, then gives it to them. Several plans may share one.

    Attributes:
        memory: uint8, since `build` was last called.
    """

    def __init__(self) -> None:
        self.memory = aligned_memory(0)
        self._size_bytes = 0

    def ask(self, launches: "Sequence[Launch]") -> None:
        """Note what the native launches of one call need together."""
        self._size_bytes = max(self._size_bytes, sum(_needs(launches).values()))

    def build(self) -> None:
        """Take the memory, if what there is does not suffice (who has moved there stays)."""
        if self.memory.nbytes < self._size_bytes:
            self.memory = aligned_memory(self._size_bytes)

    def move(self, launches: "Sequence[Launch]") -> "Sequence[Launch]":
        """The same launches with their scratch memory in the workspace."""
        from baremetal.kernels.native.abi import Launch

        needs = _needs(launches)
        if not needs:
            return launches
        starts, start = {}, 0
        for key, size_bytes in needs.items():
            starts[key] = start
            start += size_bytes
        return [
            Launch(
                launch.body, launch.dtype, [self._moved(x, starts) for x in launch.arrays],
                launch.items, launch.work,
            )
            for launch in launches
        ]  # fmt: skip

    def _moved(self, value: object, starts: dict[int, int]) -> object:
        from baremetal.kernels.native.abi import Scratch

        if not isinstance(value, Scratch):
            return value
        whole = owner(value)
        first = -whole.ctypes.data % ALIGNMENT_BYTES  # `scratch` begins on a cache line
        start = starts[id(whole)] + value.ctypes.data - whole.ctypes.data - first
        return np.ndarray(value.shape, value.dtype, self.memory, start, value.strides)


def _needs(launches: "Sequence[Launch]") -> dict[int, int]:
    """The scratch memory of these launches: bytes (aligned), by the id of what owns it."""
    from baremetal.kernels.native.abi import Scratch

    return {
        id(whole): aligned(whole.nbytes)
        for launch in launches
        for value in launch.arrays
        if isinstance(value, Scratch) and (whole := owner(value)) is not None
    }
