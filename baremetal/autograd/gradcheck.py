"""Checking a gradient against the definition of the derivative.

For a function f of inputs x and a random cotangent c of the output's shape, let

    L(x) = Σ c f(x)

Backward gives dL/dx in one sweep. Central differences give the same numbers one at a time, and
know nothing of any rule:

    dL/dx_i  ≈  (L(x + h e_i) - L(x - h e_i)) / 2h            error O(h²) + rounding / h

In float64 with h = 1e-6 about nine digits agree; in float32 only two or three would, so inputs are
converted. The cotangent is random because with all ones an error that sums to zero (a softmax's
rows do) would not show.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from baremetal.autograd.errors import AutogradError
from baremetal.autograd.mode import no_grad
from baremetal.autograd.tensor import Tensor

STEP = 1e-6  # h, for inputs of about size 1: balances h² against the rounding error 1e-16 / h


def gradcheck(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    rng: np.random.Generator | None = None,
    step: float = STEP,
    rtol: float = 1e-5,
    atol: float = 1e-7,
) -> bool:
    """Compare `function`'s gradients with central differences, for every element of every input.

    Args:
        function: takes tensors, returns a tensor or several. It must give the same output for the
            same input: no dropout with a moving state.
        inputs: tensors, arrays or numbers. Floating ones are converted to float64 and checked;
            integers and booleans are passed on unchanged, as arrays.
        rng: draws the cotangent; default: a generator of seed 0.
        step: h in the formula, relative for elements larger than 1.
        rtol, atol: how far the two may differ, as in `numpy.isclose`.

    Returns:
        True.

    Raises:
        AutogradError: a gradient differs (the message names function, input and element), or the
            function is not a function.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    arrays = [_as_input(value) for value in inputs]
    name = getattr(function, "__name__", repr(function))
    tensors = [Tensor(a.copy(), requires_grad=True) if _is_checked(a) else a for a in arrays]
    outputs = _outputs(function(*tensors))
    cotangents = [np.asarray(rng.standard_normal(output.shape)) for output in outputs]
    _check_repeatable(name, function, arrays, outputs)
    # All outputs at once: two backwards would need the tape of what they share twice.
    total = sum_of_products(outputs, cotangents)
    if not total.requires_grad:
        raise AutogradError(
            f"gradcheck of {name}: no output depends on a floating input by way of the tape"
        )
    total.backward()

    def loss() -> float:
        with no_grad():
            given = [Tensor(a) if _is_checked(a) else a for a in arrays]
            values = _outputs(function(*given))
        pairs = zip(values, cotangents, strict=True)
        return float(sum(np.sum(v.numpy().astype(np.float64) * c) for v, c in pairs))

    for position, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
        if isinstance(tensor, Tensor):
            numeric = _differences(loss, array, step)
            _compare(name, position, tensor, numeric, rtol, atol)
    return True


def sum_of_products(outputs: Sequence[Tensor], cotangents: Sequence[np.ndarray]) -> Tensor:
    """L = Σ c f, as one scalar on the tape."""
    parts = [
        (output * cotangent.astype(output.dtype)).sum()
        for output, cotangent in zip(outputs, cotangents, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _differences(loss: Callable[[], float], array: np.ndarray, step: float) -> np.ndarray:
    """dL/dx for every element x of `array`, which is changed and put back."""
    numeric = np.empty(array.shape)
    for where in np.ndindex(array.shape):
        value = array[where]
        h = step * max(1.0, abs(float(value)))
        array[where] = value + h
        above = loss()
        array[where] = value - h
        below = loss()
        array[where] = value
        numeric[where] = (above - below) / (2 * h)
    return numeric


def _compare(
    name: str, position: int, tensor: Tensor, numeric: np.ndarray, rtol: float, atol: float
) -> None:
    # No gradient at all means that the output does not depend on this input: then it is 0.
    analytic = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
    good = np.isclose(analytic, numeric, rtol=rtol, atol=atol)
    if good.all():
        return
    difference = np.where(good, 0.0, np.nan_to_num(np.abs(analytic - numeric), nan=np.inf))
    where = tuple(int(i) for i in np.unravel_index(np.argmax(difference), numeric.shape))
    raise AutogradError(
        f"gradcheck of {name}: {np.sum(~good)} of {good.size} elements of input {position} (shape "
        f"{tensor.shape}) have a wrong gradient. The worst is element {where}, where the input is "
        f"{tensor.data[where]:.6g}: the rules say {analytic[where]:.9g}, central differences "
        f"{numeric[where]:.9g}"
    )


def _check_repeatable(
    name: str, function: Callable[..., Any], arrays: list[np.ndarray], outputs: list[Tensor]
) -> None:
    with no_grad():
        again = _outputs(function(*(Tensor(a) if _is_checked(a) else a for a in arrays)))
    for first, second in zip(outputs, again, strict=True):
        if not np.array_equal(first.numpy(), second.numpy(), equal_nan=True):
            raise AutogradError(
                f"gradcheck of {name}: two calls with the same input gave different outputs; "
                "fix its random state before checking"
            )


def _as_input(value: Any) -> np.ndarray:
    """A private copy, in float64 if it is floating."""
    array = np.array(value.numpy() if isinstance(value, Tensor) else value)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _is_checked(array: np.ndarray) -> bool:
    return array.dtype == np.float64


def _outputs(result: Any) -> list[Tensor]:
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    for output in outputs:
        if not isinstance(output, Tensor):
            raise AutogradError(
                f"gradcheck: the function returned {type(output).__name__}, expected tensors"
            )
    return outputs
