"""Fusion: fewer passes over memory, by the same arithmetic.

A step's launches are each a pass over memory: they read operands, compute a little, and write
results for the next launch to read again. Where the operands are larger than the caches, most of
the time of such launches goes to the memory bus. Matrix products aside, a step is made of little
else. So launches that work on the same rows are put together, and done a tile of rows at a time
(`kernels/fused.py`):

    residual_norm      the residual sum and the norm that reads it, forward and backward
    bias_activation    an activation's backward and the bias gradient
    loss_head          cross-entropy and its backward
    chains             element-wise work on what was just written

Each is a pass over the recorded launches, may be left out, and says what it saved. The bits of
every result are those of the separate launches, whose compiled bodies the fused ones call.
"""

import copy
from collections.abc import Callable, Sequence

from baremetal.capture.errors import CaptureError
from baremetal.capture.fusion.bias_activation import bias_activation
from baremetal.capture.fusion.chains import chains
from baremetal.capture.fusion.draft import Draft
from baremetal.capture.fusion.loss_head import loss_head
from baremetal.capture.fusion.residual_norm import residual_norm
from baremetal.capture.plan import Saving
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch, Recording

FUSIONS: dict[str, Callable[[Draft], None]] = {
    "residual_norm": residual_norm,
    "bias_activation": bias_activation,
    "loss_head": loss_head,
    "chains": chains,
}


def chosen_fusions(fuse: bool | str | Sequence[str]) -> tuple[str, ...]:
    """The names of the fusions to do, in the order in which they are done.

    Args:
        fuse: True or "all", False or "none", or names (in one string: with commas between).

    Raises:
        CaptureError: an unknown name.
    """
    if isinstance(fuse, bool) or fuse in ("all", "none"):
        return tuple(FUSIONS) if fuse in (True, "all") else ()
    names = fuse.split(",") if isinstance(fuse, str) else list(fuse)
    for name in names:
        if name not in FUSIONS:
            raise CaptureError(
                f"no fusion is called {name!r}: choose all, none, or among {', '.join(FUSIONS)}"
            )
    return tuple(name for name in FUSIONS if name in names)


def fuse_recording(
    recording: Recording, names: Sequence[str]
) -> tuple[Recording, tuple[Saving, ...]]:
    """The same step in fewer launches; the given recording is left as it is.

    Returns:
        A recording with buffers of its own, and what each fusion saved.
    """
    fused = _copied(recording)
    draft = Draft(fused.launches)
    savings = []
    before, cost = len(draft.groups), draft.cost()
    for name in names:
        FUSIONS[name](draft)
        after, cheaper = len(draft.groups), draft.cost()
        savings.append(Saving(name, before - after, cost.size_bytes - cheaper.size_bytes))
        before, cost = after, cheaper
    fused.launches = draft.finish()
    _renew_lifetimes(fused)
    return fused, tuple(savings)


def _copied(recording: Recording) -> Recording:
    """Buffers with lifetimes of their own, and the launches that touch them."""
    twins: dict[Buffer, Buffer] = {}
    for buffer in recording.buffers:
        twin = Buffer(buffer.number, buffer.shape, buffer.dtype, buffer.address)
        twin.first, twin.last, twin.memory = buffer.first, buffer.last, buffer.memory
        twins[buffer] = twin

    def moved(operand: Operand | None) -> Operand | None:
        if operand is None or operand.buffer is None:
            return operand
        return operand._replace(buffer=twins[operand.buffer])

    twin_recording = copy.copy(recording)
    twin_recording.buffers = list(twins.values())
    twin_recording.lent = [twins[buffer] for buffer in recording.lent]
    twin_recording.launches = [
        RecordedLaunch(one.kernel, tuple(map(moved, one.operands)), one.attributes, one.cost)
        for one in recording.launches
    ]
    return twin_recording


def _renew_lifetimes(recording: Recording) -> None:
    """From the first launch that touches a buffer to the last; none for what became a scratch."""
    for buffer in recording.buffers:
        buffer.first = buffer.last = -1
    for number, launch in enumerate(recording.launches):
        for operand in launch.operands:
            if operand is not None and operand.buffer is not None:
                operand.buffer.touch(number)
