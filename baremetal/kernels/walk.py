"""How a kernel walks through its arrays: what must be known to do several tile by tile.

    element by element   the element-wise kernels, over contiguous arrays; dropout, 256 at a time
    row by row           norms, SwiGLU, cross-entropy
    sums over the rows   bias gradients and the norms' weight gradients: added up band by band,
                         and finished when all rows are done

A launch is divided into equal *items*; an operand is *stepped* if item i touches its i-th part and
no other (the rows of x are, a norm's weights are not: every row needs all of them). Launches over
the same memory may divide it differently: 768 rows, 98,304 elements, 384 pieces of dropout. What
they have in common are *units*, the greatest common divisor of their items: no item of any of them
lies across the border of two units. A tile is a number of units, so small that what they step
through stays in cache.

A sum over rows is made in bands, whose height decides the bits (`native/row_sum.py`): a band
belongs to one thread. The norms' compiled sums do whole bands only; there a tile is no less.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from baremetal.kernels import norm, reduction
from baremetal.kernels.dropout import TILE as DROPOUT_TILE
from baremetal.kernels.kernel import Kernel

TILE_BYTES = 64 * 1024  # what a tile steps through: stays in second-level cache, mostly in first
LARGEST_TILE_BYTES = 1024 * 1024  # where a tile is a whole band: must stay in second-level cache
PIECES = 32  # at least as many tiles, so that there is work for as many threads
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
    present = [x for x in operands if x is not None]  # all: element-wise kernels lack none
    if any(x.dtype not in (out.dtype, np.bool_) for x in present):
        return None
    return Walk(size, tuple(x.shape == out.shape and is_contiguous(x) for x in present))


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
        tile = max(1, min(fitting, units // PIECES))
        return Tiling(units, tile, tile)
    item = math.lcm(*(band for band, _ in bands))
    whole = [band for band, is_whole in bands if is_whole]
    if whole:
        tile = math.lcm(*whole)
        fits = size_bytes // units * tile <= LARGEST_TILE_BYTES
        return Tiling(units, tile, item) if fits else None
    tile = max(n for n in range(1, min(fitting, item) + 1) if item % n == 0)
    return Tiling(units, tile, item)
