"""A played schedule as a trace: for the Perfetto viewer, and for whatever else reads traces.

One track per rank, "rank 0/compute", with a span per step; one per link that takes time,
"rank 0/to rank 1", with a span for as long as each message keeps it busy; a flow from each step
that sends a message to the step that takes it; and a counter of the activations that a rank holds.
"""

from baremetal.schedules.action import Kind, Overlap, Step
from baremetal.schedules.timeline import Timeline
from baremetal.schedules.wiring import Wiring
from baremetal.trace import Span, Trace

WORDS = {
    Kind.F: "forward",
    Kind.I: "input-gradient",
    Kind.W: "weight-gradient",
    Kind.B: "full backward",
}
OVERLAP = "forward beside backward"
SENDING = "send"
CATEGORIES = [*WORDS.values(), OVERLAP, SENDING]  # the order in which colours are given out


def category(step: Step) -> str:
    """What kind of step it is, in words."""
    return OVERLAP if isinstance(step, Overlap) else WORDS[step.kind]


def message_name(wiring: Wiring, message: int) -> str:
    """A message by what it carries, ``activations of 2F0``."""
    lane = wiring.lanes[wiring.lane[message]]
    way = 0 if wiring.is_activations(lane) else 1
    sender = int(wiring.sender[message])
    rank = wiring.flat.rank_of(sender)
    step = wiring.schedule.ranks[rank][sender - int(wiring.flat.first_step[rank])]
    return f"{('activations', 'gradient')[way]} of {step.parts[min(way, len(step.parts) - 1)]}"


def to_trace(timeline: Timeline) -> Trace:
    """All that happened, as spans, flows and counters; times in ps."""
    trace = Trace()
    starts, ends = timeline.start_ps.tolist(), timeline.end_ps.tolist()
    spans: list[Span] = []
    for rank, steps in enumerate(timeline.schedule.ranks):
        for step in steps:
            start_ps = starts[len(spans)]
            duration_ps = ends[len(spans)] - start_ps
            spans.append(
                trace.add_span(
                    f"rank {rank}/compute", str(step), start_ps, duration_ps, category(step)
                )
            )
    wiring = timeline.wiring
    for message, (sender, taker) in enumerate(
        zip(wiring.sender.tolist(), wiring.taker.tolist(), strict=True)
    ):
        name = message_name(wiring, message)
        trace.add_flow(spans[sender], spans[taker], name)
        source, target = wiring.links[wiring.link[message]]
        if timeline.occupancy_ps[message]:
            trace.add_span(
                f"rank {source}/to rank {target}", name, int(timeline.depart_ps[message]),
                int(timeline.occupancy_ps[message]), SENDING,
                {"arrives_ps": int(timeline.arrive_ps[message])},
            )  # fmt: skip
    for rank in range(len(timeline.schedule.ranks)):
        times, held = timeline.activations(rank)
        for time_ps, value in zip(times.tolist(), held.tolist(), strict=True):
            trace.add_counter(f"rank {rank}/activations", "microbatches held", time_ps, value)
    return trace
