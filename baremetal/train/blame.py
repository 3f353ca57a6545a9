"""Where did the NaN come from? Run the step again and watch every module and every launch.

A loss that is no longer finite says nothing about its origin: one infinity in one layer becomes
NaN everywhere within a few operations. So the same step is run once more, with the same weights
(the gate kept the update away from them), the same batch and the same dropout bits, and this time
everything is looked at, in the order in which it is computed: what goes into every module and what
comes out, innermost first, and then the result of every launch of the backward pass. The first bad
value is the culprit, or the messenger closest to it.

A launch of the backward pass knows its node on the tape, and the tape numbers its nodes in the
order of the forward pass. A module's nodes are therefore those made while it was running: that is
how a gradient finds its layer.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd import Tensor
from baremetal.autograd.tape import Node
from baremetal.nn import Module

ONLY_IN_THE_NORM = (
    "in the global gradient norm: every single gradient is finite, their squares overflow"
)


class FoundError(Exception):
    """Raised inside the repeated step as soon as the first non-finite value is seen."""


class Stay(NamedTuple):
    """A module's forward: the nodes numbered from `first` up to, not with, `after` are its own."""

    label: str
    first: int
    after: int


def find_first_non_finite(model: Module, forward: Callable[[], Tensor]) -> str:
    """Repeat a step and name the first place with a value that is not finite.

    Args:
        model: its modules are watched.
        forward: computes the loss of the same microbatch.

    Returns:
        A phrase such as "in the output of blocks.1.mlp (MLP)".
    """
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.data).all():
            return f"in the weights themselves: {name}"
    stays: list[Stay] = []
    sequence = next(model.parameters()).device.sequence
    watched = [(_label(name, module), module) for name, module in model.named_modules()]
    try:
        for label, module in watched:
            _watch(label, module, stays, sequence)
        loss = forward()
    except FoundError as found:
        return str(found)
    finally:
        for _, module in watched:
            vars(module).pop("forward", None)  # uncovers the class's own method
    if not _is_finite(loss.data):
        return "in the loss, computed from finite logits"
    return _find_in_backward(model, loss, stays)


def _label(name: str, module: Module) -> str:
    return f"{name or 'the model itself'} ({type(module).__name__})"


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


# ---------------------------------------------------------------- forward


def _watch(label: str, module: Module, stays: list[Stay], sequence: Iterator[int]) -> None:
    inner = module.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Tensor) and not _is_finite(x.data) for x in inputs):
            raise FoundError(f"in what goes into {label}, computed from finite outputs")
        first = next(sequence)  # uses a number up, which is all that a later node needs to differ
        output = inner(*inputs, **options)
        stays.append(Stay(label, first, next(sequence)))
        if isinstance(output, Tensor) and not _is_finite(output.data):
            raise FoundError(f"in the output of {label}")
        return output

    module.forward = forward  # type: ignore[method-assign]


# ---------------------------------------------------------------- backward


def _find_in_backward(model: Module, loss: Tensor, stays: list[Stay]) -> str:
    """Run the backward pass with an eye on every launch; the first bad result names its layer."""
    suspects: list[str] = []
    model.zero_grad()
    for node in _tape(loss):
        _watch_launches(node, stays, suspects)
    loss.backward()
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not _is_finite(parameter.grad.data)
    ]
    if not bad:
        return ONLY_IN_THE_NORM
    return suspects[0] if suspects else f"in the gradient of {bad[-1]}"


def _tape(loss: Tensor) -> Iterator[Node]:
    """Every node that the loss was computed by, once."""
    waiting, seen = [loss.node], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, Node) and id(node) not in seen:
            seen.add(id(node))
            waiting += node.parents
            yield node


def _watch_launches(node: Node, stays: list[Stay], suspects: list[str]) -> None:
    context = node.context
    if context is None:
        return
    launch = context.launch

    def watched(kernel: Any, *arrays: Any, **attributes: Any) -> None:
        launch(kernel, *arrays, **attributes)
        floating = [a for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        if not suspects and not all(map(_is_finite, floating)):
            suspects.append(f"in the gradient of {_layer_of(node, stays)}, kernel '{kernel.name}'")

    context.launch = watched


def _layer_of(node: Node, stays: list[Stay]) -> str:
    """The innermost module that made this node, or the loss that stands above them all."""
    around = [stay for stay in stays if stay.first <= node.sequence < stay.after]
    return min(around, key=lambda stay: stay.after - stay.first).label if around else "the loss"
