"""What Python remembers of gradients, held against what a plan takes for granted.

Whether a parameter has a gradient is known to Python alone: `zero_grad()` launches nothing, it
makes the next backward overwrite where it would have added. A plan has only one of the two in it:

    recorded without a gradient     the launch overwrites      (a product with beta = 0, a copy)
    recorded with one               the launch adds            (beta = 1, an addition)

So a recording notes every leaf whose gradient it asks for or changes: where leaf and gradient lie,
and whether the gradient was there when it was first asked for. A replay is refused where eager
execution would have done the other thing, or where a leaf has moved to other memory since (a new
optimiser), which the plan would not follow. After the replay Python knows what it would know after
the function: which leaves have gradients.

A function that begins with `zero_grad()` asks for nothing, and nobody need look at its leaves as
long as their states stand still: the device counts how often any of them changed
(`Device.leaf_changes`), and one comparison is all that a small step can afford.

Leaves that are only read are not noted: an evaluation that was captured before the optimiser was
made reads the weights where they were.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.traced import Traced
from baremetal.capture.errors import CaptureError


class _Seen(NamedTuple):
    """A leaf when the recording first met it; `asked`: before the function had zeroed it."""

    leaf: weakref.ref
    data: np.ndarray
    gradient: np.ndarray | None  # where it lay, if there was one
    asked: bool


class _Leaf(NamedTuple):
    """The same when the recording had ended."""

    leaf: Traced
    before: _Seen
    tracked: bool
    target: np.ndarray | None  # where a gradient goes: fixed memory, or where the last one went
    gradient: np.ndarray | None


class LeafNotes:
    """What a recording notes of leaves while it lasts."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}  # by the leaf's id

    def note(self, leaf: Traced, is_zeroed: bool) -> None:
        """The leaf's gradient is asked for, is about to change, or (`is_zeroed`) to be forgotten.

        Called before anything changes.
        """
        known = self._seen.get(id(leaf))
        if known is None or known.leaf() is not leaf:
            gradient = leaf.gradient_target() if leaf.has_gradient else None
            self._seen[id(leaf)] = _Seen(weakref.ref(leaf), leaf.data, gradient, not is_zeroed)

    def leaves(self, is_own: Callable[[np.ndarray], bool]) -> "Leaves":
        """What is to be watched: leaves that are still there, but for the inputs.

        Args:
            is_own: whether this is the memory of an input (whose tensor is new in each call).

        Raises:
            CaptureError: a leaf was given other memory meanwhile.
        """
        noted = []
        for seen in self._seen.values():
            leaf = seen.leaf()
            if leaf is None or is_own(seen.data):
                continue
            if leaf.data is not seen.data:
                raise CaptureError(
                    f"{_called(leaf)} was given other memory by the function that is captured, "
                    "where a replay would not find it: change its values in place by a launch "
                    "(with no_grad(): w -= 0.1 * w.grad), and make the optimiser before"
                )
            noted.append(
                _Leaf(leaf, seen, leaf.tracked, leaf.gradient_target(), _gradient_of(leaf))
            )
        return Leaves(noted)


class Leaves:
    """The leaves outside a captured function whose gradients it changes."""

    def __init__(self, leaves: Iterable[_Leaf]) -> None:
        self._leaves = [*leaves]

    @property
    def depends_on_itself(self) -> bool:
        """Whether a call leaves something behind that the next one must not find."""
        return any(
            one.before.asked and (one.before.gradient is None) != (one.gradient is None)
            for one in self._leaves
        )

    def check(self, name: str) -> None:
        """Whether function `name`, called now, would do what was recorded.

        Raises:
            CaptureError: naming the leaf that has moved, was frozen, or has a gradient or none.
        """
        for leaf, before, tracked, target, _ in self._leaves:
            if leaf.tracked is not tracked:
                raise CaptureError(
                    f"{_called(leaf)} was {'frozen' if tracked else 'unfrozen'} since {name} was "
                    "captured, and the plan does what it did: capture again"
                )
            had = before.gradient is not None
            if before.asked and leaf.has_gradient != had:
                raise CaptureError(_other_way(name, leaf, had))
            now = leaf.gradient_target()
            moved = now is not before.gradient if before.asked and had else _elsewhere(now, target)
            if leaf.data is not before.data or moved:
                raise CaptureError(
                    f"{_called(leaf)} or its gradient has moved to other memory since {name} was "
                    "captured (a new optimiser, a conversion): capture again, after making the "
                    "optimiser"
                )

    def set_as_recorded(self) -> None:
        """The step has run: its leaves have gradients, or none, as after the recorded call."""
        for leaf, *_, gradient in self._leaves:
            if _gradient_of(leaf) is gradient:
                continue
            if gradient is None:
                leaf.zero_grad()
            else:
                leaf.set_gradient(gradient)


def refuse_inside_recording(device: Device, name: str) -> None:
    """Refuse to replay while another recording is open, which would see nothing of it.

    Raises:
        CaptureError: it is open.
    """
    if device.is_recorded:
        raise CaptureError(
            f"{name}, which is captured, was called while a step is being recorded: its launches "
            "would be missing there; call the function itself (captured.function)"
        )


def _gradient_of(leaf: Traced) -> np.ndarray | None:
    return leaf.gradient_target() if leaf.has_gradient else None


def _elsewhere(now: np.ndarray | None, target: np.ndarray | None) -> bool:
    """Whether gradients go elsewhere than they went (nowhere in particular: after `zero_grad`)."""
    return now is not None and target is not None and now is not target


def _called(leaf: Traced) -> str:
    kind = "parameter" if leaf.weight_side else "tensor"
    return f"{kind} '{leaf.name}' {leaf.shape}" if leaf.name else f"a {kind} of shape {leaf.shape}"


def _other_way(name: str, leaf: Traced, had: bool) -> str:
    if had:
        return (
            f"{_called(leaf)} has no gradient, but had one when {name} was captured, which adds to "
            "it or reads it: capture again, as it will be called"
        )
    return (
        f"{_called(leaf)} has a gradient, but had none when {name} was captured, which overwrites "
        "it where eager execution would add: call zero_grad() inside the function, or before each "
        "call; to add several microbatches up, capture the whole step"
    )
