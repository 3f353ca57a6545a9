"""Bias + activation: the gradient of a bias, summed up while the activation's gradient is made.

A layer u = x Wᵀ + b with an activation a = f(u), forward and backward, (rows, H) floats each:

    u = linear(x, W, b)           writes u            the bias costs nothing: BLAS adds to it
    a = f(u)                      reads u, writes a
    du = f_backward(u, da)        reads u and da, writes du
    db = column sums of du        reads du

The last two are fused: du is summed up while it is in cache, 3 passes instead of 4. The same goes
for every other bias gradient whose du is made row by row: that of a layer before a residual sum is
the residual stream's gradient, which comes out of a norm's backward or of a dropout.

Forward is left as it is. u must be written in any case, backward needs it; what is left to save is
reading it once, 2 passes instead of 3. But u comes out of BLAS, which does all rows of a thread in
one call, and would have to be called for a tile of rows at a time. It chooses among its kernels,
and so the order of its sums, by the size it is called for: the bits would be others than eager's.

Why it is right: a sum over rows is made in bands of 128 rows, added in the order of the rows, in
float64 (`kernels/native/row_sum.py`). Here a band's rows come a tile at a time, in the same order;
adding is all that is done to them, and float64 additions in one order have one result.
"""

from baremetal.capture.fusion.draft import Draft
from baremetal.capture.fusion.residual_norm import operand_of


def bias_activation(draft: Draft) -> None:
    """Join every sum over rows with what writes them."""
    for total in draft.find("sum"):
        source = draft.writer(total, operand_of(total, "x"))
        if source is not None:
            draft.merge(source, total)
