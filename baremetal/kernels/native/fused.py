"""Fused kernels, compiled: a loop over tiles that calls the stages' bodies, one after the other.

    for tile in tiles:
        for stage in stages:
            stage.body(first, end, stage.words)         the stage's items that lie in this tile

Each stage brings the body and the block of words that it would be launched with by itself. The
blocks stand one after the other in the block of the fused launch; a body is given the address of
its own. The bodies' addresses stand in a table.

A scratch is memory on the stack that takes the place of a whole array. A body indexes it as if it
were whole, from the array's beginning; so for tile number t it is told that the array begins t
tiles before the scratch:

    word of the array = scratch - t * bytes per tile

To be able to say so, each call works on a copy of the block.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from baremetal.kernels.fused import Fused, phantom
from baremetal.kernels.native.abi import (
    Body,
    Launch,
    address_of,
    body,
    integer,
    offset,
    pointer_i64,
    scratch,
    stack,
)
from baremetal.kernels.native.broadcast import BLOCK, buffer
from baremetal.kernels.native.norm import norm_band_body
from baremetal.kernels.native.pool import call
from baremetal.kernels.native.row_sum import add_to_bands_body, band_body
from baremetal.kernels.norm import BAND
from baremetal.kernels.walk import Tiling, Walk, walk_of

HEAD = 6  # words before the scratches and the stages
PER_SCRATCH = 3  # words
PER_STAGE = 3  # words before a stage's own
LINE_BYTES = 64  # scratches begin on cache lines


@intrinsic
def address(typing_context, pointer):
    """Where a pointer points, as an integer."""

    def generate(context, builder, signature, values):
        return builder.ptrtoint(values[0], ir.IntType(64))

    return types.int64(pointer), generate


@intrinsic
def words_of(typing_context, args):
    """The block of words itself, as integers."""
    signature = types.CPointer(types.int64)(args)

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], context.get_value_type(signature.return_type))

    return signature, generate


@body
def stages_body(lo, hi, args):
    """Items lo..hi, a tile at a time through all stages.

    Words: 0 table of the stages' bodies, 1 words in all, 2 tiles, 3 tiles in an item, 4 stages,
    5 scratches; for each scratch: the word that is told where it lies, where in the stack's memory
    that is and how much a tile takes, both in bytes; for each stage: its items, its items in a
    tile, how many words it has, and these words.
    """
    bodies, given = pointer_i64(args, 0), words_of(args)
    tiles, per_item = integer(args, 2), integer(args, 3)
    stages, scratches = integer(args, 4), integer(args, 5)
    words = buffer(given)  # room for BLOCK
    for i in range(integer(args, 1)):
        words[i] = given[i]
    memory = address(stack(args, 16384))  # SCRATCH_BYTES and the gaps between
    for tile in range(lo * per_item, min(hi * per_item, tiles)):
        at = HEAD
        for _ in range(scratches):
            words[words[at]] = memory + words[at + 1] - tile * words[at + 2]
            at += PER_SCRATCH
        for stage in range(stages):
            items, in_tile = words[at], words[at + 1]
            first, end = tile * in_tile, min((tile + 1) * in_tile, items)
            if first < end:
                call(bodies[stage], first, end, address(offset(words, at + PER_STAGE)))
            at += PER_STAGE + words[at + 2]


def pack_stages(fused: Fused, *arrays: np.ndarray) -> Sequence[Launch] | None:
    """Pack a fused kernel: in tiles, or else stage by stage; None where NumPy must do a stage."""
    return _in_tiles(fused, arrays) or _one_by_one(fused, arrays)


def _in_tiles(fused: Fused, arrays: tuple[np.ndarray, ...]) -> Sequence[Launch] | None:
    """All stages in one launch; None if they do not go together."""
    scratches = [phantom(*scratch) for scratch in fused.scratches]
    whole = (*arrays, *scratches)
    tiling = fused.tiling(whole)
    if tiling is None:
        return None
    stages: list[tuple[Launch, int]] = []
    afterwards: list[Launch] = []
    for kernel, given, attributes in fused.each_stage(whole):
        packed, walk = kernel.pack(*given, **attributes), walk_of(kernel, given, attributes)
        if packed is None or walk is None or not _are_told(packed[0], given, scratches):
            return None
        launch = _row_by_row(packed[0])
        stages.append((launch, _items_in_tile(launch, walk, tiling)))
        afterwards += packed[1:]
    places = _scratch_places(scratches, fused.places[fused.inputs :], tiling)
    uses = sum(id(value) in places for launch, _ in stages for value in launch.arrays)
    words = _words(stages, places, HEAD + PER_SCRATCH * uses)
    if HEAD + len(words) > BLOCK:
        return None
    head = [
        _table(tuple((launch.body, launch.dtype) for launch, _ in stages)),
        HEAD + len(words), -(-tiling.units // tiling.tile), tiling.item // tiling.tile,
        len(stages), uses,
    ]  # fmt: skip
    items = -(-tiling.units // tiling.item)
    work = sum(launch.items * launch.work for launch, _ in stages)
    dtype = stages[0][0].dtype
    return [Launch(stages_body, dtype, head + words, items, -(-work // items)), *afterwards]


def _one_by_one(fused: Fused, arrays: tuple[np.ndarray, ...]) -> Sequence[Launch] | None:
    """The stages as they would be launched without being fused, each over the whole arrays."""
    memory: dict[int, np.ndarray] = {}
    scratches = [
        memory.setdefault(number, scratch(*form)).reshape(form.shape)
        for number, form in zip(fused.places[fused.inputs :], fused.scratches, strict=True)
    ]
    launches: list[Launch] = []
    for kernel, given, attributes in fused.each_stage((*arrays, *scratches)):
        packed = kernel.pack(*given, **attributes)
        if packed is None:
            return None
        launches += packed
    return launches


def _are_told(launch: Launch, given: Sequence[Any], scratches: Sequence[np.ndarray]) -> bool:
    """Whether a word of the launch stands for each scratch among these arrays, and no view of one.

    A scratch has no memory of its own: a body that is not told where it lies must not run.
    """
    wanted = {id(x) for x in given} & {id(x) for x in scratches}
    found = [x for x in launch.arrays if isinstance(x, np.ndarray)]
    places = {address_of(x) for x in scratches}
    views = [x for x in found if address_of(x) in places and id(x) not in wanted]
    return wanted <= {id(x) for x in found} and not views


def _row_by_row(launch: Launch) -> Launch:
    """Sums of rows are made band by band; here the rows of a band come a tile at a time."""
    if launch.body is not band_body:
        return launch
    x, sums, rows, columns = launch.arrays
    return Launch(add_to_bands_body, launch.dtype, (x, sums, columns), rows, columns)


def _items_in_tile(launch: Launch, walk: Walk, tiling: Tiling) -> int:
    """How many of a stage's items are done in one tile."""
    steps = walk.items // tiling.units * tiling.tile
    return steps // BAND if launch.body is norm_band_body else steps


def _words(
    stages: Sequence[tuple[Launch, int]], places: dict[int, tuple[int, int]], start: int
) -> list[Any]:
    """The words of the scratches and of the stages (with their items in a tile).

    Args:
        places: of the scratches, as `_scratch_places` gives them.
        start: the number of the word with which the stages begin.
    """
    told: list[int] = []
    own: list[Any] = []
    for launch, in_tile in stages:
        own += [launch.items, in_tile, len(launch.block)]
        for value, word in zip(launch.arrays, launch.block, strict=True):
            if id(value) in places:
                told += [start + len(own), *places[id(value)]]
                own.append(0)
            else:
                own.append(value if isinstance(value, np.ndarray) else int(word))
    return told + own


def _scratch_places(
    scratches: Sequence[np.ndarray], numbers: Sequence[int], tiling: Tiling
) -> dict[int, tuple[int, int]]:
    """For each scratch, by its id: where its memory begins and what a tile takes, in bytes."""
    starts: dict[int, int] = {}
    places, end = {}, 0
    for whole, number in zip(scratches, numbers, strict=True):
        size_bytes = whole.nbytes // tiling.units * tiling.tile
        if number not in starts:
            starts[number] = end
            end += -(-size_bytes // LINE_BYTES) * LINE_BYTES
        places[id(whole)] = starts[number], size_bytes
    return places


@cache
def _table(bodies: tuple[tuple[Body, np.dtype], ...]) -> np.ndarray:
    """The addresses of these bodies; the same table for the same bodies."""
    return np.array([one.address(dtype) for one, dtype in bodies], np.int64)
