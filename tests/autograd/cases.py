"""One or more cases per operation: inputs, attributes, and what NumPy says the result is.

The oracle of a forward is a formula written here in NumPy, independent of the kernels; the oracle
of a gradient is central differences. `test_ops.py` fails for an operation without a case.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import erf as scalar_erf
from typing import Any

import numpy as np

from baremetal.autograd import ops, registry
from baremetal.autograd.storage import LinearStorage

erf = np.vectorize(scalar_erf, otypes=[np.float64])


@dataclass
class Case:
    """`operation(*inputs, **attributes)` should equal `numpy(*inputs)`.

    Floating arrays among the inputs are differentiated, unless `constant` names their position.
    """

    op: str
    inputs: list[Any]
    numpy: Callable[..., Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    constant: tuple[int, ...] = ()
    label: str = ""

    def __str__(self) -> str:
        return f"{self.op}{'-' if self.label else ''}{self.label}"

    def call(self, *values: Any) -> Any:
        return registry()[self.op](*values, **self.attributes)

    def differentiated(self) -> list[int]:
        """Positions of the inputs whose gradient is checked."""
        return [
            i
            for i, value in enumerate(self.inputs)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and i not in self.constant
        ]


def normal(*shape: int) -> np.ndarray:
    """The same float64 numbers for the same shape, about 1 in size."""
    return np.random.default_rng(sum(shape) + 7 * len(shape)).standard_normal(shape)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + 0.5


def away_from_zero(*shape: int) -> np.ndarray:
    """For functions with a kink at 0, where no difference quotient is right."""
    x = normal(*shape)
    return x + np.sign(x) * 0.2


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def masked_log_softmax(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Row by row, over the kept elements alone."""
    out = np.full(x.shape, -np.inf)
    for row in np.ndindex(x.shape[:-1]):
        kept = np.broadcast_to(mask, x.shape)[row]
        if kept.any():
            out[row][kept] = np.log(softmax(x[row][kept]))
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, weight, bias=0.0, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + bias


def causal_attention(q, k, v, scale=None):
    """By the definition, one query at a time."""
    out = np.empty_like(q)
    batch, time, heads, width = q.shape
    scale = 1 / np.sqrt(width) if scale is None else scale
    group = heads // k.shape[2]
    for b, t, h in np.ndindex(batch, time, heads):
        seen = t + k.shape[1] - time + 1
        scores = k[b, :seen, h // group] @ q[b, t, h] * scale
        out[b, t, h] = softmax(scores) @ v[b, :seen, h // group]
    return out


def packed_attention(heads, kv_heads):
    def run(packed):
        batch, time, _ = packed.shape
        by_head = packed.reshape(batch, time, heads + 2 * kv_heads, -1)
        q, k, v = np.split(by_head, [heads, heads + kv_heads], axis=2)
        return causal_attention(q, k, v).reshape(batch, time, -1)

    return run


def rotary(rotated):
    def run(x, cos, sin):
        """Each pair (i, i + D/2) as a complex number, times e^(i angle)."""
        half = x.shape[-1] // 2
        z = x[..., :half] + 1j * x[..., half:]
        z[:, :, :rotated] *= (cos + 1j * sin)[:, None, :]
        return np.concatenate([z.real, z.imag], axis=-1)

    return run


def cross_entropy(reduction="mean", total=None, ignore_index=-100):
    def run(logits, targets):
        kept = targets != ignore_index
        rows = np.log(softmax(logits))
        chosen = np.take_along_axis(rows, np.where(kept, targets, 0)[..., None], -1)[..., 0]
        losses = np.where(kept, -chosen, 0.0)
        if reduction == "none":
            return losses
        if reduction == "sum":
            return losses.sum()
        return losses.sum() / (kept.sum() if total is None else float(np.squeeze(total)))

    return run


def scattered(rows):
    def run(values, indices):
        out = np.zeros((rows, *values.shape[indices.ndim :]))
        np.add.at(out, indices, values)
        return out

    return run


def swiglu(x):
    gate, up = np.split(x, 2, axis=-1)
    return gate * sigmoid(gate) * up


MASK = np.array([[True, False, True], [True, True, False]])
NOTHING_KEPT = np.array([[[True] * 4, [False] * 4, [False, True, True, False]]])  # (1, 3, 4)
INDICES = np.array([[2, 0, 2], [1, 2, 2]])
ANGLES = normal(3, 2)
STATE = np.array([5, 1, 0])


def _elementwise() -> list[Case]:
    a, b = normal(2, 3), normal(2, 3) + 0.1
    column, row = normal(2, 1), normal(3)
    binary = [
        ("add", np.add, a, b), ("subtract", np.subtract, a, b), ("multiply", np.multiply, a, b),
        ("divide", np.divide, a, away_from_zero(2, 3)), ("power", np.power, positive(2, 3), b),
        ("maximum", np.maximum, a, b + 0.3), ("minimum", np.minimum, a, b + 0.3),
    ]  # fmt: skip
    cases = [Case(name, [x, y], f) for name, f, x, y in binary]
    for name, f, _, _ in binary:
        x, y = (np.abs(column) + 0.5, np.abs(row) + 0.6) if name == "power" else (column, row)
        cases.append(Case(name, [x, y], f, label="broadcast"))
    unary = [
        ("negative", np.negative, a), ("absolute", np.abs, away_from_zero(2, 3)),
        ("square", np.square, a), ("exp", np.exp, a), ("log", np.log, positive(2, 3)),
        ("sqrt", np.sqrt, positive(2, 3)), ("sin", np.sin, a), ("cos", np.cos, a),
        ("erf", erf, a), ("tanh", np.tanh, a), ("sigmoid", sigmoid, a),
        ("relu", lambda x: np.maximum(x, 0), away_from_zero(2, 3)),
        ("silu", lambda x: x * sigmoid(x), a),
        ("gelu", lambda x: x * (1 + erf(x / np.sqrt(2))) / 2, a),
        ("clone", np.copy, a),
    ]  # fmt: skip
    cases += [Case(name, [x], f) for name, f, x in unary]
    return [
        *cases,
        Case("power", [normal(4), np.array(3.0)], np.power, label="integer", constant=(1,)),
        Case("gelu", [a], gelu_tanh, {"approximate": "tanh"}, label="tanh"),
        Case("cast", [a], lambda x: x, {"dtype": np.float64}, label="same"),
        Case("where", [MASK, a, b], np.where),
        Case("where", [MASK, column, row], np.where, label="broadcast"),
    ]


def _reductions() -> list[Case]:
    x = normal(2, 3, 4)
    cases = []
    for axis in (None, 1, (0, -1)):
        for keepdims in (False, True):
            how = {"axis": axis, "keepdims": keepdims}
            label = f"{axis}-{keepdims}"
            cases += [
                Case("sum", [x], lambda x, how=how: np.sum(x, **how), how, label=label),
                Case("mean", [x], lambda x, how=how: np.mean(x, **how), how, label=label),
                Case("max", [x], lambda x, how=how: np.max(x, **how), how, label=label),
                Case(
                    "logsumexp",
                    [x],
                    lambda x, how=how: np.log(np.sum(np.exp(x), **how)),
                    how,
                    label=label,
                ),
                Case(
                    "variance",
                    [x],
                    lambda x, how=how: np.var(x, ddof=1, **how),
                    {**how, "ddof": 1},
                    label=label,
                ),
            ]
    return cases


def _shapes() -> list[Case]:
    x = normal(2, 3, 4)
    a, b = normal(2, 3), normal(2, 1)
    rows = np.array([1, 0, 1, -1])
    index_keys = {
        "integer": 1,
        "slices": (slice(None), slice(None, None, -2), 1),
        "dots": (..., None, slice(1, 3)),
        "rows": rows,
        "pairs": (np.array([0, 1, 0]), np.array([2, 0, 2])),
        "mixed": (slice(None), np.array([[2, 0], [2, 2]]), slice(1, 3)),
        "booleans": normal(2, 3, 4) > 0,
        "bool rows": np.array([False, True]),
    }
    return [
        Case("reshape", [x], lambda x: x.reshape(4, 6), {"shape": (4, -1)}),
        Case("transpose", [x], lambda x: x.transpose(2, 0, 1), {"axes": (2, 0, 1)}),
        Case("transpose", [x], lambda x: x.transpose(-1, 0, 1), {"axes": (-1, 0, 1)}, label="neg"),
        Case("broadcast_to", [b], lambda b: np.broadcast_to(b, (3, 2, 4)), {"shape": (3, 2, 4)}),
        Case("concatenate", [a, b, a], lambda *p: np.concatenate(p, axis=1), {"axis": -1}),
        Case(
            "pad",
            [a],
            lambda a: np.pad(a, ((1, 0), (2, 1)), constant_values=3.0),
            {"widths": ((1, 0), (2, 1)), "value": 3.0},
        ),
        *(
            Case("index", [x], lambda x, key=key: x[key], {"key": key}, label=label)
            for label, key in index_keys.items()
        ),
        Case("embedding", [normal(3, 4), INDICES], lambda t, i: t[i]),
        Case("embedding", [normal(3, 2, 2), INDICES], lambda t, i: t[i], label="wide"),
        Case("scatter_rows", [normal(2, 3, 4), INDICES], scattered(5), {"rows": 5}),
    ]


def _products() -> list[Case]:
    shapes = {
        "2-2": ((2, 3), (3, 4)),
        "3-2": ((2, 3, 4), (4, 2)),
        "2-3": ((3, 4), (2, 4, 2)),
        "3-3": ((2, 3, 4), (2, 4, 2)),
        "broadcast": ((2, 1, 3, 4), (5, 4, 2)),
        "1-1": ((3,), (3,)),
        "1-2": ((3,), (3, 4)),
        "2-1": ((2, 3), (3,)),
        "3-1": ((2, 3, 4), (4,)),
    }
    return [
        *(
            Case("matmul", [normal(*a), normal(*b)], np.matmul, label=label)
            for label, (a, b) in shapes.items()
        ),
        Case("linear", [normal(2, 3), normal(4, 3), normal(4)], lambda x, w, b: x @ w.T + b),
        Case("linear", [normal(2, 2, 3), normal(4, 3)], lambda x, w: x @ w.T, label="no bias"),
        # Nothing is rounded here: the rules' algebra. What rounding does to them is no derivative
        # that differences could measure; test_stored_linear.py checks it against float64 products.
        Case(
            "stored_linear",
            [normal(2, 2, 3), normal(4, 3), normal(4)],
            lambda x, w, b: x @ w.T + b,
            {"storage": LinearStorage()},
            label="kept",
        ),
    ]


def _network() -> list[Case]:
    x, weight, bias = normal(2, 3, 4), normal(4), normal(4) + 1
    targets = np.array([[2, 0, -100], [1, -100, 2]])
    full = np.array([[2, 0, 3], [1, 3, 2]])
    grouped = [normal(2, 3, 4, 2), normal(2, 5, 2, 2), normal(2, 5, 2, 2) + 0.1]
    return [
        Case("softmax", [x], softmax),
        Case(
            "softmax",
            [normal(2, 3), MASK],
            lambda x, m: softmax(np.where(m, x, -np.inf)),
            label="mask",
        ),
        Case("log_softmax", [x], lambda x: np.log(softmax(x))),
        Case("log_softmax", [normal(2, 3), MASK], masked_log_softmax, label="mask"),
        Case("log_softmax", [x, NOTHING_KEPT], masked_log_softmax, label="nothing kept"),
        Case("cross_entropy", [x, full], cross_entropy()),
        Case("cross_entropy", [x, targets], cross_entropy(), label="ignored"),
        Case(
            "cross_entropy", [x, targets], cross_entropy("sum"), {"reduction": "sum"}, label="sum"
        ),
        Case(
            "cross_entropy",
            [x, targets],
            cross_entropy("none"),
            {"reduction": "none"},
            label="none",
        ),
        Case("cross_entropy", [x, full], cross_entropy(total=7), {"total": 7}, label="total"),
        Case(
            "cross_entropy",
            [x, full],
            cross_entropy(total=9, ignore_index=3),
            {"total": np.array([9.0]), "ignore_index": 3},
            label="total buffer",
        ),
        Case("layer_norm", [x, weight, bias], layer_norm),
        Case("layer_norm", [x, weight], layer_norm, label="no bias"),
        Case(
            "rms_norm",
            [x, weight],
            lambda x, w: w * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3),
            {"eps": 1e-3},
        ),
        Case(
            "rotary",
            [normal(2, 3, 5, 4), np.cos(ANGLES), np.sin(ANGLES)],
            rotary(3),
            {"rotated": 3},
            constant=(1, 2),
        ),
        Case("swiglu", [normal(2, 3, 6)], swiglu),
        Case("causal_attention", grouped, causal_attention, label="grouped"),
        Case(
            "causal_attention",
            [normal(1, 3, 2, 2), normal(1, 3, 2, 2) - 1, normal(1, 3, 2, 2) + 1],
            lambda q, k, v: causal_attention(q, k, v, 0.3),
            {"scale": 0.3},
            label="scale",
        ),
        Case(
            "causal_attention_packed",
            [normal(2, 3, 16)],
            packed_attention(4, 2),
            {"heads": 4, "kv_heads": 2},
        ),
    ]


CASES = [*_elementwise(), *_reductions(), *_shapes(), *_products(), *_network()]

# What has no derivative: the value is checked, and that the result is off the tape.
a, b = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
CONSTANT_CASES = [
    Case(name, [a, b], getattr(np, name))
    for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
] + [
    Case("argmax", [normal(3, 4)], lambda x: np.argmax(x, axis=1), {"axis": 1}),
    Case("argmax", [normal(3, 4)], lambda x: np.argmax(x), label="all"),
]

# The mask of a dropout is the kernel's business (tests/kernels); its gradient is tested apart.
TESTED_APART = {"dropout"}

assert set(ops.__all__) >= {case.op for case in CASES}
