"""Changing a tensor where it lies: `x += 1`, `x[2] = 0`, `x.fill_(0)`.

The tape remembers values, not formulas: a rule that saved x reads whatever is in x's memory when
backward runs. So every change here counts up the version that x shares with its views, and a rule
whose saved value has changed since raises instead of computing a wrong gradient. (Writes from
NumPy's side, into `x.data` or into a plain array given to an operation, are not seen: `tape.py`.)

A change is itself an operation whose gradient would be needed if x is on the tape. This engine
does not rewrite history: it refuses, and says what to write instead. Under `no_grad()` (an
initialisation, an update of weights) nothing is recorded and every change is allowed.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.autograd.errors import AutogradError
from baremetal.autograd.mode import grad_enabled, note_reading
from baremetal.autograd.op import owner
from baremetal.autograd.promotion import loses_nothing, to_array
from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError
from baremetal.kernels import elementwise as kernels

if TYPE_CHECKING:
    from baremetal.autograd.tensor import Tensor

_REFUSED_KINDS = {"/=": "biu", "-=": "b"}  # the kinds of dtype that these do not give back


class InPlace(Traced):
    """In-place changes, for `Tensor`."""

    __slots__ = ()

    def __iadd__(self, other: Any) -> "Tensor":
        return self._update("+=", kernels.add, other)

    def __isub__(self, other: Any) -> "Tensor":
        return self._update("-=", kernels.subtract, other)

    def __imul__(self, other: Any) -> "Tensor":
        return self._update("*=", kernels.multiply, other)

    def __itruediv__(self, other: Any) -> "Tensor":
        return self._update("/=", kernels.divide, other)

    def __setitem__(self, key: Any, value: Any) -> None:
        """NumPy's assignment to the elements that `key` chooses."""
        array = self._operand("x[...] = value", value)
        self._check_kept("x[...] = value", array.dtype)
        key = key.data if isinstance(key, Traced) else key
        target = self.data[key]
        if isinstance(target, np.ndarray) and owner(target) is owner(self.data):
            array = _without_leading_ones(array, target.ndim)
            _check_fits("x[...] = value", array.shape, target.shape)
            self.device.launch(kernels.copy, self._apart(array, target), target)
        else:  # chosen by arrays: no view, hence nothing that a kernel could write through
            self.data[key] = array
        self.version.bump("x[...] = value")

    def fill_(self, value: float) -> "Tensor":
        """Set every element to `value`."""
        self._check_kept("fill_", self._operand("fill_", value).dtype)
        self.device.launch(kernels.fill, self.data, value=value)
        return self._changed("fill_")

    def zero_(self) -> "Tensor":
        """Set every element to 0."""
        self._check_allowed("zero_", None)
        self.device.launch(kernels.fill, self.data, value=0.0)
        return self._changed("zero_")

    def copy_(self, source: Any) -> "Tensor":
        """Overwrite with `source`, broadcast to this shape and converted to this dtype."""
        array = self._operand("copy_", source)
        _check_fits("copy_", array.shape, self.shape)
        self.device.launch(kernels.copy, self._apart(array, self.data), self.data)
        return self._changed("copy_")

    # ------------------------------------------------------------ what they share

    def _update(self, name: str, kernel: Any, other: Any) -> "Tensor":
        array = self._operand(name, other)
        _check_fits(name, array.shape, self.shape)
        if self.dtype.kind in _REFUSED_KINDS.get(name, ""):
            raise BaremetalError(
                f"'{name}' on a {self.dtype} tensor: the result is not {self.dtype}, and a change "
                f"in place cannot change the dtype; write x = x {name[0]} y, or use astype first"
            )
        if array.dtype != self.dtype:
            self._check_kept(name, array.dtype)
            array = self._copied(array, self.dtype)
        self.device.launch(kernel, self.data, self._apart(array, self.data), self.data)
        return self._changed(name)

    def _operand(self, name: str, other: Any) -> np.ndarray:
        """The other side as an array, after the check that this change is allowed."""
        self._check_allowed(name, other)
        if isinstance(other, Traced):
            return other.data
        array = to_array(other)
        is_number = type(other) in (bool, int, float)
        # A plain number takes this tensor's dtype, unless it is of a higher kind.
        weak = is_number and loses_nothing(array.dtype, self.dtype)
        return to_array(other, self.dtype) if weak else array

    def _copied(self, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
        out = self.device.empty(array.shape, dtype)
        self.device.launch(kernels.copy, array, out)
        return out

    def _apart(self, array: np.ndarray, target: np.ndarray) -> np.ndarray:
        """`array`, copied if a kernel would overwrite elements of it that it has yet to read."""
        same = (
            array.shape == target.shape
            and array.strides == target.strides
            and array.__array_interface__["data"] == target.__array_interface__["data"]
        )
        harmless = same or not np.may_share_memory(array, target)
        return array if harmless else self._copied(array, array.dtype)

    def _check_allowed(self, name: str, other: Any) -> None:
        note_reading()  # by a launch that is no operation
        # A kernel writes through a bare address: nothing below would notice a read-only array.
        if not self.data.flags.writeable:
            raise AutogradError(
                f"'{name}' on {self._described()} whose memory is read-only (a view by "
                ".numpy(), a broadcast, a mapped file): change a clone() instead"
            )
        if not grad_enabled():
            return
        who = "it" if self.tracked else "the other side"
        if self.tracked or (isinstance(other, Traced) and other.tracked):
            raise AutogradError(
                f"'{name}' on {self._described()} while recording: {who} requires "
                "gradients, and a change in place is not on the tape; compute a new tensor "
                "instead (x = x + y), or use no_grad() if it is no part of the function"
            )

    def _check_kept(self, name: str, given: np.dtype) -> None:
        if not loses_nothing(given, self.dtype):
            raise BaremetalError(
                f"'{name}' of {given} into a {self.dtype} tensor would cut off what it brings: "
                "convert the tensor with astype first"
            )

    def _described(self) -> str:
        return f"a tensor {f'({self.name!r}) ' if self.name else ''}of shape {self.shape}"

    def _changed(self, name: str) -> Any:
        self.version.bump(name)
        return self


def _without_leading_ones(array: np.ndarray, ndim: int) -> np.ndarray:
    """As in NumPy, an assignment overlooks axes of size 1 in front that the target has not."""
    extra = max(array.ndim - ndim, 0)
    return array.reshape(array.shape[extra:]) if array.shape[:extra] == (1,) * extra else array


def _check_fits(name: str, given: tuple[int, ...], own: tuple[int, ...]) -> None:
    """A change in place cannot grow the tensor: the other side must broadcast to its shape."""
    padded = (1,) * (len(own) - len(given)) + given
    if len(given) > len(own) or any(g not in (1, n) for g, n in zip(padded, own, strict=True)):
        raise BaremetalError(
            f"'{name}': shape {given} does not broadcast to {own}: each size, counted from the "
            "right, must be equal or 1"
        )
