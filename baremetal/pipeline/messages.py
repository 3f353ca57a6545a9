"""Every send and receive of a step, one to a line, in the order of modelled time.

    1.204 us  rank 0 -> rank 1  stage 0 -> 1  microbatch 0  activations 65.5 kB  arrives 4.559 us
    4.559 us  rank 1 <- rank 0  stage 0 -> 1  microbatch 0  activations 65.5 kB  left 1.204 us
    ...

A message is sent when its sender's step has ended and the link is free, and received when the step
that needs it starts: it may have lain there for a while.
"""

from collections.abc import Iterator
from typing import NamedTuple

from baremetal.pipeline.job import Job
from baremetal.schedules.action import Action
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.wiring import Wiring
from baremetal.trace import format_bytes

PS_PER_US = 10**6


class Message(NamedTuple):
    """A message of a step.

    Attributes:
        source, target: stages.
        src, dst: their ranks.
        microbatch: whose activations or gradient.
        what: which of them.
        depart_ps, arrive_ps, taken_ps: when it left, was there, and was used.
    """

    source: int
    target: int
    src: int
    dst: int
    microbatch: int
    what: str
    depart_ps: int
    arrive_ps: int
    taken_ps: int


def messages(timeline: Timeline) -> list[Message]:
    """All messages of a step, by number."""
    wiring = timeline.wiring
    rank_of = wiring.schedule.rank_of
    found = []
    for number in range(wiring.messages):
        lane = wiring.lanes[wiring.lane[number]]
        found.append(
            Message(
                source=lane.source,
                target=lane.target,
                src=rank_of[lane.source],
                dst=rank_of[lane.target],
                microbatch=_sending_part(wiring, number).microbatch,
                what="activations" if wiring.is_activations(lane) else "gradient",
                depart_ps=int(timeline.depart_ps[number]),
                arrive_ps=int(timeline.arrive_ps[number]),
                taken_ps=int(timeline.taken_ps[number]),
            )
        )
    return found


def _sending_part(wiring: Wiring, message: int) -> Action:
    """The action that a message comes from: the forward or the backward half of its step."""
    sender = int(wiring.sender[message])
    rank = wiring.flat.rank_of(sender)
    step = wiring.schedule.ranks[rank][sender - int(wiring.flat.first_step[rank])]
    way = wiring.sends[sender].tolist().index(message)  # of a pair, the forward comes first
    return step.parts[way if len(step.parts) > 1 else 0]


def message_lines(job: Job, timeline: Timeline) -> Iterator[str]:
    """Two lines for each message, when it is sent and when it is received, by time."""
    size = format_bytes(job.message_bytes)
    width = len(_us(timeline.makespan_ps))
    events: list[tuple[int, int, str]] = []
    for number, each in enumerate(messages(timeline)):
        what = f"stage {each.source} -> {each.target}  microbatch {each.microbatch:<3}"
        carried = f"{what}  {each.what:<11} {size}"
        sent = f"rank {each.src} -> rank {each.dst}  {carried}  arrives {_us(each.arrive_ps)}"
        received = f"rank {each.dst} <- rank {each.src}  {carried}  left {_us(each.depart_ps)}"
        events += [(each.depart_ps, number, sent), (each.taken_ps, number, received)]
    for time_ps, _, text in sorted(events, key=lambda event: event[:2]):
        yield f"{_us(time_ps):>{width}}  {text}"


def _us(time_ps: int) -> str:
    """All in one unit, so that they can be compared, and to the picosecond."""
    return f"{time_ps // PS_PER_US}.{time_ps % PS_PER_US:06d} us"
