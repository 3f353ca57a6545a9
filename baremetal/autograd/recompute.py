"""Recomputation: keep a function's inputs, not what it computes, and run it again in backward.

    y = checkpoint(block)(x)          # the same y; of the block's activations nothing stays
    y.backward()                      # runs the block once more, then differentiates it

Backward needs what forward computed, in reverse order, so forward keeps it all: memory grows with
the depth of the model. The way out is to keep only some values, the *checkpoints*, and to compute
what lies between two of them again when backward gets there. A chain of n equal steps, cut into
sqrt(n) stretches, takes memory for the sqrt(n) checkpoints and for one stretch of sqrt(n) steps,

    n  ->  2 sqrt(n)          at the price of one more forward: 4/3 of the arithmetic

(T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016,
arXiv:1604.06174). Checkpoints within checkpoints take less memory and more time; which ones to keep
for the least time within given memory has an exact answer (A. Griewank, A. Walther, "Algorithm 799:
revolve", ACM TOMS 26(1), 2000).

How it is done here. The first run is a rehearsal off the tape (`rehearsal.py`). On the tape the
result is one node, *folded*. When backward reaches it, the function runs again, this time on the
tape, on the very same input tensors; its nodes get the numbers that they would have had, and the
sweep goes on with them as if they had been there all the time. So gradients are added in the same
order, and are the same to the last bit; weight gradients can be deferred; parameters and tensors
that the function finds around it, instead of being given, are as good as inputs; and checkpoints
may be nested.

The function must do the same each time: what it computes may depend on nothing that changes between
forward and backward. Tensors are watched for that, as everywhere on the tape; the state of dropout
is copied by the first run for the second; of NumPy arrays nothing is known (`tape.py`). What a
function does besides returning values (keeping one in an attribute) it does twice.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from baremetal.autograd.errors import AutogradError
from baremetal.autograd.mode import current_run, grad_enabled, inside
from baremetal.autograd.op import Op
from baremetal.autograd.rehearsal import Recomputation, Rehearsal, other_path
from baremetal.autograd.structure import leaves, mapped
from baremetal.autograd.tape import Folded, Node, Unrecorded
from baremetal.autograd.traced import Traced


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose activations are not kept but computed again in backward.

    Args:
        function: takes anything, returns a tensor, or tuples, lists or dicts with tensors in them.
            It is called once now and once in backward, and must do the same both times. A module
            is a function, too.

    Returns:
        A function of the same arguments and results. Where nothing is recorded (`no_grad`), it just
        calls the function.

    Raises:
        AutogradError: in backward, if the function takes another path the second time, or if a
            tensor that it reads was changed in place in between.
    """

    @functools.wraps(function, updated=())
    def checkpointed(*inputs: Any, **options: Any) -> Any:
        if not grad_enabled():
            return function(*inputs, **options)
        run = current_run()
        if isinstance(run, Rehearsal):  # within another checkpoint: that one keeps even less
            returned = function(*inputs, **options)
            # In the recomputation of that one, our results will be folded nodes.
            run.reserve(sum(type(node) is Unrecorded for node in _nodes_of(returned)))
            return returned
        rehearsal = Rehearsal(outer=run)
        with inside(rehearsal):
            returned = function(*inputs, **options)
        return Stretch(function, inputs, options, rehearsal).fold(returned)

    return checkpointed


class Stretch:
    """The part of the tape that a checkpoint leaves out, and how to get it.

    Attributes:
        parents: which of the given inputs lead further back (for drawings).
    """

    def __init__(
        self, function: Callable[..., Any], inputs: tuple, options: dict, rehearsal: Rehearsal
    ) -> None:
        given = [x for x in leaves((inputs, options)) if isinstance(x, Traced)]
        self.parents = [x.node or x for x in given if x.tracked]
        # None once they are freed.
        self._call: Callable[[], Any] | None = functools.partial(function, *inputs, **options)
        self._rehearsal: Rehearsal | None = rehearsal
        self._needed = rehearsal.needed()
        self._kept = [x.data for x in given] + rehearsal.snapshots
        self._results = 0

    def kept(self) -> list[np.ndarray]:
        """The arrays that it keeps alive: the inputs that it was given, and small copies."""
        return self._kept

    def fold(self, returned: Any) -> Any:
        """What the rehearsal returned, on the tape; what needs no gradient stays as it is."""
        rehearsal = self._rehearsal
        assert rehearsal is not None
        folded: dict[Node, Folded] = {}  # (kept by nobody: with us it would be a reference cycle)

        def fold_one(value: Any) -> Any:
            node = value.node if isinstance(value, Traced) else None
            if type(node) is not Unrecorded:
                return value
            if node not in folded:
                number = rehearsal.next_number(value.device)
                folded[node] = Folded(self, len(folded), FOLDED, value.data, number)
            return value.made_by_op(value.data, folded[node], value.version)

        returned = mapped(returned, fold_one)
        self._results = len(folded)
        return returned

    def unfold(self, retain: bool) -> list[Node]:
        """Run the function again, on the tape.

        Args:
            retain: keep what is needed to do so once more.

        Returns:
            For each position, the node that a `Folded` stood for.
        """
        call, rehearsal = self._call, self._rehearsal
        if call is None or rehearsal is None:
            raise AutogradError(
                "backward reached a checkpoint whose tape was already freed: call "
                "backward(retain_tape=True) the first time, or run the forward again"
            )
        _check_unchanged(rehearsal)
        recomputation = Recomputation(rehearsal, self._needed)
        if not retain:
            self._call, self._rehearsal, self._kept = None, None, []
        with _numbered_as_in(rehearsal), inside(recomputation):
            returned = call()
        recomputation.finish()
        new = [node for node in _nodes_of(returned) if node.sequence >= rehearsal.first]
        if len(new) != self._results:
            raise other_path(f"returned {len(new)} new values, where it had {self._results}")
        return new


def _check_unchanged(rehearsal: Rehearsal) -> None:
    """Refuse to compute from values that are no longer those of the first run."""
    for version, seen in rehearsal.watched.items():
        if version.count != seen.changes:
            called = f"{seen.name!r}, " if seen.name else ""
            raise AutogradError(
                f"a checkpointed function read a value ({called}shape {seen.shape}) that was since "
                f"changed in place by '{version.changed_by}' (version {seen.changes} -> "
                f"{version.count}), and would compute something else from it now: change a copy "
                "instead, or make the change before the function"
            )


def _checkpoint(ctx: Any, *inputs: Any) -> Any:
    """What the tape shows; it is never called."""


_checkpoint.__name__ = "checkpoint"
FOLDED = Op(_checkpoint, is_view=False, promotes=None, constants=(), differentiable=True)


@contextlib.contextmanager
def _numbered_as_in(rehearsal: Rehearsal) -> Iterator[None]:
    """While open, nodes get the numbers that they had in the rehearsal."""
    device = rehearsal.device
    assert device is not None  # a node was numbered, or there would be none that was folded
    sequence = device.sequence
    device.sequence = itertools.count(rehearsal.first)
    try:
        yield
    finally:
        device.sequence = sequence


def _nodes_of(returned: Any) -> list[Node]:
    """The nodes of the tensors in it, each once, in order."""
    tensors = (value for value in leaves(returned) if isinstance(value, Traced))
    return list(dict.fromkeys(tensor.node for tensor in tensors if tensor.node is not None))
