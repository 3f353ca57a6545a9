"""State as JSON that any reader accepts and that comes back exactly.

Python's `json` is loose in three ways that would break a bit-exact resume: it writes `NaN` and
`Infinity`, which are not JSON (other readers refuse the file); it turns tuples into lists and
integer keys into text without a word; and it refuses NumPy numbers. Here:

    nan, inf, -inf      {"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}
    a tuple             {"$tuple": [...]}
    a small array       {"$array": {"dtype": "uint64", "shape": [2], "values": [1, 2]}}
    NumPy scalars       become the Python number of the same value
    a key such as "$x"  is written "$$x", so nobody's data can be mistaken for a tag

Everything else is plain JSON or refused by its place, e.g. `state['config']['path']`. Finite
floats are written as the shortest text that reads back to the same 64 bits (Steele and White
1990, as `repr` does), integers of any size in full (a PCG64 state has 128 bits). Arrays are meant
for the state of a random generator; weights belong in `tensors`. A NaN comes back as a NaN, its
payload bits do not.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from baremetal.checkpoint.errors import CheckpointError

_ARRAY_DTYPES = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_ARRAY_DTYPES |= {"bool", "float16", "float32", "float64"}


def dumps(value: Any, name: str = "state") -> bytes:
    """`value` as UTF-8 JSON, indented for people.

    Raises CheckpointError naming the place as a path that begins with `name` (which may be "").
    """
    try:
        text = json.dumps(_encode(value, name), allow_nan=False, indent=1)
    except RecursionError as error:
        raise CheckpointError("state is nested too deeply, or contains itself") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"state cannot be written as JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def loads(raw: bytes) -> Any:
    """What `dumps` was given. Raises ValueError for text that is not JSON."""
    return _decode(json.loads(raw.decode("utf-8")))


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, list):
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": _encode(list(value), where)}
    if isinstance(value, dict):
        return {_encode_key(k, where): _encode(v, _place(where, k)) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.name in _ARRAY_DTYPES:
        return {"$array": _encode_array(value, where)}
    raise CheckpointError(
        f"{where} is {type(value).__name__}, which JSON cannot hold: expected None, bool, int, "
        "float, str, list, tuple, dict or a small array of numbers; convert it first"
    )


def _place(where: str, key: Any) -> str:
    return f"{where}[{key!r}]" if where else str(key)


def _encode_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise CheckpointError(
            f"{where} has the key {key!r} ({type(key).__name__}); JSON keys are text: use str(key)"
        )
    return "$" + key if key.startswith("$") else key


def _encode_array(array: np.ndarray, where: str) -> dict[str, Any]:
    values = _encode(array.reshape(-1).tolist(), where)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag, content), *_ = value.items()
        if tag in _DECODERS:
            return _DECODERS[tag](content)
    return {k[1:] if k.startswith("$$") else k: _decode(v) for k, v in value.items()}


def _decode_array(content: dict[str, Any]) -> np.ndarray:
    values = np.array(_decode(content["values"]), dtype=content["dtype"])
    return values.reshape(content["shape"])


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$tuple": lambda content: tuple(_decode(content)),
    "$array": _decode_array,
}
