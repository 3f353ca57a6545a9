"""baremetal: every layer of a training stack, each small enough to read in one sitting.

    import baremetal as bm

    x = bm.Tensor([[1.0, 2.0]], requires_grad=True)
    (x @ x.T).sum().backward()
    x.grad

The rooms, from the ground up: `kernels` and `trace`; `autograd`; `nn`, `optim`, `data`,
`checkpoint` and `capture`; `train`; `bench`; and the command line. (`baremetal.capture` is the
function; its room is reached by `from baremetal.capture import ...`.)
"""

from baremetal.autograd import (
    CPU,
    Device,
    Parameter,
    Tensor,
    draw,
    gradcheck,
    no_grad,
    ops,
    profile,
)
from baremetal.capture import capture
from baremetal.errors import BaremetalError

__version__ = "0.1.0"


def set_num_threads(threads: int) -> None:
    """Use this many threads for all kernels, from 1 up to the number of cores.

    Raises:
        BaremetalError: no integer, or outside that range.
    """
    from baremetal.kernels.native.pool import POOL  # compiles the driver: only when needed

    POOL.set_threads(threads)


def get_num_threads() -> int:
    """How many threads run kernels."""
    from baremetal.kernels.native.pool import POOL

    return POOL.threads


__all__ = [
    "CPU",
    "BaremetalError",
    "Device",
    "Parameter",
    "Tensor",
    "capture",
    "draw",
    "get_num_threads",
    "gradcheck",
    "no_grad",
    "ops",
    "profile",
    "set_num_threads",
]
