"""Where did the NaN come from? Run the step again and watch every module and every launch.

A loss that is no longer finite says nothing about its origin: one infinity in one layer becomes
NaN everywhere within a few operations. So the same step is run once more, with the same weights
(the gate kept the update away from them), the same batch and the same dropout bits, and this time
every module's output is looked at, innermost first, and after that the result of every launch of
the backward pass. The first bad value is the culprit, or the messenger closest to it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from baremetal.autograd import Tensor
from baremetal.nn import Module

ONLY_IN_THE_NORM = (
    "in the global gradient norm: every single gradient is finite, their squares overflow"
)


class FoundError(Exception):
    """Raised inside the repeated step as soon as the first non-finite value is seen."""


def find_first_non_finite(model: Module, forward: Callable[[], Tensor]) -> str:
    """Repeat a step and name the first place with a value that is not finite.

    Args:
        model: its modules are watched during the forward pass.
        forward: computes the loss of the same microbatch.

    Returns:
        A phrase such as "in the output of blocks.1.mlp (MLP)".
    """
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.data).all():
            return f"in the weights themselves: {name}"
    watched = [(name, module) for name, module in model.named_modules() if name]
    try:
        for name, module in watched:
            _watch(name, module)
        loss = forward()
    except FoundError as found:
        return str(found)
    finally:
        for _, module in watched:
            vars(module).pop("forward", None)  # uncovers the class's own method
    if not np.isfinite(loss.data).all():
        return "in the loss, computed from finite outputs of every layer"
    return _find_in_backward(model, loss)


def _watch(name: str, module: Module) -> None:
    inner = module.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        output = inner(*inputs, **options)
        if isinstance(output, Tensor) and not np.isfinite(output.data).all():
            raise FoundError(f"in the output of {name} ({type(module).__name__})")
        return output

    module.forward = forward  # type: ignore[method-assign]


def _find_in_backward(model: Module, loss: Tensor) -> str:
    launches: list[str] = []

    def listen(run: Callable[[], None], kernel: Any, arrays: tuple, attributes: dict) -> None:
        run()
        floating = [a for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        if not all(np.isfinite(a).all() for a in floating) and not launches:
            launches.append(kernel.name)

    model.zero_grad()
    with loss.device.listen(listen):
        loss.backward()
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not np.isfinite(parameter.grad.data).all()
    ]
    if bad:
        # The backward pass runs from the last layer to the first: the last name came first.
        where = f"in the gradient of {bad[-1]}"
        return where + (f" (first in the kernel '{launches[0]}')" if launches else "")
    return ONLY_IN_THE_NORM
