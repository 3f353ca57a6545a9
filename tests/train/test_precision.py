"""Training in few bits: captured and eager, resumed, skipped, and how much memory it takes."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from baremetal.checkpoint import load_checkpoint
from baremetal.errors import BaremetalError
from baremetal.nn import PRECISIONS
from baremetal.train.config import PrecisionName, TrainConfig
from baremetal.train.console import Console
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import NonFiniteError, Trainer

NARROW = [name for name in PRECISIONS if name != "float32"]
every_precision = pytest.mark.parametrize("precision", NARROW)


def bits_of(trainer):
    """Weights, optimiser and loss scale."""
    state = {
        **trainer.model.state_dict(), **trainer.optimizer.state_dict(),
        **trainer.loss_scale.state_dict(),
    }  # fmt: skip
    return {name: array.tobytes() for name, array in state.items()}


def test_the_options_are_the_recipes():
    assert set(get_args(PrecisionName)) == set(PRECISIONS)
    for name, precision in PRECISIONS.items():
        dynamic = TrainConfig(precision=name).fixed_loss_scale is None
        assert dynamic is precision.needs_loss_scale


@every_precision
def test_the_loss_falls_as_in_float32(tiny, precision):
    config = dataclasses.replace(tiny, steps=40, learning_rate=1e-2, layers=3)
    trainers = [Trainer(dataclasses.replace(config, precision=p)) for p in ("float32", precision)]
    for trainer in trainers:
        trainer.fit()
    full, narrow = (trainer.evaluate() for trainer in trainers)
    assert full < 3.2  # from 3.6 nats
    assert abs(narrow - full) < 0.1
    assert narrow != full


@every_precision
def test_captured_eager_and_recomputed_runs_have_the_same_bits(tiny, precision):
    config = dataclasses.replace(tiny, precision=precision, dropout=0.2, accumulate=2, layers=3)
    runs = []
    for options in ({}, {"eager": True}, {"recompute": "block"}):
        trainer = Trainer(dataclasses.replace(config, **options))
        trainer.fit()
        runs.append(bits_of(trainer))
    assert runs[0] == runs[1] == runs[2]


@every_precision
def test_resume_is_bit_exact(tiny, precision):
    config = dataclasses.replace(tiny, precision=precision, layers=3)
    whole = Trainer(config)
    whole.fit()
    run = RunFolder.create(config)
    first = Trainer(config, run)
    first.fit(should_stop=lambda: first.step >= 3)
    second = Trainer(config, run)
    second.restore(load_checkpoint(run.path))
    second.fit()
    assert bits_of(second) == bits_of(whole)


@pytest.mark.parametrize("eager", [False, True])
def test_a_dynamic_scale_skips_steps_until_it_fits(tiny, eager, tmp_path):
    config = dataclasses.replace(tiny, precision="fp16", eager=eager, steps=30)
    trainer = Trainer(config)
    trainer.optimizer.loss_scale = 2.0**24
    reports = []
    before = trainer.model.state_dict()["blocks.0.mlp.up.weight"].copy()
    while not reports or reports[-1].skipped:
        if reports:
            weight = trainer.model.state_dict()["blocks.0.mlp.up.weight"]
            np.testing.assert_array_equal(weight, before)
        reports.append(trainer.train_step())
    skipped = len(reports) - 1
    assert skipped > 1
    assert [r.loss_scale for r in reports] == [2.0 ** (24 - i) for i in range(skipped + 1)]
    assert trainer.optimizer.steps_taken == 1
    assert trainer.step == skipped + 1  # batches and learning rate move on

    # Stopped between two of them, a resumed run finds the same scale.
    run = RunFolder.create(config)
    first = Trainer(config, run)
    first.optimizer.loss_scale = 2.0**24
    first.train_step()
    first.save()
    second = Trainer(config, run)
    second.restore(load_checkpoint(run.path))
    assert second.loss_scale.value == 2.0**23
    rest = [second.train_step() for _ in range(skipped)]
    assert [r.loss_scale for r in rest] == [r.loss_scale for r in reports[1:]]
    assert bits_of(second) == bits_of(trainer)


def test_without_a_dynamic_scale_overflow_is_an_error(tiny):
    config = dataclasses.replace(tiny, precision="fp16", loss_scale="1e12")
    with pytest.raises(NonFiniteError, match=r"gradient.*lower --loss-scale"):
        Trainer(config).train_step()


def test_a_loss_that_is_not_finite_is_no_matter_of_scale(tiny):
    trainer = Trainer(dataclasses.replace(tiny, precision="fp16"))
    trainer.model.state_dict()["norm.weight"][0] = np.nan
    with pytest.raises(NonFiniteError, match=r"norm\.weight"):
        trainer.train_step()


def test_a_fixed_scale_of_a_power_of_two_changes_nothing_in_bf16(tiny):
    """bfloat16 has float32's range: scaled gradients round to scaled codes."""
    runs = []
    for scale in ("1", "1024"):
        trainer = Trainer(dataclasses.replace(tiny, precision="bf16", loss_scale=scale, clip=0.0))
        trainer.fit()
        runs.append({n: a.tobytes() for n, a in trainer.model.state_dict().items()})
    assert runs[0] == runs[1]


def test_a_growing_scale_changes_nothing_in_bf16(tiny):
    """Each step is divided by the scale that it was multiplied by, not by the next one."""
    runs = []
    for scale in ("1", "dynamic"):
        trainer = Trainer(dataclasses.replace(tiny, precision="bf16", loss_scale=scale, clip=0.0))
        trainer.loss_scale.growth_interval = 1
        trainer.fit()
        runs.append({n: a.tobytes() for n, a in trainer.model.state_dict().items()})
    assert trainer.loss_scale.value == 2.0 ** (16 + tiny.steps)
    assert runs[0] == runs[1]


def test_fewer_bits_take_a_smaller_arena(tiny):
    """Of a batch large enough that activations are what counts."""
    planned = {}
    for precision in ("float32", "bf16", "fp8", "nvfp4"):
        config = dataclasses.replace(
            tiny, precision=precision, layers=12, width=32, batch=16, context=32
        )
        trainer = Trainer(config)
        trainer.train_step()
        planned[precision] = trainer.captured.plan.memory.planned_bytes
    assert planned["float32"] > planned["bf16"] > planned["fp8"] > planned["nvfp4"]


def test_another_kind_of_loss_scale_is_refused_on_resume(tiny):
    config = dataclasses.replace(tiny, precision="fp16")
    run = RunFolder.create(config)
    trainer = Trainer(config, run)
    trainer.train_step()
    trainer.save()
    other = Trainer(dataclasses.replace(config, loss_scale="8"), run)
    with pytest.raises(BaremetalError, match="--loss-scale"):
        other.restore(load_checkpoint(run.path))


def test_a_skipped_step_is_said_and_its_norm_is_no_number(tiny, capsys):
    config = dataclasses.replace(tiny, precision="fp16", steps=10)
    run = RunFolder.create(config)
    trainer = Trainer(config, run)
    trainer.optimizer.loss_scale = 2.0**40  # so high that ten halvings are not enough
    with Console(trainer, run) as console:
        console.measure_peak()
        trainer.fit(on_step=console.on_step, on_evaluation=console.on_evaluation)
    assert "step      1  skipped: gradients overflowed at a loss scale of 1,099,511,627,776" in (
        capsys.readouterr().out
    )
    (row,) = [row for row in run.rows() if row["step"] == 10]
    assert row["gradient_norm"] is None
    assert row["loss_scale"] == 2.0**31
    assert trainer.optimizer.steps_taken == 0
