"""Loss scaling: gradients lifted out of the numbers that a narrow format rounds to zero.

Backward is linear: multiply the loss by S and every gradient comes out S times as large. float16
has no number between 0 and 6e-8, where many gradients of a network lie, and room up to 65504.
So the loss is multiplied by a large S before backward, and the optimiser divides by S again, in
float32, where nothing is lost:

    g = (1 / S) d(S L)/dp

(P. Micikevicius et al., "Mixed Precision Training", 2017, arXiv:1710.03740.) Too large an S
overflows: the gradients hold infinities, the optimiser's gate stays closed, and nothing is updated.
A *dynamic* scale learns from that: it starts high, is halved after each such step, and doubled
after a long time without one. (The numbers, 2^16 and 2,000 steps, are those of PyTorch's
GradScaler.)

    loss.backward(scale.cotangent)      # S, read by a launch: a captured step sees it change
    optimizer.clip(1.0, loss)           # the unscaled loss
    optimizer.step()
    scale.adjust()

bfloat16 has float32's range and needs none of this; float8 with a scale taken from each matrix
brings its own.
"""

import math
from collections.abc import Mapping

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.kernels import optimizer as kernels
from baremetal.optim.optimizer import Optimizer

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24
GROWTH_INTERVAL = 2000  # steps


class LossScale:
    """The loss scale of an optimiser, fixed or dynamic.

    Args:
        optimizer: divides by the scale, and has the gate. The scale itself lies in its scalars.
        scale: the fixed scale, or None for a dynamic one.
        growth_interval: a dynamic scale doubles after so many steps without an overflow.

    Raises:
        BaremetalError: a scale that is not a finite number above 0, or no interval.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scale: float | None = 1.0,
        *,
        growth_interval: int = GROWTH_INTERVAL,
    ) -> None:
        if growth_interval < 1:
            raise BaremetalError(f"growth interval {growth_interval}: expected at least 1 step")
        self.optimizer = optimizer
        self.is_dynamic = scale is None
        self.growth_interval = growth_interval
        optimizer.loss_scale = FIRST_SCALE if scale is None else scale
        self.clean_steps = optimizer.device.numbers(0.0)

    @property
    def value(self) -> float:
        """The scale that the next step will use."""
        return self.optimizer.loss_scale

    @property
    def cotangent(self) -> np.ndarray | None:
        """What to give to `loss.backward`: the scale where it lies, or None if it is always 1."""
        if not self.is_dynamic and self.value == 1.0:
            return None
        place = slice(kernels.LOSS_SCALE, kernels.LOSS_SCALE + 1)
        return self.optimizer.scalars[place].reshape(())

    def adjust(self) -> None:
        """After `optimizer.step()`: choose the next step's scale, if it is dynamic."""
        if self.is_dynamic:
            self.optimizer.device.launch(
                kernels.adjust_loss_scale,
                self.optimizer.scalars,
                self.clean_steps,
                growth_interval=self.growth_interval,
                largest=LARGEST_SCALE,
            )

    def forgives(self, loss: float, scale: float) -> bool:
        """Whether a step with this loss, whose gate stayed closed, was a scale too large.

        Args:
            loss: of the step, unscaled.
            scale: the one that the step used.
        """
        return self.is_dynamic and math.isfinite(loss) and scale > 1.0

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """What resuming needs besides the optimiser's scalars; nothing if the scale is fixed."""
        return {"clean_steps": self.clean_steps} if self.is_dynamic else {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            BaremetalError: it is that of a fixed scale, and this one is dynamic, or the reverse.
        """
        if self.is_dynamic != ("clean_steps" in state):
            kinds = {True: "dynamic", False: "fixed"}
            raise BaremetalError(
                f"the loss scale is {kinds[self.is_dynamic]}, that of the state "
                f"{kinds[not self.is_dynamic]}: resume with the --loss-scale it was saved with"
            )
        if self.is_dynamic:
            self.clean_steps[...] = state["clean_steps"]
