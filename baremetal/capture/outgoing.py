"""Results that are written where they are wanted, not into the plan's own memory.

What a pipeline stage computes last, activations or a gradient, is sent to another process, and the
message lies in memory that the two share (`comm/ring.py`). From an arena it would have to be copied
there. But to a launch one address is as good as another:

    in the arena    add  arena + 8192, arena + 4096  ->  arena + 12288     then a copy into slot 3
    outgoing        add  arena + 8192, arena + 4096  ->  slot 3 of the ring

So the buffer of such a result is left out of the arena, each run is told where it is to lie, and
the launches that touch it are aimed there before they run (`Replay.aim`). CUDA's graphs have a call
for the same: `cudaGraphExecKernelNodeSetParams` gives a kernel of a finished graph new arguments.

**The rule.** A result goes out if its memory is nothing but the message, and only its own segment
ever looks at it:

    one      the function returns one array, and nothing else
    whole    it is all of its buffer, from the first byte to the last, and not in another order
    as sent  shape and dtype are the message's (numbers in fewer bits would have to be converted)
    own      launches of this segment write the buffer: it is no input that was passed through
    unread   no other segment touches it, or returns it: when backward comes, the slot of the ring
             has long been given to another message

Any other result stays in the arena, and whoever sends it copies it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from baremetal.capture.recording import Buffer, RecordedLaunch
from baremetal.capture.segment_recording import Result
from baremetal.capture.slots import Cut


def outgoing_buffer(
    returned: Any,
    message: np.ndarray,
    launches: Sequence[RecordedLaunch],
    own: Sequence[Cut],
    others: Sequence[Cut],
) -> Buffer | None:
    """The buffer of a segment's result if it can go out, else None: the rule above.

    Args:
        returned: what the segment's function returned, arrays as `Result`.
        message: an array of the shape and dtype in which the result is sent.
        launches: of all segments.
        own: the segment's part of them, in one version or two.
        others: the other segments' parts.
    """
    if not isinstance(returned, Result) or returned.operand.buffer is None:
        return None
    buffer = returned.operand.buffer
    if not (_is_whole(returned, buffer) and _is_as_sent(returned, message)):
        return None
    passed_through = any(buffer in cut.inputs for cut in own)
    written = all(_touches(launches, cut, buffer) for cut in own)
    read_by_others = any(
        _touches(launches, cut, buffer) or buffer in (*cut.inputs, *cut.results) for cut in others
    )
    return buffer if written and not (passed_through or read_by_others) else None


def _is_whole(result: Result, buffer: Buffer) -> bool:
    view = result.operand
    in_order = np.empty(view.shape, view.dtype).strides
    return view.extent() == (0, buffer.size_bytes) and view.strides == in_order


def _is_as_sent(result: Result, message: np.ndarray) -> bool:
    view = result.operand
    return view.shape == message.shape and view.dtype == message.dtype


def _touches(launches: Sequence[RecordedLaunch], cut: Cut, buffer: Buffer) -> bool:
    return any(
        operand is not None and operand.buffer is buffer
        for launch in launches[cut.start : cut.stop]
        for operand in launch.operands
    )
