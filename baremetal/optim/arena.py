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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import CPU, Device, Parameter
from baremetal.errors import BaremetalError

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
    """

    def __init__(self, parameters: Sequence[Parameter], device: Device = CPU) -> None:
        dtypes = {parameter.dtype for parameter in parameters}
        if len(dtypes) != 1:
            found = ", ".join(sorted(str(d) for d in dtypes)) or "none"
            raise BaremetalError(
                f"an arena holds parameters of one dtype, found: {found}: "
                "convert the model, or give the optimiser at least one parameter"
            )
        (self.dtype,) = dtypes
        self.device = device
        self.places: list[Place] = []
        size = 0
        for parameter in parameters:
            self.places.append(Place(parameter, size, size + parameter.size))
            size += -(-parameter.size // ALIGNMENT) * ALIGNMENT
        self.size = size
        self.data = device.full(size, 0.0, self.dtype)
        self.grad = device.full(size, 0.0, self.dtype)
        for parameter, start, stop in self.places:
            view = self.data[start:stop].reshape(parameter.shape)
            view[...] = parameter.data
            parameter.data = view
            parameter.use_grad_buffer(self.grad[start:stop].reshape(parameter.shape))

    def like(self) -> np.ndarray:
        """A flat array of zeros of the same layout: for moments."""
        return self.device.full(self.size, 0.0, self.dtype)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Views of a flat array, one per parameter, in its shape."""
        return [flat[start:stop].reshape(p.shape) for p, start, stop in self.places]

    def fill_missing_gradients(self) -> None:
        """Zero the gradient memory of parameters that received none since `zero_grad`.

        Memory is reused from step to step, so what lies there is the gradient of an earlier one.
        """
        for parameter, start, stop in self.places:
            if not parameter.has_gradient:
                self.grad[start:stop] = 0.0
