"""Which dtype a result has, by NumPy's rules (NEP 50).

Arrays and tensors decide by their dtypes alone: float32 with float64 gives float64. A plain Python
number is *weak*: it takes the dtype of what it meets, so that  x * 0.5  stays float32. Only its
kind counts: an integer array times a Python float becomes floating.
(NEP 50, "Promotion rules for Python scalars", https://numpy.org/neps/nep-0050-scalar-promotion.html)

Where the inputs meet is the dtype of the result, unless it cannot be. NumPy's functions know four
ways out, and so does an operation's `promotes`:

    "common"     none is needed                                                   (np.add)
    "signed"     refuses booleans, which have no sign and no difference           (np.subtract)
    "numeric"    booleans become int8                                             (np.power)
    "floating"   integers and booleans become the smallest floating dtype that
                 holds them: float16 for 8 bits, float32 for 16, else float64     (np.exp)
    "quotient"   integers and booleans become float64                             (np.divide)

What has no counterpart in NumPy is "floating" if it works on single elements (a sigmoid),
"quotient" if it sums (a softmax; np.mean is one). In three places we differ, on purpose:

- A Python integer that the dtype cannot hold is refused, in a comparison too. (NumPy 2 refuses it
  in arithmetic and compares it exactly; NumPy 1 wraps it round.)
- int64 meets uint64 in float64, in a comparison too. (NumPy compares these two exactly.)
- What NumPy refuses by a TypeError is a BaremetalError here, and says what to do.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError

Promotion = Literal["common", "signed", "numeric", "floating", "quotient"]

# The kinds of dtype (b: boolean, i and u: integers) that cannot stay as they are.
CONVERTED_KINDS: dict[Promotion | None, str] = {
    None: "",
    "common": "",
    "signed": "b",
    "numeric": "b",
    "floating": "biu",
    "quotient": "biu",
}

_WEAK = (bool, int, float)
_KIND_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # V: ml_dtypes' small floating types


def is_floating(dtype: np.dtype) -> bool:
    """Whether this is no integer and no boolean; ml_dtypes' small floating types are floating."""
    return dtype.kind not in "biu"


def common_dtype(name: str, values: Sequence[Any], promotes: Promotion) -> np.dtype:
    """The dtype that the inputs of operation `name` meet in; `None` inputs do not count.

    Raises:
        BaremetalError: the dtypes have nothing in common, or the operation does not take it.
    """
    strong = [_dtype_of(v) for v in values if v is not None and type(v) not in _WEAK]
    weak = [v for v in values if type(v) in _WEAK]
    try:
        dtype = np.result_type(*strong) if strong else _dtype_of_numbers(weak)
    except TypeError as error:
        kinds = " and ".join(str(d) for d in strong)
        raise BaremetalError(f"'{name}' cannot combine {kinds}: convert one with astype") from error
    if dtype.kind not in _KIND_RANK:
        raise BaremetalError(
            f"'{name}' got values of dtype {dtype}: tensors hold numbers and booleans"
        )
    for number in weak:
        dtype = _with_weak(dtype, number)
    return _converted(name, dtype, promotes) if dtype.kind in CONVERTED_KINDS[promotes] else dtype


def _converted(name: str, dtype: np.dtype, promotes: Promotion) -> np.dtype:
    """The way out for a dtype that cannot stay; see above."""
    if promotes == "numeric":
        return np.dtype(np.int8)
    if promotes == "floating":
        return np.result_type(dtype, np.float16)
    if promotes == "quotient":
        return np.dtype(np.float64)
    raise BaremetalError(
        f"'{name}' of booleans is not defined: convert them with astype(np.int64), or compare "
        "them with !="
    )


def _with_weak(dtype: np.dtype, number: Any) -> np.dtype:
    """NEP 50 for one Python number: the array's dtype, unless the number is of a higher kind."""
    if isinstance(number, float) and _KIND_RANK[dtype.kind] < 2:
        return np.dtype(np.float64)
    if isinstance(number, int) and not isinstance(number, bool) and dtype.kind == "b":
        return np.dtype(np.int64)
    return dtype


def _dtype_of_numbers(numbers: Sequence[Any]) -> np.dtype:
    """What plain numbers alone become: as `Tensor(number)` has it."""
    dtype = np.result_type(*[to_array(number).dtype for number in numbers])
    return np.dtype(np.float32) if dtype == np.float64 else dtype


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
