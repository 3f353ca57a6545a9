"""From the last kernel to the wire: captured stages write what they send into the ring itself.

The ranks are threads here, their stages are real, and their lanes lie in shared memory as ever.
"""

import threading

import pytest
from pipeline_models import tiny_job, windows

from baremetal import comm
from baremetal.autograd import ops
from baremetal.comm import MessageFault, Wrong
from baremetal.machine import find_link
from baremetal.pipeline.board import Board
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.executed import executed_timeline, first_difference
from baremetal.pipeline.executor import Executor
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.runner import Batch
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import leaving
from baremetal.schedules import Kind, make_schedule
from baremetal.schedules.simulate import Simulator

STEPS = 2  # the second finds used slots, and messages of the first in them


class Squashed(Stage):
    """A stage that ends in a tanh, whose backward reads its result again."""

    def run(self, x, cache=None):
        y = super().run(x, cache)
        return y if self.part.is_last else ops.tanh(y)


class Watched:
    """A runner that notes what it was given and returned, where there was something to send."""

    def __init__(self, runner):
        self.runner = runner
        self.seen = []  # kind, send slot, result

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def do(self, kind, microbatch, send_slot=None):
        result = self.runner.do(kind, microbatch, send_slot)
        if result is not None:
            self.seen.append((kind, send_slot, result))
        return result


def build(job, eager=False, stage_class=Stage):
    numbers = range(job.schedule.stages)
    stages = build_stages(job.builder.model, job.parts, numbers)
    for stage in stages.values():
        stage.__class__ = stage_class
        job.builder.optimizer(stage.model).zero_grad()
    shape = job.samples, job.context
    return stages, build_runners(stages, job.schedule, shape, eager=eager)


def batches(job):
    return [Batch(*windows(step, job.schedule.microbatches), step) for step in range(STEPS)]


def charges(job):
    """ps of each rank's actions: uneven ones, so that senders wait for room."""
    return [[10 * (1 + rank)] * len(each) for rank, each in enumerate(job.schedule.ranks)]


def execute(job, runners, faults=()):
    """All steps by threads: what each rank counted and recorded, and the segment as it was."""
    counts, records, errors = {}, [[None] * job.ranks for _ in range(STEPS)], []
    charge = charges(job)

    def run(rank, endpoint):
        try:
            mine = {number: runners[number] for number in job.stages_of(rank)}
            executor = Executor(
                job.wiring, rank, mine, endpoint.senders, endpoint.receivers,
                Board(endpoint.board.memory, job.ranks), charge[rank],
            )  # fmt: skip
            for step, batch in enumerate(batches(job)):
                endpoint.begin_phase(step)
                records[step][rank] = executor.run(batch, comm.VirtualClock())
            endpoint.drain()
            counts[rank] = endpoint.counts
        except BaseException as error:
            errors.append(error)
            endpoint.abort(f"rank {rank} failed")

    with comm.Exchange(job.layout) as exchange:
        links = {(0, 1): job.link, (1, 0): job.link} if job.link else {}
        endpoints = [
            comm.Endpoint(exchange.address, rank, links, faults=faults) for rank in range(job.ranks)
        ]
        threads = [threading.Thread(target=run, args=each) for each in enumerate(endpoints)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        inside = [bounds(endpoint.memory) for endpoint in endpoints]
    return counts, records, inside


def bounds(memory):
    start = memory.__array_interface__["data"][0]
    return start, start + memory.nbytes


def lies_in(array, region):
    start, stop = bounds(array)
    return region[0] <= start <= stop <= region[1]


def assert_gradients_of_eager_stages(job, stages, stage_class=Stage):
    """Those of a process that hands arrays from stage to stage, to the last bit."""
    wanted, oracle = build(job, eager=True, stage_class=stage_class)
    pipeline = InProcess(job.schedule, [oracle[number] for number in range(len(oracle))])
    for batch in batches(job):
        pipeline.step(batch)
    for number, stage in stages.items():
        others = dict(wanted[number].named_parameters())
        for name, parameter in stage.named_parameters():
            found, expected = (p.grad.numpy() for p in (parameter, others[name]))
            assert found.tobytes() == expected.tobytes(), (number, name)


@pytest.mark.parametrize("slots", [None, 2])
@pytest.mark.parametrize("name", ["1f1b", "zb-v", "dualpipe"])
def test_nothing_is_copied_on_the_way_to_the_wire(name, slots):
    job = tiny_job(make_schedule(name, 2, 4), link=find_link("800g"), slots=slots)
    simulator = Simulator(
        job.wiring, link=job.link, size_bytes=job.message_bytes,
        slots=dict(zip(job.wiring.lanes, job.lane_slots, strict=True)),
    )  # fmt: skip
    simulated = simulator.play(charges(job))  # would refuse what cannot end with so few slots
    stages, runners = build(job)
    watched = {number: Watched(runner) for number, runner in runners.items()}
    counts, records, inside = execute(job, watched)
    sent = 0
    for number, runner in watched.items():
        region = inside[job.schedule.rank_of[number]]
        for kind, send_slot, result in runner.seen:
            leaves = leaving(job.schedule, number)[kind is not Kind.F]
            assert lies_in(result, region) == leaves  # what stays on the rank, at a turn, is ours
            assert (result is send_slot) == leaves
            sent += leaves
    assert sent == STEPS * job.wiring.messages == sum(each.sent for each in counts.values())
    assert [each.copied for each in counts.values()] == [0] * job.ranks
    assert_gradients_of_eager_stages(job, stages)
    for found in records:
        executed = executed_timeline(job.wiring, found, simulator.reuses)
        assert first_difference(executed, simulated) is None


@pytest.mark.parametrize("slots", [None, 1])
def test_what_the_backward_reads_again_is_copied(slots):
    """The activations, not the gradients; the slot may be overwritten before the backward."""
    job = tiny_job(make_schedule("1f1b", 2, 4), slots=slots)
    stages, runners = build(job, stage_class=Squashed)
    assert [runners[0].fills_send_slot(kind) for kind in Kind] == [False] * 4
    assert runners[1].fills_send_slot(Kind.B)
    counts, *_ = execute(job, runners)
    assert [counts[rank].copied for rank in range(2)] == [STEPS * 4, 0]
    assert [counts[rank].sent for rank in range(2)] == [STEPS * 4] * 2
    assert_gradients_of_eager_stages(job, stages, Squashed)


def test_eager_stages_copy():
    job = tiny_job(make_schedule("1f1b", 2, 4))
    stages, runners = build(job, eager=True)
    counts, *_ = execute(job, runners)
    assert [each.copied for each in counts.values()] == [STEPS * 4] * 2
    assert_gradients_of_eager_stages(job, stages)


@pytest.mark.parametrize("slots", [None, 2])
def test_messages_go_wrong_all_the_same(slots):
    """What was computed in the slot is spoilt there, found, and sent again from a clean copy."""
    job = tiny_job(make_schedule("1f1b", 2, 4), slots=slots)
    stages, runners = build(job)
    faults = [MessageFault(wrong, n % 2, 1 + 3 * (n // 2), bit=99) for n, wrong in enumerate(Wrong)]
    counts, *_ = execute(job, runners, faults)
    assert sum(each.resent for each in counts.values()) == len(faults)
    assert sum(each.damaged for each in counts.values()) == 1
    assert sum(each.copied for each in counts.values()) == 0
    assert_gradients_of_eager_stages(job, stages)
