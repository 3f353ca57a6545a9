"""The training loop: resume bit for bit, accumulation, the gate, and who is to blame."""

import dataclasses

import numpy as np
import pytest

from baremetal.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from baremetal.errors import BaremetalError
from baremetal.kernels.optimizer import LEARNING_RATE
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import NonFiniteError, Trainer, load_model


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in trainer.model.state_dict().items()}


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def test_the_loss_falls(tiny):
    trainer = Trainer(dataclasses.replace(tiny, steps=40, learning_rate=1e-2))
    before = trainer.evaluate()
    trainer.fit()
    assert trainer.evaluate() < before - 0.5


def test_same_seed_same_bits_and_another_seed_others(tiny):
    first, second = Trainer(tiny), Trainer(tiny)
    first.fit()
    second.fit()
    assert_same_bits(weights(first), weights(second))
    other = Trainer(dataclasses.replace(tiny, seed=1))
    other.fit()
    assert any(
        weights(other)[name].tobytes() != array.tobytes() for name, array in weights(first).items()
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("stop_after", [1, 5])
def test_resume_is_bit_exact(tiny, optimizer, stop_after):
    config = dataclasses.replace(tiny, dropout=0.2, accumulate=2, optimizer=optimizer)
    whole = Trainer(config)
    whole.fit()

    run = RunFolder.create(config)
    first_part = Trainer(config, run)
    first_part.fit(should_stop=lambda: first_part.step >= stop_after)
    assert first_part.step == stop_after
    second_part = Trainer(config, run)
    second_part.restore(load_checkpoint(run.path))
    assert second_part.step == stop_after
    second_part.fit()

    assert_same_bits(weights(second_part), weights(whole))
    assert_same_bits(second_part.optimizer.state_dict(), whole.optimizer.state_dict())
    assert second_part.sampler.state_dict() == whole.sampler.state_dict()


@pytest.mark.parametrize("model", ["llama", "moe"])
def test_other_models_train_and_resume(tiny, model):
    config = dataclasses.replace(tiny, model=model, kv_heads=1, experts=3, active_experts=2)
    whole = Trainer(config)
    whole.fit()
    run = RunFolder.create(config)
    part = Trainer(config, run)
    part.fit(should_stop=lambda: part.step >= 3)
    rest = Trainer(config, run)
    rest.restore(load_checkpoint(run.path))
    rest.fit()
    assert_same_bits(weights(rest), weights(whole))


def test_accumulated_microbatches_equal_the_large_batch(tiny):
    """Same samples, same dropout bits, same normalisation: the same step up to rounding."""
    large = Trainer(dataclasses.replace(tiny, batch=8, dropout=0.3))
    parts = Trainer(dataclasses.replace(tiny, batch=4, accumulate=2, dropout=0.3))
    report_large, report_parts = large.train_step(), parts.train_step()
    # float32 sums in another order: a few units in the last place.
    assert report_parts.train_loss == pytest.approx(report_large.train_loss, rel=1e-6)
    assert report_parts.gradient_norm == pytest.approx(report_large.gradient_norm, rel=1e-5)


def test_checkpoints_carry_model_and_tokenizer(tiny):
    run = RunFolder.create(tiny)
    trainer = Trainer(tiny, run)
    trainer.fit()
    model, tokenizer = load_model(load_checkpoint(run.path))
    assert_same_bits(model.state_dict(), trainer.model.state_dict())
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert len(list_checkpoints(run.checkpoints)) <= tiny.keep + 1  # the last ones and the best


def test_another_text_is_refused_on_resume(tiny, tmp_path):
    run = RunFolder.create(tiny)
    Trainer(tiny, run).save()
    other = tmp_path / "other.txt"
    other.write_text("a different text. " * 200, encoding="utf-8")
    changed = Trainer(dataclasses.replace(tiny, data=str(other)), run)
    with pytest.raises(BaremetalError, match="another text"):
        changed.restore(load_checkpoint(run.path))


@pytest.mark.parametrize(
    ("poison", "where"),
    [
        ("blocks.0.mlp.up.weight", "in the weights themselves: blocks.0.mlp.up.weight"),
        ("overflow", "in the output of blocks.0.mlp"),
    ],
)
def test_a_non_finite_loss_never_reaches_the_weights(tiny, poison, where):
    run = RunFolder.create(tiny)
    trainer = Trainer(tiny, run)
    trainer.train_step()
    trainer.save()
    state = trainer.model.state_dict()
    if poison == "overflow":
        # Each factor is finite; their product is not: the layer is to blame, not its weights.
        state["blocks.0.mlp.up.weight"][...] = 1e30
        state["blocks.0.mlp.down.weight"][...] = 1e30
    else:
        state[poison][0, 0] = np.nan
    before = weights(trainer)
    moments = {k: v.copy() for k, v in trainer.optimizer.moments.items()}
    with pytest.raises(NonFiniteError) as caught:
        trainer.train_step()
    message = str(caught.value)
    assert "step 2" in message
    assert where in message, message
    assert str(latest_checkpoint(run.checkpoints)) in message
    assert_same_bits(weights(trainer), before)
    assert_same_bits(trainer.optimizer.moments, moments)


def test_an_update_that_overflows_is_never_saved(tiny):
    config = dataclasses.replace(tiny, learning_rate=1e30, warmup=0, checkpoint_every=1)
    run = RunFolder.create(config)
    with pytest.raises(NonFiniteError, match=r"There is no checkpoint yet|last good checkpoint"):
        Trainer(config, run).fit()
    if run.checkpoints.is_dir():
        for path in list_checkpoints(run.checkpoints):
            for name, array in load_checkpoint(path).tensors["model"].items():
                assert np.isfinite(array).all(), name


def test_evaluation_does_not_touch_the_training_state(tiny):
    trainer = Trainer(dataclasses.replace(tiny, dropout=0.5))
    position = trainer.sampler.state_dict()
    first = trainer.evaluate()
    assert trainer.evaluate() == first  # no dropout, the same batches
    assert trainer.sampler.state_dict() == position
    assert trainer.model.training


@pytest.mark.parametrize("options", [{"dropout": 0.2, "accumulate": 3}, {"optimizer": "muon"}])
def test_a_captured_run_has_the_bits_of_an_eager_one(tiny, options):
    """Losses, weights and optimiser, through evaluations between the replays."""
    runs = []
    for eager in (False, True):
        trainer = Trainer(dataclasses.replace(tiny, eager=eager, **options))
        reports, evaluations = [], []
        trainer.fit(
            on_step=reports.append,
            on_evaluation=lambda report, loss, time_s, seen=evaluations: seen.append(loss),
        )
        assert (trainer.captured is None) is eager
        losses = [(report.train_loss, report.gradient_norm) for report in reports]
        state = {**trainer.model.state_dict(), **trainer.optimizer.state_dict()}
        runs.append((losses, evaluations, {k: v.tobytes() for k, v in state.items()}))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == tiny.steps


def test_the_compiled_step_trains_as_the_replayed_one_up_to_rounding(tiny):
    """Small kernels are compiled into it, where sums may be added in another order."""
    losses = {}
    for native in (False, True):
        trainer = Trainer(dataclasses.replace(tiny, native=native))
        losses[native] = [trainer.train_step().train_loss for _ in range(4)]
        assert trainer.captured.level == ("native" if native else "replay")
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5)


@pytest.mark.parametrize("fuse", ["none", "chains,loss_head"])
def test_the_fusions_are_those_asked_for(tiny, fuse):
    trainer = Trainer(dataclasses.replace(tiny, fuse=fuse))
    assert ",".join(sorted(trainer.captured.fusions)) == ("" if fuse == "none" else fuse)


def test_a_mixture_of_experts_runs_eagerly(tiny):
    trainer = Trainer(dataclasses.replace(tiny, model="moe", experts=2, active_experts=1, steps=2))
    trainer.fit()
    assert trainer.captured is None


@pytest.mark.parametrize("step", [0, 2])
def test_a_token_outside_the_vocabulary_leaves_everything_as_it_was(tiny, step):
    """In the first step, while it is recorded; in a later one, before anything is launched."""
    trainer = Trainer(dataclasses.replace(tiny, accumulate=2, eager=False))
    for _ in range(step):
        trainer.train_step()
    before, moments = weights(trainer), trainer.optimizer.state_dict()
    moments = {name: array.copy() for name, array in moments.items()}
    next_batch = trainer.sampler.next_batch

    def wrong(out):
        next_batch(out=out)
        out[0][-1, -1] = trainer.data.tokenizer.vocab_size

    trainer.sampler.next_batch = wrong
    with pytest.raises(BaremetalError, match="the table has"):
        trainer.train_step()
    assert_same_bits(before, weights(trainer))
    now = dict(trainer.optimizer.state_dict())
    now["scalars"][LEARNING_RATE] = moments["scalars"][LEARNING_RATE]  # set before the step
    assert_same_bits(moments, now)
    trainer.sampler.next_batch = next_batch
    trainer.train_step()
    assert trainer.step == step + 1
