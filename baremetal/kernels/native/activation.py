"""SwiGLU, compiled: one pass."""

from baremetal.kernels.native.abi import FLOATING, Launch, body, cast, integer, offset, pointer
from baremetal.kernels.native.rows import rows_of
from baremetal.kernels.native.vmath import select, sigmoid


@body
def swiglu_body(lo, hi, args):
    """Rows lo..hi of out = silu(gate) up. Words: 0 gate_up, 1 out, 2-3 row distances, 4 H."""
    in_step, out_step, H = integer(args, 2), integer(args, 3), integer(args, 4)
    for row in range(lo, hi):
        gate = offset(pointer(args, 0), row * in_step)
        up, out = offset(gate, H), offset(pointer(args, 1), row * out_step)
        for j in range(H):
            out[j] = gate[j] * sigmoid(gate[j]) * up[j]


def swiglu(gate_up, out):
    """Pack SwiGLU."""
    rows_in, rows_out = rows_of(gate_up), rows_of(out)
    if rows_in is None or rows_out is None:
        return None
    if out.dtype not in FLOATING or gate_up.dtype != out.dtype:
        return None
    rows, H = out.shape
    words = (gate_up, out, rows_in[1], rows_out[1], H)
    return [Launch(swiglu_body, out.dtype, words, rows, H)]


@body
def swiglu_backward_body(lo, hi, args):
    """Rows lo..hi of out = [grad up silu'(gate) | grad silu(gate)].

    Words: 0 gate_up, 1 grad, 2 out, 3-5 row distances of gate_up, grad and out, 6 H.
    """
    in_step, grad_step, out_step = integer(args, 3), integer(args, 4), integer(args, 5)
    H, one = integer(args, 6), cast(args, 1)
    for row in range(lo, hi):
        gate = offset(pointer(args, 0), row * in_step)
        grad, out_gate = (
            offset(pointer(args, 1), row * grad_step),
            offset(pointer(args, 2), row * out_step),
        )
        up, out_up = offset(gate, H), offset(out_gate, H)
        for j in range(H):
            s = sigmoid(gate[j])
            flat = s * (one - s)
            # gate * flat is inf * 0 at infinity, where its limit is 0.
            d_silu = s + select(flat != cast(args, 0), gate[j] * flat, flat)
            d_up = grad[j] * (gate[j] * s)
            out_gate[j] = grad[j] * up[j] * d_silu
            out_up[j] = d_up


def swiglu_backward(gate_up, grad, out):
    """Pack SwiGLU's gradient."""
    rows_in, rows_grad, rows_out = rows_of(gate_up), rows_of(grad), rows_of(out)
    if rows_in is None or rows_grad is None or rows_out is None:
        return None
    dtype = out.dtype
    if dtype not in FLOATING or not (gate_up.dtype == grad.dtype == dtype):
        return None
    rows, H = grad.shape
    words = (gate_up, grad, out, rows_in[1], rows_grad[1], rows_out[1], H)
    return [Launch(swiglu_backward_body, dtype, words, rows, H)]
