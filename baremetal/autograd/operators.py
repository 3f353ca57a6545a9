"""What Python's operators mean on tensors: each names its operation.

A plain number takes the tensor's dtype, an array or a list is a constant (`promotion.py`).
Comparisons give tensors of booleans, off the tape.
"""

from typing import TYPE_CHECKING, Any

from baremetal.autograd import ops
from baremetal.autograd.promotion import is_floating
from baremetal.autograd.traced import Traced

if TYPE_CHECKING:
    from baremetal.autograd.tensor import Tensor


class Operators(Traced):
    """Arithmetic, comparison and indexing for `Tensor`."""

    __slots__ = ()
    __array_priority__ = 1000  # so that  ndarray * Tensor  asks the tensor
    __array_ufunc__ = None  # and does not take the tensor apart itself

    def __add__(self, other: Any) -> "Tensor":
        return ops.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Tensor":
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return ops.multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Tensor":
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return ops.divide(other, self)

    def __pow__(self, other: Any) -> "Tensor":
        if type(other) in (int, float) and other == 2 and is_floating(self.dtype):
            return ops.square(self)  # one multiplication instead of exp(2 log x)
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return ops.power(other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return ops.matmul(other, self)

    def __neg__(self) -> "Tensor":
        return ops.negative(self)

    def __pos__(self) -> "Tensor":
        return self  # type: ignore[return-value]

    def __abs__(self) -> "Tensor":
        return ops.absolute(self)

    def __eq__(self, other: Any) -> Any:
        return False if other is None else ops.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return True if other is None else ops.not_equal(self, other)

    def __lt__(self, other: Any) -> "Tensor":
        return ops.less(self, other)

    def __le__(self, other: Any) -> "Tensor":
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> "Tensor":
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> "Tensor":
        return ops.greater_equal(self, other)

    __hash__ = object.__hash__  # by identity: two tensors of equal values are two leaves

    def __getitem__(self, key: Any) -> "Tensor":
        """NumPy's indexing: slices give views, integer and boolean arrays give copies."""
        return ops.index(self, key=key)
