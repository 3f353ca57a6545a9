"""Stochastic gradient descent with momentum: the oldest update that still works.

    g = g + wd p          buffer = mu buffer + g          p = p - lr buffer

With Nesterov's look-ahead the step is along  g + mu buffer  (I. Sutskever et al., "On the
importance of initialization and momentum in deep learning", ICML 2013; the form is PyTorch's).
Weight decay here is added to the gradient, as in PyTorch's SGD, and so goes through the momentum.
"""

from collections.abc import Iterable
from typing import Any

from baremetal.autograd import Parameter
from baremetal.errors import BaremetalError
from baremetal.kernels import optimizer as kernels
from baremetal.optim.optimizer import Group, Optimizer, Span


class SGD(Optimizer):
    """SGD with optional momentum and Nesterov's look-ahead, over a flat arena.

    Args:
        groups: groups or parameters.
        learning_rate: step size.
        momentum: decay rate of the running sum of gradients; 0 for none.
        nesterov: step along the momentum as it will be, not as it is.
        **options: of `Optimizer`.
    """

    moment_names = ("momentum",)

    def __init__(
        self,
        groups: Iterable[Group] | Iterable[Parameter],
        *,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise BaremetalError(f"momentum {momentum}: must lie in [0, 1)")
        super().__init__(groups, learning_rate=learning_rate, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, span: Span) -> None:
        where = slice(span.start, span.stop)
        self.device.launch(
            kernels.sgd_momentum,
            self.arena.data[where],
            self.arena.grad[where],
            self.moments["momentum"][where],
            self.scalars,
            momentum_factor=self.momentum,
            weight_decay=span.weight_decay,
            nesterov=self.nesterov,
        )
