"""The gradients that segments add to: fixed memory, begun with zeros, never replaced unseen.

A plan adds to the memory that a gradient had when it was recorded. If the parameter lets go of that
memory (an optimiser's `zero_grad()` forgets gradients without clearing them), or moves to other
memory (a new optimiser), plan and model part company: the sums would go where nobody looks. Hence a
look at each parameter before every run.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Parameter, Tensor
from baremetal.autograd.tape import Node
from baremetal.capture.errors import CaptureError
from baremetal.capture.recording import RecordedLaunch
from baremetal.kernels.elementwise import fill


class _Place(NamedTuple):
    """Where a parameter and its gradient lay when they were recorded."""

    parameter: Parameter
    data: np.ndarray
    grad: np.ndarray


class Gradients:
    """The trainable parameters of a stage, each with memory for its gradient.

    Args:
        parameters: frozen ones are left out. One that has no gradient gets one of zeros.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._places: list[_Place] = []
        self._added_by: list[list[_Place]] = []  # for each segment
        for parameter in {id(p): p for p in parameters if p.requires_grad}.values():
            if not parameter.has_gradient:
                parameter.grad = np.zeros(parameter.shape, parameter.dtype)
            grad = parameter.gradient_target()
            assert grad is not None
            self._places.append(_Place(parameter, parameter.data, grad))

    def refuse_others(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Refuse results of segment `name` that were computed from a parameter we do not know.

        Raises:
            CaptureError: naming the parameter.
        """
        known = {id(place.parameter) for place in self._places}
        for parameter in _parameters_of(tensors):
            if id(parameter) not in known:
                raise CaptureError(
                    f"'{name}' uses the parameter '{parameter.name}' {parameter.shape}, which was "
                    "not given: its first gradient would overwrite where later ones should add; "
                    "list it in parameters=, or freeze it (requires_grad = False)"
                )

    def note_segment(self, launches: Sequence[RecordedLaunch]) -> None:
        """Note which gradients the next segment adds to."""
        written = [array for launch in launches for array in launch.written_outside()]
        self._added_by.append(
            [p for p in self._places if any(np.may_share_memory(p.grad, a) for a in written)]
        )

    def zero(self) -> None:
        """Make every gradient zeros, in its memory."""
        for parameter, _, grad in self._places:
            parameter.device.launch(fill, grad, value=0.0)
            parameter.set_gradient(grad)

    def check(self, position: int) -> None:
        """Whether everything still lies where this segment (by number) expects it.

        Raises:
            CaptureError: naming the parameter.
        """
        for parameter, data, _ in self._places:
            if parameter.data is not data:
                raise CaptureError(
                    f"parameter '{parameter.name}' {parameter.shape} has moved to other memory "
                    "since its segments were captured (a new optimiser, a conversion): capture "
                    "them again, after making the optimiser"
                )
        for parameter, _, grad in self._added_by[position]:
            if not (parameter.has_gradient and parameter.gradient_target() is grad):
                raise CaptureError(
                    f"the gradient of parameter '{parameter.name}' {parameter.shape} is not there "
                    "to be added to: begin every step with zero_grad() of the captured segments, "
                    "not of the optimiser or the module"
                )

    def changed(self, position: int) -> None:
        """This segment has run: tell whoever has looked at the gradients it added to."""
        for parameter, _, _ in self._added_by[position]:
            parameter.gradient_changed()
        if self._added_by[position]:
            self._added_by[position][0].parameter.device.backward_passes += 1


def _parameters_of(tensors: Iterable[Tensor]) -> list[Parameter]:
    """The parameters that the tape leads to from these tensors."""
    found: dict[int, Parameter] = {}
    waiting: list = [tensor.node or tensor for tensor in tensors]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Node):
            waiting += [parent for parent in value.parents if parent is not None]
        elif isinstance(value, Parameter) and value.requires_grad:
            found[id(value)] = value
    return [*found.values()]
