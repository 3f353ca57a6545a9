"""Writing down one rank's order: "the next forward of chunk 1", "then that backward's W".

Schedules made by hand are told as phases: so many of this, then so many of that. Microbatches of
one chunk go through each kind of work in their order, so a phase needs to say only the kind and the
chunk; which microbatch it is follows from how many went before. That counting is done here.
"""

from collections import deque

from baremetal.schedules.action import Action, Kind, Overlap, Step


class RankOrder:
    """One rank's steps, in the making.

    Args:
        stages: the stage that each chunk of the rank is.
        first: for each chunk the first microbatch that visits it; 0 for all if not given.
    """

    def __init__(self, stages: tuple[int, ...], first: tuple[int, ...] | None = None) -> None:
        self.steps: list[Step] = []
        self.stages = stages
        self.following = {
            (kind, chunk): start
            for chunk, start in enumerate(first or (0,) * len(stages))
            for kind in (Kind.F, Kind.I)
        }
        self.owed: deque[Action] = deque()  # weight gradients put off, oldest first

    def take(self, kind: Kind, chunk: int) -> Action:
        """The next action of this kind: a B counts as the I that it contains."""
        counted = (Kind.F if kind is Kind.F else Kind.I, chunk)
        microbatch = self.following[counted]
        self.following[counted] += 1
        return Action(kind, self.stages[chunk], microbatch)

    def forward(self, chunk: int) -> None:
        """F of the next microbatch."""
        self.steps.append(self.take(Kind.F, chunk))

    def backward(self, chunk: int) -> None:
        """B of the next microbatch: both gradients in one piece."""
        self.steps.append(self.take(Kind.B, chunk))

    def overlap(self, forward: int, backward: int) -> None:
        """F of the next microbatch of one chunk together with B of the next of another."""
        self.steps.append(Overlap(self.take(Kind.F, forward), self.take(Kind.B, backward)))

    def input_gradient(self, chunk: int) -> None:
        """I of the next microbatch; its W is owed."""
        action = self.take(Kind.I, chunk)
        self.steps.append(action)
        self.owed.append(action._replace(kind=Kind.W))

    def weight_gradient(self, chunk: int | None = None) -> None:
        """The W that has been owed longest, of one chunk or of any."""
        stages = self.stages if chunk is None else (self.stages[chunk],)
        oldest = next(action for action in self.owed if action.stage in stages)
        self.owed.remove(oldest)
        self.steps.append(oldest)
