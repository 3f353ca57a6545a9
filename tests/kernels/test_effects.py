"""What a kernel writes, by its source, against what its launches change."""

import inspect

import numpy as np
import pytest

from baremetal.kernels import elementwise, indexing, matmul, norm, optimizer
from baremetal.kernels.effects import written_arrays
from baremetal.kernels.kernel import Kernel, registry

OPTIMIZER = {
    "square_sum": (1, 2),
    "clip_factor": (2,),
    "adamw": (0, 2, 3),
    "sgd_momentum": (0, 2),
}


@pytest.mark.parametrize(
    ("launched", "count", "expected"),
    [
        (elementwise.add, 3, (2,)),  # np.add(a, b, out=out)
        (elementwise.fill, 1, (0,)),  # out[...] = value
        (matmul.matmul, 3, (2,)),
        (norm.layer_norm, 6, (3, 4, 5)),  # out, mean, rstd
        (norm.layer_norm_backward_weight, 6, (4, 5)),
        (indexing.scatter_add_rows, 3, (2,)),
        (indexing.concatenate, 4, (0, 1, 2, 3)),  # *parts_and_out: any of them
        *((getattr(optimizer, name), 5, expected) for name, expected in OPTIMIZER.items()),
    ],
    ids=lambda x: x.name if isinstance(x, Kernel) else "",
)
def test_what_is_written_is_read_off_the_source(launched, count, expected):
    assert written_arrays(launched, count) == expected


def by_index(x, y, out):
    x[0][1] += 1
    y = y + 1


def by_numpy(x, y, out):
    np.add.at(x, 0, y)
    np.exp(y, out=out[1:])


def by_method(x, y, out):
    out.T.fill(y.max())


def in_place(x, y, out):
    out *= x


def elsewhere(x, y, out):
    helper(x, y, out)


def helper(*arrays):
    arrays[-1][...] = 0


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (by_index, (0,)),
        (by_numpy, (0, 2)),
        (by_method, (2,)),
        (in_place, (2,)),
        (elsewhere, (0, 1, 2)),  # nothing to be seen: all of them
        (eval("lambda x, y, out: None"), (0, 1, 2)),  # no source
    ],
)
def test_the_manners_of_writing(reference, expected):
    assert written_arrays(Kernel(reference), 3) == expected


def test_every_kernel_names_its_outputs_last_or_is_known():
    """A new kernel whose source is not understood fails here, not in a plan."""
    for name, known in registry().items():
        parameters = inspect.signature(known.reference).parameters.values()
        arrays = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        found = written_arrays(known, len(arrays))
        if name in OPTIMIZER:
            assert found == OPTIMIZER[name]
        elif arrays[0].kind is arrays[0].VAR_POSITIONAL:
            assert found == (0,)
        else:
            assert found[-1] == len(arrays) - 1, name
            assert len(found) < len(arrays) or len(arrays) == 1, name
