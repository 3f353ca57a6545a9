"""Chains: element-wise work on what was just written.

    d = dropout(h)            reads h, writes d                      dropout before a residual sum
    y = x + d                 reads x and d, writes y

An element-wise launch does next to nothing to each number and waits for memory. So it is joined
with whatever writes what it reads, or reads what it writes, if that walks through memory in the
same way. Here d is nobody else's: it stays in cache and never gets memory of its own, 3 passes
instead of 5. What is read again later (y) is written all the same, and the chain goes on without
reading it.

Why it is right: element i of each needs element i of the others. Dropout's bits are a function of
the element's position, which a tile does not change; its tiles of 256 elements stay whole.
"""

from baremetal.capture.fusion.draft import Draft
from baremetal.capture.recording import RecordedLaunch
from baremetal.kernels.walk import walk_of


def chains(draft: Draft) -> None:
    """Join element-wise launches (dropout is one) with their neighbours in the data's flow."""
    for launch in list(draft.launches()):
        walk = walk_of(launch.kernel, launch.operands, launch.attributes)
        if walk is None:
            continue
        for operand, is_stepped in zip(launch.operands, walk.stepped, strict=True):
            if operand is None or not is_stepped:
                continue
            source = draft.writer(launch, operand)
            if source is not None and is_link(source, launch):
                draft.merge(source, launch)


def is_link(source: RecordedLaunch, launch: RecordedLaunch) -> bool:
    """Whether one of the two is element-wise, and no other fusion is there for the pair.

    Sums over rows are `bias_activation`'s, norms with a sum beside them `residual_norm`'s: whoever
    leaves these out wants to see the step without them.
    """
    if launch.kernel.name == "sum" or launch.kernel.name.endswith("_weight"):
        return False
    names = {source.kernel.name, launch.kernel.name}
    if "add" in names and any("norm" in name for name in names):
        return False
    return is_elementwise(source) or is_elementwise(launch)


def is_elementwise(launch: RecordedLaunch) -> bool:
    """Whether each number of the result depends on the numbers at its own place."""
    return launch.kernel.name == "dropout" or launch.kernel.__module__.endswith(".elementwise")
