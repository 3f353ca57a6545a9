"""The tensor: a NumPy array, and where on the tape it came from.

    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    x.grad                      # 2x

Everything a tensor can do is an operation in `ops/`; the methods here only name them, convert
plain numbers and arrays, and promote dtypes by NumPy's rules.
"""

from typing import Any

import numpy as np

from baremetal.autograd import ops
from baremetal.autograd.backward import AutogradError, Owed, backward
from baremetal.autograd.device import CPU, Device
from baremetal.autograd.op import Node, Version
from baremetal.kernels.elementwise import add as add_kernel
from baremetal.kernels.elementwise import copy as copy_kernel


class Tensor:
    """An array that can be differentiated through.

    Args:
        data: anything `numpy.asarray` takes. Python floats become float32.
        requires_grad: collect gradients here when `backward` runs. Floating dtypes only.
        dtype: convert to this dtype.
        device: where it lives.

    Attributes:
        data: the underlying array. Writing to it bypasses the tape's change detection.
        node: the tape entry that made it, None for a leaf.
        version: counts in-place changes; shared with views.
        name: shown in messages and pictures.
    """

    __slots__ = (
        "__weakref__", "_grad", "_grad_buffer", "data", "device", "name", "node", "requires_grad",
        "version",
    )  # fmt: skip
    __array_priority__ = 1000  # so that  ndarray * Tensor  asks the tensor
    weight_side = False  # a gradient that arrives here is an activation's (see Parameter)

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        dtype: Any = None,
        device: Device = CPU,
        name: str = "",
    ) -> None:
        if isinstance(data, Tensor):
            data = data.data
        array = np.asarray(data, dtype=dtype)
        if dtype is None and not hasattr(data, "dtype") and array.dtype == np.float64:
            array = array.astype(np.float32)  # plain Python numbers: our default precision
        self._fill(array, device, None, Version())
        self.name = name
        if requires_grad:
            _check_floating(array)
            self.requires_grad = True

    def _fill(self, data: np.ndarray, device: Device, node: Node | None, version: Version) -> None:
        self.data = data
        self.device = device
        self.node = node
        self.version = version
        self.requires_grad = node is not None
        self.name = ""
        self._grad: np.ndarray | None = None
        self._grad_buffer: np.ndarray | None = None

    def made_by_op(self, data: np.ndarray, node: Node | None, version: Version) -> "Tensor":
        """A new tensor for an operation's result, on this tensor's device (for `Op`)."""
        tensor = Tensor.__new__(Tensor)
        tensor._fill(data, self.device, node, version)
        return tensor

    # ------------------------------------------------------------ gradients

    @property
    def grad(self) -> "Tensor | None":
        """The gradient collected so far, or None."""
        return None if self._grad is None else Tensor(self._grad, device=self.device)

    @grad.setter
    def grad(self, value: Any) -> None:
        self._grad = None if value is None else np.asarray(getattr(value, "data", value))

    @property
    def has_gradient(self) -> bool:
        """Whether any gradient has arrived since the last `zero_grad`."""
        return self._grad is not None

    def use_grad_buffer(self, buffer: np.ndarray) -> None:
        """Collect gradients in this memory (a slice of an optimiser's flat arena)."""
        self._grad_buffer = buffer
        if self._grad is not None:
            buffer[...] = self._grad
            self._grad = buffer

    def gradient_target(self) -> np.ndarray | None:
        """Where a gradient should be written or added, if there is such a place already."""
        return self._grad if self._grad is not None else self._grad_buffer

    def set_gradient(self, array: np.ndarray) -> None:
        """Declare that `array` now holds the gradient (for the engine)."""
        self._grad = array

    def add_gradient(self, result: np.ndarray, shared: bool) -> None:
        """Add a gradient that a rule returned; `shared` memory is copied before it is kept."""
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
        self._grad = None

    def backward(self, cotangent: Any = None, **options: Any) -> Owed | None:
        """Add dL/dx to every leaf's `grad`; see `baremetal.autograd.backward.backward`."""
        return backward(self, cotangent, **options)

    def detach(self) -> "Tensor":
        """The same memory, off the tape."""
        return self.made_by_op(self.data, None, self.version)

    # ------------------------------------------------------------ looking at it

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def numpy(self) -> np.ndarray:
        """A read-only view. (A write through it would escape the tape's change detection.)"""
        view = self.data.view()
        view.flags.writeable = False
        return view

    def item(self) -> Any:
        """The single element as a Python number."""
        return self.data.item()

    # ------------------------------------------------------------ arithmetic

    def _binary(self, operation: Any, other: Any, swap: bool = False) -> "Tensor":
        other = self._coerce(other)
        left, right = (other, self) if swap else (self, other)
        return operation(left, right)

    def _coerce(self, other: Any) -> "Tensor":
        """A plain number takes this tensor's dtype (NumPy's weak scalars); arrays keep theirs."""
        if isinstance(other, Tensor):
            return other
        return Tensor(np.asarray(other, dtype=self.dtype), device=self.device)

    def __add__(self, other: Any) -> "Tensor":
        return self._binary(ops.add, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> "Tensor":
        return self._binary(ops.multiply, other)

    __rmul__ = __mul__

    def __matmul__(self, other: Any) -> "Tensor":
        return self._binary(ops.matmul, other)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r})"


class Parameter(Tensor):
    """A tensor that is trained: a leaf whose gradient is a *weight* gradient (deferrable)."""

    __slots__ = ()
    weight_side = True

    def __init__(self, data: Any, requires_grad: bool = True, **options: Any) -> None:
        super().__init__(data, requires_grad=requires_grad, **options)


def _check_floating(array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        raise AutogradError(
            f"requires_grad=True on dtype {array.dtype}: only floating tensors have gradients; "
            "pass dtype=np.float32"
        )
