"""The tensor: a NumPy array, and where on the tape it came from.

    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    x.grad                      # 2x

Everything a tensor can do is an operation in `ops/`. The names are spread over four files by idea:
`operators.py` (+, @, <, [...]), `methods.py` (sum, reshape, softmax, ...), `inplace.py` (changes
where it lies) and here: making tensors, gradients, and looking at what is inside.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from baremetal.autograd import ops
from baremetal.autograd.backward import Owed, backward, check_constant
from baremetal.autograd.device import CPU, Device
from baremetal.autograd.errors import AutogradError
from baremetal.autograd.inplace import InPlace
from baremetal.autograd.methods import Methods
from baremetal.autograd.operators import Operators
from baremetal.autograd.promotion import to_array
from baremetal.autograd.tape import Node, Version
from baremetal.autograd.traced import check_floating
from baremetal.kernels.elementwise import copy

Shape = int | tuple[int, ...]


class Tensor(Operators, Methods, InPlace):
    """An array that can be differentiated through.

    Args:
        data: anything `numpy.asarray` takes. Python floats become float32. An array's memory is
            shared, not copied; a tensor's too, and with it its count of in-place changes. Change
            it through the tensor (`x[...] = value`): what is written into the array itself
            between forward and backward goes unseen, into a wrong gradient.
        requires_grad: collect gradients here when `backward` runs. Floating dtypes only.
        dtype: convert to this dtype.
        device: where it lives.
        name: shown in messages and pictures.

    Raises:
        BaremetalError: `data` holds no numbers.
        AutogradError: `requires_grad` on integers or booleans.
    """

    __slots__ = ()

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        dtype: Any = None,
        device: Device = CPU,
        name: str = "",
    ) -> None:
        source = data.data if isinstance(data, Tensor) else data
        array = to_array(source, dtype)
        if dtype is None and not hasattr(source, "dtype") and array.dtype == np.float64:
            array = array.astype(np.float32)  # plain Python numbers: our default precision
        shares = isinstance(data, Tensor) and array is source
        self.fill_in(array, device, None, data.version if shares else Version())
        self.name = name
        if requires_grad:
            check_floating(array.dtype)
            self.tracked = True

    def made_by_op(self, data: np.ndarray, node: Node | None, version: Version) -> "Tensor":
        """A new tensor for an operation's result, on this tensor's device (for `Op`)."""
        tensor = Tensor.__new__(Tensor)
        tensor.fill_in(data, self.device, node, version)
        return tensor

    # ------------------------------------------------------------ making tensors

    @classmethod
    def zeros(cls, shape: Shape, dtype: Any = np.float32, device: Device = CPU) -> "Tensor":
        return Tensor(device.full(shape, 0.0, dtype), device=device)

    @classmethod
    def ones(cls, shape: Shape, dtype: Any = np.float32, device: Device = CPU) -> "Tensor":
        return Tensor(device.full(shape, 1.0, dtype), device=device)

    @classmethod
    def full(
        cls, shape: Shape, value: float, dtype: Any = np.float32, device: Device = CPU
    ) -> "Tensor":
        return Tensor(device.full(shape, value, dtype), device=device)

    @classmethod
    def arange(cls, *limits: float, dtype: Any = None, device: Device = CPU) -> "Tensor":
        """`numpy.arange`: int64 for integers, float32 for floats."""
        array = np.arange(*limits, dtype=dtype)
        if dtype is None and array.dtype.kind == "f":
            array = array.astype(np.float32)
        return Tensor(array, device=device)

    @classmethod
    def randn(
        cls,
        shape: Shape,
        rng: np.random.Generator,
        dtype: Any = np.float32,
        device: Device = CPU,
        requires_grad: bool = False,
    ) -> "Tensor":
        """Normally distributed, mean 0 and standard deviation 1; the generator is explicit."""
        values = np.asarray(rng.standard_normal(shape)).astype(dtype)
        return Tensor(values, requires_grad, device=device)

    # ------------------------------------------------------------ gradients

    @property
    def grad(self) -> "Tensor | None":
        """The gradient collected so far, or None. Shares the memory it is collected in.

        A constant, off the tape: a loss that is computed from it has no gradient by way of it. The
        next backward changes it; an operation that saved it for its own backward will say so.
        What is assigned is copied, in this tensor's dtype.
        """
        self.device.note_leaf(self)
        if self._grad is None:
            return None
        if self._grad_version is None:
            self._grad_version = Version()
        return self.made_by_op(self._grad, None, self._grad_version)

    @grad.setter
    def grad(self, value: Any) -> None:
        self.device.backward_passes += 1  # for who has measured the gradients that were
        if value is None:
            self.zero_grad()
            return
        check_constant("the gradient", value)
        array = value.data if isinstance(value, Tensor) else to_array(value, self.dtype)
        if array.shape != self.shape:
            raise AutogradError(
                f"a gradient of shape {array.shape} for a tensor of shape {self.shape}: the "
                "shapes must be equal"
            )
        # The next backward adds to it: that must not reach into memory that someone else holds.
        self.device.note_leaf(self, is_zeroed=True)
        own = self._grad_buffer
        if own is None:
            self.zero_grad()
            own = self.device.empty(self.shape, self.dtype)
        self.device.launch(copy, self._apart(array, own), own)
        self._grad = own
        self.gradient_changed("x.grad = value")

    def backward(self, cotangent: Any = None, **options: Any) -> Owed | None:
        """Add dL/dx to every leaf's `grad`; see `baremetal.autograd.backward.backward`."""
        return backward(self, cotangent, **options)

    def detach(self) -> "Tensor":
        """The same memory, off the tape."""
        return self.made_by_op(self.data, None, self.version)

    def clone(self) -> "Tensor":
        """A copy in memory of its own, still on the tape."""
        return ops.clone(self)

    # ------------------------------------------------------------ looking at it

    def numpy(self) -> np.ndarray:
        """A read-only view. (A write through it would escape the tape's change detection.)"""
        self.device.refuse_reading("numpy()")
        view = self.data.view()
        view.flags.writeable = False
        return view

    def item(self) -> Any:
        """The single element as a Python number."""
        if self.size != 1:
            raise AutogradError(
                f"item() of a tensor of shape {self.shape}: it has {self.size} elements, expected "
                "1; index it first, or use tolist()"
            )
        self.device.refuse_reading("item()")
        return self.data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        self.device.refuse_reading("tolist()")
        return self.data.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """For `numpy.asarray(tensor)`: the same read-only view that `numpy()` gives."""
        view = self.numpy()
        if copy or (dtype is not None and np.dtype(dtype) != view.dtype):
            return np.array(view, dtype=dtype)
        return view

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a tensor of shape (): a single number has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise AutogradError(
                f"the truth of a tensor of shape {self.shape} is ambiguous: compare it, then use "
                ".numpy().all() or .numpy().any()"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"a tensor of dtype {self.dtype} is no index: use integers")
        return int(self.item())

    def __repr__(self) -> str:
        """The values, and of dtype, name, gradient and origin only what is not the default."""
        kind = type(self).__name__
        lines = np.array2string(
            self.data, separator=", ", prefix=f"{kind}(", threshold=200, edgeitems=3, precision=4
        )
        facts = [] if self.size else [f"shape={self.shape}"]
        if self.dtype != np.float32:
            facts.append(f"dtype={self.dtype}")
        if self.name:
            facts.append(f"name={self.name!r}")
        if self.node is not None:
            facts.append(f"made by {self.node.op.name}")
        elif self.tracked and kind == "Tensor":
            facts.append("requires_grad=True")
        elif not self.tracked and kind == "Parameter":
            facts.append("frozen")
        return f"{kind}({', '.join([lines, *facts])})"

    # ------------------------------------------------------------ copying

    def __deepcopy__(self, memo: dict) -> "Tensor":
        """A leaf of its own, on the same device (`copy.deepcopy(model)`)."""
        if self.node is not None:
            raise AutogradError(
                f"deepcopy of a tensor that '{self.node.op.name}' made: a copy would have no "
                "tape; use detach() or clone()"
            )
        duplicate = type(self)(
            self.data.copy(), requires_grad=self.tracked, device=self.device, name=self.name
        )
        memo[id(self)] = duplicate
        return duplicate

    def __reduce__(self) -> Any:
        """Pickled by value, as a leaf on the default device."""
        if self.device is not CPU:
            raise AutogradError(
                f"pickling a tensor on {self.device}: devices stay in their process; send .numpy()"
            )
        return _from_parts, (type(self), self.data, self.tracked, self.name)


class Parameter(Tensor):
    """A tensor that is trained: a leaf whose gradient is a *weight* gradient (deferrable)."""

    __slots__ = ()
    weight_side = True

    def __init__(self, data: Any, requires_grad: bool = True, **options: Any) -> None:
        super().__init__(data, requires_grad=requires_grad, **options)


def _from_parts(kind: type, data: np.ndarray, requires_grad: bool, name: str) -> Tensor:
    """What unpickling calls."""
    return kind(data, requires_grad=requires_grad, name=name)
