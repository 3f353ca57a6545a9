"""Training through a pipeline: the loop, the checkpoints, and going on at another stage count."""

import numpy as np
import pytest

from baremetal.checkpoint import load_checkpoint
from baremetal.errors import BaremetalError
from baremetal.kernels.native.pool import POOL
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import PipelineTrainer, chosen_schedule
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import Trainer

SIZES = {
    "layers": 4, "width": 16, "heads": 2, "context": 16, "steps": 4, "eval_every": 2, "warmup": 2,
    "eval_batches": 1, "checkpoint_every": 2, "sample_tokens": 0, "dropout": 0.1,
}  # fmt: skip


def trained(config, run=None, checkpoint=None, until=4):
    """Train until a step; returns the losses, the validation loss and the weights."""
    trainer = PipelineTrainer(config, run)
    try:
        if checkpoint is not None:
            trainer.restore(checkpoint)
        losses = []
        while trainer.step < until:
            losses.append(trainer.train_step().train_loss)
        val_loss = trainer.evaluate()
        trainer.save()
        weights = {name: p.data.copy() for name, p in trainer.model.named_parameters()}
    finally:
        trainer.close()
    return losses, val_loss, weights


def test_a_checkpoint_goes_on_at_another_stage_count_with_the_same_bits(tmp_path):
    """Norms are summed parameter by parameter, so even clipping knows nothing of the cut."""
    pipeline = {**SIZES, "batch": 8, "microbatches": 4}
    losses, val_loss, weights = trained(TrainConfig(**pipeline, stages=2, schedule="zb-h1"))
    first = TrainConfig(**pipeline, stages=2, schedule="zb-v", out=str(tmp_path))
    run = RunFolder.create(first)
    before, _, _ = trained(first, run, until=2)
    checkpoint = load_checkpoint(run.checkpoints)
    after, resumed_val_loss, resumed = trained(
        TrainConfig(**pipeline, stages=3, schedule="gpipe"), checkpoint=checkpoint
    )
    assert before + after == losses
    assert resumed_val_loss == val_loss
    for name, value in weights.items():
        assert value.tobytes() == resumed[name].tobytes(), name

    # In one process, the same file, and the same training up to how its kernels round.
    threads = POOL.threads
    try:
        POOL.set_threads(1)  # as the ranks have
        single = Trainer(TrainConfig(**SIZES, batch=2, accumulate=4))
        single.restore(checkpoint)
        for loss in after:
            assert single.train_step().train_loss == pytest.approx(loss, rel=1e-6)
        for name, parameter in single.model.named_parameters():
            error = np.linalg.norm(parameter.data - weights[name])
            # Biases began at 0 four steps ago; Adam divides their small gradients by themselves.
            assert error <= 1e-5 * np.linalg.norm(weights[name]), name
    finally:
        POOL.set_threads(threads)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"microbatches": 3}, "--batch 8 --microbatches 3: microbatches are of equal size; try"),
        ({"accumulate": 2}, "a pipeline's microbatches are its accumulation"),
        ({"stages": 5}, "5 stages of a model of 4 blocks"),
        ({"schedule": "zb-w"}, "zb-w"),
        ({"schedule": "zb-v", "stages": 4}, "zb-v"),
        ({"link": "801g"}, "unknown link '801g'"),
        ({"chip": "gb301"}, "unknown chip 'gb301'"),
        ({"straggler": "7:2"}, "expected a rank of 0 to 1"),
        ({"unit_times": "1 ms"}, "expected three times"),
        ({"native": True}, "--native"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_process_starts(options, said):
    with pytest.raises(BaremetalError, match=said):
        PipelineTrainer(
            TrainConfig(**SIZES | {"batch": 8, "microbatches": 4, "stages": 2} | options)
        )


def test_a_schedule_s_file_must_be_for_these_sizes(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n", encoding="utf-8")
    config = TrainConfig(batch=8, microbatches=2, stages=2, schedule=str(path))
    assert len(chosen_schedule(config).ranks) == 2
    with pytest.raises(BaremetalError, match="is for 2 stages and 2 microbatches, but"):
        chosen_schedule(TrainConfig(batch=8, microbatches=4, stages=2, schedule=str(path)))
