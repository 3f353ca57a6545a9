"""The default run in PyTorch eager, written as its own users would."""

import numpy as np
import torch
from torch import nn

from baremetal.bench.step.sizes import GPTSize
from baremetal.bench.step.torch_gpt import PeerGPT
from baremetal.bench.step.torch_peer import peer_weights
from baremetal.optim import learning_rate
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer


class TorchRacer:
    """Trains what our trainer would: its weights, its batches, its learning rates."""

    def __init__(self, config: TrainConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = config
        self.ours = Trainer(config)  # supplies data, order and initial weights; never steps
        vocab_size = self.ours.data.tokenizer.vocab_size
        size = GPTSize(
            "race", config.layers, config.heads, config.width, config.context, config.batch,
            vocab_size,
        )  # fmt: skip
        self.model = PeerGPT(size)
        self.model.load_state_dict(peer_weights(self.ours.model))
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        self.steps_done = 0

    def step(self) -> float:
        config = self.config
        rate = learning_rate(
            self.steps_done,
            peak=config.learning_rate,
            steps=config.steps,
            schedule=config.decay,
            warmup=config.warmup,
            final=config.final_rate,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = self.ours.sampler.next_batch()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(torch.from_numpy(inputs), torch.from_numpy(targets))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.steps_done += 1
        return loss.item()

    @torch.no_grad()
    def evaluate(self) -> float:
        batches = self.ours.data.evaluation_batches(self.config.batch, self.config.eval_batches)
        losses = [self.model(torch.from_numpy(x), torch.from_numpy(y)).item() for x, y in batches]
        return float(np.mean(losses))
