"""What a Hugging Face `config.json` says, and what can be read off the tensors without it.

Shapes tell almost everything: layers, width, vocabulary. What they cannot tell is how many heads
share a width, and (with rotary positions, which have no table) how long the context may be. Those
come from `config.json` or from an argument. What `config.json` says twice is checked against the
shapes, and a setting that would change the function into one that we do not compute is refused:
silently other logits would be worse than none.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.nn.huggingface.names import HEAD, Arrays

Settings = Mapping[str, Any]


def matrix_shape(tensors: Arrays, name: str, kind: str) -> tuple[int, int]:
    """The shape of a matrix that the sizes are read off.

    Raises:
        BaremetalError: it is missing, or no matrix.
    """
    if name not in tensors or tensors[name].ndim != 2:
        found = f"of shape {tensors[name].shape}" if name in tensors else "missing"
        raise BaremetalError(
            f"these tensors are not those of {kind}: '{name}' is {found}, expected a matrix to "
            "read the sizes from"
        )
    rows, columns = tensors[name].shape
    return rows, columns


def required(name: str, argument: int | None, settings: Settings, key: str) -> int:
    """A size that no shape tells: the argument, or what config.json has under `key`.

    Raises:
        BaremetalError: neither is there, or it is no positive whole number.
    """
    value = settings.get(key) if argument is None else argument
    if value is None:
        raise BaremetalError(
            f"the tensors' shapes do not tell the {name}: put a config.json with '{key}' beside "
            f"them, or (from Python) give {name}=..."
        )
    if type(value) is not int or value < 1:
        raise BaremetalError(f"{name} = {value!r}: expected a whole number of at least 1")
    return value


def number(settings: Settings, key: str, default: float) -> float:
    """A number in config.json, or its default.

    Raises:
        BaremetalError: it is no finite number above 0.
    """
    value = settings.get(key, default)
    if type(value) not in (int, float) or not (value > 0 and math.isfinite(value)):
        raise BaremetalError(f"config.json: {key} = {value!r}: expected a number above 0")
    return float(value)


def check_agreement(settings: Settings, sizes: Mapping[str, int], kind: str) -> None:
    """Refuse a config.json that contradicts the tensors.

    Raises:
        BaremetalError: naming every size that differs.
    """
    faults = [
        f"{key} is {settings[key]}, by the tensors {size}"
        for key, size in sizes.items()
        if settings.get(key) is not None and settings[key] != size
    ]
    if faults:
        raise BaremetalError(
            f"config.json does not belong to these {kind} tensors: {'; '.join(faults)}"
        )


def check_supported(settings: Settings, supported: Mapping[str, tuple], kind: str) -> None:
    """Refuse settings that ask for another function than ours; a missing one means the default.

    Raises:
        BaremetalError: naming every such setting, and what would be possible.
    """
    faults = [
        f"{key} = {settings[key]!r} (supported: {', '.join(map(repr, values))})"
        for key, values in supported.items()
        if key in settings and settings[key] not in values
    ]
    if faults:
        raise BaremetalError(
            f"this {kind} is of a kind that is not built here: {'; '.join(faults)}"
        )


def is_tied(tensors: Arrays, embedding: str, settings: Settings) -> bool:
    """Whether the output matrix is the token embedding (whose name is `embedding`).

    config.json decides if it says so; else a head that is missing, or equal, is tied.

    Raises:
        BaremetalError: tied by config.json, but with a head that differs from the embedding.
    """
    head = tensors.get(HEAD)
    equal = head is None or np.array_equal(head, tensors[embedding])
    said = settings.get("tie_word_embeddings")
    if said and not equal:
        raise BaremetalError(
            f"config.json ties the output matrix to the token embedding, but '{HEAD}' "
            "differs from it: set tie_word_embeddings to false, or remove the tensor"
        )
    return equal if said is None else bool(said)
