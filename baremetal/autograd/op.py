"""Operations: a forward, and directly under it one rule per input for its gradient.

An operation y = f(a, b) with cotangent g = dL/dy has for each input a vector-Jacobian product

    dL/da = gᵀ ∂f/∂a            dL/db = gᵀ ∂f/∂b

and each is declared by itself, so that the engine can compute activation gradients now and weight
gradients later (pipeline schedules with a split backward need exactly that):

    @op(promotes="common")
    def multiply(ctx, a, b):
        ctx.save(a, b)
        out = ctx.empty(broadcast_shapes("multiply", a.shape, b.shape), a.dtype)
        ctx.launch(kernels.multiply, a, b, out)
        return out

    @multiply.vjp("a")
    def _(ctx, grad):
        a, b = ctx.saved
        ...

Positional parameters are inputs (arrays; None for an absent optional one), keyword-only
parameters are attributes (not differentiated). Forward and rules see NumPy arrays and launch
kernels through `ctx.launch`; they never touch tensors.

What a rule returns is new memory, or the cotangent itself or a view of it. A rule that several
inputs share (attention's q, k and v come out of one kernel) names them all and returns a tuple. A
rule declared with ``accumulates=True`` takes ``(ctx, grad, into, beta)`` and computes
``into = beta * into + result`` (with `into` None it allocates; with beta 0 it must not read
`into`): BLAS adds for free, and so does a kernel that adds into its output. Where such a rule has
several inputs, `into` and `beta` are lists.

A forward may be run twice (`recompute.py`), and must do the same both times: what it reads from
memory that others overwrite (a counter, the targets) it reads through `ctx.snapshot`.

An operation may lack a rule; backward then raises when it gets there, never returns silence. What
has no derivative at all (a comparison, an argmax) says ``differentiable=False`` and its result is
simply off the tape.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd.device import Device
from baremetal.autograd.mode import current_run, grad_enabled
from baremetal.autograd.promotion import CONVERTED_KINDS, Promotion, common_dtype, to_array
from baremetal.autograd.tape import OUTPUT, Guard, Node, Version
from baremetal.autograd.traced import Traced
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import copy


class Context:
    """What a forward leaves for its rules: saved arrays and attributes, and the way to launch.

    Attributes:
        device: where to launch and allocate.
        launch: ``launch(kernel, *arrays, **attributes)`` on that device.
        empty: ``empty(shape, dtype)``, uninitialised memory on that device.
        saved: the arrays given to `save`, in that order.
        needs: for each input, whether its gradient is wanted.
        attributes: the keyword arguments of the call.
        shapes: the shape of each input (None for an absent one); for the rules.
        notes: anything else that `remember` was given (integers, tuples; no arrays).
    """

    __slots__ = ("attributes", "device", "empty", "launch", "needs", "notes", "saved", "shapes")

    def __init__(self, device: Device, needs: Sequence[bool], attributes: dict[str, Any]) -> None:
        self.device = device
        self.launch = device.launch  # bound once: every forward and every rule calls them
        self.empty = device.empty
        self.needs = needs
        self.attributes = attributes
        self.saved: tuple[Any, ...] = ()
        self.shapes: Sequence[Any] = ()
        self.notes: tuple[Any, ...] = ()

    def save(self, *arrays: np.ndarray | None) -> None:
        """Keep these arrays for the rules. Tensors' memory is watched for changes (`tape.py`)."""
        self.saved = arrays

    def remember(self, *notes: Any) -> None:
        """Keep plain values for the rules."""
        self.notes = notes

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """Allocate an array of the same shape and dtype (always C-contiguous)."""
        return self.empty(array.shape, array.dtype)

    def snapshot(self, array: np.ndarray, dtype: Any = None) -> np.ndarray:
        """A copy of what others may write to before our rules run: a counter, a divisor, targets.

        In a checkpoint, the recomputation gets the copy that the first run made.
        """
        run = current_run()
        return self.copied(array, dtype) if run is None else run.snapshot(self, array, dtype)

    def copied(self, array: np.ndarray, dtype: Any = None) -> np.ndarray:
        """A copy of this array in new memory, C-contiguous, by a launch."""
        out = self.empty(array.shape, array.dtype if dtype is None else dtype)
        self.launch(copy, array, out)
        return out

    def constant(self, value: float, dtype: Any) -> np.ndarray:
        """A 0-d array to broadcast, holding this number."""
        return np.array(value, dtype)


class Rule(NamedTuple):
    """How to compute the gradients of some inputs (by position) from the output's."""

    inputs: tuple[int, ...]
    function: Callable
    accumulates: bool


class Op:
    """A differentiable operation: call it with tensors, get a tensor, and the tape grows by one.

    Attributes:
        name: unique in the registry.
        inputs: the names of the positional parameters.
        variadic: the last of them takes any number of inputs; one rule yields all gradients.
        rules: what `vjp` declared, in that order.
        differentiable: False where no gradient exists.
    """

    def __init__(
        self,
        forward: Callable[..., np.ndarray],
        is_view: bool,
        promotes: Promotion | None,
        constants: Sequence[str],
        differentiable: bool,
    ) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]  # without ctx
        self.name = forward.__name__
        self.forward = forward
        self.is_view = is_view
        self.promotes = promotes
        self.converted_kinds = CONVERTED_KINDS[promotes]
        self.differentiable = differentiable
        self.inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        # Constants stand before or after the inputs that meet in one dtype, never between.
        first = 1 if self.inputs[0] in constants else 0
        self.has_constants = len(constants) > 0
        self.promoted = slice(first, None if first else len(self.inputs) - len(constants))
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.required = sum(p.default is p.empty for p in parameters if p.name in self.inputs)
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

    def input_name(self, position: int) -> str:
        """The parameter's name, as the forward spells it."""
        return self.inputs[min(position, len(self.inputs) - 1)]

    # ------------------------------------------------------------ calling

    def __call__(self, *inputs: Any, **attributes: Any) -> Any:
        """Apply to tensors. At least one input is a tensor; others may be arrays, numbers or None.

        Arrays and numbers (token indices, masks, factors) are constants: no gradient flows to
        them. An array may be saved as it is, unwatched: do not write into it before backward (see
        `tape.py`). This is the hottest code of the eager mode, hence plain loops and no helpers.
        """
        if len(inputs) != len(self.inputs) and not self.variadic:
            inputs = self._completed(inputs)
        recording = self.differentiable and grad_enabled()
        lead: Any = None
        arrays: list[Any] = []
        needs: list[bool] = []
        ready = True
        for value in inputs:
            if isinstance(value, Traced):
                arrays.append(value.data)
                needs.append(recording and value.tracked)
                if lead is None:
                    lead = value
                elif value.device is not lead.device:
                    raise self._two_devices(lead, value)
            else:
                arrays.append(value)
                needs.append(False)
                if value is not None and not isinstance(value, np.ndarray):
                    ready = False
        if lead is None:
            raise BaremetalError(
                f"'{self.name}' got no tensor among its inputs: wrap one of them in Tensor(...)"
            )
        if not ready or (self.promotes is not None and not self._share_dtype(arrays)):
            return self(*self._prepared(inputs), **attributes)

        context = Context(lead.device, needs, attributes)
        run = current_run()
        if run is not None:  # in a checkpointed function, which keeps less
            return run.call(self, context, inputs, arrays, lead)
        output = self.forward(context, *arrays, **attributes)
        version = self.version_of(output, arrays, lead)
        if True not in needs or output.dtype.kind in "iub":
            return lead.made_by_op(output, None, version)
        node = self.record(context, inputs, arrays, output, version)
        return lead.made_by_op(output, node, version)

    def version_of(self, output: np.ndarray, arrays: list, lead: Traced) -> Version:
        """A view shares its base's memory, hence its base's count of changes."""
        if self.is_view and owner(output) is owner(arrays[0]):
            return lead.version
        return Version()

    def record(self, context, inputs, arrays, output, version) -> Node:
        """The tape's entry for one call whose gradient is wanted."""
        context.shapes = [None if a is None else a.shape for a in arrays]
        parents: list[Any] = []
        for position, need in enumerate(context.needs):
            parents.append(inputs[position].node or inputs[position] if need else None)
        node = Node(self, context, parents, output, next(context.device.sequence))
        if context.saved:
            node.guards = _guards(context.saved, inputs, arrays, output, version)
        return node

    # ------------------------------------------------------------ before the call

    def _completed(self, inputs: tuple) -> tuple:
        """With None for optional inputs that were left out; refuses any other wrong number."""
        if not self.required <= len(inputs) <= len(self.inputs):
            names = ", ".join(self.inputs)
            raise BaremetalError(
                f"'{self.name}' takes the inputs ({names}), got {len(inputs)} of them: everything "
                "else (axis, shape, ...) is given by name"
            )
        return inputs + (None,) * (len(self.inputs) - len(inputs))

    def _share_dtype(self, arrays: list[Any]) -> bool:
        """Whether the inputs need no conversion."""
        meeting = arrays[self.promoted] if self.has_constants else arrays
        first = meeting[0].dtype
        for array in meeting:
            if array is not None and array.dtype != first:
                return False
        return first.kind not in self.converted_kinds

    def _prepared(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs with numbers made arrays and dtypes made equal, by NumPy's rules."""
        if self.promotes is None:
            return [v if v is None or isinstance(v, Traced) else to_array(v) for v in inputs]
        prepared = list(inputs)
        meeting = inputs[self.promoted] if self.has_constants else inputs
        dtype = common_dtype(self.name, meeting, self.promotes)
        cast = _REGISTRY["cast"]
        for position, value in enumerate(meeting, start=self.promoted.start):
            if isinstance(value, Traced):
                prepared[position] = value if value.dtype == dtype else cast(value, dtype=dtype)
            elif value is not None:
                prepared[position] = to_array(value, dtype)
        return [v if v is None or isinstance(v, Traced) else to_array(v) for v in prepared]

    def _two_devices(self, first: Traced, second: Traced) -> BaremetalError:
        return BaremetalError(
            f"'{self.name}' got tensors on {first.device} and on {second.device}: "
            "create them on one device"
        )


def _guards(saved, inputs, arrays, output, version) -> list[Guard]:
    """Which of the saved arrays are tensors' memory, and at which version."""
    guards = []
    for array in saved:
        position = None if array is None else whose(array, arrays, output)
        if position == OUTPUT:
            guards.append((version, version.count, OUTPUT, ""))
        elif position is not None and isinstance(inputs[position], Traced):
            tensor = inputs[position]
            guards.append((tensor.version, tensor.version.count, position, tensor.name))
    return guards


def whose(array: np.ndarray, arrays: list, output: np.ndarray) -> int | None:
    """The position of the input whose memory this is, OUTPUT, or None for memory of its own."""
    if array is output:
        return OUTPUT
    for position, candidate in enumerate(arrays):
        if candidate is array:
            return position
    if isinstance(array.base, np.ndarray):  # a view: of what?
        root = owner(array)
        for position, candidate in enumerate(arrays):
            if candidate is not None and owner(candidate) is root:
                return position
        if owner(output) is root:
            return OUTPUT
    return None


def owner(array: Any) -> Any:
    """The object that owns the array's memory, through any chain of views."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


_REGISTRY: dict[str, Op] = {}


def op(
    forward: Callable | None = None,
    *,
    is_view: bool = False,
    promotes: Promotion | None = None,
    constants: Sequence[str] = (),
    differentiable: bool = True,
) -> Any:
    """Decorator: declare an operation by its forward and enter it in the registry.

    Args:
        is_view: the output is (usually) a view of the first input's memory, not a new value.
        promotes: brings the inputs to one dtype by NumPy's rules before the forward sees them;
            `promotion.py` says what the words mean. By a differentiable cast, so gradients come
            back in each input's own dtype.
        constants: the inputs that take no part in this (a mask, a condition).
        differentiable: False keeps the result off the tape.
    """
    if forward is None:
        return lambda f: op(
            f,
            is_view=is_view,
            promotes=promotes,
            constants=constants,
            differentiable=differentiable,
        )
    declared = Op(forward, is_view, promotes, constants, differentiable)
    if declared.name in _REGISTRY:
        raise ValueError(f"two operations are called '{declared.name}': rename one of them")
    _REGISTRY[declared.name] = declared
    return declared


def registry() -> dict[str, Op]:
    """All operations declared so far, by name (a copy)."""
    return dict(_REGISTRY)
