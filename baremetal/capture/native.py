"""Level 2: the whole step as one compiled function.

The replay walks a table; this is the program that the table describes (`program.py`), compiled.
Nothing is looked up in it, and nothing goes through Python: sizes stand in the machine code, small
launches are compiled into their place, large ones are called and divided over the threads.

Compiling is done once. The source's hash names its file, its file names the machine code on disk
(`kernels/native/generated.py`), so the second start of the same training loads what the first has
compiled, and a plan that differs in anything has another source, hence another file. (numba's own
cache looks at a function's file and not at the numbers that it reads: two models that shared one
file would share one machine code.)

Bits. Called bodies are the ones that eager execution calls, so their results are equal to the last
bit. What is inlined may add a sum in another order, since a sum of sixteen is unrolled where a sum
of n is a loop. `inlined=False` calls everything, and then the whole step has the replay's bits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from baremetal.capture.errors import CaptureError
from baremetal.capture.places import Placer, label_arrays, make_calls
from baremetal.capture.program import write_program
from baremetal.capture.recording import RecordedLaunch
from baremetal.capture.replay import Replay

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch


class NativeStep:
    """A bound plan as one function: its text at once, its machine code when `compile` is called.

    Args:
        replay: the plan, bound to memory.
        name: of the captured function.
        named: what arrays outside the arena are called, for the source.
        inlined: compile small launches into the step.

    Attributes:
        source: the program's text.
        run: does the step once, when `compile` was called.

    Raises:
        CaptureError: a launch has no compiled version.
    """

    def __init__(
        self, replay: Replay, name: str, named: Mapping[str, np.ndarray], inlined: bool = True
    ) -> None:
        from baremetal.kernels.native.abi import address_of

        bound = [(one, _compiled(one, launches)) for one, launches in replay.bound_launches()]
        labels = label_arrays(iter(named.items()))
        placer = Placer(replay.plan, replay.arena, replay.workspace, labels)
        calls = make_calls(bound, placer)
        self._calls = calls  # they own what the tables below hold the addresses of
        self.source, bodies = write_program(calls, placer, name, inlined)
        self._fixed = np.array([address_of(array) for array in placer.fixed], np.int64)
        self._bodies = np.array(bodies, np.int64)
        self.run: Callable[[], None] = _not_compiled
        self._arena, self._workspace = address_of(replay.arena), address_of(replay.workspace)

    def compile(self) -> None:
        """Make it ready to run: compile the program, or load it if this very text was compiled."""
        from baremetal.kernels.native.generated import load_generated
        from baremetal.kernels.native.pool import POOL
        from baremetal.kernels.native.program import compile_program

        step = compile_program(load_generated(self.source, "step").step)
        tables = self._fixed.ctypes.data, self._bodies.ctypes.data
        self.run = POOL.runner(step, self._arena, self._workspace, *tables)


def _not_compiled() -> None:
    raise AssertionError("compile() comes first")


def _compiled(recorded: RecordedLaunch, launches: "Sequence[Launch] | None") -> "Sequence[Launch]":
    """Its native launches, if it has any."""
    if launches is not None:
        return launches
    shapes = ", ".join(str(x.shape) for x in recorded.operands if x is not None)
    raise CaptureError(
        f"a step with '{recorded.kernel.name}' of {shapes} cannot be compiled as a whole: that has "
        "no compiled version and runs in NumPy; capture it with level='replay'"
    )
