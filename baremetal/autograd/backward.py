"""Reverse-mode differentiation: walk the tape backwards, one rule at a time.

The tape is a graph of nodes. Nodes are numbered as they are made, and a value is made after its
inputs, so going through the reachable nodes by falling number is a topological order: when a
node's turn comes, every use of its value has already added to its gradient.

Whose memory. A value used twice gets the sum of two gradients, and the second is best added in
place. That is right only in memory that nobody else reads: `x + y` hands the very same array to
both its inputs. So the engine keeps a set of values whose gradient is *owned*, that is, was made
by a rule for that value alone, and adds only into those.

Deferred weight gradients. A pipeline stage can send the gradient of its input to the stage before
it as soon as that is known, and compute the gradients of its own weights later, in what would
otherwise be idle time (P. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, which calls
the two halves B and W). `backward(..., defer_weights=True)` therefore runs only the rules that
lead to activations and returns what is still owed. Paying runs exactly the calls that were left
out, in the order in which they would have run, so the gradients are the same to the last bit.

Checkpoints. A *folded* node stands for a stretch of tape that was not kept (`recompute.py`). When
its turn comes, the stretch is run again, and its nodes take the places that they would have had.
"""

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from baremetal.autograd.backward_checks import check_guards, check_result, check_rules, freed
from baremetal.autograd.device import Device
from baremetal.autograd.errors import AutogradError
from baremetal.autograd.op import Context, Rule, owner
from baremetal.autograd.tape import Folded, Node
from baremetal.autograd.traced import Traced
from baremetal.kernels.elementwise import add, copy

if TYPE_CHECKING:
    from baremetal.autograd.tensor import Tensor

EVERYTHING = -1  # below every node's sequence number
FIRST_ONLY = "this engine computes first derivatives only"


class Owed:
    """Weight gradients that a deferred backward still owes. `pay()` computes them, once."""

    def __init__(self, retain: bool, device: Device) -> None:
        self._device = device
        self._work: list[tuple[int, Callable[[_Sweep], None]]] = []
        self._retain = retain
        self._paid = False

    def __len__(self) -> int:
        """How many pieces of work are left."""
        return len(self._work)

    def add(self, node: Node, work: "Callable[[_Sweep], None]") -> None:
        """Note work for later. It keeps alive what it needs, and nothing more."""
        self._work.append((node.sequence, work))

    def pay(self) -> None:
        """Do the owed work, adding to the parameters' gradients.

        Views of parameters (the transpose of a tied head) are nodes of their own. Each has its
        turn between the same two pieces of work as in a backward that defers nothing: additions
        in another order would round differently.
        """
        if self._paid:
            raise AutogradError("these weight gradients were paid before: pay() works once")
        self._paid = True
        self._device.backward_passes += 1
        sweep = _Sweep(self._retain, owed=None)
        for sequence, work in self._work:
            sweep.run(down_to=sequence)
            work(sweep)
        self._work.clear()
        sweep.run(down_to=EVERYTHING)


class _Sweep:
    """One walk down the tape: gradients of values whose turn has not come, and who waits."""

    def __init__(self, retain: bool, owed: Owed | None) -> None:
        self.retain = retain
        self.owed = owed
        self.grads: dict[Node, np.ndarray] = {}
        self.owned: set[Node] = set()  # grads that nobody else can see, so adding in place is safe
        self._waiting: list[tuple[int, Node]] = []  # a heap: the youngest node on top

    def start(self, node: Node, grad: np.ndarray) -> None:
        """Begin at this node with this gradient, in memory of our own."""
        self.grads[node] = grad
        self.owned.add(node)
        self._waiting.append((-node.sequence, node))

    def run(self, down_to: int) -> None:
        """Visit the waiting nodes younger than `down_to`, the youngest first."""
        waiting = self._waiting
        while waiting and -waiting[0][0] > down_to:
            node = heapq.heappop(waiting)[1]
            owned = node in self.owned
            self.owned.discard(node)
            self._visit(node, self.grads.pop(node), owned)

    def _visit(self, node: Node, grad: np.ndarray, owned: bool) -> None:
        context = node.context
        if context is None:
            self._unfold(node, grad, owned)
            return
        if node.guards:
            check_guards(node, context)
        op, parents = node.op, node.parents
        if len(op.rules) < len(op.inputs):
            check_rules(node)
        # If only one input gets a gradient, ours may become its: nobody else will read it.
        passes_on = owned and node.wanted == 1
        for rule in op.rules:
            if not _is_wanted(rule, parents, op.variadic):
                continue
            if self.owed is not None and _leads_to_weights(node, rule):
                self.owed.add(node, _later(node, rule, context, grad))
            else:
                self.run_rule(node, rule, context, grad, passes_on)
        if not self.retain:
            node.context = None

    def _unfold(self, node: Node, grad: np.ndarray, owned: bool) -> None:
        """Put back the tape that a checkpoint left out, and go on from its results.

        They are numbered one after the other and all who use them come later, so those that have a
        gradient are the next in line, and have it complete.
        """
        if not isinstance(node, Folded):
            raise freed(node)
        arrived = [(node, grad, owned)]
        while self._waiting:
            other = self._waiting[0][1]
            if not isinstance(other, Folded) or other.stretch is not node.stretch:
                break
            heapq.heappop(self._waiting)
            arrived.append((other, self.grads.pop(other), other in self.owned))
            self.owned.discard(other)
        results = node.stretch.unfold(self.retain)
        for folded, grad, owned in arrived:
            result = results[folded.position]
            context = cast(Context, result.context)  # not needed: there is nothing yet to add to
            self.receive(folded, result, grad, context, shared=not owned)

    def run_rule(
        self, node: Node, rule: Rule, context: Context, grad: np.ndarray, passes_on: bool
    ) -> None:
        """Run one rule and hand each gradient to the input it belongs to."""
        if rule.accumulates:
            self._accumulate(node, rule, context, grad)
            return
        results = rule.function(context, grad)
        positions = range(len(node.parents)) if node.op.variadic else rule.inputs
        if not isinstance(results, tuple):
            results = (results,)
        for position, result in zip(positions, results, strict=True):
            parent = node.parents[position]
            if parent is None:
                continue
            check_result(node, position, parent, result)
            if passes_on:
                shared = _sees(result, context.saved)
            else:
                shared = _sees(result, (grad, *context.saved)) or _is_twice(result, results)
            self.receive(node, parent, result, context, shared)

    def _accumulate(self, node: Node, rule: Rule, context: Context, grad: np.ndarray) -> None:
        """A rule that can add into memory it is given: let it, where that memory is ours."""
        if len(rule.inputs) == 1:
            parent = node.parents[rule.inputs[0]]
            into, beta = self._target(parent)
            result = rule.function(context, grad, into, beta)
            self._accumulated(node, rule.inputs[0], result, into, context)
            return
        targets: list[np.ndarray | None] = []
        betas: list[float] = []
        for position in rule.inputs:
            into, beta = self._target(node.parents[position])
            if any(into is other for other in targets):  # one parameter as two inputs
                into, beta = None, 0.0
            targets.append(into)
            betas.append(beta)
        results = rule.function(context, grad, targets, betas)
        for position, into, result in zip(rule.inputs, targets, results, strict=True):
            if node.parents[position] is not None:
                self._accumulated(node, position, result, into, context)

    def _accumulated(
        self,
        node: Node,
        position: int,
        result: np.ndarray,
        into: np.ndarray | None,
        context: Context,
    ) -> None:
        """Enter what such a rule computed, `into` our memory or into its own."""
        parent = node.parents[position]
        if into is None:
            check_result(node, position, parent, result)
            self.receive(node, parent, result, context, shared=False)
        elif not isinstance(parent, Node):
            parent.set_gradient(into)

    def _target(self, parent: Any) -> tuple[np.ndarray | None, float]:
        """Memory of ours that a gradient may go into, and the factor for what lies in it."""
        if parent is None or (self.owed is not None and parent.weight_side):
            return None, 0.0
        if isinstance(parent, Node):
            return (self.grads[parent], 1.0) if parent in self.owned else (None, 0.0)
        return parent.gradient_target(), 1.0 if parent.has_gradient else 0.0

    def receive(
        self, node: Node, parent: Any, result: np.ndarray, context: Context, shared: bool
    ) -> None:
        """Add `result` to the gradient of a node or a leaf (`node` is where it came from)."""
        if self.owed is not None and parent.weight_side:
            # It came out of one kernel together with an activation's gradient. It is added when
            # the others are, or the order of additions would differ.
            self.owed.add(node, lambda later: later.receive(node, parent, result, context, shared))
            return
        if not isinstance(parent, Node):
            parent.add_gradient(result, shared)
            return
        present = self.grads.get(parent)
        if present is None:
            if parent.context is None and not isinstance(parent, Folded):
                raise freed(parent)
            self.grads[parent] = result
            if not shared:
                self.owned.add(parent)
            heapq.heappush(self._waiting, (-parent.sequence, parent))
            return
        if not shared and result.flags.c_contiguous:
            total = result
        else:
            total = present if parent in self.owned else context.empty_like(present)
        context.launch(add, present, result, total)
        self.grads[parent] = total
        self.owned.add(parent)


def _later(node: Node, rule: Rule, context: Context, grad: np.ndarray) -> Callable[[_Sweep], None]:
    def work(sweep: _Sweep) -> None:
        check_guards(node, context)
        sweep.run_rule(node, rule, context, grad, passes_on=False)

    return work


def _is_wanted(rule: Rule, parents: list, variadic: bool) -> bool:
    """Whether any gradient that the rule yields is wanted."""
    if variadic:
        return True
    if len(rule.inputs) == 1:
        return parents[rule.inputs[0]] is not None
    return any(parents[position] is not None for position in rule.inputs)


def _leads_to_weights(node: Node, rule: Rule) -> bool:
    """True where every gradient the rule yields belongs to parameters (or views of them)."""
    positions = range(len(node.parents)) if node.op.variadic else rule.inputs
    wanted = [node.parents[p] for p in positions if node.parents[p] is not None]
    return all(parent.weight_side for parent in wanted)


def _sees(result: np.ndarray, others: tuple) -> bool:
    """Whether `result` looks into the memory of any of these arrays."""
    if isinstance(result.base, np.ndarray):  # a view: compare whose memory it is
        root = owner(result)
        return any(other is not None and owner(other) is root for other in others)
    return any(other is result for other in others)


def _is_twice(result: np.ndarray, results: tuple) -> bool:
    return len(results) > 1 and sum(other is result for other in results) > 1


# ---------------------------------------------------------------- the way in


def backward(
    tensor: "Tensor",
    cotangent: "Tensor | np.ndarray | None" = None,
    *,
    defer_weights: bool = False,
    retain_tape: bool = False,
    create_graph: bool = False,
) -> Owed | None:
    """Add dL/dx to `x.grad` for every leaf x that `tensor` was computed from.

    Args:
        tensor: the value to differentiate; a scalar loss, unless `cotangent` is given.
        cotangent: dL/d(tensor), of the same shape, a constant. Default: 1, for a scalar.
        defer_weights: leave the gradients of parameters to be paid later; returns `Owed`.
        retain_tape: keep what the rules saved, so that backward can run again.
        create_graph: not supported (gradients of gradients); refused.

    Raises:
        AutogradError: no tape, a missing or misshaped cotangent, one that requires gradients
            itself, a freed tape, an operation without a rule, or a value that was changed in
            place; each says what to do.
    """
    if create_graph:
        raise AutogradError(
            f"create_graph=True asks for gradients of gradients: {FIRST_ONLY} (rules launch "
            "kernels and are not themselves on the tape)"
        )
    if not tensor.requires_grad:
        raise AutogradError(
            f"backward from a tensor of shape {tensor.shape} that no tape leads to: nothing it "
            "was computed from has requires_grad=True, or it was made under no_grad, or it is "
            f"itself a gradient ({FIRST_ONLY})"
        )
    check_constant("the cotangent", cotangent)
    grad = _seed(tensor, cotangent)
    tensor.device.backward_passes += 1
    owed = Owed(retain_tape, tensor.device) if defer_weights else None
    if tensor.node is None:  # a leaf: its own gradient is the cotangent
        tensor.add_gradient(grad, shared=False)
        return owed
    sweep = _Sweep(retain_tape, owed)
    sweep.start(tensor.node, grad)
    sweep.run(down_to=EVERYTHING)
    return owed


def check_constant(what: str, value: Any) -> None:
    """Refuse a gradient (or cotangent) that is on the tape: what it came from would get nothing.

    Raises:
        AutogradError: it requires gradients itself.
    """
    if isinstance(value, Traced) and value.tracked:
        raise AutogradError(
            f"{what} (shape {value.shape}) requires gradients itself, but {FIRST_ONLY} and would "
            "take it for a constant: pass .detach() of it if that is what you mean"
        )


def _seed(tensor: "Tensor", cotangent: Any) -> np.ndarray:
    if cotangent is None:
        if tensor.data.size != 1:
            raise AutogradError(
                f"backward from a tensor of shape {tensor.shape} needs a cotangent of that shape: "
                "pass backward(cotangent), or reduce to a scalar first, e.g. with .sum()"
            )
        return tensor.device.full(tensor.shape, 1.0, tensor.dtype)
    array = cotangent.data if isinstance(cotangent, Traced) else np.asarray(cotangent)
    if array.shape != tensor.shape:
        raise AutogradError(
            f"the cotangent has shape {array.shape}, but the tensor has shape {tensor.shape}: "
            "they must be equal (the cotangent is dL/d(tensor), one number per element)"
        )
    seed = tensor.device.empty(tensor.shape, tensor.dtype)
    tensor.device.launch(copy, array, seed)  # a private copy, in the tensor's dtype
    return seed
