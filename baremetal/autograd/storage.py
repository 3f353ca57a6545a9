"""How a matrix is kept while nobody computes with it: in a narrow format, with scales beside it.

    stored = store(ctx, x, storage)          x float32 (rows, columns) -> codes and scales
    x_again = load(ctx, stored, x.shape, storage)      -> float32, rounded to what the format holds

Four ways to scale, each a few launches of the kernels in `kernels/quantize.py`:

    none        the numbers themselves                                   bfloat16, float16
    tensor      one float32 scale for the matrix
    block       one float32 scale for each tile of it
    two-level   a scale in e4m3 (one byte) for each tile, relative to one float32 scale for all

The last is NVFP4's. With s = max |x| / (6 * 448) for the matrix, a tile of 16 numbers whose largest
is a has the scale e4m3(a / 6 / s) * s: 4.5 bits a number in all. The division by s puts the largest
tile at 448, the top of e4m3's range.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from baremetal.autograd.op import Context
from baremetal.errors import BaremetalError
from baremetal.kernels.number_formats import E4M3, FORMATS, NumberFormat
from baremetal.kernels.quantize import Tile, dequantize, quantize, tile_scales, tiles_of

Scaling = Literal["none", "tensor", "block", "two-level"]
SINGLE = np.dtype(np.float32)


@dataclass(frozen=True)
class Storage:
    """A format and what is scaled together.

    Attributes:
        format: the name of a format in `kernels/number_formats.py`, or "float32": kept as it is.
        scaling: see above.
        tile: rows and columns that share a scale, for "block" and "two-level".

    Raises:
        BaremetalError: an unknown format, or tiles that would cut a byte of two numbers.
    """

    format: str
    scaling: Scaling = "none"
    tile: Tile = (1, 1)

    def __post_init__(self) -> None:
        if self.format != "float32" and self.format not in FORMATS:
            known = ", ".join(["float32", *FORMATS])
            raise BaremetalError(f"unknown number format '{self.format}': choose one of {known}")
        if self.is_narrow and self.number_format.bits == 4 and self._cuts_bytes():
            raise BaremetalError(
                f"tiles of {self.tile} numbers of 4 bits: two share a byte, so a tile needs an "
                "even number of columns"
            )

    def _cuts_bytes(self) -> bool:
        return self.scaling in ("block", "two-level") and self.tile[1] % 2 == 1

    @property
    def is_narrow(self) -> bool:
        """Whether anything is rounded at all."""
        return self.format != "float32"

    @property
    def number_format(self) -> NumberFormat:
        """The format itself (of a narrow storage)."""
        return FORMATS[self.format]

    def size_bytes(self, shape: tuple[int, int]) -> int:
        """What a matrix of this shape takes: its codes and its scales."""
        rows, columns = shape
        if not self.is_narrow:
            return rows * columns * SINGLE.itemsize
        f = self.number_format
        codes = rows * f.stored_width(columns) * f.storage_dtype.itemsize
        if self.scaling == "none":
            return codes
        if self.scaling == "tensor":
            return codes + SINGLE.itemsize
        down, across = tiles_of(shape, self.tile)
        each = SINGLE.itemsize if self.scaling == "block" else E4M3.storage_dtype.itemsize
        top = SINGLE.itemsize if self.scaling == "two-level" else 0
        return codes + down * across * each + top


KEPT = Storage("float32")


@dataclass(frozen=True)
class LinearStorage:
    """How one linear layer's matrices are stored: input, weight, and the output's gradient."""

    inputs: Storage = KEPT
    weights: Storage = KEPT
    gradients: Storage = KEPT

    @property
    def is_narrow(self) -> bool:
        """Whether anything is rounded at all."""
        return self.inputs.is_narrow or self.weights.is_narrow or self.gradients.is_narrow


class Stored(NamedTuple):
    """A matrix in storage: its codes, and what its scaling needs beside them (else None)."""

    codes: np.ndarray
    scales: np.ndarray | None = None
    scale_of_scales: np.ndarray | None = None


def store(ctx: Context, x: np.ndarray, storage: Storage) -> Stored:
    """x (rows, columns), contiguous float32, into new memory; x itself if nothing is narrow."""
    if not storage.is_narrow or x.size == 0:  # nothing has no largest number to scale by
        return Stored(x)
    f = storage.number_format
    scales, tile, *beside = _scales(ctx, x, storage)
    codes = ctx.empty((x.shape[0], f.stored_width(x.shape[1])), f.storage_dtype)
    ctx.launch(quantize, x, scales, codes, format=f.name, tile=tile)
    if storage.scaling == "two-level":
        return Stored(codes, *beside)
    return Stored(codes, scales)


def load(ctx: Context, stored: Stored, shape: tuple[int, int], storage: Storage) -> np.ndarray:
    """The float32 matrix of this shape that was stored, rounded; new memory, if it is narrow."""
    if not storage.is_narrow or 0 in shape:
        return stored.codes
    scales, tile = stored.scales, _tile_of(storage, shape)
    if storage.scaling == "two-level":
        assert stored.scales is not None
        assert stored.scale_of_scales is not None
        scales = _load_scales(ctx, stored.scales, stored.scale_of_scales)
    out = ctx.empty(shape, SINGLE)
    ctx.launch(dequantize, stored.codes, scales, out, format=storage.format, tile=tile)
    return out


def _tile_of(storage: Storage, shape: tuple[int, int]) -> Tile:
    return storage.tile if storage.scaling in ("block", "two-level") else shape


def _scales(ctx: Context, x: np.ndarray, storage: Storage) -> tuple:
    """The float32 scales to divide by and their tiles; for two levels the stored ones, too."""
    largest, tile = storage.number_format.largest, _tile_of(storage, x.shape)
    if storage.scaling == "none":
        return None, tile
    if storage.scaling == "tensor":
        return _scale_of_all(ctx, x, largest), tile
    scales = ctx.empty(tiles_of(x.shape, tile), SINGLE)
    ctx.launch(tile_scales, x, scales, divisor=largest, tile=tile)
    if storage.scaling == "block":
        return scales, tile
    top = _scale_of_all(ctx, scales, E4M3.largest)
    codes = ctx.empty(scales.shape, E4M3.storage_dtype)
    ctx.launch(quantize, scales, top, codes, format=E4M3.name, tile=scales.shape)
    # Divide by what will be multiplied with: the scale as it was rounded.
    return _load_scales(ctx, codes, top), tile, codes, top


def _load_scales(ctx: Context, codes: np.ndarray, top: np.ndarray) -> np.ndarray:
    scales = ctx.empty(codes.shape, SINGLE)
    ctx.launch(dequantize, codes, top, scales, format=E4M3.name, tile=codes.shape)
    return scales


def _scale_of_all(ctx: Context, x: np.ndarray, largest: float) -> np.ndarray:
    """(1, 1): row by row first, so that threads can share the work."""
    rows = ctx.empty((x.shape[0], 1), SINGLE)
    ctx.launch(tile_scales, x, rows, divisor=largest, tile=(1, x.shape[1]))
    scale = ctx.empty((1, 1), SINGLE)
    ctx.launch(tile_scales, rows, scale, divisor=1.0, tile=rows.shape)
    return scale
