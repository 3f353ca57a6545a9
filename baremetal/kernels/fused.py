"""Fused kernels: several launches in one pass over memory, tile by tile.

`add(x, h, y)` and then `layer_norm(y, ...)` write y to memory and read it again. Where y is larger
than the caches, the second launch finds nothing of it left there. But row i of the norm needs row i
of the sum and no other, so both can be done for a few rows at a time:

    for each tile of rows:          a few tens of kilobytes
        add          these rows     y goes into the first- or second-level cache
        layer_norm   these rows     and is read from there

That is a fused kernel here: a list of *stages*, each an ordinary kernel, and the promise that their
steps belong together. A stage that needs a result of an earlier one finds it in cache. A result
that nobody else needs never reaches memory at all: it lives in a *scratch* of one tile.

The compiled stages are the compiled kernels themselves, called by their addresses for a range of
items, as the thread pool calls them. So a fused kernel computes the bits of the launches that it
replaces, not by care but because the same machine code does the same work on the same numbers. A
loop generated for each chain, with intermediates in registers, would save the first-level cache's
traffic too, and owe its bits to the compiler: a multiplication of one stage and an addition of the
next become one fused multiply-add, rounded once instead of twice. (Interpreters of array
expressions work in tiles for the same reason: P. Boncz, M. Zukowski, N. Nes, "MonetDB/X100", CIDR
2005; NumExpr for NumPy.)

A kernel can be a stage if it is known how it walks through its arrays (`walk.py`).
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from baremetal.kernels.cost import Cost, distinct_bytes
from baremetal.kernels.kernel import Kernel
from baremetal.kernels.walk import Tiling, Walk, size_bytes_of, tiling_of, walk_of

SCRATCH_BYTES = 60 * 1024  # of scratch memory for a tile, on the stack


class Stage(NamedTuple):
    """One kernel of a fused one.

    Attributes:
        kernel, attributes: as it would be launched by itself.
        operands: for each of its arrays the position among those of the fused kernel, and after
            them among its scratches; None for an absent one.
    """

    kernel: Kernel
    operands: tuple[int | None, ...]
    attributes: dict[str, Any]


class Scratch(NamedTuple):
    """A result that lives for one tile: its shape and dtype, were it whole."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Fused(Kernel):
    """Stages done tile by tile: a kernel like any other, made for one place in one plan.

    Args:
        name: how it prints.
        stages: in their order.
        places: for each of its arrays, and after them for each scratch, the number of the memory
            that it is. Views of one memory have one number.
        scratches: results that live for one tile.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        places: Sequence[int],
        scratches: Sequence[Scratch] = (),
    ) -> None:
        def reference(*arrays: np.ndarray) -> None:
            for kernel, given, attributes in self.each_stage((*arrays, *self._whole_scratches())):
                kernel.reference(*given, **attributes)

        reference.__name__ = name
        reference.__module__ = __name__
        reference.__doc__ = "; ".join(stage.kernel.name for stage in stages) + "."
        super().__init__(reference)
        self.stages = tuple(stages)
        self.places = tuple(places)
        self.scratches = tuple(scratches)
        self.inputs = len(places) - len(scratches)
        self._names = self._name_arrays()

    def each_stage(self, arrays: Sequence[Any]) -> list[tuple[Kernel, list, dict[str, Any]]]:
        """Every stage with its own arrays, from the fused kernel's and the scratches."""
        return [
            (kernel, [None if i is None else arrays[i] for i in operands], attributes)
            for kernel, operands, attributes in self.stages
        ]

    def tiling(self, whole: Sequence[Any]) -> Tiling | None:
        """How the stages' steps are divided, or None if they cannot be done together.

        Args:
            whole: its arrays and its scratches, or what stands for them.
        """
        walks: list[Walk] = []
        stepped: dict[int, int] = {}  # bytes by memory
        for (kernel, given, attributes), stage in zip(
            self.each_stage(whole), self.stages, strict=True
        ):
            walk = walk_of(kernel, given, attributes)
            if walk is None:
                return None
            walks.append(walk)
            for position, steps in zip(stage.operands, walk.stepped, strict=True):
                if steps and position is not None:
                    stepped[self.places[position]] = size_bytes_of(whole[position])
        tiling = tiling_of(walks, sum(stepped.values()))
        if tiling is None:
            return None
        scratch_bytes = sum(stepped[place] for place in set(self.places[self.inputs :]))
        fits = scratch_bytes // tiling.units * tiling.tile <= SCRATCH_BYTES
        return tiling if fits else None

    def _whole_scratches(self) -> list[np.ndarray]:
        """Memory for the scratches as NumPy needs it: whole, views of one place together."""
        memory: dict[int, np.ndarray] = {}
        numbers = self.places[self.inputs :]
        return [
            memory.setdefault(number, np.empty(shape, dtype)).reshape(shape)
            for number, (shape, dtype) in zip(numbers, self.scratches, strict=True)
        ]

    def operand_names(self, count: int) -> tuple[str, ...]:
        """Each array by what it is to the first stage that uses it; numbered if that repeats."""
        return self._names

    def _name_arrays(self) -> tuple[str, ...]:
        names: dict[int, str] = {}
        used: Counter[str] = Counter()
        for kernel, operands, _ in self.stages:
            own = kernel.operand_names(len(operands))
            for position, name in zip(operands, own, strict=True):
                if position is not None and position not in names:
                    used[name] += 1
                    names[position] = name if used[name] == 1 else f"{name}_{used[name]}"
        return tuple(names[position] for position in range(self.inputs))

    def written(self, operands: Sequence[Any]) -> list[Any]:
        """Those of its operands that some stage writes."""
        positions = {
            position
            for kernel, own, _ in self.stages
            for position in kernel.written(own)
            if position < self.inputs
        }
        return [operands[position] for position in sorted(positions)]

    def cost(self, *arrays: Any, **attributes: Any) -> Cost:
        """The stages' arithmetic; of every memory what goes in or comes out of the whole, once."""
        whole = (*arrays, *(phantom(*scratch) for scratch in self.scratches))
        flops = 0
        fetched: dict[int, bool] = {}  # by memory: whether it is read before it is written
        stored: set[int] = set()
        sizes: dict[int, int] = {}
        for (kernel, given, attributes), stage in zip(
            self.each_stage(whole), self.stages, strict=True
        ):
            flops += kernel.cost(*given, **attributes).flops
            names = kernel.operand_names(len(given))
            outside = [
                (self.places[position], name, whole[position])
                for position, name in zip(stage.operands, names, strict=True)
                if position is not None and position < self.inputs
            ]
            for place, name, array in outside:
                sizes[place] = max(sizes.get(place, 0), distinct_bytes(array))
                if name not in kernel.writes:
                    fetched.setdefault(place, True)
            for place, name, _ in outside:
                if name in kernel.writes:
                    fetched.setdefault(place, False)
                    stored.add(place)
        moves = [*stored, *(place for place, is_read in fetched.items() if is_read)]
        return Cost(flops, sum(sizes[place] for place in moves))

    def _find_native(self) -> Any:
        from functools import partial

        from baremetal.kernels.native.fused import pack_stages

        return partial(pack_stages, self)


def phantom(
    shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None = None
) -> np.ndarray:
    """An array of this form without its memory: to be asked about its form, never to be read."""
    if strides is None:
        strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)
