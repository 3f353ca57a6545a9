"""What tensors can do by name: `x.sum()`, `x.reshape(2, -1)`, `x.softmax()`.

Shapes, axes and names are NumPy's, with the few synonyms that PyTorch has made customary. Each
method only names its operation in `ops/`, where forward and gradient stand.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from baremetal.autograd import ops
from baremetal.autograd.ops.axes import checked_axes, checked_axis, checked_sizes
from baremetal.autograd.promotion import is_floating
from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError

if TYPE_CHECKING:
    from baremetal.autograd.tensor import Tensor

Axis = int | tuple[int, ...] | None


class Methods(Traced):
    """Functions of one tensor, for `Tensor`."""

    __slots__ = ()

    # ------------------------------------------------------------ element by element

    def exp(self) -> "Tensor":
        return ops.exp(self)

    def log(self) -> "Tensor":
        return ops.log(self)

    def sqrt(self) -> "Tensor":
        return ops.sqrt(self)

    def square(self) -> "Tensor":
        return ops.square(self)

    def sin(self) -> "Tensor":
        return ops.sin(self)

    def cos(self) -> "Tensor":
        return ops.cos(self)

    def tanh(self) -> "Tensor":
        return ops.tanh(self)

    def sigmoid(self) -> "Tensor":
        return ops.sigmoid(self)

    def relu(self) -> "Tensor":
        return ops.relu(self)

    def gelu(self, *, approximate: Literal["none", "tanh"] = "none") -> "Tensor":
        return ops.gelu(self, approximate=approximate)

    def silu(self) -> "Tensor":
        return ops.silu(self)

    def erf(self) -> "Tensor":
        return ops.erf(self)

    def abs(self) -> "Tensor":
        return ops.absolute(self)

    def maximum(self, other: Any) -> "Tensor":
        return ops.maximum(self, other)

    def minimum(self, other: Any) -> "Tensor":
        return ops.minimum(self, other)

    def clip(self, low: Any = None, high: Any = None) -> "Tensor":
        """Between `low` and `high`; either may be None."""
        x: Any = self if low is None else ops.maximum(self, low)
        return x if high is None else ops.minimum(x, high)

    def astype(self, dtype: Any) -> "Tensor":
        """In another dtype; the gradient comes back in this one. Integers leave the tape."""
        return ops.cast(self, dtype=dtype)

    # ------------------------------------------------------------ along axes

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The largest; where several are equal they share the gradient."""
        return ops.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The smallest; where several are equal they share the gradient."""
        axis = checked_axes("min", self.shape, axis)  # named here: below it is a max
        if is_floating(self.dtype):
            return -ops.max(ops.negative(self), axis=axis, keepdims=keepdims)
        return _smallest_integer(self, axis, keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> "Tensor":
        """Variance, divided by N - ddof. (NumPy's default 0; PyTorch's is 1.)"""
        return ops.variance(self, axis=axis, keepdims=keepdims, ddof=ddof)

    def std(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> "Tensor":
        return ops.sqrt(self.var(axis, keepdims, ddof))

    def logsumexp(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return ops.logsumexp(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """Index of the largest (the first, if several are equal), int64, off the tape."""
        return ops.argmax(self, axis=axis, keepdims=keepdims)

    def softmax(self, axis: int = -1) -> "Tensor":
        return _on_last_axis(ops.softmax, self, axis)

    def log_softmax(self, axis: int = -1) -> "Tensor":
        return _on_last_axis(ops.log_softmax, self, axis)

    # ------------------------------------------------------------ shapes

    def reshape(self, *shape: Any) -> "Tensor":
        """In another shape, one size of which may be -1; a view where NumPy has one."""
        return ops.reshape(self, shape=_listed(shape))

    def view(self, *shape: Any) -> "Tensor":
        """`reshape` that never copies; raises where the memory's order does not allow a view."""
        result = ops.reshape(self, shape=_listed(shape))
        if result.size and not np.shares_memory(result.data, self.data):
            raise BaremetalError(
                f"view of shape {self.shape} as {result.shape}: this tensor's memory is not in "
                "that order (it was transposed or sliced); use reshape, which copies if it must"
            )
        return result

    def flatten(self) -> "Tensor":
        return ops.reshape(self, shape=(-1,))

    def transpose(self, *axes: Any) -> "Tensor":
        """Axes in this order; without arguments, in reverse."""
        return ops.transpose(self, axes=_listed(axes) or tuple(range(self.ndim))[::-1])

    permute = transpose

    @property
    def T(self) -> "Tensor":  # noqa: N802
        """All axes in reverse: of a matrix, its transpose."""
        return self.transpose()

    @property
    def mT(self) -> "Tensor":  # noqa: N802
        """The last two axes exchanged: the transpose of each matrix of a batch."""
        if self.ndim < 2:
            raise BaremetalError(f"mT of a tensor of shape {self.shape}: it has no two axes")
        return self.swapaxes(-1, -2)

    def swapaxes(self, first: int, second: int) -> "Tensor":
        """With these two axes exchanged."""
        i, j = (checked_axis("swapaxes", self.shape, axis) for axis in (first, second))
        axes = list(range(self.ndim))
        axes[i], axes[j] = j, i
        return ops.transpose(self, axes=tuple(axes))

    def squeeze(self, axis: Axis = None) -> "Tensor":
        """Without the axes of size 1 (all, or those given, which must be of size 1)."""
        axes = checked_axes("squeeze", self.shape, axis)
        dropped = [a for a in axes if self.shape[a] == 1]
        if axis is not None and len(dropped) != len(axes):
            raise BaremetalError(f"squeeze of axis {axis}: its size in {self.shape} is not 1")
        kept = tuple(n for a, n in enumerate(self.shape) if a not in dropped)
        return ops.reshape(self, shape=kept)

    def unsqueeze(self, axis: int) -> "Tensor":
        """With a new axis of size 1 at this place."""
        place = checked_axis("unsqueeze", self.shape, axis, new=True)
        return ops.reshape(self, shape=(*self.shape[:place], 1, *self.shape[place:]))

    def expand(self, *shape: Any) -> "Tensor":
        """Repeated along axes of size 1, without a copy; -1 keeps a size."""
        wanted = checked_sizes("expand", self.shape, _listed(shape))
        if len(wanted) < self.ndim:
            raise BaremetalError(
                f"expand of a tensor of shape {self.shape} to {wanted}: expected at least "
                f"{self.ndim} sizes (-1 keeps one); reshape takes axes away"
            )
        own = (1,) * (len(wanted) - self.ndim) + self.shape
        sizes = [n if w == -1 else w for w, n in zip(wanted, own, strict=True)]
        return ops.broadcast_to(self, shape=tuple(sizes))

    def broadcast_to(self, *shape: Any) -> "Tensor":
        return ops.broadcast_to(self, shape=_listed(shape))

    def pad(self, widths: Any, value: float = 0.0) -> "Tensor":
        """`value` around it; `widths` is one (before, after) per axis."""
        return ops.pad(self, widths=widths, value=value)

    def masked_fill(self, mask: Any, value: float) -> "Tensor":
        """`value` where the mask is True; no gradient flows there."""
        return ops.where(mask, value, self)

    def numel(self) -> int:
        """How many elements there are (PyTorch's word for `size`)."""
        return math.prod(self.shape)


def _smallest_integer(x: Any, axis: Axis, keepdims: bool) -> Any:
    """c - max(c - x), where c - x fits the dtype for every x: -x does not."""
    if x.dtype == np.bool_:
        return _smallest_integer(ops.cast(x, dtype=np.uint8), axis, keepdims).astype(np.bool_)
    c = -1 if x.dtype.kind == "i" else int(np.iinfo(x.dtype).max)
    return c - ops.max(c - x, axis=axis, keepdims=keepdims)


def _on_last_axis(operation: Any, x: Any, axis: int) -> Any:
    place = checked_axis(operation.name, x.shape, axis)
    if place == x.ndim - 1:
        return operation(x)
    return operation(x.swapaxes(place, -1)).swapaxes(place, -1)


def _listed(numbers: tuple) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    if len(numbers) == 1 and isinstance(numbers[0], (tuple, list)):
        return tuple(numbers[0])
    return numbers
