"""What a rank does, in words: for messages, reports and listings."""

from baremetal.pipeline.board import NO_ACTION
from baremetal.schedules import Kind, Schedule

KINDS = {
    Kind.F: "forward",
    Kind.I: "input-gradient",
    Kind.W: "weight-gradient",
    Kind.B: "full backward",
}


def rank_name(schedule: Schedule, rank: int) -> str:
    """A rank and what it holds: ``rank 1 (stages 1 and 6)``."""
    *others, last = [str(stage) for stage, its in enumerate(schedule.rank_of) if its == rank]
    if not others:
        return f"rank {rank} (stage {last})"
    return f"rank {rank} (stages {', '.join(others)} and {last})"


def describe_action(schedule: Schedule, rank: int, step: int, action: int) -> str:
    """An action of a rank in a step of training (counted from 0), such as

    ``step 8, action 1F3 (forward of stage 1, microbatch 3)``.
    """
    where = f"step {step + 1}"
    if action == NO_ACTION:
        return where
    todo = schedule.ranks[rank][action]
    parts = " beside ".join(
        f"{KINDS[part.kind]} of stage {part.stage}, microbatch {part.microbatch}"
        for part in todo.parts
    )
    return f"{where}, action {todo} ({parts})"
