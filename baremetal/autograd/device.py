"""The device: the one door for memory and for arithmetic.

All arithmetic goes through `Device.launch(kernel, *arrays, **attributes)` and all memory through
`Device.empty(shape, dtype)`. Because there is one door, the code of an operation can be *run*,
*recorded*, *timed* or *charged to a modelled chip* without knowing which: whoever wants to see
every launch puts a listener at the door.

    device = Device()                       # native kernels
    device = Device(kernels="reference")    # the same stack on the NumPy references, to compare
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np

from baremetal.autograd.errors import AutogradError
from baremetal.autograd.memory import MemoryPool
from baremetal.autograd.mode import note_reading
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import fill
from baremetal.kernels.kernel import Kernel

# A listener runs the launch itself, by calling its first argument: it can time it, or record it.
Listener = Callable[[Callable[[], None], Kernel, tuple, dict[str, Any]], None]


class Recorder(Protocol):
    """Who writes down a whole step: sees every launch, lends all memory, keeps every check."""

    def launch(
        self, run: Callable[[], None], kernel: Kernel, arrays: tuple, attributes: dict[str, Any]
    ) -> None: ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray: ...

    def check(self, function: Callable[..., Any], arrays: tuple) -> None: ...

    def leaf(self, leaf: Any, is_zeroed: bool) -> None: ...


class Device:
    """A place where arrays live and kernels run: this machine's CPU.

    Args:
        name: how it prints.
        kernels: "native" runs the compiled kernels, "reference" their NumPy references.
    """

    def __init__(
        self, name: str = "cpu", kernels: Literal["native", "reference"] = "native"
    ) -> None:
        if kernels not in ("native", "reference"):
            raise BaremetalError(f"kernels={kernels!r}: choose 'native' or 'reference'")
        self.name = name
        self.kernels = kernels
        self.memory = MemoryPool()
        self.backward_passes = 0  # gradients of leaves may have changed as often
        self.leaf_changes = 0  # a leaf got a gradient, lost it or moved; or a recording began
        self.sequence = itertools.count()  # numbers the tape's nodes in the order of their making
        self._listener: Listener | None = None
        self._recorder: Recorder | None = None

    def __repr__(self) -> str:
        return f"Device({self.name!r}, kernels={self.kernels!r})"

    def __deepcopy__(self, memo: dict) -> "Device":
        """The same device: a copied model lives where the original does."""
        return self

    def __reduce__(self) -> str:
        """Pickled by name: the default device of whichever process reads it."""
        if self is not CPU:
            raise AutogradError(f"pickling {self}: devices stay in their process")
        return "CPU"

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An uninitialised, C-contiguous array of this shape and dtype."""
        if type(shape) is not tuple:
            shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not isinstance(dtype, np.dtype):
            dtype = np.dtype(dtype)
        if self._recorder is not None:
            return self._recorder.empty(shape, dtype)
        return self.memory.empty(shape, dtype)

    def full(self, shape: int | tuple[int, ...], value: float, dtype: Any = np.float32):
        """An array filled with `value`."""
        out = self.empty(shape, dtype)
        self.launch(fill, out, value=value)
        return out

    def numbers(self, *values: float, dtype: Any = np.float64) -> np.ndarray:
        """A small buffer (len(values),) of numbers that kernels read from memory.

        What changes from step to step (learning rate, step count, clip factor, loss scale, a
        count of tokens) is passed to kernels in such a buffer and not as an argument, so that a
        recorded step can run again with other numbers in it: ``buffer[0] = 3e-4``.
        """
        # Not from `empty`: written by Python and by no launch, it must keep its place and content.
        return np.array(values, dtype)

    def launch(self, kernel: Kernel, *arrays: Any, **attributes: Any) -> None:
        """Run `kernel` on these arrays. Outputs are among the arguments; nothing is returned."""
        if self._listener is not None:
            self._listener(
                lambda: self._run(kernel, arrays, attributes), kernel, arrays, attributes
            )
        elif self.kernels == "native":
            kernel.run(*arrays, **attributes)
        else:
            kernel.reference(*arrays, **attributes)

    def _run(self, kernel: Kernel, arrays: tuple, attributes: dict[str, Any]) -> None:
        if self.kernels == "native":
            kernel.run(*arrays, **attributes)
        else:
            kernel.reference(*arrays, **attributes)

    @contextlib.contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """While open, every launch goes to ``listener(run, kernel, arrays, attributes)``.

        The listener calls ``run()`` to perform the launch. One listener at a time: a recording
        inside a profile would record the profiler.
        """
        if self._listener is not None:
            raise BaremetalError(
                f"{self} is already being listened to (a profile or a recording is open): "
                "close that one first"
            )
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    # ------------------------------------------------------------ being recorded

    @contextlib.contextmanager
    def record(self, recorder: Recorder) -> Iterator[None]:
        """While open, `recorder` sees every launch, lends every buffer and keeps every check."""
        with self.listen(recorder.launch):
            self._recorder = recorder
            self.leaf_changes += 1  # who is captured already must not be called now: let it look
            try:
                yield
            finally:
                self._recorder = None

    @property
    def is_recorded(self) -> bool:
        """Whether a step is being recorded."""
        return self._recorder is not None

    def note_leaf(self, leaf: Any, is_zeroed: bool = False) -> None:
        """Called before a leaf's gradient is asked for or changes (`is_zeroed`: is forgotten).

        What Python remembers of gradients is in no launch: a recorder notes it, and whoever holds
        a recorded step sees by the count that it must look again.
        """
        self.leaf_changes += 1
        if self._recorder is not None:
            self._recorder.leaf(leaf, is_zeroed)

    def check(self, function: Callable[..., Any], *arrays: np.ndarray) -> None:
        """Call ``function(*arrays)``, which raises if their values are not what they must be.

        A kernel has no way to raise, so values from outside (token ids) are checked in Python
        before the launch. A recorded step repeats its checks whenever it gets new inputs.
        """
        function(*arrays)
        if self._recorder is not None:
            self._recorder.check(function, arrays)

    def refuse_reading(self, what: str) -> None:
        """Called where Python is about to read a computed value: not while a step is recorded.

        (And in a checkpointed function it means that the value must be computed again, too.)

        Raises:
            AutogradError: what Python does with the value would not be part of the recorded step.
        """
        note_reading()
        if self._recorder is not None:
            raise AutogradError(
                f"{what} reads a computed value while a step is being recorded: what Python makes "
                "of it (a number, a branch) would be frozen at today's value; return the tensor "
                "from the captured function and read it outside"
            )


CPU = Device()  # where tensors live unless told otherwise
