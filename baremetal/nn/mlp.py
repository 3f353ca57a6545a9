"""The position-wise half of a block: two linear maps with a nonlinearity between them."""

from typing import Literal

import numpy as np

from baremetal.autograd import Tensor, ops
from baremetal.nn.layers import INIT_STD, Linear
from baremetal.nn.module import Module


class MLP(Module):
    """down(gelu(up(x))), GPT-2's: (..., width) -> (..., width) through `hidden` = 4 width.

    D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", 2016; GPT-2 uses the tanh form.
    """

    def __init__(
        self,
        width: int,
        *,
        rng: np.random.Generator,
        hidden: int | None = None,
        bias: bool = True,
        approximate: Literal["none", "tanh"] = "tanh",
        out_std: float = INIT_STD,
    ) -> None:
        hidden = 4 * width if hidden is None else hidden
        self.up = Linear(width, hidden, rng=rng, bias=bias)
        self.down = Linear(hidden, width, rng=rng, bias=bias, std=out_std)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.widen(x))

    def widen(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., hidden), before the nonlinearity."""
        return self.up(x)

    def narrow(self, wide: Tensor) -> Tensor:
        """The nonlinearity, and back: (..., hidden) -> (..., width)."""
        return self.down(ops.gelu(wide, approximate=self.approximate))


class SwiGLU(Module):
    """down(silu(gate(x)) * up(x)), Llama's (N. Shazeer, "GLU Variants Improve Transformer", 2020).

    Gate and up come out of one matrix product, side by side: (..., 2 hidden).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        rng: np.random.Generator,
        bias: bool = False,
        out_std: float = INIT_STD,
    ) -> None:
        self.gate_up = Linear(width, 2 * hidden, rng=rng, bias=bias)
        self.down = Linear(hidden, width, rng=rng, bias=bias, std=out_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.widen(x))

    def widen(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., 2 hidden), before the nonlinearity."""
        return self.gate_up(x)

    def narrow(self, wide: Tensor) -> Tensor:
        """The nonlinearity, and back: (..., 2 hidden) -> (..., width)."""
        return self.down(ops.swiglu(wide))
