"""What the tape and the engine need to know of a tensor: its array, its origin, its gradient.

`Tensor` adds everything a person wants. The two are apart so that operations (which take tensors)
and the tensor (which calls operations) need not import each other.
"""

from typing import Any

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.errors import AutogradError
from baremetal.autograd.tape import Node, Version
from baremetal.kernels.elementwise import add as add_kernel
from baremetal.kernels.elementwise import copy as copy_kernel


class Traced:
    """An array with a place on the tape.

    Attributes:
        data: the underlying array. Writing to it bypasses the tape's change detection (`tape.py`).
        device: where it lives.
        node: the tape entry that made it, None for a leaf.
        version: counts in-place changes; shared with views.
        tracked: whether gradients are wanted here (`requires_grad`, unchecked and fast).
        name: shown in messages and pictures.
    """

    __slots__ = (
        "__weakref__", "_grad", "_grad_buffer", "_grad_version", "data", "device", "name", "node",
        "tracked", "version",
    )  # fmt: skip
    weight_side = False  # a gradient that arrives here is an activation's (see Parameter)

    data: np.ndarray
    device: Device
    node: Node | None
    version: Version
    tracked: bool
    name: str
    _grad: np.ndarray | None
    _grad_buffer: np.ndarray | None
    _grad_version: Version | None  # counts the changes of the gradient, once anyone has looked

    def fill_in(
        self, data: np.ndarray, device: Device, node: Node | None, version: Version
    ) -> None:
        """Set every attribute: a result of an operation, or an untracked leaf."""
        self.data = data
        self.device = device
        self.node = node
        self.version = version
        self.tracked = node is not None
        self.name = ""
        self._grad = None
        self._grad_buffer = None
        self._grad_version = None

    def made_by_op(self, data: np.ndarray, node: Node | None, version: Version) -> Any:
        """A new tensor for an operation's result, on this tensor's device (for `Op`)."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted here; can be set on a leaf of a floating dtype."""
        return self.tracked

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if self.node is not None and not wanted:
            raise AutogradError(
                f"requires_grad=False on a tensor that '{self.node.op.name}' made: only leaves "
                "choose; use detach() for the same values off the tape, or no_grad() around it"
            )
        if wanted:
            check_floating(self.dtype)
        self.device.note_leaf(self)
        self.tracked = bool(wanted)

    # ------------------------------------------------------------ the gradient of a leaf

    @property
    def has_gradient(self) -> bool:
        """Whether any gradient has arrived since the last `zero_grad`."""
        return self._grad is not None

    def use_grad_buffer(self, buffer: np.ndarray) -> None:
        """Collect gradients in this memory (a slice of an optimiser's flat arena).

        What lies there is stale until the first gradient arrives, which overwrites it.
        """
        if buffer.shape != self.shape or buffer.dtype != self.dtype:
            raise AutogradError(
                f"a gradient buffer of shape {buffer.shape} {buffer.dtype} for a tensor of shape "
                f"{self.shape} {self.dtype}: shape and dtype must be equal"
            )
        if not (buffer.flags.writeable and buffer.flags.c_contiguous):
            raise AutogradError(
                f"a gradient buffer of shape {buffer.shape} with strides {buffer.strides}, "
                f"{'' if buffer.flags.writeable else 'not '}writeable: kernels will write through "
                "its address, so it must be writeable and C-contiguous"
            )
        self.device.note_leaf(self)
        self._grad_buffer = buffer
        self._grad_version = None  # of other memory
        if self._grad is not None:
            self.device.launch(copy_kernel, self._grad, buffer)
            self._grad = buffer

    def gradient_target(self) -> np.ndarray | None:
        """Where a gradient should be written or added, if there is such a place already."""
        return self._grad if self._grad is not None else self._grad_buffer

    def gradient_changed(self, changed_by: str = "backward") -> None:
        """Count one change of the memory that gradients are collected in."""
        if self._grad_version is not None:
            self._grad_version.bump(changed_by)

    def set_gradient(self, array: np.ndarray) -> None:
        """Declare that `array` now holds the gradient (for the engine)."""
        self.device.note_leaf(self)
        self._grad = array
        self.gradient_changed()

    def add_gradient(self, result: np.ndarray, shared: bool) -> None:
        """Add a gradient that a rule returned; `shared` memory is copied before it is kept."""
        self.device.note_leaf(self)
        self.gradient_changed()
        if self._grad is not None:
            self.device.launch(add_kernel, self._grad, result, self._grad)
            return
        if self._grad_buffer is None and not shared:
            self._grad = result
            return
        if self._grad_buffer is None:
            self._grad = self.device.empty(result.shape, result.dtype)
        else:
            self._grad = self._grad_buffer
        self.device.launch(copy_kernel, result, self._grad)

    def zero_grad(self) -> None:
        """Forget the gradient. (A buffer is overwritten by the next gradient, not cleared now.)"""
        self.device.note_leaf(self, is_zeroed=True)
        self._grad = None
        if self._grad_buffer is None:
            self._grad_version = None  # the next gradient will lie elsewhere


def check_floating(dtype: np.dtype) -> None:
    """Refuse gradients for integers and booleans: they cannot change by a little."""
    if dtype.kind != "f":
        raise AutogradError(
            f"requires_grad=True on dtype {dtype}: only floating tensors have gradients; "
            "pass dtype=np.float32"
        )
