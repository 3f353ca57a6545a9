"""Drawing runs in which something goes wrong: all from one number, so that each can be repeated.

A run is a tiny model on two or three ranks with a schedule, a link and a straggler of its own. In
each of its steps a few messages fail, which it is to survive; and in one step something may happen
that ends it: a process fails, or a message arrives damaged four times in a row.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from baremetal.comm.faults import Wrong
from baremetal.machine import find_link
from baremetal.nn import GPT, GPTConfig, LanguageModel
from baremetal.optim import AdamW, Optimizer, decay_groups
from baremetal.pipeline.copies import holders
from baremetal.pipeline.faults import (
    PROCESS_FAULTS,
    Fault,
    ProcessFault,
    WrongMessage,
    message_fault,
)
from baremetal.pipeline.job import Job
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.runner import Batch
from baremetal.schedules import Kind, Schedule, make_schedule
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import BACKWARD, FORWARD, Wiring, wire

VOCABULARY, CONTEXT, WIDTH, SAMPLES = 11, 8, 8, 2
STEPS, RATE = 6, 1e-2
LINK = "800g"
MESSAGES_PER_STEP = 3  # that fail, at most
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "v-half", "dualpipev")
# From outside, between two steps, when the rank waits for a command:
OUTSIDE = "killed from outside"
STOPPED = "stopped from outside"
BUSY = "killed while the leader is busy"  # with something else, as evaluating and saving are
HOPELESS = "corrupt for good"
ENDS = (*PROCESS_FAULTS, OUTSIDE, STOPPED, BUSY, HOPELESS)
TOO_OFTEN = 4  # attempts


@dataclass(frozen=True)
class TinyBuilder:
    """A GPT of some hundred parameters, its output matrix tied, with dropout."""

    layers: int

    def model(self) -> LanguageModel:
        """The whole model, with its initial values."""
        config = GPTConfig(
            vocab_size=VOCABULARY, context=CONTEXT, layers=self.layers, heads=2, width=WIDTH,
            tied=True, dropout=0.1,
        )  # fmt: skip
        return GPT(config, rng=np.random.default_rng(0), dropout_seed=3)

    def optimizer(self, model: LanguageModel) -> Optimizer:
        """AdamW, in two groups."""
        return AdamW(decay_groups(model.parameters(), 0.1), learning_rate=RATE)


@dataclass(frozen=True)
class Drawn:
    """A run, and how it is to end.

    Attributes:
        seed: from which all of it was drawn.
        job: with the faults in it.
        end: one of ENDS; "" if the run survives all.
        end_step: of the step in which it ends; STEPS if it does not.
        end_rank: whom the message has to name.
        end_action: in which action, by number on the rank; None if between two steps.
        goes_on: whether the run is continued from its last checkpoint.
    """

    seed: int
    job: Job
    end: str
    end_step: int
    end_rank: int
    end_action: int | None
    goes_on: bool

    def happened(self) -> list[str]:
        """The kinds of all faults that really happen, one for each."""
        reached = STEPS if self.goes_on else self.end_step
        survived = [
            fault.wrong.value
            for fault in self.job.faults
            if isinstance(fault, WrongMessage) and fault.step < reached and fault.times < TOO_OFTEN
        ]
        return survived + [self.end] * bool(self.end)

    def conditions(self) -> list[str]:
        """What is worse than it could be in each step of the run, and no fault."""
        job = self.job
        assert job.link is not None
        found = {
            "straggler": max(job.stragglers.values()) > 1,
            "jitter": job.link.jitter_ps > 0,
            "degraded bandwidth": job.link.bandwidth_bps != find_link(LINK).bandwidth_bps,
        }
        return [what for what, is_so in found.items() if is_so]


def draw(seed: int) -> Drawn:
    """The run of this number."""
    rng = np.random.default_rng(seed)
    schedule = _schedule(rng)
    wiring = wire(schedule)
    end = str(rng.choice(ENDS)) if rng.random() < 0.8 else ""
    end_step = int(rng.integers(STEPS)) if end else STEPS
    faults: list[Fault] = []
    rank, action = int(rng.integers(len(schedule.ranks))), None
    if end in PROCESS_FAULTS:
        action = int(rng.integers(len(schedule.ranks[rank])))
        faults.append(ProcessFault(end, rank, end_step, action))
    elif end == HOPELESS:
        message = int(rng.integers(wiring.messages))
        faults.append(_failing(wiring, message, Wrong.CORRUPT, end_step, TOO_OFTEN))
        taker = int(wiring.taker[message])
        rank = int(wiring.flat.rank_of(taker))
        action = taker - int(wiring.flat.first_step[rank])
    faults += _messages(rng, wiring, end_step, faults)
    goes_on = bool(end) and bool(rng.random() < 0.4)
    job = _job(rng, schedule, faults)
    return Drawn(seed, job, end, end_step, rank, action, goes_on)


def batch(step: int, microbatches: int) -> Batch:
    """Random tokens of a step."""
    windows = np.random.default_rng(step).integers(
        0, VOCABULARY, (microbatches, SAMPLES, CONTEXT + 1)
    )
    return Batch(windows[..., :-1].copy(), windows[..., 1:].copy(), step)


def _schedule(rng: np.random.Generator) -> Schedule:
    name, ranks = str(rng.choice(SCHEDULES)), int(rng.integers(2, 4))
    return make_schedule(name, ranks, 2 * ranks)


def _messages(
    rng: np.random.Generator, wiring: Wiring, end_step: int, others: list[Fault]
) -> list[Fault]:
    """Messages that fail, none of them where another does; none in the step that ends the run."""
    faults: list[Fault] = []
    taken = {_place(fault, wiring) for fault in others if isinstance(fault, WrongMessage)}
    for step in range(STEPS):
        if step == end_step:
            continue
        for _ in range(int(rng.integers(MESSAGES_PER_STEP + 1))):
            wrong = Wrong(rng.choice([each.value for each in Wrong]))
            times = int(rng.integers(1, 4)) if wrong in (Wrong.DROP, Wrong.CORRUPT) else 1
            message = int(rng.integers(wiring.messages))
            fault = _failing(wiring, message, wrong, step, times)
            if _place(fault, wiring) not in taken:
                taken.add(_place(fault, wiring))
                faults.append(fault)
    return faults


def _place(fault: WrongMessage, wiring: Wiring) -> tuple[int, int]:
    """Lane and number of the message in whose place it is seen: a duplicate's is the next one."""
    shown = message_fault(fault, wiring, 0)
    return shown.lane, shown.sequence + (fault.wrong is Wrong.DUPLICATE)


def _failing(wiring: Wiring, message: int, wrong: Wrong, step: int, times: int) -> WrongMessage:
    """A message as the fault of the action that sends it."""
    sender = int(wiring.sender[message])
    rank = wiring.flat.rank_of(sender)
    todo = wiring.schedule.ranks[rank][sender - int(wiring.flat.first_step[rank])]
    for part in todo.parts:
        if wiring.sends[sender, FORWARD if part.kind is Kind.F else BACKWARD] == message:
            return WrongMessage(wrong, part, step, times)
    raise AssertionError(f"message {message} is sent by no part of {todo}")


def _job(rng: np.random.Generator, schedule: Schedule, faults: list[Fault]) -> Job:
    builder = TinyBuilder(len(schedule.paths[0]))
    model = builder.model()
    parts = parts_of_stages(schedule, [1.0] * len(model.blocks))
    link = replace(
        find_link(LINK).degraded(Fraction(int(rng.integers(1, 11)), 10)),
        jitter_ps=int(rng.integers(10**7)), retransmit_timeout_ps=int(rng.integers(10**7)),
    )  # fmt: skip
    slow = int(rng.integers(len(schedule.ranks)))
    return Job(
        schedule=schedule,
        parts=parts,
        builder=builder,
        every=holders(model, parts),
        sizes={name: parameter.size for name, parameter in model.named_parameters()},
        samples=SAMPLES,
        context=CONTEXT,
        width=WIDTH,
        charge="unit",
        times=Times.uniform(schedule.stages, *(int(t) for t in rng.integers(1, 10**8, 3))),
        link=link,
        stragglers={slow: int(rng.integers(10, 31)) / 10},
        seed=int(rng.integers(2**31)),
        eager=bool(rng.random() < 0.8),
        clip=0.5,
        faults=tuple(faults),
    )
