"""What a kernel says it writes is what changes when it runs, natively and in NumPy."""

import importlib
import pkgutil

import numpy as np
import pytest

from baremetal import kernels
from baremetal.kernels.kernel import registry
from baremetal.kernels.optimizer import SCALARS, square_sum_blocks

ROWS, WIDTH, VOCABULARY = 6, 32, 11


def rng():
    return np.random.default_rng(0)


def f32(*shape):
    return rng().standard_normal(shape, np.float32)


def matrix():
    return f32(ROWS, WIDTH)


def vector():
    return f32(WIDTH)


def ones():
    return np.ones(WIDTH, np.float32)


def per_row():
    return np.abs(f32(ROWS)) + 1


def tokens():
    return rng().integers(0, VOCABULARY, ROWS)


def scalars():
    values = np.ones(SCALARS)
    values[0] = 0.1
    return values


def heads():
    return f32(2, 4, 2, 8)


def booleans():
    return np.zeros((ROWS, WIDTH), np.bool_)


ELEMENTWISE_OUT = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
ADAMW = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
SGD = {"momentum_factor": 0.9, "weight_decay": 0.1, "nesterov": True}


def reduced(**attributes):
    return (f32(ROWS, WIDTH), f32(WIDTH)), {"axis": (0,), **attributes}


# name: arrays (all but what `elementwise_example` makes) and attributes
EXAMPLES = {
    "where": lambda: ((rng().random((ROWS, WIDTH)) < 0.5, matrix(), -matrix(), matrix()), {}),
    "fill": lambda: ((matrix(),), {"value": 3.0}),
    "copy": lambda: ((matrix() + 1, matrix()), {}),
    "sum": reduced,
    "mean": reduced,
    "max": reduced,
    "argmax": lambda: ((matrix(), np.full(WIDTH, -1)), {"axis": (0,)}),
    "logsumexp": reduced,
    "variance": reduced,
    "swiglu": lambda: ((f32(ROWS, 2 * WIDTH), matrix()), {}),
    "swiglu_backward": lambda: ((f32(ROWS, 2 * WIDTH), matrix(), f32(ROWS, 2 * WIDTH)), {}),
    "causal_attention": lambda: ((heads(),) * 3 + (-heads(), f32(2, 2, 4)), {"scale": 0.5}),
    "causal_attention_backward": lambda: (
        (heads(),) * 5 + (f32(2, 2, 4), -heads(), -heads(), -heads()),
        {"scale": 0.5},
    ),
    "dropout": lambda: ((matrix(), np.array([1, 2, 3]), -matrix()), {"p": 0.5, "layer": 1}),
    "gather_rows": lambda: ((f32(VOCABULARY, WIDTH), tokens(), -matrix()), {}),
    "scatter_add_rows": lambda: ((matrix(), tokens(), f32(VOCABULARY, WIDTH)), {}),
    "concatenate": lambda: ((matrix(), matrix(), f32(2 * ROWS, WIDTH)[::-1].copy()), {"axis": 0}),
    "pad": lambda: ((matrix(), f32(ROWS + 2, WIDTH)), {"widths": ((1, 1), (0, 0)), "value": 0.0}),
    "transpose": lambda: ((matrix(), f32(WIDTH, ROWS)), {"axes": (1, 0)}),
    "cross_entropy": lambda: (
        (f32(ROWS, VOCABULARY), tokens(), per_row(), per_row()),
        {"ignore_index": -100},
    ),
    "count_targets": lambda: ((tokens(), np.array(99, np.float32)), {"ignore_index": 1}),
    "cross_entropy_backward": lambda: (
        (f32(ROWS, VOCABULARY), tokens(), per_row(), per_row(), -f32(ROWS, VOCABULARY)),
        {"ignore_index": -100},
    ),
    "matmul": lambda: ((matrix(), f32(WIDTH, WIDTH), -matrix()), {"beta": 1.0}),
    "linear": lambda: ((matrix(), f32(WIDTH, WIDTH), vector(), -matrix()), {}),
    "layer_norm": lambda: (
        (matrix(), vector(), vector(), -matrix(), per_row(), per_row()),
        {"eps": 1e-5},
    ),
    "layer_norm_backward_input": lambda: (
        (matrix(), vector(), -matrix(), per_row(), per_row(), matrix()),
        {},
    ),
    "layer_norm_backward_weight": lambda: (
        (matrix(), -matrix(), per_row(), per_row(), vector(), vector()),
        {},
    ),
    "rms_norm": lambda: ((matrix(), vector(), -matrix(), per_row()), {"eps": 1e-5}),
    "rms_norm_backward_input": lambda: ((matrix(), vector(), -matrix(), per_row(), matrix()), {}),
    "rms_norm_backward_weight": lambda: ((matrix(), -matrix(), per_row(), vector()), {}),
    "rotary": lambda: (
        (heads(), f32(4, 4), f32(4, 4), -heads()),
        {"rotated": 1, "inverse": False},
    ),
    "masked_softmax": lambda: ((matrix(), matrix() > 0, matrix()), {}),
    "masked_log_softmax": lambda: ((matrix(), matrix() > 0, matrix()), {}),
    "masked_log_softmax_backward": lambda: ((matrix(), matrix() > 0, matrix(), -matrix()), {}),
    "softmax": lambda: ((matrix(), -matrix()), {}),
    "softmax_backward": lambda: ((matrix(), matrix(), -matrix()), {}),
    "log_softmax": lambda: ((matrix(), -matrix()), {}),
    "log_softmax_backward": lambda: ((matrix(), matrix(), -matrix()), {}),
    "tile_scales": lambda: ((matrix(), f32(ROWS, 2)), {"divisor": 6.0, "tile": (1, 16)}),
    "quantize": lambda: (
        (matrix(), np.abs(f32(ROWS, 2)) + 1, np.full((ROWS, WIDTH // 2), 0x99, np.uint8)),
        {"format": "float4_e2m1fn", "tile": (1, 16)},
    ),
    "dequantize": lambda: (
        (np.full((ROWS, WIDTH // 2), 0x99, np.uint8), np.abs(f32(ROWS, 2)), matrix()),
        {"format": "float4_e2m1fn", "tile": (1, 16)},
    ),
    "square_sum": lambda: (
        (vector(), *square_sum_blocks([(0, 3), (3, WIDTH)]), np.zeros(2), np.zeros(2)),
        {},
    ),
    "clip_factor": lambda: ((np.ones(2), np.ones(1, np.float32), scalars()), {"max_norm": 0.5}),
    "adjust_loss_scale": lambda: (
        (scalars(), np.ones(1)),  # the second of two clean steps: the scale grows
        {"growth_interval": 2, "largest": 64.0},
    ),
    "adamw": lambda: ((vector(), vector(), -vector(), ones(), scalars()), ADAMW),
    "sgd_momentum": lambda: ((vector(), vector(), -vector(), scalars()), SGD),
}  # fmt: skip


def elementwise_example(kernel):
    inputs = [np.abs(f32(ROWS, WIDTH)) + 0.5 + i for i, _ in enumerate(kernel.operand_names(9)[1:])]
    out = booleans() if kernel.name in ELEMENTWISE_OUT else np.full((ROWS, WIDTH), -9, np.float32)
    if kernel.name in {"equal", "greater", "greater_equal"}:
        inputs[1][0] = inputs[0][0]
        inputs[1][1] = inputs[0][1] - 1
    return (*inputs, out), {}


def all_kernels():
    for module in pkgutil.iter_modules(kernels.__path__, kernels.__name__ + "."):
        importlib.import_module(module.name)
    ours = [k for k in registry().values() if k.__module__.startswith(kernels.__name__ + ".")]
    return sorted(ours, key=lambda kernel: kernel.name)


@pytest.mark.parametrize("kernel", all_kernels(), ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("how", ["run", "reference"])
def test_what_changes_is_what_is_declared(kernel, how):
    make = EXAMPLES.get(kernel.name)
    if make is None:
        family = kernel.__module__.rpartition(".")[2]
        assert family == "elementwise", f"{kernel.name} has no example: add one to EXAMPLES"
    arrays, attributes = elementwise_example(kernel) if make is None else make()
    before = [array.tobytes() for array in arrays]
    with np.errstate(all="ignore"):
        getattr(kernel, how)(*arrays, **attributes)
    names = kernel.operand_names(len(arrays))
    changed = {
        name
        for name, array, old in zip(names, arrays, before, strict=True)
        if array.tobytes() != old
    }
    assert changed == set(kernel.writes)
    assert {id(x) for x in kernel.written(arrays)} == {
        id(x) for name, x in zip(names, arrays, strict=True) if name in kernel.writes
    }
