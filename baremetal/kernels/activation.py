"""SwiGLU: a feed-forward layer with a gate.

    swiglu(gate, up) = silu(gate) ∘ up          silu(z) = z σ(z),   σ(z) = 1 / (1 + exp(-z))

(N. Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.) Gate and up are two
projections of the same input. They are computed by one matrix product with the two weights
stacked, so they arrive side by side in one array and are read from there, without a split:

    gate_up (rows, 2H) = [ gate | up ]   ->   out (rows, H)

Backward, with silu'(z) = σ(z) + z σ(z) (1 - σ(z)):

    dgate = g ∘ up ∘ silu'(gate)          dup = g ∘ silu(gate)
"""

import numpy as np

from baremetal.kernels.cost import TRANSCENDENTAL, Cost, moved
from baremetal.kernels.kernel import kernel


@kernel
def swiglu(gate_up: np.ndarray, out: np.ndarray) -> None:
    """out (rows, H) = silu(gate) * up, where gate_up (rows, 2H) = [gate | up]."""
    gate, up = np.split(gate_up, 2, axis=-1)
    out[...] = gate * _sigmoid(gate) * up


@swiglu.costs
def _(gate_up, out) -> Cost:
    return Cost((TRANSCENDENTAL + 4) * out.size, moved(gate_up, out))


@kernel
def swiglu_backward(gate_up: np.ndarray, grad: np.ndarray, out: np.ndarray) -> None:
    """out (rows, 2H) = [grad * up * silu'(gate) | grad * silu(gate)], grad (rows, H)."""
    gate, up = np.split(gate_up, 2, axis=-1)
    s = _sigmoid(gate)
    flat = s * (1 - s)
    # gate * flat is inf * 0 at infinity, where its limit is 0.
    slope = s + np.where(flat == 0, 0, gate) * flat
    out[...] = np.concatenate([grad * up * slope, grad * (gate * s)], axis=-1)


@swiglu_backward.costs
def _(gate_up, grad, out) -> Cost:
    return Cost((TRANSCENDENTAL + 10) * grad.size, moved(gate_up, grad, out))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(-x) may be inf, and 1 / (1 + inf) is the right 0
        return 1 / (1 + np.exp(-x))
