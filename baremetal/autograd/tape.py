"""The tape: which operation made which value, from what.

The tape is no list but a graph of nodes, one per recorded operation, each pointing at its parents.
It is kept alive by the tensors made from it and by nothing else: drop the loss and it is gone.

A node remembers, for every tensor whose memory its rules will read, the number of in-place changes
that memory had seen (its *version*). If the number is another when the rule runs, the gradient
would be that of a different function, and backward says so instead of computing it.

What is not seen. Only tensors count their changes. A NumPy array that was given to an operation as
it is (a mask, token indices, a factor) may be saved too, and has no counter; nor has a tensor's
memory for who writes into it from NumPy's side (`tensor.data`, the array that `Tensor(array)`
shares). Two tensors that were made from one array, Tensor(a) and Tensor(a) or Tensor(x.data), count
apart: each sees its own changes only (Tensor(x) and x.detach() share x's count). If such memory is
written between forward and backward, the gradient is computed from what lies there then, without a
word. To copy every constant would cost memory for each mask of each layer, to compare checksums a
pass over it, in every step. So: do not write into arrays that a tape still needs. Pass
`array.copy()`, or wrap it, x = Tensor(array), and change it by `x[...] = value`: that is counted.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from baremetal.autograd.op import Context, Op
    from baremetal.autograd.recompute import Stretch

OUTPUT = -1  # as a guard's position: the saved array is the operation's own output


class Version:
    """Counts in-place changes of one piece of memory; shared by a tensor and all its views."""

    __slots__ = ("changed_by", "count")

    def __init__(self) -> None:
        self.count = 0
        self.changed_by = ""

    def bump(self, changed_by: str) -> None:
        """Note one change and the name of what made it."""
        self.count += 1
        self.changed_by = changed_by


# A saved array under watch: its version, the count when it was saved, which input it is, and the
# name of the tensor ("" if it has none).
Guard = tuple[Version, int, int, str]


class Node:
    """One entry of the tape: which operation made a value, from what, and what it saved.

    Attributes:
        parents: per input the node that made it, the leaf tensor itself, or None if no gradient
            is wanted there. (Not the input tensors: those would keep dead activations alive.)
        context: what the rules need; None once the tape has been freed.
        guards: which of the saved arrays are tensors' memory, and at which version.
        sequence: counts up as nodes are made, so parents have smaller numbers.
        wanted: how many parents are not None.
        weight_side: this value is a mere view of parameters, so its gradient belongs to the
            weight gradients.
    """

    __slots__ = (
        "context", "dtype", "guards", "op", "parents", "sequence", "shape", "wanted",
        "weight_side",
    )  # fmt: skip

    def __init__(
        self, op: "Op", context: "Context", parents: list, output: np.ndarray, sequence: int
    ) -> None:
        self.op = op
        self.context: Context | None = context
        self.parents: list[Any] = parents
        self.wanted = sum(context.needs)
        self.guards: list[Guard] | tuple = ()
        self.shape = output.shape
        self.dtype = output.dtype
        self.sequence = sequence
        self.weight_side = op.is_view and all(p is None or p.weight_side for p in parents)

    def __repr__(self) -> str:
        return f"<node {self.sequence}: {self.op.name} -> {self.shape} {self.dtype}>"


class Unrecorded(Node):
    """Made while a checkpointed function ran off the tape: says that a gradient would be wanted.

    It has a number, so that the recomputation's nodes can have the same ones, and no way back.
    """

    __slots__ = ()

    def __init__(self, op: "Op", output: np.ndarray, sequence: int) -> None:
        self.op = op
        self.context = None
        self.parents = []
        self.wanted = 0
        self.guards = ()
        self.shape = output.shape
        self.dtype = output.dtype
        self.sequence = sequence
        self.weight_side = False


class Folded(Unrecorded):
    """A result of a checkpointed function: stands for the whole stretch of tape that was not kept.

    Attributes:
        stretch: how to get that tape, by running the function again.
        position: which of its results this is.
    """

    __slots__ = ("position", "stretch")

    def __init__(
        self, stretch: "Stretch", position: int, op: "Op", output: np.ndarray, sequence: int
    ) -> None:
        super().__init__(op, output, sequence)
        self.stretch = stretch
        self.position = position
        self.parents = stretch.parents
