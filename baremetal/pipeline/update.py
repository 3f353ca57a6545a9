"""The end of a step: copies added up, the global norm, and every stage's own update.

Clipping scales all gradients by one factor, which depends on the norm of all of them. Each stage
measures its own parameters (a sum of squares for each, in float64); the stages exchange these
numbers, and each adds them all up in the order of the parameters' names. That order knows nothing
of stages. So norm, factor and gate have the same bits on every stage, at any number of stages, and
in a process that has the whole model; an update reads nothing else of the others.

The losses travel with the sums: one that is not finite closes the gate, as ever, on every stage.
"""

from collections.abc import Mapping

import numpy as np

from baremetal.optim import Optimizer
from baremetal.pipeline.copies import Holders, add_copies, copies
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.exchange import Exchange
from baremetal.pipeline.stage import Stage


class Update:
    """The optimisers of one rank's stages.

    Args:
        stages: of this rank, by number.
        optimizers: theirs, by number; none where a stage has nothing to train.
        every: which stages of the pipeline hold which parameter.
        stage_count: how many stages there are.
        exchange: adds over stages.

    Raises:
        PipelineError: a stage with parameters to train has no optimiser, or one without has.
    """

    def __init__(
        self,
        stages: Mapping[int, Stage],
        optimizers: Mapping[int, Optimizer],
        every: Holders,
        stage_count: int,
        exchange: Exchange,
    ) -> None:
        wanted = [number for number, stage in stages.items() if stage.trainable()]
        if sorted(wanted) != sorted(optimizers):
            raise PipelineError(
                f"optimisers for stages {sorted(optimizers)}, but those with parameters to train "
                f"are {sorted(wanted)}: make one for each of them"
            )
        self.stages, self.optimizers = stages, optimizers
        self.copies = copies(every)
        self._all = range(stage_count)
        self._exchange = exchange
        self._names = len(every)
        # A parameter is measured where it is found first: (whose sums, which of them, into where).
        place = {name: at for at, name in enumerate(every)}
        self._places = {
            number: [
                (entry, place[name])
                for entry, name in enumerate(optimizer.names)
                if every[name][0] == number
            ]
            for number, optimizer in optimizers.items()
        }

    def zero_grad(self) -> None:
        """Begin a step."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def clip(self, max_norm: float, losses: Mapping[int, np.ndarray]) -> np.ndarray:
        """Add up copies, measure the global norm, set the clip factor, and close the gate or not.

        Args:
            max_norm: see `Optimizer.clip`.
            losses: by stage, what it added to the loss of each microbatch (`StageRunner.losses`).

        Returns:
            (microbatches,) float64: the loss of each microbatch, over all stages.
        """
        add_copies(self.copies, self.stages, self._exchange)
        own = {n: np.concatenate([self._measured(n), losses[n]]) for n in self.stages}
        total = self._exchange.sum(own, self._all)
        square_sums, every_loss = total[: self._names].copy(), total[self._names :]
        for optimizer in self.optimizers.values():
            optimizer.clip(max_norm, every_loss, square_sums=square_sums)
        return every_loss

    def step(self) -> None:
        """Update every parameter of this rank."""
        for optimizer in self.optimizers.values():
            optimizer.step()

    def _measured(self, number: int) -> np.ndarray:
        """The sums of squares of all parameters of the model; 0 for those measured elsewhere."""
        sums = np.zeros(self._names)
        optimizer = self.optimizers.get(number)
        if optimizer is not None:
            measured = optimizer.measure()
            for entry, place in self._places[number]:
                sums[place] = measured[entry]
        return sums

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """The optimisers' states, as one: those of all ranks together are the whole model's.

        Copies have the same moments, and all stages the same scalars: it does not matter whose.
        """
        state: dict[str, np.ndarray] = {}
        for optimizer in self.optimizers.values():
            state |= optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what belongs to this rank from the state of a whole model's optimiser.

        Raises:
            BaremetalError: something is missing, or of another shape.
        """
        for optimizer in self.optimizers.values():
            own = optimizer.state_dict()
            optimizer.load_state_dict({name: state[name] for name in own if name in state})
