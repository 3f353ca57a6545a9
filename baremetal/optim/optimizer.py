"""What all optimisers share: the flat arena, the scalars on the device, clipping, state.

Everything that changes from step to step (learning rate, step count, clip factor, loss scale, and
the gate that keeps a non-finite update away from the weights) lives in one small buffer on the
device, not in Python: a recorded step can then be replayed with new values in it.

A step is three launches over flat memory: the sum of squares of all gradients, the clip factor
and gate from it, and the update.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from baremetal.autograd import CPU, Device, Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.kernels import optimizer as kernels
from baremetal.optim.arena import ParameterArena


class Group(NamedTuple):
    """A run of parameters that lie together in the arena and share a weight decay."""

    parameters: list[Parameter]
    weight_decay: float


class Span(NamedTuple):
    """A stretch of the arena that one launch updates."""

    start: int
    stop: int
    weight_decay: float


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[Group]:
    """Matrices decay, vectors (biases, norms) do not: the customary two groups."""
    every = [p for p in parameters if p.requires_grad]
    return [
        Group([p for p in every if p.ndim >= 2], weight_decay),
        Group([p for p in every if p.ndim < 2], 0.0),
    ]


class Optimizer:
    """Base of the optimisers. Subclasses say which moments they keep and launch the update.

    Args:
        groups: from `decay_groups`, or any parameters (then nothing decays).
        learning_rate: the first one; `learning_rate` can be set before each step.
        device: where the arena and the scalars live.

    Attributes:
        arena: the flat parameters and gradients.
        scalars: the float64 device buffer; its slots are named in `kernels/optimizer.py`.
    """

    moment_names: Sequence[str] = ()

    def __init__(
        self,
        groups: Iterable[Group] | Iterable[Parameter],
        *,
        learning_rate: float,
        device: Device = CPU,
    ) -> None:
        groups = [*groups]
        if groups and isinstance(groups[0], Parameter):
            groups = [Group([p for p in groups if p.requires_grad], 0.0)]  # type: ignore[union-attr, misc]
        self.groups: list[Group] = [g for g in groups if g.parameters]  # type: ignore[union-attr, misc]
        if learning_rate < 0:
            raise BaremetalError(f"learning rate {learning_rate}: must not be negative")
        self.device = device
        self.arena = ParameterArena([p for g in self.groups for p in g.parameters], device)
        self.spans = self._spans()
        self.moments = {name: self.arena.like() for name in self.moment_names}
        self.scalars = device.full(kernels.SCALARS, 0.0, np.float64)
        self.scalars[kernels.CLIP_FACTOR] = 1.0
        self.scalars[kernels.GATE] = 1.0
        self.scalars[kernels.LOSS_SCALE] = 1.0
        self.learning_rate = learning_rate
        self._square_sum = device.full(1, 0.0, np.float64)
        self._partial = device.full(kernels.square_sum_blocks(self.arena.size), 0.0, np.float64)

    def _spans(self) -> list[Span]:
        places = iter(self.arena.places)
        spans = []
        for group in self.groups:
            members = [next(places) for _ in group.parameters]
            spans.append(Span(members[0].start, members[-1].stop, group.weight_decay))
        return spans

    # ------------------------------------------------------------ the step

    @property
    def learning_rate(self) -> float:
        """The learning rate that the next step will use."""
        return float(self.scalars[kernels.LEARNING_RATE])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.scalars[kernels.LEARNING_RATE] = value

    @property
    def steps_taken(self) -> int:
        """How many steps this optimiser has taken."""
        return int(self.scalars[kernels.STEP])

    @property
    def gradient_norm(self) -> float:
        """Global norm of the last clipped gradient, before clipping."""
        return float(self.scalars[kernels.GRADIENT_NORM])

    @property
    def last_step_was_finite(self) -> bool:
        """False when the last `clip` met a non-finite loss or norm and closed the gate."""
        return bool(self.scalars[kernels.GATE] == 1.0)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter, _, _ in self.arena.places:
            parameter.zero_grad()

    def clip(self, max_norm: float, loss: Tensor | np.ndarray | None = None) -> None:
        """Measure the global gradient norm, set the clip factor, and gate a non-finite update.

        Args:
            max_norm: gradients are scaled so that their global norm is at most this; 0 only
                measures and gates.
            loss: closes the gate too if it is not finite.
        """
        self.arena.fill_missing_gradients()
        value = self._square_sum if loss is None else getattr(loss, "data", loss)
        self.device.launch(kernels.square_sum, self.arena.grad, self._partial, self._square_sum)
        self.device.launch(
            kernels.clip_factor,
            self._square_sum,
            np.asarray(value).reshape(1),
            self.scalars,
            max_norm=float(max_norm),
        )

    def step(self) -> None:
        """Update every parameter from its gradient (nothing at all if the gate is closed)."""
        self.arena.fill_missing_gradients()
        self.scalars[kernels.STEP] += 1
        for span in self.spans:
            self._update(span)
        for parameter, _, _ in self.arena.places:
            parameter.version.bump(f"{type(self).__name__}.step")

    def _update(self, span: Span) -> None:
        raise NotImplementedError(f"{type(self).__name__} must launch its update kernel")

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """Moments and scalars by name: all that resuming needs besides the weights."""
        return {**self.moments, "scalars": self.scalars}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` gave, bit for bit.

        Raises:
            BaremetalError: a name is missing or unexpected, or a size differs.
        """
        own = self.state_dict()
        faults = [f"missing '{n}'" for n in own if n not in state]
        faults += [f"unexpected '{n}'" for n in state if n not in own]
        faults += [
            f"'{n}' has shape {np.shape(state[n])}, expected {own[n].shape}"
            for n in own
            if n in state and np.shape(state[n]) != own[n].shape
        ]
        if faults:
            raise BaremetalError(
                f"this state does not fit {type(self).__name__}: {'; '.join(faults)}: "
                "resume with the optimiser and the model that saved it"
            )
        for name, array in own.items():
            array[...] = state[name]
