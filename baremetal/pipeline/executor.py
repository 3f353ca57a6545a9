"""One rank's part of a step: its actions in order, with real arrays and modelled time.

For each step of the schedule:

    wait      for the messages that it needs, and for room for those that it will send
    start     clock = max(clock, arrivals, the times from which there is room)
    compute   forward, input-gradient, weight-gradient: real work on real arrays
    end       clock = start + host overhead + charge
    send      what the neighbours wait for, from the end on

From the last kernel to the wire nothing is copied. There was room, so the message's slot in the
ring is reserved without further waiting (`Sender.reserve`), the stage's plan writes its result
there (`StageRunner.do`), and `Sender.commit` sums it where it lies and publishes it. Only what a
stage cannot write there (`fills_send_slot`) is copied by `Sender.send`. Either way an action waits
for room before it computes, as the schedules' checker and simulator assume: a ring that is full can
stop it no sooner and no later.

These are the simulator's rules (`schedules/reference.py`) word for word, and with a virtual clock
the times are the same to the last picosecond, however the processes were really scheduled. What an
action is *charged* is decided outside: unit times, a modelled chip's roofline, or the time that was
measured here.

Each training step is a phase of its own: clock, links and slots begin at 0 again. The optimiser's
part comes after it and has no place on this clock.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.comm import Clock, Receiver, Sender
from baremetal.pipeline.board import Board, State
from baremetal.pipeline.runner import Batch, StageRunner
from baremetal.schedules import Action, Kind, Step
from baremetal.schedules.flat import NONE
from baremetal.schedules.wiring import FORWARD, Wiring

PS_PER_NS = 1000
Charge = Sequence[int] | None  # ps of each of the rank's steps; None: what was measured


@dataclass
class RankRecord:
    """What one rank did in one step of training; all times int64 in ps.

    Attributes:
        start_ps, end_ps, duration_ps: of each of its steps.
        depart_ps, arrive_ps: of the messages it sent, by number.
        taken_ps: of the messages it received, by number.
        link_free_ps: until when the messages it sent held their link.
        losses: of each microbatch, what this rank's stages added to the step's, (microbatches,).
        computed_ns: real time spent computing.
    """

    start_ps: np.ndarray
    end_ps: np.ndarray
    duration_ps: np.ndarray
    depart_ps: dict[int, int]
    arrive_ps: dict[int, int]
    taken_ps: dict[int, int]
    link_free_ps: dict[int, int]
    losses: np.ndarray
    computed_ns: int = 0


class Executor:
    """Executes one rank's actions.

    Args:
        wiring: the schedule and its messages.
        rank: whose actions.
        stages: the rank's stages, by number.
        senders, receivers: the rank's ends of the schedule's lanes, by the lane's number.
        board: to say what is being done.
        charge: ps of each of the rank's steps, or None to charge what is measured. Can be changed
            between steps.
        host_overhead_ps: added to each step.
        first_action: the number of its first action on the board, behind those of another schedule.

    Attributes:
        before_action: called with the training step and the number of each action before it begins
            (faults that are made on purpose).
    """

    def __init__(
        self,
        wiring: Wiring,
        rank: int,
        stages: Mapping[int, StageRunner],
        senders: Mapping[int, Sender],
        receivers: Mapping[int, Receiver],
        board: Board,
        charge: Charge,
        host_overhead_ps: int = 0,
        first_action: int = 0,
    ) -> None:
        self.wiring, self.rank, self.stages = wiring, rank, stages
        self._steps: Sequence[Step] = wiring.schedule.ranks[rank]
        self._first = int(wiring.flat.first_step[rank])
        self._senders, self._receivers = senders, receivers
        self._board = board
        self.charge = charge
        self._host_overhead_ps = host_overhead_ps
        self._first_action = first_action
        self._per_lane = np.bincount(wiring.lane, minlength=len(wiring.lanes)).tolist()
        self._handed: dict[tuple[bool, int, int], np.ndarray] = {}  # within this rank
        self._phase = 0
        self.before_action: Callable[[int, int], None] = lambda step, index: None

    def run(self, batch: Batch, clock: Clock) -> RankRecord:
        """All actions of one training step; gradients are added to the parameters'.

        Args:
            batch: the step's tokens. Ranks in the middle need the targets, too: losses are divided
                by how many count, and a mixture of experts has some loss on every stage.
            clock: at the beginning of the phase.

        Raises:
            AbortedError: the run was ended while this rank waited.
            CommError: a message was damaged or lost for good.
        """
        count = len(self._steps)
        start_ps, end_ps, duration_ps = np.zeros((3, count), np.int64)
        losses = np.zeros(self.wiring.schedule.microbatches)
        record = RankRecord(start_ps, end_ps, duration_ps, {}, {}, {}, {}, losses)
        self._handed.clear()  # of a step that was broken off
        for stage in self.stages.values():
            stage.begin_step(batch)
        for index, step in enumerate(self._steps):
            self._board.say(self.rank, State.COMPUTING, batch.step, self._first_action + index)
            self.before_action(batch.step, index)
            self._do(index, step, clock, record)
        self._phase += 1
        for stage in self.stages.values():
            record.losses += stage.losses
        return record

    def _do(self, index: int, step: Step, clock: Clock, record: RankRecord) -> None:
        takes, sends = (
            [message for message in table[self._first + index].tolist() if message != NONE]
            for table in (self.wiring.takes, self.wiring.sends)
        )
        ready_ps = [self._arrival_ps(message) for message in takes]
        ready_ps += [self._room_ps(message) for message in sends]
        start_ps = clock.wait_until(max(ready_ps, default=0))
        for part in step.parts:
            self._take(part, index, start_ps)
        record.taken_ps.update(dict.fromkeys(takes, start_ps))
        send_slots = [self._send_slot(part, index) for part in step.parts]
        began_ns = time.perf_counter_ns()
        results = [
            self.stages[part.stage].do(part.kind, part.microbatch, send_slot)
            for part, send_slot in zip(step.parts, send_slots, strict=True)
        ]
        computed_ns = time.perf_counter_ns() - began_ns
        record.computed_ns += computed_ns
        duration_ps = computed_ns * PS_PER_NS if self.charge is None else self.charge[index]
        end_ps = clock.advance(self._host_overhead_ps + duration_ps)
        for part, result in zip(step.parts, results, strict=True):
            self._deliver(part, index, result, end_ps, record)
        record.start_ps[index], record.end_ps[index] = start_ps, end_ps
        record.duration_ps[index] = duration_ps

    # ------------------------------------------------------------ what comes, what goes

    def _take(self, part: Action, index: int, taken_ps: int) -> None:
        """Put what the part needs of another stage where its stage expects it."""
        way = _way(part)
        message = int(self.wiring.takes[self._first + index, way]) if part.kind != Kind.W else NONE
        held = self._handed.pop((way == FORWARD, part.stage, part.microbatch), None)
        if message == NONE and held is None:
            return  # tokens, or the loss: from nobody
        stage = self.stages[part.stage]
        expected = stage.activation_in if way == FORWARD else stage.gradient_in
        into = expected(part.microbatch)
        if held is not None:
            into[...] = held
        else:
            receiver = self._receivers[int(self.wiring.lane[message])]
            receiver.receive(self._sequence(message), into, taken_ps)

    def _send_slot(self, part: Action, index: int) -> np.ndarray | None:
        """Where the part is to write its result, if its stage can write it where it is sent from.

        There is room: the step has waited for it. So this does not wait.
        """
        if part.kind is Kind.W or not self.stages[part.stage].fills_send_slot(part.kind):
            return None
        message = int(self.wiring.sends[self._first + index, _way(part)])
        sender = self._senders[int(self.wiring.lane[message])]
        return sender.reserve(self._sequence(message))

    def _deliver(
        self, part: Action, index: int, result: np.ndarray | None, end_ps: int, record: RankRecord
    ) -> None:
        """Send a part's result, or keep it for a neighbouring stage of this rank."""
        if result is None:
            return  # a W, or nobody to send to
        way = _way(part)
        message = int(self.wiring.sends[self._first + index, way])
        if message != NONE:
            sender, sequence = (
                self._senders[int(self.wiring.lane[message])],
                self._sequence(message),
            )
            if self.stages[part.stage].fills_send_slot(part.kind):
                transfer = sender.commit(sequence, end_ps)  # it lies there already
            else:
                transfer = sender.send(sequence, result, end_ps)
            record.depart_ps[message] = transfer.depart_ps
            record.arrive_ps[message] = transfer.arrival_ps
            record.link_free_ps[message] = transfer.free_ps
            return
        schedule = self.wiring.schedule
        forward = way == FORWARD
        to = schedule.behind(part.stage) if forward else schedule.before(part.stage)
        if to is not None:
            # A gradient lies in memory that the next microbatch may have before it is read.
            held = result if forward else result.copy()
            self._handed[forward, to, part.microbatch] = held

    # ------------------------------------------------------------ messages

    def _sequence(self, message: int) -> int:
        """A message's number on its lane since the run began."""
        lane = int(self.wiring.lane[message])
        return self._phase * self._per_lane[lane] + int(self.wiring.number[message])

    def _arrival_ps(self, message: int) -> int:
        receiver = self._receivers[int(self.wiring.lane[message])]
        return receiver.arrival(self._sequence(message))

    def _room_ps(self, message: int) -> int:
        """From when on there is a slot for a message; for the first of a phase that is 0."""
        sender = self._senders[int(self.wiring.lane[message])]
        free_ps = sender.free(self._sequence(message))
        return free_ps if int(self.wiring.number[message]) >= sender.lane.slots else 0


def _way(part: Action) -> int:
    """The column of a part's messages in the wiring's tables."""
    return FORWARD if part.kind == Kind.F else 1 - FORWARD
