"""The CSV form of PyTorch's pipelines, so that a schedule can go there and come from there.

`torch.distributed.pipelining` reads and writes schedules as one row for each rank, one cell for
each action (`_load_csv`, `_dump_csv` of its schedule classes, format "compute_only"):

    0F0,0F1,0B0,0B1
    1F0,1B0,1F1,1B1

Empty cells are time steps in which PyTorch's own generators let a rank wait; they mean nothing and
are skipped. Its other format, "compute_comms", also says when messages are posted: ``0SEND_F1``,
stage 0 sends the activations of microbatch 1, and on the other rank ``1RECV_F1``. They follow from
the computation, and we skip them when reading, as we skip UNSHARD, RESHARD and REDUCE_GRAD (of
sharded parameters). When writing them we put a receive as early as its send, in one order in which
everything can be done: so no rank posts a receive before an earlier one that could be filled only
after it.

PyTorch knows one path through the stages. DualPipe has two, mirrored copies being stages of their
own, and so PyTorch cannot run it (it has DualPipeV); we write it in the same form, read it back,
and recognise it by its halves.

Written for and tested with PyTorch 2.13, torch/distributed/pipelining/schedules.py.
"""

import csv
import io
import re

from baremetal.schedules.action import Action, Kind, Step
from baremetal.schedules.errors import ScheduleError
from baremetal.schedules.notation import assembled, parse_step
from baremetal.schedules.schedule import Schedule

SKIPPED = re.compile(
    r"[0-9]+(UNSHARD|RESHARD|REDUCE_GRAD|SEND_F|RECV_F|SEND_B|RECV_B)[0-9]*"
)  # what is not computed


def from_csv(text: str, name: str = "csv") -> Schedule:
    """Read either format.

    Args:
        text: rows of cells, one row for each rank.
        name: what the schedule is called, in messages too.

    Raises:
        ScheduleError: a cell is no action (names row and cell and what is expected), or the whole
            is no schedule.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ScheduleError(f"{name}: not CSV: {error}") from error
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    ranks = [
        [
            parse_cell(cell.strip(), f"{name}, row {number}, cell {at}")
            for at, cell in enumerate(row, start=1)
            if cell.strip() and not SKIPPED.fullmatch(cell.strip())
        ]
        for number, row in enumerate(rows, start=1)
    ]
    return assembled(name, ranks)


def parse_cell(cell: str, where: str) -> Step:
    """One step. Raises ScheduleError with its place."""
    try:
        return parse_step(cell)
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from None


def to_csv(schedule: Schedule, communication: bool = False) -> str:
    """Write a schedule, one row for each rank.

    Args:
        schedule: what to write.
        communication: with sends and receives (PyTorch's format "compute_comms").

    Raises:
        ScheduleError: communication is asked for, and the schedule deadlocks.
    """
    rows = with_messages(schedule) if communication else schedule.ranks
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([str(step) for step in row] for row in rows)
    return out.getvalue()


# --- sends and receives --------------------------------------------------------------------------


def with_messages(schedule: Schedule) -> list[list[str]]:
    """For each rank its steps as words, and among them its sends and receives.

    Steps are gone through in an order in which they can be done. Each puts its sends behind itself,
    and each receive where the other rank has got to.
    """
    rows: list[list[str]] = [[] for _ in schedule.ranks]
    for rank, step in one_order(schedule):
        rows[rank].append(str(step))
        for action in step.parts:
            other = receiver(schedule, action)
            if other is not None and schedule.rank_of[other] != rank:
                data = "F" if action.kind is Kind.F else "B"
                rows[rank].append(f"{action.stage}SEND_{data}{action.microbatch}")
                rows[schedule.rank_of[other]].append(f"{other}RECV_{data}{action.microbatch}")
    return rows


def receiver(schedule: Schedule, action: Action) -> int | None:
    """The stage that waits for this action's result."""
    if action.kind is Kind.F:
        return schedule.behind(action.stage)
    return None if action.kind is Kind.W else schedule.before(action.stage)


def one_order(schedule: Schedule) -> list[tuple[int, Step]]:
    """All (rank, step) in an order in which they can be done.

    Raises:
        ScheduleError: there is none.
    """
    sent: set[tuple[int, bool, int]] = set()  # (receiving stage, activations?, microbatch)
    at = [0] * len(schedule.ranks)
    order: list[tuple[int, Step]] = []
    total = sum(map(len, schedule.ranks))
    while len(order) < total:
        before = len(order)
        for rank, steps in enumerate(schedule.ranks):
            if at[rank] < len(steps) and can_go(schedule, steps[at[rank]], sent):
                step = steps[at[rank]]
                at[rank] += 1
                order.append((rank, step))
                for kind, stage, k in step.parts:
                    other = receiver(schedule, Action(kind, stage, k))
                    if other is not None:
                        sent.add((other, kind is Kind.F, k))
        if len(order) == before:
            stuck = ", ".join(
                f"rank {rank} at {steps[at[rank]]}"
                for rank, steps in enumerate(schedule.ranks)
                if at[rank] < len(steps)
            )
            raise ScheduleError(f"{schedule.name} deadlocks: all wait, {stuck}")
    return order


def can_go(schedule: Schedule, step: Step, sent: set[tuple[int, bool, int]]) -> bool:
    """Whether everything from other stages that a step needs has been sent."""
    for kind, stage, k in step.parts:
        if kind is Kind.F and schedule.before(stage) is not None:
            ready = (stage, True, k) in sent
        elif kind in (Kind.I, Kind.B) and schedule.behind(stage) is not None:
            ready = (stage, False, k) in sent
        else:
            ready = True
        if not ready:
            return False
    return True
