"""Residual + norm: the sum that goes on along the residual stream, and the norm that reads it.

Forward, at the end of every half of a block, (rows, C) floats each:

    y = x + h                     reads x and h, writes y
    out = norm(y)                 reads y, writes out                (mean, rstd: a number a row)

y is needed twice: by the norm now, and by the next residual sum later. So it is written in any
case; what fusing saves is reading it again: 4 passes instead of 5. With a dropout before the sum,
`chains.py` joins that too.

Backward, per half of a block:

    dx = norm_backward_input(y, dout)        reads y and dout, writes dx
    dx = dr + dx                             reads dr and dx, writes dx        (dr: past the block)
    dw, db = norm_backward_weight(y, dout)   reads y and dout

8 passes of rows times C; fused 4: y, dout and dr are read once, dx is written once.

Why it is right: row i of each of these needs row i of the others and no other row, except the sums
over rows (dw, db), which are made in bands of 64 rows as they always are. The stages are the same
compiled bodies, so the bits are the same too.
"""

from collections.abc import Iterator

from baremetal.capture.fusion.draft import Draft
from baremetal.capture.recording import Operand, RecordedLaunch

NORMS = ("layer_norm", "rms_norm")


def residual_norm(draft: Draft) -> None:
    """Join every norm with the sum that it reads, and its backward with the sum that reads it."""
    for norm in draft.find(*NORMS):
        source = draft.writer(norm, operand_of(norm, "x"))
        if source is not None and source.kernel.name == "add":
            draft.merge(source, norm)
    for norm in draft.find(*(f"{name}_backward_input" for name in NORMS)):
        for reader in draft.readers(norm, operand_of(norm, "out")):
            if reader.kernel.name == "add" and draft.merge(norm, reader):
                break
        for weights in _weight_gradients(draft, norm):
            draft.merge(norm, weights)


def _weight_gradients(draft: Draft, norm: RecordedLaunch) -> Iterator[RecordedLaunch]:
    """The launch that computes the same norm's weight gradients, if there is one."""
    name = norm.kernel.name.replace("_input", "_weight")
    for other in draft.find(name):
        if all(same_place(operand_of(norm, x), operand_of(other, x)) for x in ("x", "grad")):
            yield other


def operand_of(launch: RecordedLaunch, name: str) -> Operand:
    """The operand of this name."""
    names = launch.kernel.operand_names(len(launch.operands))
    operand = launch.operands[names.index(name)]
    assert operand is not None
    return operand


def same_place(one: Operand, other: Operand) -> bool:
    """Whether both are the same view of the same memory."""
    start = [x.offset_bytes if x.array is None else x.array.ctypes.data for x in (one, other)]
    return (
        one.buffer is other.buffer and start[0] == start[1]
        and (one.shape, one.strides) == (other.shape, other.strides)
    )  # fmt: skip
