"""What is raised when a run on several processes cannot begin, or ends before its time."""

from baremetal.errors import BaremetalError


class PipelineError(BaremetalError):
    """A model, a schedule and a number of ranks that do not go together."""


class RankError(PipelineError):
    """A rank raised, died, or hangs; the whole run was ended.

    Attributes:
        rank: which one it was.
    """

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank
