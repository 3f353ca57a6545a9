"""What the tests of this room share: parameters with gradients of our choice."""

import numpy as np
import pytest

from baremetal.autograd import CPU, Parameter


@pytest.fixture
def make_parameters():
    """`make_parameters(dtype)`: a matrix, a vector, a scalar and a large matrix, with names."""

    def make(dtype=np.float64, shapes=((3, 5), (7,), (), (40, 33)), seed=0, device=CPU):
        rng = np.random.default_rng(seed)
        arrays = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]
        return [Parameter(a, name=f"p{i}", device=device) for i, a in enumerate(arrays)]

    return make


@pytest.fixture
def give_gradients():
    """Set every parameter's gradient as backward does: as a sum in its own buffer.

    Returns the gradients as float64 arrays.
    """

    def give(parameters, seed):
        rng = np.random.default_rng(seed)
        gradients = []
        for parameter in parameters:
            gradient = np.asarray(rng.standard_normal(parameter.shape)).astype(parameter.dtype)
            parameter.zero_grad()
            parameter.add_gradient(gradient, shared=True)
            gradients.append(gradient.astype(np.float64))
        return gradients

    return give
