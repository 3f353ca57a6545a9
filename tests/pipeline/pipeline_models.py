"""What the spawned ranks of the tests build. Imported by name, so that processes can be spawned."""

from dataclasses import dataclass

import numpy as np

from baremetal.nn import GPT, GPTConfig


@dataclass(frozen=True)
class TinyBuilder:
    """A GPT of a few hundred parameters, in float64."""

    layers: int = 4
    tied: bool = False
    seed: int = 0

    def model(self):
        config = GPTConfig(
            vocab_size=11, context=8, layers=self.layers, heads=2, width=8, tied=self.tied
        )
        return GPT(config, rng=np.random.default_rng(self.seed)).to(np.float64)
