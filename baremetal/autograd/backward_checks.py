"""What can go wrong on the way down the tape, and what backward says then."""

from typing import Any

import numpy as np

from baremetal.autograd.errors import AutogradError
from baremetal.autograd.op import Context, Op
from baremetal.autograd.tape import OUTPUT, Guard, Node, Unrecorded
from baremetal.autograd.traced import Traced


def freed(node: Node) -> AutogradError:
    """The tape does not lead on from here: it was used up, or never written."""
    if isinstance(node, Unrecorded):
        return AutogradError(
            f"backward reached what '{node.op.name}' made inside a checkpointed function, and that "
            "did not leave it as its result (was it kept in an attribute?): return it as well"
        )
    return AutogradError(
        f"backward reached '{node.op.name}' whose tape was already freed: call "
        "backward(retain_tape=True) the first time, or run the forward again"
    )


def check_rules(node: Node) -> None:
    """Refuse a wanted input for which the operation declares no rule."""
    op: Op = node.op
    if op.variadic and op.rules:
        return
    covered = {position for rule in op.rules for position in rule.inputs}
    for position, parent in enumerate(node.parents):
        if parent is not None and position not in covered:
            name = op.input_name(position)
            raise AutogradError(
                f"operation '{op.name}' has no gradient rule for its input '{name}': "
                f"declare one with @{op.name}.vjp('{name}'), or detach() that input"
            )


def check_guards(node: Node, context: Context) -> None:
    """Refuse a saved value that was changed in place since."""
    for guard in node.guards:
        version, seen, _, _ = guard
        if version.count != seen:
            raise AutogradError(
                f"'{node.op.name}' saved {_saved_as(node, context, guard)} for its gradient, but "
                f"that value was since changed in place by '{version.changed_by}' (version {seen} "
                f"-> {version.count}): change a copy instead, or make the change before the "
                "operation"
            )


def _saved_as(node: Node, context: Context, guard: Guard) -> str:
    """What the operation calls the saved value and, if it has a name, what people call it."""
    version, _, position, name = guard
    if position == OUTPUT:
        return f"its output (shape {node.shape})"
    # A view has no name of its own, but shares the version of what it looks into.
    parent = node.parents[position]
    while isinstance(parent, Node) and parent.op.is_view:
        parent = parent.parents[0]
    if not name and isinstance(parent, Traced) and parent.version is version:
        name = parent.name
    called = f"{name!r}, " if name else ""
    return f"its input '{node.op.input_name(position)}' ({called}shape {context.shapes[position]})"


def check_result(node: Node, position: int, parent: Any, result: Any) -> None:
    """Refuse a rule's result that is no gradient of the parent."""
    if not isinstance(result, np.ndarray):
        raise AutogradError(
            f"the rule of '{node.op.name}' for '{node.op.input_name(position)}' returned "
            f"{type(result).__name__}, expected an array: mend the rule"
        )
    if result.shape != parent.shape or result.dtype != parent.dtype:
        name = node.op.input_name(position)
        raise AutogradError(
            f"the rule of '{node.op.name}' for '{name}' returned shape {result.shape} "
            f"{result.dtype}, but '{name}' has shape {parent.shape} {parent.dtype}: mend the rule"
        )
