"""Reverse-mode differentiation: walk the tape backwards, one rule at a time.

The tape is a graph of nodes. Nodes are numbered as they are made, and a value is made after its
inputs, so going through the reachable nodes by falling number is a topological order: when a
node's turn comes, every use of its value has already added to its gradient.

Deferred weight gradients. A pipeline stage can send the gradient of its input to the stage before
it as soon as that is known, and compute the gradients of its own weights later, in what would
otherwise be idle time (P. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, which calls
the two halves B and W). `backward(..., defer_weights=True)` therefore runs only the rules that
lead to activations and returns what is still owed: rules with their inputs, in tape order. Paying
runs exactly the same calls in the same order, so the gradients are the same to the last bit.
"""

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.autograd.op import Node, Rule
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import add, copy

if TYPE_CHECKING:
    from baremetal.autograd.tensor import Tensor


class AutogradError(BaremetalError):
    """The tape cannot give the gradient that was asked for."""


class Owed:
    """Weight gradients that a deferred backward still owes. `pay()` computes them, once."""

    def __init__(self) -> None:
        self._work: list[tuple[Node, Rule, Any, np.ndarray]] = []
        self._paid = False

    def __len__(self) -> int:
        """How many rules are still to be run."""
        return len(self._work)

    def add(self, node: Node, rule: Rule, context: Any, grad: np.ndarray) -> None:
        """Note one rule for later. It keeps alive what it needs, and nothing more."""
        self._work.append((node, rule, context, grad))

    def pay(self) -> None:
        """Run the owed rules in tape order, adding to the parameters' gradients."""
        if self._paid:
            raise AutogradError("these weight gradients were paid before: pay() works once")
        self._paid = True
        pending = _Pending(defer=None)
        for node, rule, context, grad in self._work:
            _check_guards(node)
            pending.run_rule(node, rule, context, grad)
        self._work.clear()
        pending.sweep(retain=False)


class _Pending:
    """Gradients of values whose turn has not come, and the nodes that wait for them."""

    def __init__(self, defer: Owed | None) -> None:
        self.defer = defer
        self.grads: dict[Node, np.ndarray] = {}
        self.owned: set[Node] = set()  # grads that nobody else can see, so adding in place is safe
        self._waiting: list[tuple[int, Node]] = []  # a heap: the youngest node on top

    def sweep(self, retain: bool) -> None:
        """Visit the nodes that have gradients, the youngest first, until none is left."""
        while self._waiting:
            _, node = heapq.heappop(self._waiting)
            self.owned.discard(node)
            self._visit(node, self.grads.pop(node), retain)

    def _visit(self, node: Node, grad: np.ndarray, retain: bool) -> None:
        context = node.context
        if context is None:
            raise AutogradError(
                f"backward reached '{node.op.name}' whose tape was already freed: call "
                "backward(retain_tape=True) the first time, or run the forward again"
            )
        _check_guards(node)
        done: set[int] = set()
        for position, parent in enumerate(node.parents):
            if parent is None or position in done:
                continue
            rule = node.op.rule_for(position)
            if rule is None:
                name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
                raise AutogradError(
                    f"operation '{node.op.name}' has no gradient rule for its input '{name}': "
                    f"declare one with @{node.op.name}.vjp('{name}'), or detach() that input"
                )
            done.update(range(len(node.parents)) if node.op.variadic else rule.inputs)
            if self.defer is not None and _leads_to_weights(node, rule):
                self.defer.add(node, rule, context, grad)
            else:
                self.run_rule(node, rule, context, grad)
        if not retain:
            node.context = None

    def run_rule(self, node: Node, rule: Rule, context: Any, grad: np.ndarray) -> None:
        """Run one rule and hand each gradient to the input it belongs to."""
        if rule.accumulates:
            self._accumulate(node, rule, context, grad)
            return
        results = rule.function(context, grad)
        positions = range(len(node.parents)) if node.op.variadic else rule.inputs
        if len(positions) == 1 and not isinstance(results, tuple):
            results = (results,)
        for position, result in zip(positions, results, strict=True):
            parent = node.parents[position]
            if parent is None:
                continue
            _check_shape(node, context, position, result)
            # Memory that something else can still see must not be added into later on.
            twice = sum(other is result for other in results) > 1
            shared = twice or np.may_share_memory(result, grad)
            self.receive(parent, result, context, shared)

    def _accumulate(self, node: Node, rule: Rule, context: Any, grad: np.ndarray) -> None:
        """A rule that can add into memory it is given: let it, where that memory is ours."""
        (position,) = rule.inputs
        parent = node.parents[position]
        if isinstance(parent, Node):
            if parent in self.owned:
                rule.function(context, grad, self.grads[parent], 1.0)
            else:
                self.receive(parent, rule.function(context, grad, None, 0.0), context, False)
            return
        target = parent.gradient_target()
        if target is None:
            parent.set_gradient(rule.function(context, grad, None, 0.0))
        else:
            beta = 1.0 if parent.has_gradient else 0.0
            rule.function(context, grad, target, beta)
            parent.set_gradient(target)

    def receive(self, parent: Any, result: np.ndarray, context: Any, shared: bool) -> None:
        """Add `result` to the gradient of a node or a leaf."""
        if not isinstance(parent, Node):
            parent.add_gradient(result, shared)
            return
        present = self.grads.get(parent)
        if present is None:
            self.grads[parent] = result
            if not shared:
                self.owned.add(parent)
            heapq.heappush(self._waiting, (-parent.sequence, parent))
            return
        # Adding in place is right only where no other value's gradient is this same memory.
        total = present if parent in self.owned else context.empty_like(present)
        context.launch(add, present, result, total)
        self.grads[parent] = total
        self.owned.add(parent)


def _leads_to_weights(node: Node, rule: Rule) -> bool:
    """True where every gradient the rule yields belongs to parameters (or views of them)."""
    positions = range(len(node.parents)) if node.op.variadic else rule.inputs
    wanted = [node.parents[p] for p in positions if node.parents[p] is not None]
    return all(parent.weight_side for parent in wanted)


def _check_guards(node: Node) -> None:
    for guard in node.guards:
        if guard.version.count != guard.seen:
            raise AutogradError(
                f"'{node.op.name}' saved {guard.what} (shape {node.shape} came out) for its "
                f"gradient, but that value was since changed in place by "
                f"'{guard.version.changed_by}' (version {guard.seen} -> {guard.version.count}): "
                "change a copy instead, or make the change before the operation"
            )


def _check_shape(node: Node, context: Any, position: int, result: np.ndarray) -> None:
    expected = context.shapes[position]
    if result.shape != expected:
        name = node.op.inputs[min(position, len(node.op.inputs) - 1)]
        raise AutogradError(
            f"the rule of '{node.op.name}' for '{name}' returned shape {result.shape}, but "
            f"'{name}' has shape {expected}: mend the rule"
        )


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
        cotangent: dL/d(tensor), of the same shape. Default: 1, for a scalar.
        defer_weights: leave the gradients of parameters to be paid later; returns `Owed`.
        retain_tape: keep what the rules saved, so that backward can run again.
        create_graph: not supported (gradients of gradients); refused.

    Raises:
        AutogradError: no tape, a missing or misshaped cotangent, a freed tape, an operation
            without a rule, or a value that was changed in place; each says what to do.
    """
    if create_graph:
        raise AutogradError(
            "create_graph=True asks for gradients of gradients: this engine computes first "
            "derivatives only (rules launch kernels and are not themselves on the tape)"
        )
    if not tensor.requires_grad:
        raise AutogradError(
            f"backward from a tensor of shape {tensor.shape} that no tape leads to: nothing it "
            "was computed from has requires_grad=True (or it was made under no_grad)"
        )
    grad = _seed(tensor, cotangent)
    owed = Owed() if defer_weights else None
    pending = _Pending(owed)
    if tensor.node is None:  # a leaf: its own gradient is the cotangent
        tensor.add_gradient(grad, shared=True)
        return owed
    pending.receive(tensor.node, grad, tensor, shared=False)
    pending.sweep(retain_tape)
    return owed


def _seed(tensor: "Tensor", cotangent: Any) -> np.ndarray:
    if cotangent is None:
        if tensor.data.size != 1:
            raise AutogradError(
                f"backward from a tensor of shape {tensor.shape} needs a cotangent of that shape: "
                "pass backward(cotangent), or reduce to a scalar first, e.g. with .sum()"
            )
        return tensor.device.full(tensor.shape, 1.0, tensor.dtype)
    array = np.asarray(getattr(cotangent, "data", cotangent))
    if array.shape != tensor.shape:
        raise AutogradError(
            f"the cotangent has shape {array.shape}, but the tensor has shape {tensor.shape}: "
            "they must be equal (the cotangent is dL/d(tensor), one number per element)"
        )
    seed = tensor.device.empty(tensor.shape, tensor.dtype)
    tensor.device.launch(copy, array, seed)  # a private copy, in the tensor's dtype
    return seed
