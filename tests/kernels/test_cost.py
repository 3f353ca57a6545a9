"""What a launch costs: a lower bound, so nothing may be counted twice."""

import numpy as np
import pytest

from baremetal.kernels.cost import Cost, moved
from baremetal.kernels.elementwise import add

A = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("array", "size_bytes"),
    [
        (A, 48),
        (A.T, 48),
        (A[::2, 1:3], 16),
        (A[::-1], 48),
        (np.broadcast_to(A[0], (3, 4)), 16),  # one row, seen three times
        (np.broadcast_to(A[:, :1], (3, 4)), 12),
        (np.broadcast_to(np.float32(1), (3, 4)), 4),
        (np.broadcast_to(A, (0, 3, 4)), 0),
        (np.zeros(()), 8),
        (np.zeros((1, 5, 1)), 40),
        (np.zeros((0, 5)), 0),
    ],
)
def test_the_bytes_of_an_array_are_those_it_lies_in(array, size_bytes):
    assert moved(array) == size_bytes
    assert moved(A, array) == 48 + size_bytes


def test_a_repeated_bias_is_read_once():
    out = np.empty_like(A)
    assert add.cost(A, np.broadcast_to(A[0], A.shape), out) == Cost(12, 48 + 16 + 48)
