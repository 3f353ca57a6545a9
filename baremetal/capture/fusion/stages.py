"""From several recorded launches to one fused one."""

from collections.abc import Callable, Sequence

from baremetal.capture.fusion.dependence import Span, span_of
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch
from baremetal.kernels.fused import Fused, Scratch, Stage, phantom
from baremetal.kernels.walk import walk_of

MOST_STAGES = 8  # their words must have room on the stack (`kernels/native/fused.py`)


def agree(launches: Sequence[RecordedLaunch]) -> bool:
    """Whether these launches can be the stages of one kernel.

    Of two stages that touch the same bytes, one of them writing, both must step through these bytes
    alike: from the same first to the same last, contiguous, as many to a step.
    """
    if len(launches) > MOST_STAGES:
        return False
    touched: list[tuple[Span, bool]] = []
    for launch in launches:
        walk = walk_of(launch.kernel, launch.operands, launch.attributes)
        if walk is None:
            return False
        names = launch.kernel.operand_names(len(launch.operands))
        own = [
            (span_of(operand, name in launch.kernel.writes), is_stepped)
            for operand, name, is_stepped in zip(launch.operands, names, walk.stepped, strict=True)
            if operand is not None
        ]
        for span, is_stepped in own:
            for other, other_is_stepped in touched:
                alike = (span.first, span.end) == (other.first, other.end)
                both = is_stepped and other_is_stepped
                if span.conflicts(other) and not (alike and both):
                    return False
        touched += own
    fused, whole = _wire(launches, set())
    return fused.tiling(whole) is not None


def compose(
    launches: Sequence[RecordedLaunch], is_private: Callable[[Buffer], bool]
) -> RecordedLaunch:
    """The fused launch of stages that `agree`.

    Args:
        is_private: whether no other launch touches a transient buffer.
    """
    fused, whole = _wire(launches, _inner_buffers(launches, is_private))
    if fused.tiling(whole) is None:  # a tile of the scratches would be too large
        fused, whole = _wire(launches, set())
    outside = whole[: fused.inputs]
    cost = fused.cost(*(phantom(one.shape, one.dtype, one.strides) for one in outside))
    return RecordedLaunch(fused, tuple(outside), {}, cost)


def _inner_buffers(
    launches: Sequence[RecordedLaunch], is_private: Callable[[Buffer], bool]
) -> set[Buffer]:
    """The buffers that are nothing but what one stage hands to the next."""
    touched: set[Buffer] = set()
    refused: set[Buffer] = set()
    for launch in launches:
        walk = walk_of(launch.kernel, launch.operands, launch.attributes)
        assert walk is not None
        for operand, is_stepped in zip(launch.operands, walk.stepped, strict=True):
            if operand is None or operand.buffer is None:
                continue
            touched.add(operand.buffer)
            span = span_of(operand, False)
            if not is_stepped or (span.first, span.end) != (0, operand.buffer.size_bytes):
                refused.add(operand.buffer)
    return {buffer for buffer in touched - refused if is_private(buffer)}


def _wire(launches: Sequence[RecordedLaunch], inner: set[Buffer]) -> tuple[Fused, list[Operand]]:
    """The kernel, and its operands: those from outside first, then the scratches."""
    outside: dict[tuple, Operand] = {}
    scratches: dict[tuple, Operand] = {}
    for launch in launches:
        for operand in launch.operands:
            if operand is not None:
                kind = scratches if operand.buffer in inner else outside
                kind.setdefault(_view(operand), operand)
    positions = {view: number for number, view in enumerate([*outside, *scratches])}
    stages = [
        Stage(
            launch.kernel,
            tuple(None if one is None else positions[_view(one)] for one in launch.operands),
            launch.attributes,
        )
        for launch in launches
    ]
    whole = [*outside.values(), *scratches.values()]
    memories: dict[Span, int] = {}
    places = [memories.setdefault(span_of(one, False), len(memories)) for one in whole]
    forms = [Scratch(one.shape, one.dtype) for one in scratches.values()]
    return Fused(fused_name(launches), stages, places, forms), whole


def _view(operand: Operand) -> tuple:
    """Equal for operands that are the same view of the same memory."""
    span = span_of(operand, False)
    start = operand.offset_bytes if operand.array is None else operand.array.ctypes.data
    return span.buffer, start, operand.shape, operand.strides, operand.dtype


def fused_name(launches: Sequence[RecordedLaunch]) -> str:
    """The kernels' names in a row; the halves of one backward are named once."""
    names: list[str] = []
    for launch in launches:
        name = launch.kernel.name.removesuffix("_input").removesuffix("_weight")
        if names and name == f"{names[-1]}_backward":
            name = "and_backward"
        if name not in names or not name.endswith("_backward"):
            names.append(name)
    return "_".join(names)
