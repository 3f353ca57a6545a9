"""Dropout, compiled: Philox for 64 counters (256 elements) at a time.

Philox needs 32 x 32 -> 64 bit products. Written as 64-bit products of numbers that are known to
fit in 32 bits, each becomes one vector instruction (`vpmuludq` on x86), so the loop over the
counters of a tile vectorises: seven times faster than one counter after the other. It leaves for
each element its factor, 0 or 1 / (1 - p), in a tile on the stack; a second loop applies them.
"""

import numpy as np

from baremetal.kernels.dropout import TILE
from baremetal.kernels.native.abi import (
    FLOATING,
    Launch,
    body,
    cast,
    integer,
    offset,
    pointer,
    pointer_i64,
    scalar,
    stack,
)
from baremetal.kernels.native.compiler import inlined

LOW_32, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inlined
def mix(c, k0, k1, i):
    """Round i (0..9) of Philox4x32 on four 64-bit integers that hold 32-bit words."""
    c0, c1, c2, c3 = c
    first, second = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
    key_0, key_1 = (k0 + np.uint64(i) * WEYL_0) & LOW_32, (k1 + np.uint64(i) * WEYL_1) & LOW_32
    return (
        (second >> HALF) ^ c1 ^ key_0,
        second & LOW_32,
        (first >> HALF) ^ c3 ^ key_1,
        first & LOW_32,
    )


# Inlined by force and written without a loop: a call, or an inner loop, keeps the loop over the
# counters scalar.
@inlined
def philox(c, k0, k1):
    """Philox4x32-10 of counter c and key (k0, k1); see `kernels/dropout.py`."""
    c = mix(mix(c, k0, k1, 0), k0, k1, 1)
    c = mix(mix(c, k0, k1, 2), k0, k1, 3)
    c = mix(mix(c, k0, k1, 4), k0, k1, 5)
    c = mix(mix(c, k0, k1, 6), k0, k1, 7)
    return mix(mix(c, k0, k1, 8), k0, k1, 9)


@body
def dropout_body(lo, hi, args):
    """Tiles lo..hi of out = x mask / (1 - p). Tile i is number i % tiles of sample i // tiles.

    Words: 0 x, 1 state, 2 out, 3-4 distance between samples in x and out, 5 elements in a
    sample, 6 tiles in a sample, 7 layer, 8 threshold, 9 1 / (1 - p).
    """
    state = pointer_i64(args, 1)
    size, tiles = integer(args, 5), integer(args, 6)
    threshold, scale, zero = np.uint64(integer(args, 8)), scalar(args, 9), cast(args, 0)
    k0, k1 = np.uint64(state[0]) & LOW_32, np.uint64(state[0]) >> HALF
    step, layer = np.uint64(state[1]) & LOW_32, np.uint64(integer(args, 7)) & LOW_32
    factor = stack(args, 256)  # TILE: a literal in the body
    for item in range(lo, hi):
        row, start = item // tiles, item % tiles * 256
        count = min(256, size - start)
        sample = np.uint64(state[2] + row) & LOW_32
        for i in range((count + 3) // 4):
            block = np.uint64(start // 4 + i) & LOW_32
            w0, w1, w2, w3 = philox((block, sample, layer, step), k0, k1)
            factor[4 * i] = scale if w0 >= threshold else zero
            factor[4 * i + 1] = scale if w1 >= threshold else zero
            factor[4 * i + 2] = scale if w2 >= threshold else zero
            factor[4 * i + 3] = scale if w3 >= threshold else zero
        x = offset(pointer(args, 0), row * integer(args, 3) + start)
        out = offset(pointer(args, 2), row * integer(args, 4) + start)
        for j in range(count):  # not x * 0 for what is dropped: NaN * 0 would be NaN
            out[j] = x[j] * factor[j] if factor[j] != zero else zero


def dropout(x, state, out, *, p, layer):
    """Pack dropout; None unless each sample is contiguous in x and out."""
    if out.dtype not in FLOATING or x.dtype != out.dtype:
        return None
    steps = []
    for array in (x, out):
        if array.flags.c_contiguous:
            steps.append(array.size // max(array.shape[0], 1))
        elif array.ndim > 1 and array[0].flags.c_contiguous:
            steps.append(array.strides[0] // array.itemsize)
        else:
            return None
    samples = x.shape[0]
    size = x.size // max(samples, 1)
    tiles = -(-size // TILE)
    words = (x, state, out, *steps, size, tiles, layer, round(p * 2**32), 1.0 / (1.0 - p))
    return [Launch(dropout_body, out.dtype, words, samples * tiles, TILE)]
