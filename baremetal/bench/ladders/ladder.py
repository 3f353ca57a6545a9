"""A kernel ladder: one kernel, several versions, each faster than the one below by one idea.

A ladder is a list of functions with the same arguments. Version 1 is what one writes first; every
next version changes one thing and says in a line what and why; the last is the kernel that this
library uses. Old versions are never improved: they stay as they are, to be read and to be beaten.

    LADDER = Ladder(kernel=softmax, make=make_problem, ...)

    @LADDER.version("NumPy", "five passes over the matrix, each with a temporary as large")
    def version_1(x, out): ...

(The form is that of `dev/cuda` in A. Karpathy's llm.c, https://github.com/karpathy/llm.c: one file
per operation, the versions listed in its head.) `climb.py` checks and times the versions,
`report.py` prints them.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.kernels.cost import Cost
from baremetal.kernels.kernel import Kernel

NAMES = ("matmul", "softmax", "layer_norm", "attention")  # each is a file of this folder


@dataclass(frozen=True)
class Problem:
    """One set of arguments for every version of a ladder.

    Attributes:
        inputs: arrays that are read, float32, C-contiguous.
        outputs: arrays that are written.
        attributes: keyword arguments.
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def fresh(self) -> "Problem":
        """The same inputs with outputs full of NaN: what a version does not write will show."""
        return Problem(
            self.inputs, tuple(np.full_like(out, np.nan) for out in self.outputs), self.attributes
        )

    def run(self, function: Callable[..., None]) -> None:
        """Call a version (or a reference) with these arguments."""
        function(*self.inputs, *self.outputs, **self.attributes)

    def expected(self, kernel: Kernel) -> tuple[np.ndarray, ...]:
        """What the kernel's NumPy reference gives, computed in float64."""
        wide = Problem(
            tuple(array.astype(np.float64) for array in self.inputs),
            tuple(np.full(out.shape, np.nan) for out in self.outputs),
            self.attributes,
        )
        wide.run(kernel.reference)
        return wide.outputs

    def cost(self, kernel: Kernel) -> Cost:
        """FLOP and bytes of the kernel with these arguments, whichever version does it."""
        return kernel.cost(*self.inputs, *self.outputs, **self.attributes)


@dataclass(frozen=True)
class Version:
    """A rung: its number from 1, its idea in a few words, why that helps, and the function.

    `largest_size`: beyond it the version would run for minutes and is tried at that size instead;
    the report says so.
    """

    number: int
    idea: str
    why: str
    function: Callable[..., None]
    largest_size: int


@dataclass(frozen=True)
class Afterword:
    """What a ladder has to say besides its times: a heading, a table, a remark."""

    key: str
    title: str
    rows: list[dict[str, Any]]
    remark: str


@dataclass
class Ladder:
    """The versions of one kernel and how to try them.

    Attributes:
        name: as on the command line.
        kernel: whose reference is the oracle and whose cost is counted.
        make: ``make(size, rng)`` builds a problem.
        size: the default size, and `size_means` what it stands for.
        largest_size: more would not fit an ordinary machine's memory.
        bound_by: "arithmetic" (rates in FLOP/s) or "memory" (in B/s).
        tolerance: largest error allowed, relative to the largest number expected.
        epilogue: what else to measure once the versions are timed.
    """

    name: str
    kernel: Kernel
    make: Callable[[int, np.random.Generator], Problem]
    size: int
    size_means: str
    largest_size: int
    bound_by: str
    tolerance: float
    versions: list[Version] = field(default_factory=list)
    epilogue: Callable[[int], Afterword] | None = None

    def version(
        self, idea: str, why: str, *, largest_size: int | None = None
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator: the next rung."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            number = len(self.versions) + 1
            most = self.largest_size if largest_size is None else largest_size
            self.versions.append(Version(number, idea, why, function, most))
            return function

        return add

    def choose(self, numbers: Sequence[int] = ()) -> list[Version]:
        """The versions of these numbers, in order; all of them if none is named.

        Raises:
            BaremetalError: there is no version of that number.
        """
        for number in numbers:
            if not 1 <= number <= len(self.versions):
                raise BaremetalError(
                    f"no version {number}: the {self.name} ladder has 1 to {len(self.versions)}"
                )
        return [v for v in self.versions if not numbers or v.number in numbers]

    def check_size(self, size: int) -> int:
        """`size`, or the default for 0.

        Raises:
            BaremetalError: outside 1 .. `largest_size`.
        """
        if not 0 <= size <= self.largest_size:
            raise BaremetalError(
                f"size {size} ({self.size_means}) for the {self.name} ladder: "
                f"choose 1 to {self.largest_size}"
            )
        return size or self.size


def find_ladder(name: str) -> Ladder:
    """The ladder of this name; only its own file is imported, nothing is compiled yet.

    Raises:
        BaremetalError: there is none.
    """
    if name not in NAMES:
        raise BaremetalError(f"no ladder called '{name}': choose one of {', '.join(NAMES)}, step")
    return importlib.import_module(f"baremetal.bench.ladders.{name}").LADDER
