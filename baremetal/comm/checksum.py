"""The checksum of a message: two sums, which together miss nothing that changes only two words.

Take the message as 32-bit words w_0 ... w_(n-1), the last one filled up with zeros, and a prime p:

    A = sum of w_i  mod p         B = sum of i * w_i  mod p         p = 2^61 - 1

This is J. Fletcher's checksum ("An Arithmetic Checksum for Serial Transmissions", IEEE Transactions
on Communications 30(1), 1982) with a prime modulus, as in Adler-32, but one much larger than a
word. That is what makes its promises simple:

- *One word changed*, in whatever bits: A changes by a difference d with 0 < |d| < 2^32 < p. Seen.
- *Two words changed*, at i and j, by d and e: unseen only if d + e = 0 and i d + j e = 0, that is
  (j - i) d = 0 mod p. Both factors are below 2^32 and not zero, and p is a prime above their
  product's factors: impossible. Seen. Two words that changed places are such a case.
- *Three or more words changed*: there are such changes that go unseen (+1, -2, +1 on neighbours).
  If the damage is random, one in about 2^57 * 2^61 is missed. Against somebody who wants to fool
  it, it is no protection.

The same in the words of coding theory: a Reed-Solomon code with two check symbols, whose distance
is three. With p = 2^64 (just let it overflow) the second promise would be false: +1.0 and -1.0 in
float64 differ by 2^63, and their exchange at an even distance would change B by a multiple of 2^64.

A sum is order-independent arithmetic on integers: no rounding, the same on every machine, and
vectorised without reservations (`slot.py`, where it is made while copying).
"""

import numpy as np

PRIME = 2**61 - 1  # a Mersenne prime: reduction is a shift and an addition
LARGEST_BYTES = 2**33 - 4  # positions of words stay below 2^31, see `slot._fold`
BLOCK_WORDS = 2**12  # of this reference; any block gives the same sums


def checksum(message: np.ndarray) -> tuple[int, int]:
    """A and B of an array's bytes: the reference, to be read. Any shape and dtype."""
    raw = np.ascontiguousarray(message).reshape(-1).view(np.uint8)
    words = np.zeros(-(-raw.size // 4), np.uint32)
    words.view(np.uint8)[: raw.size] = raw
    total = weighted = 0
    for base in range(0, words.size, BLOCK_WORDS):
        block = words[base : base + BLOCK_WORDS].astype(np.uint64)
        places = np.arange(block.size, dtype=np.uint64)
        # Exact: at most 2^12 * 2^32, and at most 2^12 * 2^12 * 2^32.
        sum_here, weighted_here = int(block.sum()), int((places * block).sum())
        total += sum_here
        weighted += weighted_here + base * sum_here
    return total % PRIME, weighted % PRIME
