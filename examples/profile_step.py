"""Where does the time of a training step go? A table by kernel, and a trace for Perfetto.

    python examples/profile_step.py

Open step.json at https://ui.perfetto.dev to see every launch in its place.
"""

import numpy as np

import baremetal as bm
from baremetal.nn import GPT, GPTConfig
from baremetal.optim import AdamW, decay_groups


def main() -> None:
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(vocab_size=65, context=64, layers=2, heads=4, width=128), rng=rng)
    optimizer = AdamW(decay_groups(model.parameters(), weight_decay=0.1))
    tokens = rng.integers(0, 65, (8, 65))

    def step() -> None:
        optimizer.zero_grad()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.clip(1.0, loss)
        optimizer.step()

    step()  # the first one compiles the kernels
    with bm.profile() as profile:
        step()
    print(profile.table())
    print(f"written: {profile.save('step.json')}")


if __name__ == "__main__":
    main()
