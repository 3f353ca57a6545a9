"""Stochastic gradient descent with momentum: the oldest update that still works.

    g = g + wd p          buffer = mu buffer + g          p = p - lr buffer

With Nesterov's look-ahead the step is along  g + mu buffer  (I. Sutskever et al., ICML 2013; the
form is PyTorch's).
"""

from collections.abc import Iterable
from typing import Any

from baremetal.autograd import Parameter
from baremetal.kernels import optimizer as kernels
from baremetal.optim.optimizer import Group, Optimizer, Span


class SGD(Optimizer):
    """SGD with optional momentum and Nesterov's look-ahead, over a flat arena."""

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
