"""One function of a stage, written down: its launches, inputs, results and checks.

The functions of a stage are recorded one after the other into one recording, which is cut where one
ends and the next begins. Inputs are lent by the recording, so that launches see them as buffers,
which can lie in any slot; results are remembered by where they lie, not by the arrays themselves.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd import Device, Tensor
from baremetal.autograd.structure import leaves, mapped
from baremetal.capture.errors import CaptureError
from baremetal.capture.recording import Buffer, Operand, Recording
from baremetal.capture.slots import Cut


@dataclass(frozen=True)
class Result:
    """A result: where it lies, and the device if it was a tensor."""

    operand: Operand
    device: Device | None


class RecordedSegment(NamedTuple):
    """One function's part of the joint recording."""

    name: str
    arguments: Sequence[str]  # what the function calls its inputs
    cut: Cut
    buffers: Sequence[Buffer]  # that it was lent or allocated, in that order
    inputs: Sequence[Operand]
    returned: Any  # its results, each array or tensor as a `Result`
    checks: Sequence[tuple[Callable[..., Any], Sequence[Operand]]]


def record_segment(
    name: str,
    function: Callable[..., Any],
    examples: Sequence[Any],
    recording: Recording,
    device: Device,
) -> tuple[RecordedSegment, list[Tensor]]:
    """Call one function while its launches are written down.

    Returns:
        What was recorded, and the tensors that the function returned, still on the tape.
    """
    start, first_check = len(recording.launches), len(recording.checks)
    first_buffer = len(recording.buffers)
    own = [_lent(name, position, value, recording) for position, value in enumerate(examples)]
    inputs = [recording.operand(x.data if isinstance(x, Tensor) else x) for x in own]
    with device.record(recording):
        returned = function(*own)

    def result(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Result(recording.operand(value.data), value.device)
        return Result(recording.operand(value), None) if isinstance(value, np.ndarray) else value

    results = mapped(returned, result)
    lying = [x.operand.buffer for x in leaves(results) if isinstance(x, Result)]
    cut = Cut(
        start=start,
        stop=len(recording.launches),
        inputs=[x.buffer for x in inputs if x.buffer is not None],
        results=[buffer for buffer in lying if buffer is not None],
    )
    checks = [
        (check.function, [recording.operand(array) for array in check.arrays])
        for check in recording.checks[first_check:]
    ]
    names = _argument_names(function, len(own))
    tensors = [leaf for leaf in leaves(returned) if isinstance(leaf, Tensor)]
    buffers = recording.buffers[first_buffer:]
    return RecordedSegment(name, names, cut, buffers, inputs, results, checks), tensors


def _lent(name: str, position: int, example: Any, recording: Recording) -> Any:
    """A copy of an example in memory that the recording knows for an input."""
    if isinstance(example, Tensor):
        own = recording.lend(example.data)
        return Tensor(own, example.requires_grad, device=example.device, name=example.name)
    if isinstance(example, np.ndarray):
        return recording.lend(example)
    raise CaptureError(
        f"input {position} of '{name}' is {example!r}: a segment's inputs are arrays or tensors; "
        "let the function find other things in the object it belongs to"
    )


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """What the function calls its inputs; their numbers where it gives them no names."""
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (named + [str(position) for position in range(len(named), count)])[:count]
