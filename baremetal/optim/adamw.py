"""AdamW: a step size for every number, from running averages of its gradient and its square.

    m = b1 m + (1 - b1) g                v = b2 v + (1 - b2) g²
    p = p (1 - lr wd) - lr (m / (1 - b1ᵗ)) / (sqrt(v / (1 - b2ᵗ)) + eps)

D. Kingma, J. Ba, "Adam", ICLR 2015; the decay apart from the gradient is I. Loshchilov, F. Hutter,
"Decoupled Weight Decay Regularization", ICLR 2019.
"""

from collections.abc import Iterable
from typing import Any

from baremetal.autograd import Parameter
from baremetal.errors import BaremetalError
from baremetal.kernels import optimizer as kernels
from baremetal.optim.optimizer import Group, Optimizer, Span


class AdamW(Optimizer):
    """AdamW over a flat arena; use `decay_groups` to decay matrices only.

    Args:
        groups: groups or parameters.
        learning_rate: step size.
        betas: decay rates of the two averages, from 0 up to 1.
        eps: keeps the division finite, above 0.
        **options: of `Optimizer`.
    """

    moment_names = ("first_moment", "second_moment")

    def __init__(
        self,
        groups: Iterable[Group] | Iterable[Parameter],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise BaremetalError(f"betas {betas}: each must lie in [0, 1)")
        if not eps > 0.0:
            raise BaremetalError(f"eps {eps}: must be above 0, or a zero gradient gives 0 / 0")
        super().__init__(groups, learning_rate=learning_rate, **options)
        self.betas, self.eps = betas, eps

    def _update(self, span: Span) -> None:
        where = slice(span.start, span.stop)
        self.device.launch(
            kernels.adamw,
            self.arena.data[where],
            self.arena.grad[where],
            self.moments["first_moment"][where],
            self.moments["second_moment"][where],
            self.scalars,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=span.weight_decay,
        )
