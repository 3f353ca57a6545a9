"""A stage from a plan: its actions captured once, then replayed in a microbatch's own memory.

Each action is a segment (`capture/segments.py`): forward, input-gradient and weight-gradient. Where
the schedule asks for whole backwards only, there are two, for what I must keep for W is then never
kept. How many microbatches are in flight at once, and so how often their memory is needed, is known
from the schedule: a microbatch takes a slot with its F and gives it back after its W (or B).

What leaves for another rank has no memory in the plan: its last launches write into the slot of the
ring from which it is sent (`capture/outgoing.py`; that slot is `send_slot` here, to tell it from
the plan's own). Its address changes from message to message, so it is an argument of the run. What
stays on the rank, at a V's turn, has its memory in the plan, and so has what the rule there forbids
to go out; the executor copies that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from baremetal.autograd import Tensor
from baremetal.capture import capture_segments
from baremetal.kernels.cost import Cost
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.passage import Passage
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.pipeline.stage import Stage
from baremetal.schedules import Kind, Schedule

FORWARD, INPUT, WEIGHT, BACKWARD = "forward", "input_gradient", "weight_gradient", "backward"


def most_in_flight(schedule: Schedule, stage: int) -> int:
    """How many microbatches a stage holds at once, at most: from F on until after W (or B)."""
    held = most = 0
    for actions in schedule.actions_by_rank():
        for action in actions:
            if action.stage != stage:
                continue
            held += {Kind.F: 1, Kind.I: 0, Kind.W: -1, Kind.B: -1}[action.kind]
            most = max(most, held)
    return most


def splits_backward(schedule: Schedule, stage: int) -> bool:
    """Whether I and W of this stage are ever apart."""
    return any(
        action.stage == stage and action.kind is Kind.I
        for actions in schedule.actions_by_rank()
        for action in actions
    )


def leaving(schedule: Schedule, stage: int) -> tuple[bool, bool]:
    """Whether a stage's activations leave its rank, and whether the gradients of its input do."""
    rank_of = schedule.rank_of
    neighbours = schedule.behind(stage), schedule.before(stage)
    forward, back = (to is not None and rank_of[to] != rank_of[stage] for to in neighbours)
    return forward, back


class CapturedStage(StageRunner):
    """Runs the actions of one stage from a plan.

    Args:
        stage: which; the optimiser that updates it must exist already (its memory is part of the
            plan).
        shape: (B, T) of a microbatch.
        slots: how many microbatches may be in flight.
        split: whether backward comes in two halves; whole ones (B) are possible in either case.
        cotangent: see `Passage`.
        sends: whether its activations, and the gradients of its input, are sent from memory that
            `do` is given; they lie in the plan's own otherwise.

    Attributes:
        segments: the plan: launches, memory.

    Raises:
        PipelineError: a model that cannot be captured.
    """

    def __init__(
        self,
        stage: Stage,
        shape: tuple[int, int],
        slots: int,
        *,
        split: bool = True,
        cotangent: np.ndarray | None = None,
        sends: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__(stage)
        if not stage.model.is_static:
            raise PipelineError(
                f"a stage of {type(stage.model).__name__} cannot be captured, for its routers "
                "decide anew with each microbatch: use an EagerStage (--eager)"
            )
        passage = Passage(stage, cotangent=cotangent)
        functions: dict[str, Callable[..., Any]] = {FORWARD: passage.forward}
        if split:
            functions |= {INPUT: passage.input_gradient, WEIGHT: passage.weight_gradient}
        else:
            functions[BACKWARD] = passage.backward
        tokens = np.zeros(shape, np.int64)
        x = np.zeros(stage.activation_shape(*shape), stage.dtype)
        part = stage.part
        inputs = {
            FORWARD: [tokens if part.is_first else x, *([tokens] if part.is_last else [])],
            INPUT if split else BACKWARD: [] if part.is_last else [x],
        }
        self._backward_name = INPUT if split else BACKWARD
        both = zip((FORWARD, self._backward_name), sends, strict=True)
        self.segments = capture_segments(
            functions,
            inputs=inputs,
            slots=slots,
            parameters=stage.trainable().values(),
            outgoing={name: x for name, leaves in both if leaves},
        )
        self._splits = split
        self._slot_of: dict[int, int] = {}

    @classmethod
    def for_schedule(
        cls,
        stage: Stage,
        shape: tuple[int, int],
        schedule: Schedule,
        number: int,
        cotangent: np.ndarray | None = None,
    ) -> "CapturedStage":
        """With as many slots as stage `number` of the schedule needs, sending what it sends."""
        slots, split = most_in_flight(schedule, number), splits_backward(schedule, number)
        sends = leaving(schedule, number)
        return cls(stage, shape, slots, split=split, cotangent=cotangent, sends=sends)

    @property
    def launch_costs(self) -> Mapping[Kind, Sequence[Cost]]:
        """As planned. I and W have none of their own if backward is captured as one."""
        costs = {Kind.F: self._planned(FORWARD)}
        if not self._splits:
            return costs | {Kind.B: self._planned(BACKWARD)}
        halves = self._planned(INPUT), self._planned(WEIGHT)
        return costs | {Kind.I: halves[0], Kind.W: halves[1], Kind.B: halves[0] + halves[1]}

    def _planned(self, name: str) -> list[Cost]:
        return [launch.cost for launch in self.segments[name].plan.launches]

    def begin_step(self, batch: Batch) -> None:
        super().begin_step(batch)
        for slot in self._slot_of.values():
            self.segments.release(slot)
        self._slot_of.clear()

    def fills_send_slot(self, kind: Kind) -> bool:
        if kind is Kind.W:
            return False
        return self.segments[FORWARD if kind is Kind.F else self._backward_name].goes_out

    def activation_in(self, microbatch: int) -> np.ndarray:
        return self.segments[FORWARD].inputs(self._enter(microbatch))[0]

    def gradient_in(self, microbatch: int) -> np.ndarray:
        return self.segments[self._backward_name].inputs(self._slot(microbatch))[0]

    def _forward(
        self,
        microbatch: int,
        outside: tuple[list[np.ndarray], list[np.ndarray]],
        send_slot: np.ndarray | None,
    ) -> np.ndarray:
        tokens, targets = outside
        slot = self._slot_of.get(microbatch)
        slot = self._enter(microbatch) if slot is None else slot
        forward = self.segments[FORWARD]
        activations = [] if tokens else [forward.inputs(slot)[0]]
        y = forward.run(slot, *tokens, *activations, *targets, out=send_slot)
        if self.stage.part.is_last:
            self.losses[microbatch] = y.item()
        return _array(y)

    def _input_gradient(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        return self._run_backward(INPUT, microbatch, send_slot)

    def _weight_gradient(self, microbatch: int) -> None:
        self.segments[WEIGHT].run(self._slot(microbatch))
        del self._slot_of[microbatch]

    def _backward(self, microbatch: int, send_slot: np.ndarray | None) -> np.ndarray | None:
        dx = self._run_backward(self._backward_name, microbatch, send_slot)
        if self._splits:
            self._weight_gradient(microbatch)
        else:
            del self._slot_of[microbatch]
        return dx

    def _run_backward(
        self, name: str, microbatch: int, send_slot: np.ndarray | None
    ) -> np.ndarray | None:
        segment, slot = self.segments[name], self._slot(microbatch)
        dx = segment.run(slot, *segment.inputs(slot), out=send_slot)
        return None if dx is None else _array(dx)

    def _enter(self, microbatch: int) -> int:
        """A slot for a microbatch that begins."""
        if microbatch in self._slot_of:
            return self._slot_of[microbatch]
        taken = self._slot_of.values()
        free = [slot for slot in range(self.segments.slots) if slot not in taken]
        if not free:
            raise PipelineError(
                f"{self.stage}: microbatch {microbatch} begins while {sorted(self._slot_of)} are "
                f"in flight, and there are {self.segments.slots} slots: capture with more, as many "
                "as most_in_flight(schedule, stage) says"
            )
        self._slot_of[microbatch] = free[0]
        return free[0]

    def _slot(self, microbatch: int) -> int:
        if microbatch not in self._slot_of:
            raise PipelineError(
                f"{self.stage}: backward of microbatch {microbatch}, which is not in flight: its "
                "forward comes first, and each part of its backward once"
            )
        return self._slot_of[microbatch]


def _array(result: Tensor | np.ndarray) -> np.ndarray:
    """What a segment returned: a tensor of its own, or the send slot that it was given."""
    return result.data if isinstance(result, Tensor) else result
