"""A schedule executed in one process, stage after stage: what every other way is checked against.

No clock, no link, no message: what one stage returns is handed to the next. Each rank does its
steps in its own order, and waits when it must; the ranks take turns.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.schedules import Action, Kind, Schedule, ScheduleError


def total_loss(losses: Sequence[np.ndarray]) -> float:
    """The batch's mean loss from what each stage added for each microbatch, in a fixed order."""
    return float(sum(np.sum(losses, axis=0).tolist()))


class InProcess:
    """All stages of a pipeline in one process.

    Args:
        schedule: who does what in which order.
        runners: by stage, mirrored copies included.
    """

    def __init__(self, schedule: Schedule, runners: Sequence[StageRunner]) -> None:
        self.schedule = schedule
        self.runners = runners
        # What was sent and is not taken yet: by whether it is a gradient, to whom, and whose.
        self._on_the_way: dict[tuple[bool, int, int], np.ndarray] = {}

    def step(self, batch: Batch) -> float:
        """Forward and backward of a batch: gradients are added to those of the parameters.

        Returns:
            The loss: the mean over the batch's tokens, in nats.

        Raises:
            ScheduleError: the ranks wait for one another.
        """
        for runner in self.runners:
            runner.begin_step(batch)
        self._on_the_way.clear()
        waiting = [deque(actions) for actions in self.schedule.actions_by_rank()]
        while any(waiting):
            left = sum(map(len, waiting))
            for actions in waiting:
                while actions and self._may_start(actions[0]):
                    self._do(actions.popleft())
            if sum(map(len, waiting)) == left:
                stuck = ", ".join(str(actions[0]) for actions in waiting if actions)
                raise ScheduleError(
                    f"{self.schedule.name}: the ranks wait for one another before {stuck}: check "
                    "the order of their actions"
                )
        return total_loss([runner.losses for runner in self.runners])

    def evaluate(self, batch: Batch) -> float:
        """The loss of a batch, forward alone: the mean over its tokens, in nats."""
        for runner in self.runners:
            runner.begin_step(batch)
        for microbatch in range(len(batch.inputs)):
            x = None
            for stage in self.schedule.path_of(microbatch):
                x = self.runners[stage].evaluate(microbatch, x)
        return total_loss([runner.losses for runner in self.runners])

    def _may_start(self, action: Action) -> bool:
        return not self._needs_message(action) or self._message_for(action) in self._on_the_way

    def _needs_message(self, action: Action) -> bool:
        if action.kind is Kind.F:
            return self.schedule.before(action.stage) is not None
        return action.kind is not Kind.W and self.schedule.behind(action.stage) is not None

    def _message_for(self, action: Action) -> tuple[bool, int, int]:
        return action.kind is not Kind.F, action.stage, action.microbatch

    def _do(self, action: Action) -> None:
        kind, stage, microbatch = action
        runner = self.runners[stage]
        if self._needs_message(action):
            room = runner.activation_in if kind is Kind.F else runner.gradient_in
            room(microbatch)[...] = self._on_the_way.pop(self._message_for(action))
        fills = runner.fills_send_slot(kind)
        out = runner.do(kind, microbatch, runner.new_message() if fills else None)
        if out is not None:
            schedule, back = self.schedule, kind is not Kind.F
            to = schedule.before(stage) if back else schedule.behind(stage)
            assert to is not None
            self._on_the_way[back, to, microbatch] = out if fills else out.copy()
