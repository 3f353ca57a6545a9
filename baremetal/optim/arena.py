"""All parameters in one flat piece of memory, and all gradients in another.

An optimiser does the same few operations to every number of the model. With each parameter in an
array of its own that is hundreds of small loops, each with its own overhead; with all of them in
one flat array it is one loop at the speed of memory, and the global gradient norm is one
reduction. (A sharded optimiser such as ZeRO cuts the same flat array into equal pieces.)

    parameter   [ wte ........ | wpe .. | blocks.0.qkv ....... | ... ]   float32
    gradient    [ same layout                                        ]

The parameters themselves become views into it: whoever holds a `Parameter` sees no difference.
Each starts on a multiple of 16 elements (one cache line of float32); the gaps stay zero.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import CPU, Device, Parameter
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import copy, fill

ALIGNMENT = 16  # elements: 64 bytes of float32


class Place(NamedTuple):
    """Where one parameter lies in the arena, in elements."""

    parameter: Parameter
    start: int
    stop: int


class ParameterArena:
    """Moves parameters and their gradients into flat memory.

    Args:
        parameters: each once; all of one floating dtype.
        device: where to allocate.

    Attributes:
        data: the flat parameters, (size,).
        grad: the flat gradients, (size,).
        places: where each parameter lies, in order.

    Raises:
        BaremetalError: no parameters, several dtypes, a parameter that is listed twice or that
            lives on another device.
    """

    def __init__(self, parameters: Sequence[Parameter], device: Device = CPU) -> None:
        self.dtype = _common_dtype(parameters)
        _refuse_repeats(parameters)
        _refuse_other_devices(parameters, device)
        self.device = device
        self.places: list[Place] = []
        size = 0
        for parameter in parameters:
            self.places.append(Place(parameter, size, size + parameter.size))
            size += -(-parameter.size // ALIGNMENT) * ALIGNMENT
        self.size = size
        self.data = device.full(size, 0.0, self.dtype)
        self.grad = device.full(size, 0.0, self.dtype)
        self._views = self.split(self.data)
        self._grad_views = self.split(self.grad)
        for place, view, grad in zip(self.places, self._views, self._grad_views, strict=True):
            device.launch(copy, place.parameter.data, view)
            place.parameter.data = view
            place.parameter.use_grad_buffer(grad)

    def like(self) -> np.ndarray:
        """A flat array of zeros of the same layout: for moments."""
        return self.device.full(self.size, 0.0, self.dtype)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Views of a flat array, one per parameter, in its shape."""
        return [flat[start:stop].reshape(p.shape) for p, start, stop in self.places]

    def collect_gradients(self) -> None:
        """Make the flat gradient that of this step: every parameter's own, or zero.

        A parameter that received no gradient since `zero_grad` gets zeros, since memory is reused
        from step to step and what lies there is the gradient of an earlier one. A gradient that
        lies elsewhere (another buffer was lent to the parameter) is copied in.

        Raises:
            BaremetalError: a parameter was frozen, or left the arena, after it was made.
        """
        for place, view, grad in zip(self.places, self._views, self._grad_views, strict=True):
            parameter = place.parameter
            if parameter.data is not view or not parameter.tracked:
                raise _lost(parameter, frozen=not parameter.tracked)
            self.device.note_leaf(parameter)
            if not parameter.has_gradient:
                self.device.launch(fill, grad, value=0.0)
                parameter.gradient_changed("step")
            elif parameter.gradient_target() is not grad:
                parameter.use_grad_buffer(grad)


def _common_dtype(parameters: Sequence[Parameter]) -> np.dtype:
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) != 1:
        found = ", ".join(sorted(str(d) for d in dtypes)) or "none"
        raise BaremetalError(
            f"an arena holds parameters of one dtype, found: {found}: "
            "convert the model, or give the optimiser at least one parameter"
        )
    return dtypes.pop()


def _refuse_repeats(parameters: Sequence[Parameter]) -> None:
    counts = Counter(id(parameter) for parameter in parameters)
    twice = {id(p): p for p in parameters if counts[id(p)] > 1}
    if twice:
        listed = ", ".join(f"'{p.name}' {p.shape}" for p in twice.values())
        raise BaremetalError(
            f"these parameters are listed more than once: {listed}: put each into one group only "
            "(module.parameters() yields tied parameters once)"
        )


def _refuse_other_devices(parameters: Sequence[Parameter], device: Device) -> None:
    for parameter in parameters:
        if parameter.device is not device:
            raise BaremetalError(
                f"parameter '{parameter.name}' {parameter.shape} lives on {parameter.device}, the "
                f"optimiser on {device}: pass device= to the optimiser, or move the model with "
                "to(device=...)"
            )


def _lost(parameter: Parameter, frozen: bool) -> BaremetalError:
    if frozen:
        return BaremetalError(
            f"parameter '{parameter.name}' {parameter.shape} was frozen after the optimiser was "
            "made, which would still decay it: make a new optimiser after freezing"
        )
    return BaremetalError(
        f"parameter '{parameter.name}' {parameter.shape} is no longer in this optimiser's memory "
        "(another optimiser took it, or the model was converted): make a new optimiser"
    )
