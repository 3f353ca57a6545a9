"""Evaluation through the pipeline: the losses of the uncut model, and training none the wiser."""

import multiprocessing

import numpy as np
import pytest
from pipeline_models import tiny_job, windows

from baremetal import comm
from baremetal.autograd import no_grad
from baremetal.machine import find_chip, find_link
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.evaluation import ForwardStage, mean_loss, token_losses
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.lanes import step_seed
from baremetal.pipeline.partition import Part
from baremetal.pipeline.run import PipelineRun
from baremetal.pipeline.runner import Batch
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.words import describe_action
from baremetal.schedules import make_schedule
from baremetal.schedules.forward_only import SLOTS, forward_only
from baremetal.schedules.simulate import Simulator
from baremetal.schedules.times import Times

RATE, MICROBATCHES = 1e-2, 4


def validation(sequences):
    """Sequences (B, T), of some of which part of the targets is padding."""
    inputs, targets = (part.reshape(-1, part.shape[-1])[:sequences] for part in windows(9, 4))
    targets[::3, 5:] = -100
    return inputs, targets


@pytest.mark.parametrize(
    ("name", "chunks", "options"),
    [
        ("gpipe", None, {"eager": True, "charge": "unit"}),
        ("interleaved", 2, {"eager": True, "charge": "unit"}),
        ("zb-v", None, {"charge": "roofline", "chip": find_chip("gb300")}),
        ("dualpipe", None, {"eager": True, "charge": "unit"}),
    ],
)
def test_losses_are_those_of_the_uncut_model(name, chunks, options):
    """Tied embeddings, dropout, padding, and a last batch that does not fill its microbatches."""
    schedule = make_schedule(name, 2, MICROBATCHES, chunks)
    times = Times.uniform(schedule.stages, 10, 12, 8)
    job = tiny_job(schedule, link=find_link("800g"), times=times, seed=3, **options)
    model = job.builder.model().eval()
    with PipelineRun(job) as run:
        for sequences in (8, 5):
            inputs, targets = validation(sequences)
            found = run.evaluate(inputs, targets, 0)
            with no_grad():
                whole = model.loss(inputs, targets).item()
            assert found.loss == pytest.approx(whole, rel=1e-14)
            tokens, wanted = (part.reshape(4, 2, -1) for part in validation(8))
            each = [
                token_losses(logits_of(model, x), y) for x, y in zip(tokens, wanted, strict=True)
            ]
            bits = np.concatenate(each)[:sequences].tobytes()
            assert found.losses.tobytes() == bits
        check_times(run, found)
        done = run.step(Batch(*windows(0, MICROBATCHES), 0), RATE)
        after = run.evaluate(*validation(8), 1)
        again = run.step(Batch(*windows(1, MICROBATCHES), 1), RATE)
        for step in (done, again):  # whose clock and links know nothing of evaluations
            assert first_difference(step.executed, run.simulate(step)) is None
        assert after.loss != found.loss
        weights, _ = run.state()
        segment = run.ranks.exchange.address.name
    assert multiprocessing.active_children() == []
    with pytest.raises(comm.CommError):
        comm.SharedMemory.attach(segment, 1)

    with PipelineRun(job) as run:
        for number in range(2):
            run.step(Batch(*windows(number, MICROBATCHES), number), RATE)
        unevaluated, _ = run.state()
    for key, value in unevaluated.items():
        assert weights[key].tobytes() == value.tobytes(), key


def logits_of(model, tokens):
    with no_grad():
        return model(tokens).data


def check_times(run, found):
    """The evaluation's own timeline is the simulator's of the schedule of forwards."""
    job = run.job
    simulator = Simulator(
        forward_only(job.schedule), link=job.link, size_bytes=job.message_bytes, slots=SLOTS,
        seed=step_seed(job.seed, 0),
    )  # fmt: skip
    stages = job.evaluation.schedule.stages
    times = Times(run.times.forward_ps[:stages], (0,) * stages, (0,) * stages)
    assert first_difference(found.executed, simulator.play(times)) is None
    assert found.executed.makespan_ps > 0


def test_every_rank_is_sent_what_it_holds_and_no_more():
    job = tiny_job(make_schedule("zb-h1", 2, 4), times=Times.uniform(2, 1, 1, 1), eager=True)
    sent = []
    with PipelineRun(job) as run:
        call_each = run.ranks.call_each

        def note(method, args):
            sent.extend(args)
            return call_each(method, args)

        run.ranks.call_each = note
        weights, state = run.state()
        changed = {name: value + 1 for name, value in weights.items()}
        run.load(changed, state)
        loaded, _ = run.state()
        with pytest.raises(PipelineError, match="a batch of shape"):
            run.evaluate(*validation(0), 0)
    first, last = (set(own) for own, _ in sent)
    shared = {"token_embedding.weight"}  # tied
    assert first & last == shared
    assert first | last == set(weights)
    assert {name for name in first - shared if name.startswith("blocks.")} == {
        name for name in weights if name.startswith(("blocks.0.", "blocks.1."))
    } - last
    for name, value in changed.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_a_mean_is_that_of_the_loss():
    losses = np.array([[1.0, 2.0], [0.0, 4.0]], np.float32)
    assert mean_loss(losses, np.array([[1, 1], [-100, 1]])) == np.float32(7) / np.float32(3)
    assert mean_loss(np.zeros((1, 1), np.float32), np.array([[-100]])) == 0


def test_a_stage_that_evaluates_has_no_backward(refused):
    job = tiny_job(make_schedule("gpipe", 2, 4))
    stage = ForwardStage(Stage(job.builder.model(), Part(0, 1, 2)), (2, 8))
    with refused("a backward in an evaluation"):
        stage.gradient_in(0)


def test_what_a_rank_does_in_an_evaluation_has_words():
    schedule = make_schedule("1f1b", 2, 4)
    behind = len(schedule.ranks[1])
    assert describe_action(schedule, 1, 2, behind + 3) == (
        "evaluation after step 2, action 1F3 (forward of stage 1, microbatch 3)"
    )
    assert describe_action(schedule, 1, 2, 0).startswith("step 3, action 1F0")
