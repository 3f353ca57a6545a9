"""Real processes: the weights of a run are those of the model that was never cut."""

import multiprocessing

import numpy as np
import pytest
from pipeline_models import tiny_job, windows

from baremetal import comm
from baremetal.machine import find_chip, find_link
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.run import PipelineRun
from baremetal.pipeline.runner import Batch
from baremetal.schedules import make_schedule
from baremetal.schedules.times import Times

STEPS, RATE = 3, 1e-2


def uncut(job):
    """Losses, norms and weights of the same training in one process."""
    model = job.builder.model()
    optimizer = job.builder.optimizer(model)
    losses, norms = [], []
    for step in range(STEPS):
        inputs, targets = windows(step, job.schedule.microbatches)
        optimizer.zero_grad()
        optimizer.learning_rate = RATE
        model.dropout_state.set(step)
        total = 0.0
        for m in range(job.schedule.microbatches):
            model.dropout_state.begin_microbatch(m * job.samples)
            loss = model.loss(inputs[m], targets[m], total=targets.size)
            loss.backward()
            total += loss.item()
        optimizer.clip(job.clip, loss)
        optimizer.step()
        losses.append(total)
        norms.append(optimizer.gradient_norm)
    return losses, norms, {name: p.data for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "ranks", "chunks", "options"),
    [
        ("zb-v", 2, None, {"charge": "roofline", "chip": find_chip("gb300")}),
        ("dualpipe", 2, None, {"charge": "measured", "eager": True}),
        ("1f1b", 2, None, {"clock": "wall", "charge": "measured"}),
    ],
)
def test_weights_are_those_of_the_uncut_model(name, ranks, chunks, options):
    schedule = make_schedule(name, ranks, 4, chunks)
    job = tiny_job(schedule, link=find_link("800g"), **options)
    losses, norms, wanted = uncut(job)
    with PipelineRun(job) as run:
        for step in range(STEPS):
            inputs, targets = windows(step, schedule.microbatches)
            done = run.step(Batch(inputs, targets, step), RATE)
            assert done.is_finite
            assert done.losses.sum() == pytest.approx(losses[step], rel=1e-12)
            assert done.gradient_norm == pytest.approx(norms[step], rel=1e-12)
            if job.clock == "virtual":
                assert first_difference(done.executed, run.simulate(done)) is None
            else:  # the receiver waits until the message would have arrived
                assert (done.executed.taken_ps >= done.executed.arrive_ps).all()
        weights, state = run.state()
        name = run._exchange.address.name
    for key, value in wanted.items():
        # Three Adam steps divide by small second moments: rounding grows from 1e-16.
        np.testing.assert_allclose(weights[key], value, rtol=1e-9, atol=1e-11, err_msg=key)
    assert state["scalars"][0] is not None
    assert multiprocessing.active_children() == []
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(name, 1)


def test_unit_charges_are_the_simulator_s_of_the_same_times():
    schedule = make_schedule("zb-h1", 2, 4)
    times = Times.uniform(2, 10, 12, 8)
    job = tiny_job(schedule, times=times, charge="unit", link=find_link("800g"), eager=True)
    with PipelineRun(job) as run:
        inputs, targets = windows(0, 4)
        done = run.step(Batch(inputs, targets, 0), RATE)
        assert first_difference(done.executed, run.simulate(done)) is None
        weights, state = run.state()
        run.load(weights, state)
        again, _ = run.state()
    assert all((again[name] == weights[name]).all() for name in weights)
