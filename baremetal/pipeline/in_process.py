"""A schedule executed in one process, stage after stage: what every other way is checked against.

No clock, no link, no message: what one stage returns is handed to the next. Each rank does its
steps in its own order, and waits when it must; the ranks take turns.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from baremetal.pipeline.eager_stage import EagerStage
from baremetal.pipeline.stage import Batch
from baremetal.schedules import Action, Kind, Schedule, ScheduleError


class InProcess:
    """All stages of a pipeline in one process.

    Args:
        schedule: who does what in which order.
        stages: by number, mirrored copies included.
    """

    def __init__(self, schedule: Schedule, stages: Sequence[EagerStage]) -> None:
        self.schedule = schedule
        self.stages = stages
        self._arrived: dict[tuple[str, int, int], np.ndarray] = {}

    def step(self, batch: Batch) -> np.ndarray:
        """Forward and backward of a batch: gradients are added to the parameters'.

        Returns:
            The loss of each microbatch, (microbatches,); their sum is the batch's mean.
        """
        losses = np.zeros(self.schedule.microbatches)
        for stage in self.stages:
            stage.begin_step(batch)
        waiting = [deque(actions) for actions in self.schedule.actions_by_rank()]
        while any(waiting):
            left = sum(map(len, waiting))
            for actions in waiting:
                while actions and self._is_ready(actions[0]):
                    self._do(actions.popleft(), losses)
            if sum(map(len, waiting)) == left:
                stuck = ", ".join(f"{actions[0]}" for actions in waiting if actions)
                raise ScheduleError(f"{self.schedule.name}: nobody can go on; next are {stuck}")
        return losses

    def _is_ready(self, action: Action) -> bool:
        need = self._need(action)
        return need is None or need in self._arrived

    def _need(self, action: Action) -> tuple[str, int, int] | None:
        """What another stage must have sent."""
        if action.kind == Kind.F:
            first = self.schedule.before(action.stage) is None
            return None if first else ("x", action.stage, action.microbatch)
        if action.kind == Kind.W or self.schedule.behind(action.stage) is None:
            return None
        return "dy", action.stage, action.microbatch

    def _do(self, action: Action, losses: np.ndarray) -> None:
        kind, number, microbatch = action
        stage, need = self.stages[number], self._need(action)
        given = () if need is None else (self._arrived.pop(need),)
        if kind == Kind.F:
            y, to = stage.forward(microbatch, *given), self.schedule.behind(number)
            if to is None:
                losses[microbatch] = y.item()
            else:
                self._arrived["x", to, microbatch] = y.copy()
        elif kind == Kind.W:
            stage.weight_gradient(microbatch)
        else:
            backward = stage.input_gradient if kind == Kind.I else stage.backward
            dx, to = backward(microbatch, *given), self.schedule.before(number)
            if to is not None:
                self._arrived["dy", to, microbatch] = dx.copy()
