"""The PyTorch contender, written as its own users would: fused attention, fused AdamW.

The same GPT with the same weights: ours are copied in by name, so the first losses must agree.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn

from baremetal.bench.step import ours
from baremetal.bench.step.sizes import StepSize
from baremetal.nn import Module


class Block(nn.Module):
    def __init__(self, size: StepSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm_1 = nn.LayerNorm(size.width)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)
        self.norm_2 = nn.LayerNorm(size.width)
        self.up = nn.Linear(size.width, 4 * size.width)
        self.down = nn.Linear(4 * size.width, size.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class PeerGPT(nn.Module):
    def __init__(self, size: StepSize) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(size.vocab_size, size.width)
        self.position_embedding = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1])
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.token_embedding.weight.T
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def peer_weights(model: Module) -> dict[str, torch.Tensor]:
    """Copies of our weights under the peer's names."""
    renamed = {}
    for name, array in model.state_dict().items():
        peer_name = name.replace(".attention.", ".").replace(".mlp.", ".")
        renamed[peer_name] = torch.from_numpy(array.copy())
    return renamed


def make_torch_step(size: StepSize, threads: int, compiled: bool = False) -> Callable[[int], float]:
    """A function that does step number i in PyTorch and returns its loss."""
    torch.set_num_threads(threads)
    model = PeerGPT(size)
    model.load_state_dict(peer_weights(ours.make_model(size)))
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": ours.WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=ours.LEARNING_RATE,
        betas=ours.BETAS,
        fused=True,
    )
    forward = torch.compile(model) if compiled else model
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in ours.make_batches(size)]

    def step(number: int) -> float:
        inputs, targets = batches[number % ours.BATCHES]
        optimizer.zero_grad(set_to_none=True)
        loss = forward(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), ours.CLIP)
        optimizer.step()
        return loss.item()

    return step
