"""What the spawned ranks of the tests build. Imported by name, so that processes can be spawned."""

from dataclasses import dataclass

import numpy as np

from baremetal.nn import GPT, GPTConfig
from baremetal.optim import AdamW, decay_groups
from baremetal.pipeline.copies import holders
from baremetal.pipeline.job import Job
from baremetal.pipeline.partition import parts_of_stages

VOCABULARY, CONTEXT, WIDTH = 11, 8, 8


@dataclass(frozen=True)
class TinyBuilder:
    """A GPT of a few hundred parameters, in float64, its output matrix tied, with dropout."""

    layers: int = 4
    seed: int = 0

    def model(self):
        config = GPTConfig(
            vocab_size=VOCABULARY, context=CONTEXT, layers=self.layers, heads=2, width=WIDTH,
            tied=True, dropout=0.1,
        )  # fmt: skip
        return GPT(config, rng=np.random.default_rng(self.seed), dropout_seed=3).to(np.float64)

    def optimizer(self, model):
        return AdamW(decay_groups(model.parameters(), 0.1), learning_rate=1e-2)


def tiny_job(schedule, **options):
    """A job of the tiny model."""
    builder = TinyBuilder(layers=max(len(path) for path in schedule.paths))
    model = builder.model()
    parts = parts_of_stages(schedule, [1.0] * len(model.blocks))
    return Job(
        schedule=schedule,
        parts=parts,
        builder=builder,
        every=holders(model, parts),
        sizes={name: parameter.size for name, parameter in model.named_parameters()},
        samples=2,
        context=CONTEXT,
        width=WIDTH,
        dtype="float64",
        clip=0.5,
        **options,
    )


def windows(step, microbatches, samples=2):
    """Tokens and targets of a step, (microbatches, samples, context) each."""
    rng = np.random.default_rng(step)
    drawn = rng.integers(0, VOCABULARY, (microbatches, samples, CONTEXT + 1))
    return drawn[..., :-1].copy(), drawn[..., 1:].copy()
