"""What functions take and return: tensors and arrays, alone or in tuples, lists and dicts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same structure with every leaf (what is no tuple, list or dict) replaced."""
    if isinstance(value, Mapping):
        return {key: mapped(part, leaf) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        make = getattr(value, "_make", type(value))  # a named tuple is made in its own way
        return make(mapped(part, leaf) for part in value)
    return leaf(value)


def leaves(value: Any) -> Iterator[Any]:
    """Every leaf, from left to right."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    else:
        yield value
