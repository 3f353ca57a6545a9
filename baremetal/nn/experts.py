"""A mixture of experts: many small MLPs, of which each token visits a few.

    p = softmax(router x)              (N, E)   N tokens, E experts
    y = Σ over the k likeliest e of    p_e / (Σ of those k p)  ·  expert_e(x)

Parameters grow with E, work per token only with k (N. Shazeer et al., "Outrageously Large Neural
Networks", ICLR 2017). Two things keep it practical in training:

*Capacity.* Every expert computes a fixed number of places, C = ceil(factor · N k / E), as one
batched matrix product (E, C, width); shapes are known before the step starts. Tokens that find
their expert full skip it: only the residual stream carries them on. (D. Lepikhin et al., "GShard",
ICLR 2021.)

*Balance.* Left alone, the router sends everything to a few experts. The loss of W. Fedus et al.
("Switch Transformers", JMLR 2022),  E Σ_e f_e P_e  with f_e the share of visits that asked for
expert e and P_e its mean probability, is 1 if all experts are equal and E / k if all tokens are
sure of the same k.

Both depend on which tokens are routed together. So accumulating microbatches does *not* equal one
large batch for this model: capacity overflows and balance are per microbatch. The reference for an
accumulated or pipelined run is the same sequence of microbatches. It also means that a token's
neighbours, later ones included, have a say in which of its experts it gets: in training this is a
small leak from the future. Evaluation and generation must not have it, so there (`eval()`) nobody
is turned away: every expert has as many places as it has visitors.
"""

import math
from typing import NamedTuple

import numpy as np

from baremetal.autograd import Parameter, Tensor, ops
from baremetal.errors import BaremetalError
from baremetal.nn.layers import INIT_STD, Linear, normal
from baremetal.nn.module import Module


class Seating(NamedTuple):
    """Who sits where: one entry per visit that found a place, and the size of the table.

    Attributes:
        token: (A,) int64, who visits.
        expert: (A,) int64, whom.
        place: (A,) int64, at which of the expert's places.
        capacity: places per expert.
        dropped: how many visits found no place.
    """

    token: np.ndarray
    expert: np.ndarray
    place: np.ndarray
    capacity: int
    dropped: int


def seat(chosen: np.ndarray, experts: int, capacity: int | None = None) -> Seating:
    """Give visits their places.

    First choices of all tokens come before second choices, so a full expert turns away whoever
    wanted it least; among equals the earlier token is first.

    Args:
        chosen: (N, k) int, the experts of each token, the likeliest first.
        experts: how many there are.
        capacity: places per expert; None makes room for everybody.
    """
    tokens, k = chosen.shape
    expert = chosen.T.reshape(-1)  # all first choices, then all second ones
    token = np.tile(np.arange(tokens), k)
    visitors = np.bincount(expert, minlength=experts)
    # Sorted by expert, a visit's place is its distance from its expert's first visit.
    order = np.argsort(expert, kind="stable")
    first = np.cumsum(visitors) - visitors
    place = np.empty(len(expert), np.int64)
    place[order] = np.arange(len(expert)) - first[expert[order]]
    capacity = int(visitors.max()) if capacity is None else capacity
    seated = place < capacity
    dropped = len(expert) - int(seated.sum())
    return Seating(token[seated], expert[seated], place[seated], capacity, dropped)


class Experts(Module):
    """E SwiGLU experts behind a top-k router: (B, T, width) -> (B, T, width).

    Args:
        width, hidden: sizes of one expert.
        experts: how many there are.
        active: how many each token visits.
        capacity_factor: places per expert in training, relative to perfect balance.
        out_std: standard deviation of the initial weights of the experts' second matrices.

    Attributes:
        balance_loss: the balance term of the last forward, a scalar tensor (on the tape until
            `take_balance_loss` was called).
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
        if not 0.0 < capacity_factor < math.inf:
            raise BaremetalError(
                f"capacity factor {capacity_factor}: choose a number above 0, customary is 1.25"
            )
        self.experts, self.active, self.capacity_factor = experts, active, capacity_factor
        self.router = Linear(width, experts, rng=rng, bias=False)
        self.gate_up: Parameter = normal(rng, (experts, width, 2 * hidden))
        self.down: Parameter = normal(rng, (experts, hidden, width), out_std)
        self.balance_loss: Tensor | None = None
        self.dropped = 0

    def forward(self, x: Tensor) -> Tensor:
        """Route, let every expert work on its places, and add up what comes back."""
        tokens = x.reshape(-1, x.shape[-1])  # (N, width)
        probabilities = ops.softmax(self.router(tokens))  # (N, E)
        x.device.refuse_reading("the router of a mixture of experts")
        chosen = top(probabilities.data, self.active)  # (N, k) expert numbers
        self.balance_loss = self._balance(probabilities, chosen)
        capacity = self.capacity(len(tokens)) if self.training else None
        seating = seat(chosen, self.experts, capacity)
        self.dropped = seating.dropped
        answers = self._answers(tokens, seating)  # (A, width), one row per visit
        weighted = answers * self._gates(probabilities, chosen, seating)
        return ops.scatter_rows(weighted, seating.token, rows=len(tokens)).reshape(x.shape)

    def capacity(self, tokens: int) -> int:
        """Places per expert in training, for this many tokens."""
        return max(math.ceil(self.capacity_factor * tokens * self.active / self.experts), 1)

    def take_balance_loss(self) -> Tensor:
        """The balance term of the last forward, on the tape; what stays here is its value.

        Raises:
            BaremetalError: there was no forward yet.
        """
        if self.balance_loss is None:
            raise BaremetalError("no balance loss yet: call the module (or the model) first")
        taken, self.balance_loss = self.balance_loss, self.balance_loss.detach()
        return taken

    def _answers(self, tokens: Tensor, seating: Seating) -> Tensor:
        """Every expert on its places, as one batched product: rows (A, width) by visit."""
        experts, capacity, width = self.experts, seating.capacity, tokens.shape[-1]
        row = seating.expert * capacity + seating.place
        visitors = ops.embedding(tokens, seating.token)  # (A, width)
        places = ops.scatter_rows(visitors, row, rows=experts * capacity)  # empty ones are 0
        inner = places.reshape(experts, capacity, width) @ self.gate_up  # (E, C, 2 hidden)
        outer = ops.swiglu(inner) @ self.down  # (E, C, width)
        return ops.embedding(outer.reshape(-1, width), row)

    def _gates(self, probabilities: Tensor, chosen: np.ndarray, seating: Seating) -> Tensor:
        """Each visit's weight (A, 1): its probability over those of its token's k experts.

        The divisor counts experts that had no place, too: who is turned away is not made up for.
        """
        rows = np.arange(len(chosen))[:, None]
        total = probabilities[rows, chosen].sum(axis=-1)  # (N,)
        gate = probabilities[seating.token, seating.expert] / total[seating.token]
        return gate.reshape(-1, 1)

    def _balance(self, probabilities: Tensor, chosen: np.ndarray) -> Tensor:
        """E Σ f P, a scalar. f is a count: gradients flow through P alone."""
        share = np.bincount(chosen.reshape(-1), minlength=self.experts) / chosen.size  # f
        mean = probabilities.mean(axis=0)  # P
        return (mean * share.astype(mean.dtype)).sum() * float(self.experts)


def top(values: np.ndarray, k: int) -> np.ndarray:
    """Indices (N, k) of the k largest of each row, the largest first; the lower wins a tie."""
    return np.argsort(-values, axis=-1, kind="stable")[:, :k]
