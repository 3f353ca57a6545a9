"""A microbatch recorded both ways: with gradients to be overwritten, and to be added to.

The functions of a stage are called for two microbatches, one after the other, as in the beginning
of a step. What does not write gradients launches the same both times, and the second recording
serves. What does is kept in both versions, the adding one and the first, which must find the same
memory: what the first one took from earlier segments is what the second recording has in its place.

    recorded   forward  input  weight'   forward  input  weight
    kept                                 forward  input  weight  weight'

The versions follow one another here only so that memory can be planned for either: in a slot, one
of the two runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from baremetal.autograd import Device
from baremetal.autograd.structure import leaves
from baremetal.capture.errors import CaptureError
from baremetal.capture.gradients import Gradients
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch, Recording
from baremetal.capture.segment_recording import RecordedSegment, Result, record_segment
from baremetal.capture.slots import Cut
from baremetal.capture.undo import Undo


class BothWays(NamedTuple):
    """All launches of a stage, in an order for which memory can be planned.

    Attributes:
        launches: of every segment, of some in two versions.
        buffers: that they touch, with lifetimes in that order.
        cuts: for each segment one, or two: the adding version, then the first one.
    """

    launches: list[RecordedLaunch]
    buffers: list[Buffer]
    cuts: list[tuple[Cut, ...]]


def record_both_ways(
    functions: Mapping[str, Callable[..., Any]],
    inputs: Mapping[str, Sequence[Any]],
    device: Device,
    gradients: Gradients,
) -> tuple[list[RecordedSegment], BothWays]:
    """Call the functions for two microbatches; everything is as before afterwards.

    Returns:
        The segments as recorded for the second microbatch, and what is kept of both.

    Raises:
        CaptureError: they launched nothing, or what `_join` refuses.
    """
    try:
        with Undo() as undo:
            recording = Recording(undo)
            gradients.none()
            first, there = _record(functions, inputs, recording, device, gradients)
            gradients.every()
            added, _ = _record(functions, inputs, recording, device, gradients)
            undo.put_back()  # it was no step
    finally:
        gradients.as_before()
    if not recording.launches:
        raise CaptureError(f"{', '.join(functions)} launched nothing: there is nothing to capture")
    writes = [
        gradients.note_segment((*_launches(recording, a), *_launches(recording, b)), were_there)
        for a, b, were_there in zip(first, added, there, strict=True)
    ]
    return added, _join(recording, first, added, writes)


def _record(
    functions: Mapping[str, Callable[..., Any]],
    inputs: Mapping[str, Sequence[Any]],
    recording: Recording,
    device: Device,
    gradients: Gradients,
) -> tuple[list[RecordedSegment], list[list[bool]]]:
    """Call every function for one microbatch.

    Returns:
        What was recorded of each, and which gradients it found when it was called.
    """
    recorded, there = [], []
    for name, function in functions.items():
        there.append(gradients.there())
        part, tensors = record_segment(name, function, inputs.get(name, ()), recording, device)
        gradients.refuse_others(name, tensors)
        recorded.append(part)
    return recorded, there


def _launches(recording: Recording, part: RecordedSegment) -> list[RecordedLaunch]:
    return recording.launches[part.cut.start : part.cut.stop]


# ---------------------------------------------------------------- keeping what is needed


def _join(
    recording: Recording,
    first: Sequence[RecordedSegment],
    added: Sequence[RecordedSegment],
    writes: Sequence[bool],
) -> BothWays:
    """Keep what is needed of two recorded microbatches.

    Args:
        recording: of both.
        first, added: its segments, with gradients overwritten and added.
        writes: for each segment, whether it writes gradients.

    Raises:
        CaptureError: a function did something else the second time, or hands memory of its own on
            from where gradients are written.
    """
    _refuse_passing_on(recording, added, writes)
    counterpart = _counterparts(first, added, writes)
    launches: list[RecordedLaunch] = []
    buffers: list[Buffer] = []
    cuts = []
    for early, late, twice in zip(first, added, writes, strict=True):
        buffers += late.buffers
        versions = [_append(launches, recording, late)]
        if twice:
            standing = counterpart | _own_counterparts(early, late, counterpart)
            begin = len(launches)
            for launch in _launches(recording, early):
                launches.append(_moved(launch, standing))
            buffers += [b for b in early.buffers if b not in standing]
            versions.append(late.cut._replace(start=begin, stop=len(launches)))
        cuts.append(tuple(versions))
    _number_anew(launches, buffers)
    return BothWays(launches, buffers, cuts)


def _append(launches: list[RecordedLaunch], recording: Recording, part: RecordedSegment) -> Cut:
    """Take over a segment's launches; its cut where they are now."""
    begin = len(launches)
    launches += _launches(recording, part)
    return part.cut._replace(start=begin, stop=len(launches))


def _refuse_passing_on(
    recording: Recording, added: Sequence[RecordedSegment], writes: Sequence[bool]
) -> None:
    """What a segment in two versions makes has two places, of which a later one knows only one."""
    made_by = {
        buffer: part.name
        for part, twice in zip(added, writes, strict=True)
        if twice
        for buffer in part.buffers
    }
    for part in added:
        for launch in _launches(recording, part):
            for operand in launch.operands:
                if operand is None or operand.buffer is None:
                    continue
                maker = made_by.get(operand.buffer, part.name)
                if maker != part.name:
                    raise CaptureError(
                        f"'{part.name}' uses memory that '{maker}' makes, which writes gradients: "
                        "let one function do both"
                    )


def _counterparts(
    first: Sequence[RecordedSegment], added: Sequence[RecordedSegment], writes: Sequence[bool]
) -> dict[Buffer, Buffer]:
    """For the buffers that segments with one version made the first time, those of the second."""
    found: dict[Buffer, Buffer] = {}
    for early, late, twice in zip(first, added, writes, strict=True):
        if twice:
            continue
        if [_kind(b) for b in early.buffers] != [_kind(b) for b in late.buffers]:
            raise _something_else(late.name)
        found.update(zip(early.buffers, late.buffers, strict=True))
    return found


def _own_counterparts(
    early: RecordedSegment, late: RecordedSegment, counterpart: dict[Buffer, Buffer]
) -> dict[Buffer, Buffer]:
    """Inputs and results of a segment: both versions have them in the same place."""
    pairs = [*zip(early.inputs, late.inputs, strict=True)]
    results = [x.operand for x in leaves(early.returned) if isinstance(x, Result)]
    others = [x.operand for x in leaves(late.returned) if isinstance(x, Result)]
    if len(results) != len(others):
        raise _something_else(late.name)
    pairs += zip(results, others, strict=True)
    found: dict[Buffer, Buffer] = {}
    for a, b in pairs:
        if a._replace(buffer=None, array=None) != b._replace(buffer=None, array=None):
            raise _something_else(late.name)
        if a.buffer is None or b.buffer is None:
            if a.buffer is not b.buffer:
                raise _something_else(late.name)
        elif a.buffer in early.buffers:
            if _kind(a.buffer) != _kind(b.buffer) or found.get(a.buffer, b.buffer) is not b.buffer:
                raise _something_else(late.name)
            found[a.buffer] = b.buffer
        elif counterpart.get(a.buffer) is not b.buffer:
            raise _something_else(late.name)
    if len({*found.values()}) < len(found):
        raise _something_else(late.name)
    return found


def _kind(buffer: Buffer) -> tuple:
    return buffer.shape, buffer.dtype


def _something_else(name: str) -> CaptureError:
    return CaptureError(
        f"'{name}' did not do the same when it was called for a second microbatch: a segment must "
        "not depend on what was before (a count, a cache)"
    )


def _moved(launch: RecordedLaunch, standing: dict[Buffer, Buffer]) -> RecordedLaunch:
    """The launch with each buffer replaced by its counterpart, if it has one."""

    def on(operand: Operand | None) -> Operand | None:
        if operand is None or operand.buffer is None:
            return operand
        return operand._replace(buffer=standing.get(operand.buffer, operand.buffer))

    return launch._replace(operands=tuple(map(on, launch.operands)))


def _number_anew(launches: Sequence[RecordedLaunch], buffers: Sequence[Buffer]) -> None:
    """Lifetimes in the order in which the launches are now."""
    for buffer in buffers:
        buffer.first = buffer.last = -1
    for number, launch in enumerate(launches):
        for operand in launch.operands:
            if operand is not None and operand.buffer is not None:
                operand.buffer.touch(number)
