"""The checksum: compiled against the reference, and what it must never miss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.comm.checksum import PRIME, checksum
from baremetal.comm.slot import (
    BLOCK_WORDS,
    HEADER_BYTES,
    READY,
    SUM,
    WEIGHTED,
    compiled,
)

BLOCK = 4 * BLOCK_WORDS
SIZES = [0, 1, 2, 3, 4, 5, 63, 64, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]


def address(array):
    return array.__array_interface__["data"][0]


def through_a_slot(message, offset=0, in_place=False):
    """What comes out of a slot that `message` (bytes) is put into, and the sums of both sides."""
    size = message.size
    slot = np.zeros(HEADER_BYTES + size, np.uint8)
    source = np.zeros(size + offset, np.uint8)[offset:]
    source[:] = message
    if in_place:
        slot[HEADER_BYTES:] = message
    target = np.full(size + offset, 0xA5, np.uint8)[offset:]
    state, abort = np.zeros(3, np.int64), np.zeros(1, np.int64)
    header, payload = address(slot), address(slot) + HEADER_BYTES
    code = compiled()
    code.put(header, payload, 0 if in_place else address(source), size, 1, 0, 0, 0, 0)
    found = code.take(header, payload, address(target), size, address(state), address(abort), 1)
    assert found == READY
    words = slot[:HEADER_BYTES].view(np.int64)
    return target, (words[SUM], words[WEIGHTED]), tuple(state[1:])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("fill", ["random", "ones"])
def test_compiled_sums_are_the_reference_s(size, in_place, fill):
    draw = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    message = draw if fill == "random" else np.full(size, 255, np.uint8)  # the largest sums
    target, sent, received = through_a_slot(message, in_place=in_place)
    assert sent == received == checksum(message)
    np.testing.assert_array_equal(target, message)


@given(st.binary(max_size=300), st.integers(0, 7))
def test_any_bytes_at_any_address(raw, offset):
    message = np.frombuffer(raw, np.uint8)
    target, sent, received = through_a_slot(message, offset)
    assert sent == received == checksum(message)
    np.testing.assert_array_equal(target, message)


def test_reference_against_integers_without_end():
    words = np.random.default_rng(1).integers(0, 2**32, 9000, dtype=np.uint32)
    plain = sum(int(word) for word in words) % PRIME
    weighted = sum(i * int(word) for i, word in enumerate(words)) % PRIME
    assert checksum(words) == (plain, weighted)


messages = st.binary(min_size=4, max_size=400)


@given(messages, st.data())
def test_any_flipped_bit_is_seen(raw, data):
    message = np.frombuffer(raw, np.uint8)
    byte, bit = data.draw(st.integers(0, message.size - 1)), data.draw(st.integers(0, 7))
    damaged = message.copy()
    damaged[byte] ^= 1 << bit
    assert checksum(damaged) != checksum(message)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=100), st.data())
def test_swapped_words_are_seen(words, data):
    message = np.array(words, np.uint32)
    i, j = data.draw(st.integers(0, len(words) - 1)), data.draw(st.integers(0, len(words) - 1))
    swapped = message.copy()
    swapped[[i, j]] = swapped[[j, i]]
    assert (checksum(swapped) == checksum(message)) == (words[i] == words[j])


def test_swapped_signs_are_seen():
    # +1.0 and -1.0 at an even distance: what a sum modulo 2^64 misses.
    message = np.zeros(64)
    message[4], message[8] = 1.0, -1.0
    assert checksum(message) != checksum(message[[*range(4), 8, 5, 6, 7, 4, *range(9, 64)]])
    words = message.view(np.uint64)
    swapped = words.copy()
    swapped[[4, 8]] = swapped[[8, 4]]
    places = np.arange(64, dtype=np.uint64)
    assert (places * words).sum() == (places * swapped).sum()


@given(st.data())
def test_any_change_of_two_words_is_seen(data):
    message = np.random.default_rng(2).integers(0, 2**32, 5000, dtype=np.uint32)
    damaged = message.copy()
    for _ in range(2):
        damaged[data.draw(st.integers(0, 4999))] = data.draw(st.integers(0, 2**32 - 1))
    assert (checksum(damaged) == checksum(message)) == bool((damaged == message).all())


def test_what_it_can_miss_is_what_its_text_says():
    message = np.array([5, 5, 5], np.uint32)
    assert checksum(message) == checksum(np.array([6, 3, 6], np.uint32))
