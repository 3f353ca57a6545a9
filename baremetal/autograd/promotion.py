"""Which dtype a result has, by NumPy's rules (NEP 50).

Arrays and tensors decide by their dtypes alone: float32 with float64 gives float64. A plain Python
number is *weak*: it takes the dtype of what it meets, so that  x * 0.5  stays float32. Only its
kind counts: an integer array times a Python float becomes floating.
(NEP 50, "Promotion rules for Python scalars", https://numpy.org/neps/nep-0050-scalar-promotion.html)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError

_WEAK = (bool, int, float)
_KIND_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # V: ml_dtypes' small floating types


def needs_floating(dtype: np.dtype) -> bool:
    """Integers and booleans have no exp, no mean and no quotient of their own dtype."""
    return dtype.kind in "iub"


def common_dtype(name: str, values: Sequence[Any], *, floating: bool) -> np.dtype:
    """The dtype that the inputs of operation `name` meet in; `None` inputs do not count."""
    strong = [_dtype_of(v) for v in values if v is not None and type(v) not in _WEAK]
    weak = [v for v in values if type(v) in _WEAK]
    try:
        dtype = np.result_type(*strong)
    except TypeError as error:
        kinds = " and ".join(str(d) for d in strong)
        raise BaremetalError(f"'{name}' cannot combine {kinds}: convert one with astype") from error
    if dtype.kind not in _KIND_RANK:
        raise BaremetalError(
            f"'{name}' got values of dtype {dtype}: tensors hold numbers and booleans"
        )
    for number in weak:
        dtype = _with_weak(dtype, number)
    if floating and needs_floating(dtype):
        dtype = np.result_type(dtype, np.float32)  # small integers fit float32, larger float64
    return dtype


def _with_weak(dtype: np.dtype, number: Any) -> np.dtype:
    """NEP 50 for one Python number: the array's dtype, unless the number is of a higher kind."""
    if isinstance(number, float) and _KIND_RANK[dtype.kind] < 2:
        return np.dtype(np.float64)
    if isinstance(number, int) and not isinstance(number, bool) and dtype.kind == "b":
        return np.dtype(np.int64)
    return dtype


def loses_nothing(source: np.dtype, target: np.dtype) -> bool:
    """Whether values of one kind (boolean, integer, floating) may go into memory of the other."""
    return _KIND_RANK[source.kind] <= _KIND_RANK[target.kind]


def _dtype_of(value: Any) -> np.dtype:
    return (
        value.dtype
        if isinstance(value, (Traced, np.ndarray, np.generic))
        else to_array(value).dtype
    )


def to_array(value: Any, dtype: Any = None) -> np.ndarray:
    """A constant as an array. Raises BaremetalError if it is nothing that holds numbers."""
    try:
        if type(value) is int and dtype is not None and np.dtype(dtype).kind in "iu":
            _check_range(value, np.dtype(dtype))
        array = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "" if dtype is None else f" of dtype {np.dtype(dtype)}"
        raise BaremetalError(f"cannot make an array{wanted} of {value!r}: {error}") from error
    if array.dtype.kind not in _KIND_RANK:
        raise BaremetalError(f"cannot compute with {value!r}: expected numbers, arrays or tensors")
    return array


def _check_range(value: int, dtype: np.dtype) -> None:
    """NumPy 1 wraps round what does not fit, NumPy 2 raises: we always do."""
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise OverflowError(f"{dtype} holds {limits.min} to {limits.max}")
