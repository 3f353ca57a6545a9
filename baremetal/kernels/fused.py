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

A kernel can be a stage if it is known how it walks through its arrays (`walk_of`):

    element by element   the element-wise kernels, over contiguous arrays; dropout, 256 at a time
    row by row           norms, SwiGLU, cross-entropy
    sums over the rows   bias gradients and the norms' weight gradients: added up band by band,
                         and finished when all rows are done
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from baremetal.kernels import norm, reduction
from baremetal.kernels.cost import Cost, distinct_bytes
from baremetal.kernels.dropout import TILE as DROPOUT_TILE
from baremetal.kernels.kernel import Kernel

TILE_BYTES = 64 * 1024  # what all arrays of a tile take together: stays in second-level cache
SCRATCH_BYTES = 60 * 1024  # of scratch memory for a tile, on the stack
BANDS_WORTH_IT = 4  # fewer bands are too few pieces to divide over threads


class Shaped(Protocol):
    """An array, or what stands for one in a recording."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


class Walk(NamedTuple):
    """How one launch goes through its arrays.

    Attributes:
        items: into how many equal steps it can be divided.
        stepped: for each operand, whether step i touches its i-th part and no other.
        band: rows that belong to one partial sum, if it sums over rows; else 0.
        whole_bands: whether its compiled body does whole bands only.
    """

    items: int
    stepped: tuple[bool, ...]
    band: int = 0
    whole_bands: bool = False


class Tiling(NamedTuple):
    """How the steps of all stages are divided.

    Attributes:
        units: the most pieces that no stage's step lies across.
        tile: units done by one stage before the next has its turn.
        item: units that belong to one thread: a multiple of `tile`.
    """

    units: int
    tile: int
    item: int


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


# ---------------------------------------------------------------- how kernels walk

# Row by row: the operands of which row i is touched by step i.
ROWS = {
    "layer_norm": {"x", "out", "mean", "rstd"},
    "layer_norm_backward_input": {"x", "grad", "mean", "rstd", "out"},
    "rms_norm": {"x", "out", "rstd"},
    "rms_norm_backward_input": {"x", "grad", "rstd", "out"},
    "swiglu": {"gate_up", "out"},
    "swiglu_backward": {"gate_up", "grad", "out"},
    "cross_entropy": {"logits", "targets", "losses", "lse"},
    "cross_entropy_backward": {"logits", "targets", "lse", "grad", "out"},
}
# The same, but what comes out are sums over all rows.
SUMS = {
    "layer_norm_backward_weight": {"x", "grad", "mean", "rstd"},
    "rms_norm_backward_weight": {"x", "grad", "rstd"},
}
NOT_STEPPED = {"copy", "fill", "equal", "not_equal", "less", "less_equal", "greater",
               "greater_equal"}  # fmt: skip
FLOATING = {np.dtype(np.float32), np.dtype(np.float64)}


def walk_of(
    kernel: Kernel, operands: Sequence[Shaped | None], attributes: dict[str, Any]
) -> Walk | None:
    """How this launch walks, or None if it cannot be a stage."""
    names = kernel.operand_names(len(operands))
    named = dict(zip(names, operands, strict=True))
    if kernel.name in ROWS:
        return _by_rows(named, ROWS[kernel.name])
    if kernel.name in SUMS:
        walk = _by_rows(named, SUMS[kernel.name])
        if walk is None or walk.items < BANDS_WORTH_IT * norm.BAND:
            return None
        return walk._replace(band=norm.BAND, whole_bands=True)
    if kernel.name == "sum":
        return _column_sums(named, attributes["axis"])
    if kernel.name == "dropout":
        return _dropout(named)
    if kernel.__module__ == "baremetal.kernels.elementwise" and kernel.name not in NOT_STEPPED:
        return _by_elements(operands)
    return None


def _by_rows(named: dict[str, Shaped | None], stepped: set[str]) -> Walk | None:
    present = {name: x for name, x in named.items() if x is not None}
    rows = next(x.shape[0] for name, x in present.items() if name in stepped)
    for name, x in present.items():
        if not is_contiguous(x) or (x.dtype not in FLOATING and name != "targets"):
            return None
        if name in stepped and (x.shape[0] != rows or math.prod(x.shape) == 0):
            return None
    return Walk(rows, tuple(name in stepped for name in named))


def _by_elements(operands: Sequence[Shaped | None]) -> Walk | None:
    out = operands[-1]
    assert out is not None
    size = math.prod(out.shape)
    if not is_contiguous(out) or size == 0 or out.dtype not in FLOATING:
        return None
    operands = [x for x in operands if x is not None]
    if any(x.dtype not in (out.dtype, np.bool_) for x in operands):
        return None
    return Walk(size, tuple(x.shape == out.shape and is_contiguous(x) for x in operands))


def _dropout(named: dict[str, Shaped | None]) -> Walk | None:
    """A step is one tile of dropout's own, if no sample ends within one."""
    x, out = named["x"], named["out"]
    assert x is not None
    assert out is not None
    size = math.prod(out.shape)
    if not (is_contiguous(x) and is_contiguous(out)) or out.dtype not in FLOATING or size == 0:
        return None
    if x.dtype != out.dtype or size // out.shape[0] % DROPOUT_TILE:
        return None
    return Walk(size // DROPOUT_TILE, tuple(name != "state" for name in named))


def _column_sums(named: dict[str, Shaped | None], axis: tuple[int, ...]) -> Walk | None:
    """A sum over the leading axes of many whole rows; see `native/row_sum.py`."""
    x, out = named["x"], named["out"]
    assert x is not None
    assert out is not None
    columns = math.prod(out.shape)
    leading = 0 < len(axis) < len(x.shape) and tuple(axis) == tuple(range(len(axis)))
    if not leading or columns < reduction.BLOCK or x.dtype not in FLOATING or x.dtype != out.dtype:
        return None
    rows = math.prod(x.shape) // columns
    if not (is_contiguous(x) and is_contiguous(out)) or rows < BANDS_WORTH_IT * reduction.BAND:
        return None
    return Walk(rows, (True, False), reduction.BAND)


def size_bytes_of(x: Shaped) -> int:
    """Bytes of all its elements."""
    return math.prod(x.shape) * x.dtype.itemsize


def is_contiguous(x: Shaped) -> bool:
    """Whether its elements lie one after the other in C's order."""
    expected = x.dtype.itemsize
    for size, stride in zip(reversed(x.shape), reversed(x.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def tiling_of(walks: Sequence[Walk], size_bytes: int) -> Tiling | None:
    """How to divide these stages' steps; None if they do not go together.

    Args:
        size_bytes: of all that they step through.
    """
    units = math.gcd(*(walk.items for walk in walks))
    fitting = max(1, TILE_BYTES * units // max(size_bytes, 1))
    bands = []
    for walk in walks:
        if walk.band:
            rows_in_unit = walk.items // units
            if walk.band % rows_in_unit:
                return None
            bands.append((walk.band // rows_in_unit, walk.whole_bands))
    if not bands:
        # Rather more pieces than a cache asks for than fewer than there are threads.
        tile = max(1, min(fitting, units // 8))
        return Tiling(units, tile, tile)
    item = math.lcm(*(band for band, _ in bands))
    whole = [band for band, is_whole in bands if is_whole]
    if whole:
        return Tiling(units, math.lcm(*whole), item)
    tile = max(n for n in range(1, min(fitting, item) + 1) if item % n == 0)
    return Tiling(units, tile, item)


# ---------------------------------------------------------------- the kernel


class Fused(Kernel):
    """Stages done tile by tile: a kernel like any other, made for one place in one plan.

    Args:
        name: how it prints.
        stages: in their order.
        scratches: results that live for one tile.
        places: for each of its arrays the number of the memory that it is; views of one memory
            have one number.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        scratches: Sequence[Scratch],
        places: Sequence[int],
    ) -> None:
        def reference(*arrays: np.ndarray) -> None:
            whole = [np.empty(*scratch) for scratch in scratches]
            for kernel, given, attributes in self.each_stage((*arrays, *whole)):
                kernel.reference(*given, **attributes)

        reference.__name__ = name
        reference.__module__ = __name__
        reference.__doc__ = "; ".join(stage.kernel.name for stage in stages) + "."
        super().__init__(reference)
        self.stages = tuple(stages)
        self.scratches = tuple(scratches)
        self.places = tuple(places)
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
        stepped: dict[int, int] = {}  # bytes by position
        for kernel, given, attributes in self.each_stage(whole):
            walk = walk_of(kernel, given, attributes)
            if walk is None:
                return None
            walks.append(walk)
        for stage, walk in zip(self.stages, walks, strict=True):
            for position, steps in zip(stage.operands, walk.stepped, strict=True):
                if steps and position is not None:
                    stepped[position] = size_bytes_of(whole[position])
        tiling = tiling_of(walks, sum(stepped.values()))
        if tiling is None:
            return None
        scratch_bytes = sum(
            size_bytes_of(x) // tiling.units * tiling.tile for x in whole[len(self.places) :]
        )
        return tiling if scratch_bytes <= SCRATCH_BYTES else None

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
        return tuple(names[position] for position in range(len(self.places)))

    def written(self, operands: Sequence[Any]) -> list[Any]:
        """Those of its operands that some stage writes."""
        positions = {
            position
            for kernel, own, _ in self.stages
            for position in kernel.written(own)
            if position < len(operands)
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
                if position is not None and position < len(arrays)
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


def phantom(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of this shape without its memory: to be asked about its form, never to be read."""
    strides = [dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)
