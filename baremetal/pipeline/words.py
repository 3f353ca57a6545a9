"""What a rank does, in words: for messages, reports and listings."""

import signal

from baremetal.pipeline.board import NO_ACTION, State, Status
from baremetal.schedules import Kind, Schedule
from baremetal.schedules.forward_only import forward_only

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

    The actions of an evaluation are numbered on behind those of a step (`Executor.first_action`).
    """
    where, steps = f"step {step + 1}", schedule.ranks[rank]
    if action == NO_ACTION:
        return where
    if action >= len(steps):
        where, action = f"evaluation after step {step}", action - len(steps)
        steps = forward_only(schedule).ranks[rank]
    todo = steps[action]
    parts = " beside ".join(
        f"{KINDS[part.kind]} of stage {part.stage}, microbatch {part.microbatch}"
        for part in todo.parts
    )
    return f"{where}, action {todo} ({parts})"


def describe_status(schedule: Schedule, rank: int, status: Status) -> str:
    """What a rank's line of the board says that it does."""
    doing = describe_state(status)
    if doing is None:
        doing = describe_action(schedule, rank, status.step, status.action)
        if status.waits_for is not None:
            doing += ", while it waited for a neighbour"
    return doing


def describe_state(status: Status) -> str | None:
    """What a rank does that is not in the midst of its schedule; None if it is."""
    return {
        State.STARTING: "while it started",
        State.PREPARING: "while it prepared (model, kernels, plans)",
        State.UPDATING: f"step {status.step + 1}, while it updated its weights",
        State.IDLE: "between two commands",
    }.get(status.state)


def describe_end(exitcode: int | None) -> str:
    """How a process ended, by its exit code: negative for a signal."""
    if exitcode is None:
        return "it still runs"
    if exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {-exitcode}, {name}"
    return f"exit code {exitcode}"
