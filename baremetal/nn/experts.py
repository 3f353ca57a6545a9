"""A mixture of experts: many small MLPs, of which each token visits a few.

    p = softmax(router x)              (N, E)   N tokens, E experts
    y = Σ over the k likeliest e of    p_e / (Σ of those k p)  ·  expert_e(x)

Parameters grow with E, work per token only with k (N. Shazeer et al., "Outrageously Large Neural
Networks", ICLR 2017). Two things keep it practical:

*Capacity.* Every expert computes a fixed number of places, C = ceil(factor · N k / E), as one
batched matrix product (E, C, width); shapes are known before the step starts. Tokens that find
their expert full skip it: only the residual stream carries them on.

*Balance.* Left alone, the router sends everything to a few experts. The loss of W. Fedus et al.
("Switch Transformers", JMLR 2022),  E Σ_e f_e P_e  with f_e the share of places that expert e was
asked for and P_e its mean probability, is smallest (1) when all are equal.

Both depend on which tokens are routed together. So accumulating microbatches does *not* equal one
large batch for this model: capacity overflows and balance are per microbatch. The reference for an
accumulated or pipelined run is the same sequence of microbatches.
"""

import math

import numpy as np

from baremetal.autograd import Parameter, Tensor, ops
from baremetal.errors import BaremetalError
from baremetal.nn.layers import INIT_STD, Linear, normal
from baremetal.nn.module import Module


class Experts(Module):
    """E SwiGLU experts behind a top-k router: (B, T, width) -> (B, T, width).

    Args:
        width, hidden: sizes of one expert.
        experts: how many there are.
        active: how many each token visits.
        capacity_factor: places per expert, relative to perfect balance.

    Attributes:
        balance_loss: the balance term of the last forward (a scalar tensor).
        dropped: how many visits found their expert full in the last forward.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        experts: int,
        active: int,
        rng: np.random.Generator,
        capacity_factor: float = 1.25,
        out_std: float = INIT_STD,
    ) -> None:
        if not 1 <= active <= experts:
            raise BaremetalError(f"{active} active of {experts} experts: choose 1 to {experts}")
        self.experts, self.active, self.capacity_factor = experts, active, capacity_factor
        self.router = Linear(width, experts, rng=rng, bias=False)
        self.gate_up: Parameter = normal(rng, (experts, width, 2 * hidden))
        self.down: Parameter = normal(rng, (experts, hidden, width), out_std)
        self.balance_loss: Tensor | None = None
        self.dropped = 0

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        tokens = x.reshape(-1, shape[-1])  # (N, width)
        probabilities = ops.softmax(self.router(tokens))  # (N, E)
        chosen = _top(probabilities.data, self.active)  # (N, k) expert numbers
        self.balance_loss = self._balance(probabilities, chosen)
        token, expert, place = self._assign(chosen)  # one entry per visit that found a place
        capacity = self.capacity(len(tokens))
        row = expert * capacity + place
        visitors = ops.embedding(tokens, token)  # (A, width)
        places = ops.scatter_rows(visitors, row, rows=self.experts * capacity)
        worked = self._work(places.reshape(self.experts, capacity, shape[-1]))
        answers = ops.embedding(worked.reshape(-1, shape[-1]), row)  # (A, width)
        weighted = answers * self._gates(probabilities, chosen, token, expert)
        return ops.scatter_rows(weighted, token, rows=len(tokens)).reshape(shape)

    def capacity(self, tokens: int) -> int:
        """Places per expert for this many tokens."""
        return max(math.ceil(self.capacity_factor * tokens * self.active / self.experts), 1)

    def _work(self, places: Tensor) -> Tensor:
        """Every expert on its places: (E, C, width) -> (E, C, width)."""
        capacity, width = places.shape[1:]
        inner = (places @ self.gate_up).reshape(self.experts * capacity, -1)
        hidden = ops.swiglu(inner).reshape(self.experts, capacity, -1)
        return (hidden @ self.down).reshape(self.experts, capacity, width)

    def _assign(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give visits their places in order of token; returns (token, expert, place) of each.

        First choices of all tokens come before second choices, so a full expert turns away
        whoever wanted it least.
        """
        tokens, k = chosen.shape
        expert = chosen.T.reshape(-1)  # all first choices, then all second ones
        token = np.tile(np.arange(tokens), k)
        order = np.argsort(expert, kind="stable")
        starts = np.searchsorted(expert[order], np.arange(self.experts))
        place = np.empty(len(expert), np.int64)
        place[order] = np.arange(len(expert)) - starts[expert[order]]
        seated = place < self.capacity(tokens)
        self.dropped = int(len(expert) - seated.sum())
        return token[seated], expert[seated], place[seated]

    def _gates(
        self, probabilities: Tensor, chosen: np.ndarray, token: np.ndarray, expert: np.ndarray
    ) -> Tensor:
        """Each visit's weight (A, 1): its probability over those of its token's k experts."""
        rows = np.arange(len(chosen))[:, None]
        total = ops.index(probabilities, key=(rows, chosen)).sum(axis=-1)  # (N,)
        gate = ops.index(probabilities, key=(token, expert)) / ops.index(total, key=(token,))
        return gate.reshape(-1, 1)

    def _balance(self, probabilities: Tensor, chosen: np.ndarray) -> Tensor:
        share = np.bincount(chosen.reshape(-1), minlength=self.experts) / chosen.size  # f
        mean = probabilities.mean(axis=0)  # P
        return (mean * Tensor(share.astype(mean.dtype), device=mean.device)).sum() * self.experts


def _top(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest of each row, the largest first; the lower index wins a tie."""
    return np.argsort(-values, axis=-1, kind="stable")[:, :k]
