"""What all optimisers share: the flat arena, the scalars on the device, clipping, state.

Everything that changes from step to step (learning rate, step count, clip factor, loss scale, and
the gate that keeps a non-finite update away from the weights) lives in one small buffer on the
device, not in Python: a recorded step can then be replayed with new values in it.

A step is three launches over flat memory: the sum of squares of every gradient, the clip factor
and gate from these, and the update.

    optimizer.zero_grad()
    loss = model.loss(inputs, targets)
    loss.backward()
    optimizer.clip(1.0, loss)       # measures, and closes the gate if anything is not finite
    optimizer.step()                # without clip() before it, it measures by itself
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from baremetal.autograd import CPU, Device, Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.kernels import optimizer as kernels
from baremetal.kernels.elementwise import add
from baremetal.optim.arena import ParameterArena


class Group(NamedTuple):
    """A run of parameters that lie together in the arena and share a weight decay."""

    parameters: list[Parameter]
    weight_decay: float


class Measurement(NamedTuple):
    """What `clip` was asked, and how many backward passes there had been.

    `is_whole`: it measured all gradients itself, and could do so again. `is_recorded`: a replay
    will repeat the call, and this object will know nothing of it.
    """

    max_norm: float
    loss: np.ndarray
    backward_passes: int
    is_whole: bool
    is_recorded: bool


class Span(NamedTuple):
    """A stretch of the arena that one launch updates."""

    start: int
    stop: int
    weight_decay: float


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[Group]:
    """Matrices decay, vectors (biases, norms) do not: the customary two groups.

    Frozen parameters (`requires_grad=False`) are left out; one that comes twice counts once.
    """
    every = _unique(parameters)
    return [
        Group([p for p in every if p.ndim >= 2], weight_decay),
        Group([p for p in every if p.ndim < 2], 0.0),
    ]


class Optimizer:
    """Base of the optimisers. Subclasses say which moments they keep and launch the update.

    Args:
        groups: from `decay_groups`, or any parameters (then nothing decays). Frozen parameters
            are left out.
        learning_rate: the first one; `learning_rate` can be set before each step.
        device: where the arena and the scalars live.

    Attributes:
        arena: the flat parameters and gradients.
        spans: which stretch of the arena each group is.
        moments: the flat running averages, by name.
        scalars: the float64 device buffer; its slots are named in `kernels/optimizer.py`.
        square_sums: what `measure` found last.

    Raises:
        BaremetalError: no parameters, one in two groups or on another device, or a number out of
            its range.
    """

    moment_names: Sequence[str] = ()

    def __init__(
        self,
        groups: Iterable[Group] | Iterable[Parameter],
        *,
        learning_rate: float,
        device: Device = CPU,
    ) -> None:
        self.groups = _as_groups([*groups])
        self.device = device
        self.scalars = device.full(kernels.SCALARS, 0.0, np.float64)
        for slot in (kernels.CLIP_FACTOR, kernels.GATE, kernels.LOSS_SCALE):
            self.scalars[slot] = 1.0
        self.learning_rate = learning_rate
        self.arena = ParameterArena([p for g in self.groups for p in g.parameters], device)
        self.spans = self._spans()
        self.moments = {name: self.arena.like() for name in self.moment_names}
        self.square_sums = device.full(len(self.arena.places), 0.0, np.float64)
        self._blocks, self._ends = kernels.square_sum_blocks(
            (self.arena.places[i].start, self.arena.places[i].stop) for i in self._by_name()
        )
        self._partial = device.full(len(self._blocks), 0.0, np.float64)
        self._no_loss = device.full(1, 0.0, np.float64)  # what `clip` looks at without a loss
        self._measured: Measurement | None = None  # what clip() has seen of this step

    @property
    def names(self) -> list[str]:
        """The parameters' names, sorted: what `square_sums` belongs to, entry by entry."""
        labels = _labels([place.parameter for place in self.arena.places])
        return [labels[i] for i in self._by_name()]

    def _by_name(self) -> list[int]:
        """The numbers of the arena's places in the order of their parameters' names."""
        labels = _labels([place.parameter for place in self.arena.places])
        return sorted(range(len(labels)), key=labels.__getitem__)

    def _spans(self) -> list[Span]:
        places = iter(self.arena.places)
        spans = []
        for group in self.groups:
            members = [next(places) for _ in group.parameters]
            spans.append(Span(members[0].start, members[-1].stop, group.weight_decay))
        return spans

    # ------------------------------------------------------------ numbers on the device

    @property
    def learning_rate(self) -> float:
        """The learning rate that the next step will use."""
        return float(self.scalars[kernels.LEARNING_RATE])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        # The gate watches losses and gradients; a rate that is not finite would slip past it.
        if not (value >= 0.0 and math.isfinite(value)):
            raise BaremetalError(f"learning rate {value}: expected a finite number, 0 or more")
        self.scalars[kernels.LEARNING_RATE] = value

    @property
    def loss_scale(self) -> float:
        """What the loss was multiplied by before backward; gradients are divided by it."""
        return float(self.scalars[kernels.LOSS_SCALE])

    @loss_scale.setter
    def loss_scale(self, value: float) -> None:
        if not (value > 0.0 and math.isfinite(value)):
            raise BaremetalError(f"loss scale {value}: expected a finite number above 0")
        self.scalars[kernels.LOSS_SCALE] = value

    @property
    def steps_taken(self) -> int:
        """How many updates there were; a step through a closed gate is none."""
        return int(self.scalars[kernels.STEP])

    @property
    def gradient_norm(self) -> float:
        """Global norm of the last measured gradient, before clipping."""
        return float(self.scalars[kernels.GRADIENT_NORM])

    @property
    def last_step_was_finite(self) -> bool:
        """False when the last measurement met a non-finite loss or norm and closed the gate."""
        return bool(self.scalars[kernels.GATE] == 1.0)

    def named_memory(self) -> dict[str, np.ndarray]:
        """The arrays that a step works on, by name: weights, gradients, and what is kept of them.

        For whoever shows a step to a reader; `state_dict` is for resuming.
        """
        named = {"optimizer.scalars": self.scalars, "optimizer.square_sums": self.square_sums}
        for (parameter, _, _), grad in zip(
            self.arena.places, self.arena.split(self.arena.grad), strict=True
        ):
            named[parameter.name] = parameter.data
            named[f"{parameter.name}.grad"] = grad
        flat = {"weights": self.arena.data, "gradients": self.arena.grad, **self.moments}
        for name, array in flat.items():
            named[f"optimizer.{name}"] = array
            for group, span in enumerate(self.spans):
                named[f"optimizer.{name}_of_group_{group}"] = array[span.start : span.stop]
        return named

    # ------------------------------------------------------------ the step

    def zero_grad(self) -> None:
        """Forget all gradients, and what was measured of them."""
        self._measured = None
        for parameter, _, _ in self.arena.places:
            parameter.zero_grad()

    def measure(self) -> np.ndarray:
        """The sum of squares of every parameter's gradient, in float64, in the order of `names`.

        A parameter's sum depends on nothing but its gradient, and the norm adds them up in the
        order of names: it has the same bits however a model is divided among optimisers.

        Returns:
            (parameters,), the optimiser's own memory.

        Raises:
            BaremetalError: a parameter has left the arena.
        """
        self.arena.collect_gradients()
        self.device.launch(
            kernels.square_sum,
            self.arena.grad, self._blocks, self._ends, self._partial, self.square_sums,
        )  # fmt: skip
        return self.square_sums

    def clip(
        self,
        max_norm: float,
        loss: Tensor | np.ndarray | float | None = None,
        *,
        square_sums: np.ndarray | None = None,
    ) -> None:
        """Measure the global gradient norm, set the clip factor, and gate a non-finite update.

        Args:
            max_norm: gradients are scaled so that their global norm is at most this; 0 only
                measures and gates.
            loss: closes the gate too if it is not finite.
            square_sums: what to take for the gradients' sums of squares, instead of measuring:
                (any number,) float64, those of a larger model of which this optimiser has a part.

        Raises:
            BaremetalError: `max_norm` is negative or NaN, or a parameter has left the arena.
        """
        if not max_norm >= 0.0:
            raise BaremetalError(f"largest gradient norm {max_norm}: expected 0 (off) or more")
        watched = self._no_loss if loss is None else _as_array(loss)
        sums = self.measure() if square_sums is None else square_sums
        self.device.launch(
            kernels.clip_factor, sums, watched, self.scalars, max_norm=float(max_norm)
        )
        self._measured = Measurement(
            max_norm, watched, self.device.backward_passes,
            is_whole=square_sums is None, is_recorded=self.device.is_recorded,
        )  # fmt: skip

    def step(self) -> None:
        """Update every parameter from its gradient (nothing at all if the gate is closed).

        Gradients that came after `clip` are measured again, with the same `max_norm`: a clip factor
        and a gate are worth nothing for gradients that they have not seen.

        Raises:
            BaremetalError: `clip` is part of a captured function and this call is not.
        """
        measured = self._measured
        if measured is not None and measured.is_recorded and not self.device.is_recorded:
            raise BaremetalError(
                "clip() was called by a captured function, step() is called outside it, where the "
                "next replay's clip() would not be known: capture both, or call both outside"
            )
        if measured is None:
            self.clip(0.0)
        elif measured.backward_passes != self.device.backward_passes:
            if not measured.is_whole:
                raise BaremetalError(
                    "gradients have changed since clip() was given their sums of squares: exchange "
                    "these again, and clip again, before step()"
                )
            self.clip(measured.max_norm, measured.loss)
        self._measured = None
        # t counts updates: a gated step is none, or the bias correction would be off by one.
        step, gate = (self.scalars[i : i + 1] for i in (kernels.STEP, kernels.GATE))
        self.device.launch(add, step, gate, step)
        for span in self.spans:
            self._update(span)
        for parameter, _, _ in self.arena.places:
            parameter.version.bump(f"{type(self).__name__}.step")

    def _update(self, span: Span) -> None:
        raise NotImplementedError(f"{type(self).__name__} must launch its update kernel")

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that resuming needs besides the weights (the memory itself, not copies).

        "scalars", and every moment of every parameter in its shape, e.g.
        "first_moment.blocks.0.norm_1.weight": where it lies in the arena is nobody's business.
        """
        labels = _labels([place.parameter for place in self.arena.places])
        state = {"scalars": self.scalars}
        for name, flat in self.moments.items():
            views = zip(labels, self.arena.split(flat), strict=True)
            state |= {f"{name}.{label}": view for label, view in views}
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` gave, bit for bit; all or nothing.

        Raises:
            BaremetalError: naming every missing, unexpected, misshaped or otherwise typed entry.
        """
        own = self.state_dict()
        faults = [f"missing '{n}'" for n in own if n not in state]
        faults += [f"unexpected '{n}'" for n in state if n not in own]
        given = {n: np.asarray(state[n]) for n in own if n in state}
        faults += [
            f"'{n}' is {array.dtype} {array.shape}, expected {own[n].dtype} {own[n].shape}"
            for n, array in given.items()
            if (array.shape, array.dtype) != (own[n].shape, own[n].dtype)
        ]
        if faults:
            raise BaremetalError(
                f"this state does not fit {type(self).__name__}: {'; '.join(faults)}: "
                "resume with the optimiser and the model that saved it"
            )
        for name, array in given.items():
            own[name][...] = array


def _as_groups(given: list) -> list[Group]:
    """Groups of trainable parameters, none of them empty."""
    if given and isinstance(given[0], Parameter):
        groups = [Group(_unique(cast(list[Parameter], given)), 0.0)]
    else:
        groups = [
            Group([p for p in g.parameters if p.requires_grad], g.weight_decay) for g in given
        ]
    for group in groups:
        if not (group.weight_decay >= 0.0 and math.isfinite(group.weight_decay)):
            raise BaremetalError(
                f"weight decay {group.weight_decay}: expected a finite number, 0 or more"
            )
    return [group for group in groups if group.parameters]


def _unique(parameters: Iterable[Parameter]) -> list[Parameter]:
    """The trainable ones, each once, in the order of their first appearance."""
    return [*{id(p): p for p in parameters if p.requires_grad}.values()]


def _labels(parameters: Sequence[Parameter]) -> list[str]:
    """The parameters' names; their numbers if not every one has a name of its own."""
    names = [parameter.name for parameter in parameters]
    if "" in names or len(set(names)) < len(names):
        return [str(index) for index in range(len(names))]
    return names


def _as_array(loss: Tensor | np.ndarray | float) -> np.ndarray:
    return loss.data if isinstance(loss, Tensor) else np.asarray(loss)
