"""Axes and sizes as people give them, made plain and checked: one message for every operation.

An axis is an integer from -ndim to ndim - 1, negative ones counted from the end; NumPy's integers
and tensors of one integer will do. Errors name the operation, the shape, what was given and what
there is to choose from.
"""

import operator
from typing import Any

from baremetal.errors import BaremetalError

Shape = tuple[int, ...]


def checked_axis(name: str, shape: Shape, axis: Any, *, new: bool = False) -> int:
    """One axis of a tensor of this shape, counted from the front.

    Args:
        name: the operation, for the message.
        new: an axis that is yet to be inserted: there is one place more than there are axes.

    Raises:
        BaremetalError: it is no integer, or there is no such axis.
    """
    ndim = len(shape) + new
    place = axis if type(axis) is int else _as_integer(axis)
    if place is None or not -ndim <= place < ndim:
        raise _no_such_axis(name, shape, axis, ndim)
    return place if place >= 0 else place + ndim


def checked_axes(name: str, shape: Shape, axis: Any) -> Shape:
    """One axis, several (a tuple or list) or all (None), counted from the front, as given.

    Raises:
        BaremetalError: something in it is no axis of a tensor of this shape, or is named twice.
    """
    if axis is None:
        return tuple(range(len(shape)))
    if _as_integer(axis) is not None:
        return (checked_axis(name, shape, axis),)
    if not isinstance(axis, (tuple, list)):
        raise _no_such_axis(name, shape, axis, len(shape))
    axes = tuple(checked_axis(name, shape, one) for one in axis)
    if len(set(axes)) != len(axes):
        raise BaremetalError(
            f"{name} along axis {axis} of a tensor of shape {shape}: expected distinct axes"
        )
    return axes


def checked_sizes(name: str, shape: Shape, sizes: Any) -> Shape:
    """A shape asked for, as plain integers. Raises BaremetalError if it is none."""
    try:
        return tuple(map(operator.index, sizes))
    except TypeError:
        raise BaremetalError(
            f"{name} of a tensor of shape {shape} to {sizes!r}: expected integers, one per axis"
        ) from None


def _as_integer(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None


def _no_such_axis(name: str, shape: Shape, axis: Any, ndim: int) -> BaremetalError:
    choice = f"expected an integer from {-ndim} to {ndim - 1}" if ndim else "it has no axes"
    return BaremetalError(f"{name} along axis {axis!r} of a tensor of shape {shape}: {choice}")
