"""What goes wrong on purpose: a plan, read from a line of text.

Whether a run survives what cannot be foreseen is found out with what can. So faults are part of a
job, like its schedule and its links, and happen at an exact place, the same each time:

    kill rank 1 step 20 action 5      before its action number 5 (from 0) the process is killed
    raise rank 0 step 3 action 1B2    before the full backward of microbatch 2 on stage 1
    hang rank 2 step 7                before its first action it sleeps for ever
    drop 0F3 step 2                   the message that action 0F3 sends is lost on its way
    corrupt 1B2 step 5 times 4        four attempts in a row arrive damaged: that ends the run

Several are separated by commas. Steps count from 1, as progress is shown; all else from 0.

    what      where                        what happens
    raise     rank R step S [action A]     an error, as of a bug
    exit                                   the process ends by itself, with exit code 3
    kill                                   the system kills it: SIGKILL
    stop                                   the system stops it: SIGSTOP (no more a word, not gone)
    hang                                   it sleeps for ever
    drop      ACTION step S [times N]      the message is lost N times; sent again when asked for
    corrupt                                a bit flips on the way, in N attempts
    duplicate                              it comes twice
    reorder                                it comes under the number of its successor

The first five are the worker's to do, between two actions; the others the channel's
(`comm/faults.py`). Those cost modelled time, too, the same in an executed step and in a simulated
one (`charge_faults`): what is lost holds the link for a timeout and another transmission, a
duplicate for another transmission.

Each happens once: a run that is restarted is made without those of the steps that were reached.
"""

import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baremetal import comm
from baremetal.comm.faults import Wrong
from baremetal.machine.link import Link
from baremetal.pipeline.errors import PipelineError
from baremetal.schedules import Action, Kind
from baremetal.schedules.flat import NONE
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.wiring import BACKWARD, FORWARD, Wiring

EXIT_CODE = 3
PROCESS_FAULTS = ("raise", "exit", "kill", "stop", "hang")
MESSAGE_FAULTS = tuple(wrong.value for wrong in Wrong)

_ACTION = re.compile(r"(\d+)([FIWB])(\d+)")
_PROCESS = re.compile(
    r"(?P<what>\w+) rank (?P<rank>\d+) step (?P<step>\d+)( action (?P<action>\w+))?"
)
_MESSAGE = re.compile(r"(?P<what>\w+) (?P<action>\w+) step (?P<step>\d+)( times (?P<times>\d+))?")


@dataclass(frozen=True)
class ProcessFault:
    """A process that fails.

    Attributes:
        what: one of PROCESS_FAULTS.
        rank: whose.
        step: of the training, from 0.
        action: before which: its number on the rank, or the action itself.
    """

    what: str
    rank: int
    step: int
    action: int | Action = 0

    def __str__(self) -> str:
        return f"{self.what} rank {self.rank} step {self.step + 1} action {self.action}"


@dataclass(frozen=True)
class WrongMessage:
    """A message that fails.

    Attributes:
        wrong: how.
        action: that sends it.
        step: of the training, from 0.
        times: how many attempts are lost or damaged.
    """

    wrong: Wrong
    action: Action
    step: int
    times: int = 1

    def __str__(self) -> str:
        times = f" times {self.times}" if self.times > 1 else ""
        return f"{self.wrong.value} {self.action} step {self.step + 1}{times}"


Fault = ProcessFault | WrongMessage


# ---------------------------------------------------------------- reading


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults of a line such as ``kill rank 1 step 20 action 5, drop 0F3 step 2``.

    Raises:
        PipelineError: one of them is in no known form.
    """
    return tuple(_parse(" ".join(part.split())) for part in text.split(",") if part.strip())


def _parse(text: str) -> Fault:
    what = text.partition(" ")[0]
    if what in PROCESS_FAULTS:
        found = _PROCESS.fullmatch(text)
        if found is None:
            raise PipelineError(
                f"--fault '{text}': expected '{what} rank R step S action A', such as "
                f"'{what} rank 1 step 20 action 5'; the action can be left out, or named: 1F5"
            )
        return ProcessFault(
            what, int(found["rank"]), _step(text, found["step"]), _place(text, found["action"])
        )
    if what in MESSAGE_FAULTS:
        found = _MESSAGE.fullmatch(text)
        action = None if found is None else _action(found["action"])
        if found is None or action is None:
            raise PipelineError(
                f"--fault '{text}': expected '{what} ACTION step S', the message that this action "
                f"sends, such as '{what} 0F3 step 2' (stage 0, forward of microbatch 3)"
            )
        times = int(found["times"] or 1)
        if times < 1 or (times > 1 and what not in ("drop", "corrupt")):
            raise PipelineError(f"--fault '{text}': only drop and corrupt happen 1 or more times")
        return WrongMessage(Wrong(what), action, _step(text, found["step"]), times)
    raise PipelineError(
        f"--fault '{text}': unknown '{what}'; a process can {', '.join(PROCESS_FAULTS)} and a "
        f"message can be {', '.join(MESSAGE_FAULTS)}: 'kill rank 1 step 20 action 5', "
        "'drop 0F3 step 2'"
    )


def _step(text: str, number: str) -> int:
    if int(number) < 1:
        raise PipelineError(f"--fault '{text}': steps count from 1")
    return int(number) - 1


def _place(text: str, given: str | None) -> int | Action:
    if given is None or given.isdigit():
        return int(given or 0)
    action = _action(given)
    if action is None:
        raise PipelineError(
            f"--fault '{text}': '{given}' is no action: give its number on the rank, from 0, or "
            "its name, such as 1F5 (stage, F, I, W or B, microbatch)"
        )
    return action


def _action(text: str) -> Action | None:
    found = _ACTION.fullmatch(text)
    return found and Action(Kind[found[2]], int(found[1]), int(found[3]))


def check_faults(faults: Sequence[Fault], wiring: Wiring) -> None:
    """Refuse what could not happen.

    Raises:
        PipelineError: there is no such rank, action or message; or two faults meet in one message.
    """
    for fault in faults:
        if isinstance(fault, ProcessFault):
            _place_of(fault, wiring)
            if fault.what == "stop" and not hasattr(signal, "SIGSTOP"):
                raise PipelineError(f"--fault '{fault}': this system has no SIGSTOP: use hang")
        else:
            _message_of(fault, wiring)
    lost = [fault for fault in faults if isinstance(fault, WrongMessage)]
    shown = [_shown(message_fault(fault, wiring, 0)) for fault in lost]
    for fault, place in zip(lost, shown, strict=True):
        if shown.count(place) > 1:
            raise PipelineError(
                f"--fault '{fault}': something else happens to that message (a duplicate comes in "
                "the place of its successor): choose one"
            )


def _shown(fault: comm.MessageFault) -> tuple[int, int]:
    """Lane and number of the message in whose place the fault is seen."""
    return fault.lane, fault.sequence + (fault.wrong is Wrong.DUPLICATE)


def _place_of(fault: ProcessFault, wiring: Wiring) -> int:
    """The number on its rank of the action before which the process fails."""
    ranks = wiring.schedule.ranks
    if fault.rank >= len(ranks):
        raise PipelineError(f"--fault '{fault}': there are ranks 0 to {len(ranks) - 1}")
    steps = ranks[fault.rank]
    if isinstance(fault.action, Action):
        for number, step in enumerate(steps):
            if fault.action in step.parts:
                return number
        raise PipelineError(f"--fault '{fault}': rank {fault.rank} has no such action")
    if fault.action >= len(steps):
        raise PipelineError(
            f"--fault '{fault}': rank {fault.rank} has the actions 0 to {len(steps) - 1}"
        )
    return int(fault.action)


def _message_of(fault: WrongMessage, wiring: Wiring) -> int:
    """The number of the message that the action sends."""
    action, flat = fault.action, wiring.flat
    way = FORWARD if action.kind is Kind.F else BACKWARD
    steps = (step for steps in wiring.schedule.ranks for step in steps)
    for number, step in enumerate(steps):
        if action in step.parts and (message := int(wiring.sends[number, way])) != NONE:
            return message
    raise PipelineError(
        f"--fault '{fault}': {flat.schedule.name} has no action {action} that sends a message to "
        "another rank: forwards (F) send activations on, I and B gradients back"
    )


# ---------------------------------------------------------------- when they happen


def message_fault(fault: WrongMessage, wiring: Wiring, first_step: int) -> comm.MessageFault:
    """The fault as the channel wants it: messages of a lane are numbered over the whole run.

    Args:
        fault: of a step that the run comes to.
        wiring: of the schedule.
        first_step: the one that these processes begin with.
    """
    message = _message_of(fault, wiring)
    lane = int(wiring.lane[message])
    per_step = int((wiring.lane == lane).sum())
    sequence = (fault.step - first_step) * per_step + int(wiring.number[message])
    return comm.MessageFault(fault.wrong, lane, sequence, times=fault.times)


def message_faults(
    faults: Sequence[Fault], wiring: Wiring, first_step: int
) -> list[comm.MessageFault]:
    """Those of the steps from `first_step` on."""
    return [
        message_fault(fault, wiring, first_step)
        for fault in faults
        if isinstance(fault, WrongMessage) and fault.step >= first_step
    ]


def process_faults(
    faults: Sequence[Fault], wiring: Wiring, rank: int
) -> Callable[[int, int], None]:
    """What a rank does before each action, given the training step and the action's number."""
    planned = {
        (fault.step, _place_of(fault, wiring)): fault
        for fault in faults
        if isinstance(fault, ProcessFault) and fault.rank == rank
    }

    def before_action(step: int, index: int) -> None:
        fault = planned.get((step, index))
        if fault is not None:
            _happen(fault)

    return before_action


def _happen(fault: ProcessFault) -> None:
    if fault.what == "raise":
        raise PipelineError(f"an error on purpose (--fault '{fault}')")
    if fault.what == "exit":
        os._exit(EXIT_CODE)
    elif fault.what == "hang":
        threading.Event().wait()
    elif fault.what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:  # Windows has no SIGKILL; its os.kill ends the process whatever the number
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def faults_after(faults: Sequence[Fault], step: int) -> tuple[Fault, ...]:
    """Those that have not happened yet, once this step was reached."""
    return tuple(fault for fault in faults if fault.step > step)


# ---------------------------------------------------------------- what they cost


def charge_faults(
    simulator: Simulator, faults: Sequence[Fault], step: int, link: Link, size_bytes: int
) -> None:
    """Make a step's simulator charge what the channel charges for messages that fail in it.

    Args:
        simulator: of this step; changed.
        faults: of the run.
        step: of the training.
        link: between any two ranks.
        size_bytes: of a message.
    """
    once_ps = link.occupancy_ps(size_bytes)
    for fault in faults:
        if not isinstance(fault, WrongMessage) or fault.step != step:
            continue
        message = _message_of(fault, simulator.wiring)
        if fault.wrong in (Wrong.DROP, Wrong.CORRUPT):
            simulator.occupancy_ps[message] += fault.times * (once_ps + link.retransmit_timeout_ps)
        elif fault.wrong is Wrong.DUPLICATE:
            # The link is busy for longer, but the message itself is there as ever.
            simulator.occupancy_ps[message] += once_ps
            simulator.flight_ps[message] -= once_ps
