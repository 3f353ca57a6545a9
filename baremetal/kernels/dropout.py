"""Dropout whose mask is a function, not a state.

    out = x ∘ mask / (1 - p),     mask = 0 with probability p, else 1

(N. Srivastava et al., "Dropout", JMLR 15, 2014.) The mask has to be the same in the backward, and
it has to be the same however the batch is cut into microbatches, however many threads there are,
and whichever pipeline stage computes it. A generator that hands out numbers in turn can promise
none of this. A *counter-based* generator can: it is a pure function

    random words = Philox(key, counter)

that scrambles a counter as a cipher would, so every element simply asks for its own number. The
mask is never stored; the backward is the same kernel on the gradient.

Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns four
32-bit counter words and two 32-bit key words into four random words, in ten rounds of

    hi0, lo0 = 0xD2511F53 * c0          hi1, lo1 = 0xCD9E8D57 * c2         (32 x 32 -> 64 bits)
    c0, c1, c2, c3 = hi1 ^ c1 ^ k0,  lo1,  hi0 ^ c3 ^ k1,  lo0
    k0, k1 = k0 + 0x9E3779B9,  k1 + 0xBB67AE85                             (modulo 2**32)

Here the key is the seed, and the counter says which number is meant:

    c0 = position in the sample // 4    c1 = sample in the whole batch    c2 = layer    c3 = step

The element at position i takes word i % 4. (All four words count modulo 2**32.)
"""

import numpy as np

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.kernel import kernel

TILE = 256  # elements of a sample whose numbers the compiled version makes at once
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key each round: golden ratio and sqrt(3) - 1
LOW_32 = np.uint64(0xFFFFFFFF)

SEED, STEP, FIRST_SAMPLE = 0, 1, 2  # what the words of `state` are


def philox4x32(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Four random words for each counter: (..., 4) and key (2,) -> (..., 4), all uint32."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = (np.uint64(int(word)) for word in key)
    for _ in range(ROUNDS):
        # 64-bit products of 32-bit numbers cannot overflow; the halves are what Philox wants.
        first = np.uint64(MULTIPLIERS[0]) * c0
        second = np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ k0,
            second & LOW_32,
            (first >> np.uint64(32)) ^ c3 ^ k1,
            first & LOW_32,
        )
        k0 = (k0 + np.uint64(WEYL[0])) & LOW_32
        k1 = (k1 + np.uint64(WEYL[1])) & LOW_32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def threshold(p: float) -> int:
    """The element is dropped where its random word (0..2**32-1) is below this: p * 2**32."""
    return round(p * 2**32)


@kernel
def dropout(x: np.ndarray, state: np.ndarray, out: np.ndarray, *, p: float, layer: int) -> None:
    """out = 0 with probability p, else x / (1 - p). The backward is this kernel on the gradient.

    x and out (samples, ...): the first axis counts samples. state (3,) int64 on the device:
    [seed, step, first sample], where row r of x is sample `first sample + r` of the whole batch.
    `layer` tells the dropouts of one model apart. 0 <= p < 1; p = 0 copies.
    """
    samples = x.shape[0]
    per_sample = x[0].size if samples else 0
    blocks = -(-per_sample // 4)
    seed, step, first = (int(word) for word in state)
    counter = np.empty((samples, blocks, 4), np.uint32)
    counter[..., 0] = np.arange(blocks) % 2**32
    counter[..., 1] = ((first + np.arange(samples)) % 2**32)[:, None]
    counter[..., 2] = layer % 2**32
    counter[..., 3] = step % 2**32
    words = philox4x32(counter, np.array([seed % 2**32, seed // 2**32 % 2**32]))
    words = words.reshape(samples, blocks * 4)[:, :per_sample].reshape(x.shape)
    scale = np.asarray(1 / (1 - p), x.dtype)
    out[...] = np.where(words >= threshold(p), x * scale, np.asarray(0, x.dtype))


@dropout.costs
def _(x, state, out, *, p, layer) -> Cost:
    # One multiplication an element. Philox itself is integer arithmetic (some 20 operations an
    # element) and no FLOP.
    return Cost(x.size, moved(x, state, out))
