"""A residual block, and what it keeps for backward.

    x = x + attention(norm_1(x))
    x = x + mlp(norm_2(x))                  (B, T, C) -> (B, T, C)

Backward needs much of what a block computes. Per position, in numbers, for a GPT block of width C
(H heads; a fused attention keeps no T x T matrix, only one number per head):

    norm_1: x and 2         C + 2       qkv: its input       C
    attention: q, k, v     3C           its output           C        log-sum-exp    H
    norm_2: x and 2         C + 2       up: its input        C
    gelu: its input        4C           down: its input     4C        in all  16 C + H + 4

Three policies of what to do about it (`model.recompute = ...`):

    "none"        keep all of it.
    "selective"   keep what is dear to compute, matrix products and attention; compute again what is
                  cheap, norms and activation functions. A GPT keeps 10 C + H at hardly any FLOP.
                  V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
                  Models", MLSys 2023, chose by this measure: much memory for little arithmetic.
    "block"       keep the block's input alone, C, and run the block again: almost one more forward.
                  (Its last matrix product is not needed for that, and left out.)

The gradients are the same to the last bit (`autograd/recompute.py`).
"""

from typing import Any, Literal, get_args

from baremetal.autograd import Tensor, checkpoint
from baremetal.errors import BaremetalError
from baremetal.nn.attention import CausalSelfAttention
from baremetal.nn.cache import LayerCache
from baremetal.nn.module import Module

Recompute = Literal["none", "selective", "block"]
POLICIES: tuple[Recompute, ...] = get_args(Recompute)


def check_policy(name: str) -> None:
    """Refuse a policy that there is not.

    Raises:
        BaremetalError: naming those that there are.
    """
    if name not in POLICIES:
        raise BaremetalError(f"recompute = {name!r}: choose one of {', '.join(POLICIES)}")


class ResidualBlock(Module):
    """Base of the models' blocks: attention, then something position-wise, each behind a norm.

    Attributes:
        recompute: what is computed again in backward; see above.
    """

    recompute: Recompute = "none"
    norm_1: Module
    attention: CausalSelfAttention
    norm_2: Module
    mlp: Any  # with `widen` and `narrow`, unless `think` is overridden

    def __call__(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        # What goes through a cache is never differentiated.
        if self.recompute == "block" and cache is None:
            return self.recomputed(x)
        return self.forward(x, cache)

    def recomputed(self, x: Tensor) -> Tensor:
        """`forward`, of which only x is kept."""
        return checkpoint(self.forward)(x)

    def attend(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """attention(norm_1(x))"""
        if self.recompute != "selective":
            return self.attention(self.norm_1(x), cache)
        packed = checkpoint(lambda x: self.attention.project(self.norm_1(x)))(x)
        return self.attention.mix(packed, cache)

    def think(self, x: Tensor) -> Tensor:
        """mlp(norm_2(x))"""
        if self.recompute != "selective":
            return self.mlp(self.norm_2(x))
        wide = checkpoint(lambda x: self.mlp.widen(self.norm_2(x)))(x)
        return checkpoint(self.mlp.narrow)(wide)
