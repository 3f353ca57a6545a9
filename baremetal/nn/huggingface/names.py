"""Names as files have them: some with a prefix, some without, and some that are no weights."""

import re
from collections.abc import Mapping

import numpy as np

from baremetal.errors import BaremetalError

Arrays = Mapping[str, np.ndarray]

HEAD = "lm_head.weight"  # the one name that never has a prefix


def without_prefix(tensors: Arrays, prefix: str, ignored: re.Pattern) -> dict[str, np.ndarray]:
    """The tensors with `prefix` taken off those names that have it, less those to be `ignored`.

    Raises:
        BaremetalError: a tensor is there both with and without the prefix.
    """
    stripped = {name.removeprefix(prefix): array for name, array in tensors.items()}
    if len(stripped) < len(tensors):
        twice = sorted(name for name in stripped if name in tensors and prefix + name in tensors)
        raise BaremetalError(
            f"these tensors are there both with and without the prefix '{prefix}': "
            f"{', '.join(twice)}: remove one of each"
        )
    return {name: array for name, array in stripped.items() if not ignored.fullmatch(name)}


def with_prefix(tensors: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """As the models with a head on top name them: all but the head belong to what is below."""
    return {name if name == HEAD else prefix + name: array for name, array in tensors.items()}


def count_layers(tensors: Arrays, pattern: str) -> int:
    """One more than the highest layer number; `pattern` finds it in a name as its group 1.

    A gap then shows as missing tensors. There are never more layers than tensors, whatever number
    a damaged name may hold.
    """
    numbers = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
    return min(max(numbers, default=-1) + 1, len(tensors))
