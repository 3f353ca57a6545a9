"""The PyTorch contender, written as its own users would: fused attention, fused updates.

The same model with the same weights: ours are copied in by name, so the first losses must agree.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn

from baremetal.bench.step import ours, two_moons
from baremetal.bench.step.sizes import GPTSize, MLPSize, StepSize
from baremetal.bench.step.torch_gpt import PeerGPT
from baremetal.bench.step.turns import Run
from baremetal.nn import Module


class PeerMLP(nn.Module):
    """points (B, 2), labels (B, 1) -> mean hinge loss."""

    def __init__(self, size: MLPSize) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(size.widths))

    def forward(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = points
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return F.relu(1.0 - labels * self.layers[-1](x)).mean()


def peer_weights(model: Module) -> dict[str, torch.Tensor]:
    """Copies of our weights under the peer's names."""
    renamed = {}
    for name, array in model.state_dict().items():
        peer_name = name.replace(".attention.", ".").replace(".mlp.", ".")
        renamed[peer_name] = torch.from_numpy(array.copy())
    return renamed


def make_torch_run(size: StepSize, threads: int, compiled: bool = False) -> Run:
    """The training loop in PyTorch."""
    torch.set_num_threads(threads)
    model, optimizer, clip = _start(size)
    forward = torch.compile(model) if compiled else model
    parameters = [*model.parameters()]
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in ours.make_batches(size)]

    def run(numbers: range) -> torch.Tensor:
        for number in numbers:
            inputs, targets = batches[number % ours.BATCHES]
            optimizer.zero_grad(set_to_none=True)
            loss = forward(inputs, targets)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
        return loss.detach()

    return run


def _start(size: StepSize) -> tuple[nn.Module, torch.optim.Optimizer, float]:
    """The model with our weights, its optimiser, and the norm to clip at (0: none)."""
    model: nn.Module = PeerMLP(size) if isinstance(size, MLPSize) else _gpt(size)
    model.load_state_dict(peer_weights(ours.make_model(size)))
    if isinstance(size, MLPSize):
        sgd = torch.optim.SGD(model.parameters(), lr=two_moons.LEARNING_RATE, fused=True)
        return model, sgd, 0.0
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": ours.WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=ours.LEARNING_RATE,
        betas=ours.BETAS,
        fused=True,
    )
    return model, adamw, ours.CLIP


def _gpt(size: StepSize) -> PeerGPT:
    assert isinstance(size, GPTSize)
    return PeerGPT(size)
