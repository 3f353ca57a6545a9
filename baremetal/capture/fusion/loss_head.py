"""The loss head: loss and gradient of the logits in one pass over them.

    losses, lse = cross_entropy(logits, targets)                    reads logits
    dlogits = cross_entropy_backward(logits, targets, lse, scale)   reads logits, writes dlogits

(rows, V) floats each, and with V = 50,000 the largest arrays of a step: 2 passes instead of 3. A
row is read from memory once, goes three times through the cache (largest, sum of exponentials,
gradient), and the gradient is written.

Between the two stands what makes `scale`, the gradient of the mean: 1 / tokens, or 1 / (tokens of
the whole step). It does not depend on the losses, so it can be computed before; the sum of the
losses goes after. Where it does depend on them (a loss that is squared, say) the two stay apart.

Why it is right: row i of the gradient needs row i of the logits, its log-sum-exp, its target.
"""

from baremetal.capture.fusion.draft import Draft
from baremetal.capture.fusion.residual_norm import operand_of


def loss_head(draft: Draft) -> None:
    """Join every cross-entropy with its backward."""
    for backward in draft.find("cross_entropy_backward"):
        forward = draft.writer(backward, operand_of(backward, "lse"))
        if forward is not None and forward.kernel.name == "cross_entropy":
            draft.merge(forward, backward)
