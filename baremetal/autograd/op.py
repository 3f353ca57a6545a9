"""Operations: a forward, and directly under it one rule per input for its gradient.

An operation y = f(a, b) with cotangent g = dL/dy has for each input a vector-Jacobian product

    dL/da = gᵀ ∂f/∂a            dL/db = gᵀ ∂f/∂b

and each is declared by itself, so that the engine can compute activation gradients now and weight
gradients later (pipeline schedules with a split backward need exactly that):

    @op
    def multiply(ctx, a, b):
        ctx.save(a, b)
        return ctx.new(K.multiply, a, b)

    @multiply.vjp("a")
    def _(ctx, grad):
        a, b = ctx.saved
        ...

Positional parameters are inputs (arrays; None for an absent optional one), keyword-only
parameters are attributes (not differentiated). Forward and rules see NumPy arrays and launch
kernels through `ctx.launch`; they never touch tensors.

A rule that several inputs share (attention's q, k and v come out of one kernel) names them all and
returns a tuple. A rule declared with ``accumulates=True`` takes ``(ctx, grad, into, beta)`` and
computes ``into = beta * into + result`` (or allocates when `into` is None): BLAS adds for free.
An operation may lack a rule; backward then raises when it gets there, never returns silence.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.mode import grad_enabled
from baremetal.errors import BaremetalError
from baremetal.kernels.kernel import Kernel


class Context:
    """What a forward leaves for its rules: saved arrays and attributes, and the way to launch.

    Attributes:
        device: where to launch and allocate.
        saved: the arrays given to `save`, in that order.
        needs: for each input, whether its gradient is wanted.
        attributes: the keyword arguments of the call.
        shapes: the shape of each input (None for an absent one).
        notes: anything else that `remember` was given (integers, tuples; no arrays).
    """

    __slots__ = ("attributes", "device", "needs", "notes", "saved", "shapes")

    def __init__(self, device: Device, needs: tuple[bool, ...], attributes: dict[str, Any]) -> None:
        self.device = device
        self.needs = needs
        self.attributes = attributes
        self.saved: tuple[np.ndarray, ...] = ()
        self.shapes: tuple[tuple[int, ...] | None, ...] = ()
        self.notes: tuple[Any, ...] = ()

    def save(self, *arrays: np.ndarray) -> None:
        """Keep these arrays for the rules. Inputs and the output are watched for changes."""
        self.saved = arrays

    def remember(self, *notes: Any) -> None:
        """Keep plain values for the rules."""
        self.notes = notes

    def launch(self, kernel: Kernel, *arrays: Any, **attributes: Any) -> None:
        """Launch on this context's device."""
        self.device.launch(kernel, *arrays, **attributes)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Allocate on this context's device."""
        return self.device.empty(shape, dtype)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """Allocate an array of the same shape and dtype (always C-contiguous)."""
        return self.device.empty(array.shape, array.dtype)


class Rule(NamedTuple):
    """How to compute the gradients of some inputs (by position) from the output's."""

    inputs: tuple[int, ...]
    function: Callable
    accumulates: bool


@dataclass(frozen=True)
class Guard:
    """Remembers the version of a tensor whose value a rule will read."""

    what: str
    version: "Version"
    seen: int


class Version:
    """Counts in-place changes of one piece of memory; shared by a tensor and all its views."""

    __slots__ = ("changed_by", "count")

    def __init__(self) -> None:
        self.count = 0
        self.changed_by = ""

    def bump(self, changed_by: str) -> None:
        self.count += 1
        self.changed_by = changed_by


class Node:
    """One entry of the tape: which operation made a value, from what, and what it saved.

    Attributes:
        parents: per input the node that made it, the leaf tensor itself, or None if no gradient
            is wanted there. (Not the input tensors: those would keep dead activations alive.)
        context: what the rules need; None once the tape has been freed.
        weight_side: this value is a mere view of parameters, so its gradient belongs to the
            weight gradients.
    """

    __slots__ = ("context", "dtype", "guards", "op", "parents", "sequence", "shape", "weight_side")

    def __init__(self, op: "Op", context: Context, parents: tuple, output: np.ndarray) -> None:
        self.op = op
        self.context: Context | None = context
        self.parents = parents
        self.shape = output.shape
        self.dtype = output.dtype
        self.sequence = next(context.device.sequence)
        self.guards: tuple[Guard, ...] = ()
        self.weight_side = op.is_view and all(p is None or p.weight_side for p in parents)


class Op:
    """A differentiable operation: call it with tensors, get a tensor, and the tape grows by one."""

    def __init__(self, forward: Callable[..., np.ndarray], is_view: bool) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]  # without ctx
        self.name = forward.__name__
        self.forward = forward
        self.is_view = is_view
        self.inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.rules: list[Rule] = []
        self.__doc__ = forward.__doc__
        self.__name__ = forward.__name__
        self.__module__ = forward.__module__

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def vjp(self, *inputs: str, accumulates: bool = False) -> Callable:
        """Decorator: the rule for these inputs' gradients."""

        def declare(function: Callable) -> Callable:
            positions = tuple(self.inputs.index(name) for name in inputs)
            self.rules.append(Rule(positions, function, accumulates))
            return function

        return declare

    def rule_for(self, position: int) -> Rule | None:
        """The rule that yields the gradient of the input at this position, if there is one."""
        if self.variadic:
            position = min(position, len(self.inputs) - 1)
        return next((rule for rule in self.rules if position in rule.inputs), None)

    def __call__(self, first: Any, *others: Any, **attributes: Any) -> Any:
        """Apply to tensors. The first input is a tensor; others may be tensors, arrays or None.

        Arrays (token indices, masks) are constants: no gradient flows to them.
        """
        inputs = (first, *others)
        recording = grad_enabled()
        arrays, needs = [], []
        for value in inputs:
            is_constant = value is None or isinstance(value, np.ndarray)
            arrays.append(value if is_constant else value.data)
            needs.append(recording and not is_constant and value.requires_grad)
            if not is_constant and value.device is not first.device:
                raise BaremetalError(
                    f"'{self.name}' got tensors on {first.device} and on {value.device}: "
                    "create them on one device"
                )
        context = Context(first.device, tuple(needs), attributes)
        context.shapes = tuple(None if a is None else a.shape for a in arrays)
        output = self.forward(context, *arrays, **attributes)
        # A view shares its base's memory, hence its base's count of changes.
        shares = self.is_view and _owner(output) is _owner(arrays[0])
        version = first.version if shares else Version()
        if not any(needs):
            return first.made_by_op(output, None, version)
        parents = tuple(
            (t.node or t) if need else None for t, need in zip(inputs, needs, strict=True)
        )
        node = Node(self, context, parents, output)
        node.guards = self._guards(context, inputs, arrays, output, version)
        return first.made_by_op(output, node, version)

    def _guards(self, context, inputs, arrays, output, version) -> tuple[Guard, ...]:
        """Which of the saved arrays are tensors' memory, and at which version."""
        guards = []
        for saved in context.saved:
            owner = _owner(saved)
            if owner is _owner(output):
                guards.append(Guard("its output", version, version.count))
                continue
            for position, tensor in enumerate(inputs):
                if hasattr(tensor, "version") and owner is _owner(arrays[position]):
                    name = self.inputs[min(position, len(self.inputs) - 1)]
                    guards.append(
                        Guard(f"its input '{name}'", tensor.version, tensor.version.count)
                    )
                    break
        return tuple(guards)


def _owner(array: np.ndarray) -> Any:
    """The object that owns the array's memory, through any chain of views."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


_REGISTRY: dict[str, Op] = {}


def op(forward: Callable | None = None, *, is_view: bool = False) -> Any:
    """Decorator: declare an operation by its forward and enter it in the registry.

    Args:
        is_view: the output is (usually) a view of the first input's memory, not a new value.
    """
    if forward is None:
        return lambda f: op(f, is_view=is_view)
    declared = Op(forward, is_view)
    if declared.name in _REGISTRY:
        raise ValueError(f"two operations are called '{declared.name}': rename one of them")
    _REGISTRY[declared.name] = declared
    return declared


def registry() -> dict[str, Op]:
    """All operations declared so far, by name (a copy)."""
    return dict(_REGISTRY)
