"""The gradients that segments write: fixed memory, and whether anything lies in it yet.

The first gradient of a step overwrites what lies in its memory; later ones are added. Eager
execution decides by looking: a parameter either has a gradient or, after `zero_grad()`, has none.
The two are different launches (a product overwrites, or adds; a copy, or an addition), and not just
a zero apart: a kernel may sum in another order when there is nothing to add to. So what computes
gradients is recorded twice, and each run looks which of the two is meant.

It looks at more than that. If a parameter has moved to other memory since (a new optimiser, a
conversion), plan and model have parted company, and the sums would go where nobody looks.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Parameter, Tensor
from baremetal.autograd.tape import Node
from baremetal.capture.errors import CaptureError
from baremetal.capture.recording import RecordedLaunch


class _Place(NamedTuple):
    """Where a parameter and its gradient lie while segments are recorded and ever after."""

    parameter: Parameter
    data: np.ndarray
    grad: np.ndarray


class _Writes(NamedTuple):
    """The gradients that one segment writes, and which were there when it overwrote."""

    places: Sequence[_Place]
    there: Sequence[bool]


class Gradients:
    """The trainable parameters of a stage, each with memory of its own for its gradient.

    Args:
        parameters: frozen ones are left out.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._places: list[_Place] = []
        self._had: list[bool] = []
        self._writes: list[_Writes] = []  # for each segment
        for parameter in {id(p): p for p in parameters if p.requires_grad}.values():
            had, present = parameter.has_gradient, parameter.gradient_target()
            parameter.zero_grad()
            if parameter.gradient_target() is None:  # no optimiser has given it any
                content = np.zeros(parameter.shape, parameter.dtype) if present is None else present
                parameter.use_grad_buffer(np.ascontiguousarray(content))
            grad = parameter.gradient_target()
            assert grad is not None
            self._places.append(_Place(parameter, parameter.data, grad))
            self._had.append(had)

    # ------------------------------------------------------------ while segments are recorded

    def set_all(self, there: Sequence[bool]) -> None:
        """Say of each parameter whether it has a gradient (whatever lies in its memory)."""
        for place, has in zip(self._places, there, strict=True):
            if has:
                place.parameter.set_gradient(place.grad)
            else:
                place.parameter.zero_grad()

    def none(self) -> None:
        """As at the beginning of a step."""
        self.set_all([False] * len(self._places))

    def every(self) -> None:
        """As in the middle of one."""
        self.set_all([True] * len(self._places))

    def as_before(self) -> None:
        """As before there was any recording."""
        self.set_all(self._had)

    def there(self) -> list[bool]:
        """Which parameters have a gradient."""
        return [place.parameter.has_gradient for place in self._places]

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
                    "not given, so its gradient would be lost: list it in parameters=, or freeze "
                    "it (requires_grad = False)"
                )

    def note_segment(self, launches: Iterable[RecordedLaunch], there: Sequence[bool]) -> bool:
        """Note which gradients the next segment writes; `there`: those it found when it began.

        Returns:
            Whether it writes any.
        """
        written = [array for launch in launches for array in launch.written_outside()]
        chosen = [
            (place, was_there)
            for place, was_there in zip(self._places, there, strict=True)
            if any(np.may_share_memory(place.grad, array) for array in written)
        ]
        self._writes.append(_Writes([p for p, _ in chosen], [was for _, was in chosen]))
        return bool(chosen)

    # ------------------------------------------------------------ when they run

    def are_first(self, position: int) -> bool:
        """Whether this segment (by number) is to overwrite, there being nothing to add to.

        Raises:
            CaptureError: a parameter has moved, or some have gradients and others have none.
        """
        for parameter, data, grad in self._places:
            if parameter.data is not data or parameter.gradient_target() is not grad:
                raise CaptureError(
                    f"parameter '{parameter.name}' {parameter.shape} or its gradient has moved to "
                    "other memory since its segments were captured (a new optimiser, a "
                    "conversion): capture them again, after making the optimiser"
                )
        places, there_first = self._writes[position]
        there = [place.parameter.has_gradient for place in places]
        if all(there):
            return False
        if there == there_first:
            return True
        odd = next(i for i in range(len(there)) if there[i] != there_first[i])
        parameter = places[odd].parameter
        raise CaptureError(
            f"some parameters have gradients and some have none, such as '{parameter.name}' "
            f"{parameter.shape}, which has {'one' if there[odd] else 'none'}: begin a step with "
            "zero_grad() for all of them"
        )

    def written(self, position: int) -> None:
        """This segment has run: its gradients are there, and have changed."""
        places = self._writes[position].places
        for parameter, _, grad in places:
            parameter.set_gradient(grad)
        if places:
            places[0].parameter.device.backward_passes += 1


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
