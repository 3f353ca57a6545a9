"""A GPT in one screen: data, model, optimiser, the training loop, a sample.

    python examples/train_loop.py

This is what `baremetal train` does, without the bar, the files and the checkpoints.
"""

import numpy as np

from baremetal.data import TextData
from baremetal.nn import GPT, GPTConfig, generate
from baremetal.optim import AdamW, decay_groups, learning_rate

STEPS, BATCH, CONTEXT = 150, 8, 32


def main() -> None:
    data = TextData.from_corpus("pydoc", "char", CONTEXT)
    sizes = GPTConfig(
        vocab_size=data.tokenizer.vocab_size, context=CONTEXT, layers=2, heads=2, width=64
    )
    model = GPT(sizes, rng=np.random.default_rng(0))
    optimizer = AdamW(decay_groups(model.parameters(), weight_decay=0.1), learning_rate=3e-3)
    sampler = data.sampler(BATCH, seed=0)
    print(f"{model.num_parameters():,} parameters, {len(data.train):,} training characters")

    for step in range(STEPS):
        inputs, targets = sampler.next_batch()  # (B, T) each
        optimizer.learning_rate = learning_rate(step, peak=3e-3, steps=STEPS, warmup=10)
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.clip(1.0, loss)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:>4}  loss {loss.item():.3f} nats per character")

    prompt = data.tokenizer.encode("The ")
    tokens = generate(model, prompt, 80, np.random.default_rng(0), temperature=0.8)
    print("The " + data.tokenizer.decode(np.array(list(tokens))))


if __name__ == "__main__":
    main()
