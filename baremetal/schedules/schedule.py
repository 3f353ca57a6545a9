"""A pipeline schedule: for each rank, an ordered list of actions. Nothing else.

    rank 0   0F0 0F1 0B0 0B1              two stages on two ranks, two microbatches (1F1B)
    rank 1   1F0 1B0 1F1 1B1

It says no times: when an action starts follows from the order, from who needs whose result, and
from how long things take. So the same object can be drawn, simulated for any machine, and executed
by real processes, and all three mean the same.

A *rank* is a process (a GPU). It may hold several stages: stage 0 and stage 4 of an interleaved
schedule on 4 ranks, or, laid out as a V, stage 0 and the last. A *path* is the sequence of stages
that a microbatch goes through. There is one, 0 to the last, unless the model exists twice: in
DualPipe half of the microbatches enter at the other end, through mirrored copies of the stages.
Those copies are stages p to 2p - 1 of a model cut into p, and stage p + s holds the same layers as
stage s.

An evaluation is a schedule, too: forwards alone (`forward_only.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from baremetal.schedules.action import Action, Step
from baremetal.schedules.errors import ScheduleError


@dataclass(frozen=True)
class Schedule:
    """Who computes what, in which order.

    Attributes:
        name: what it is called, ``"1f1b"``.
        microbatches: how many the batch is divided into.
        ranks: for each rank its steps, in their order.
        paths: the stages that a microbatch goes through, from the first to the last; one path, or
            two where every rank holds mirrored copies. The microbatches are divided evenly between
            them, the first half on the first path.
        forward_only: no microbatch comes back: what is checked is that all go through.

    Raises:
        ScheduleError: a stage has actions on two ranks, or belongs to no path.
    """

    name: str
    microbatches: int
    ranks: tuple[tuple[Step, ...], ...]
    paths: tuple[tuple[int, ...], ...]
    forward_only: bool = False
    rank_of: tuple[int, ...] = field(init=False, compare=False, repr=False)  # by stage

    def __post_init__(self) -> None:
        found: dict[int, int] = {}
        for rank, actions in enumerate(self.actions_by_rank()):
            for action in actions:
                if found.setdefault(action.stage, rank) != rank:
                    raise ScheduleError(
                        f"{self.name}: stage {action.stage} has actions on rank "
                        f"{found[action.stage]} and {action} on rank {rank}: a stage lives on one"
                    )
        wanted = sorted(stage for path in self.paths for stage in path)
        if sorted(found) != wanted or wanted != list(range(len(wanted))):
            raise ScheduleError(
                f"{self.name}: the ranks have actions of stages {sorted(found)}, but microbatches "
                f"go through stages {wanted}: every stage from 0 on needs its actions"
            )
        object.__setattr__(self, "rank_of", tuple(found[stage] for stage in wanted))

    @property
    def stages(self) -> int:
        """How many stages there are, mirrored copies counted."""
        return len(self.rank_of)

    @property
    def chunks(self) -> int:
        """The most stages that one rank holds."""
        return max(self.rank_of.count(rank) for rank in range(len(self.ranks)))

    def actions_by_rank(self) -> Iterator[Sequence[Action]]:
        """For each rank its actions, overlapped pairs taken apart."""
        for steps in self.ranks:
            yield [action for step in steps for action in step.parts]

    def path_of(self, microbatch: int) -> tuple[int, ...]:
        """The stages that this microbatch goes through."""
        each = -(-self.microbatches // len(self.paths))
        return self.paths[microbatch // each]

    def before(self, stage: int) -> int | None:
        """The stage whose activations this one needs; None for the first of a path."""
        path = next(path for path in self.paths if stage in path)
        at = path.index(stage)
        return path[at - 1] if at else None

    def behind(self, stage: int) -> int | None:
        """The stage whose gradient this one needs; None for the last of a path."""
        path = next(path for path in self.paths if stage in path)
        at = path.index(stage) + 1
        return path[at] if at < len(path) else None

    def __str__(self) -> str:
        return "\n".join(" ".join(map(str, steps)) for steps in self.ranks)
