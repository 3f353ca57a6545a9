"""A kernel, three times: how to read it, what it costs, how it runs fast.

A kernel is C-shaped. Its outputs are arguments, it allocates nothing, it returns nothing:

    softmax(x, out)            # not  out = softmax(x)

so that whoever launches it decides where results live. (A captured step can therefore give every
result a fixed address before the first step runs.) Each kernel is declared once, here in
`kernels/`, by its NumPy reference, with its cost directly beneath:

    @kernel
    def softmax(x, out):
        '''out = exp(x - max(x)) / sum(exp(x - max(x))) over the last axis.'''
        ...NumPy, to read; the oracle of the tests...

    @softmax.costs
    def _(x, out):
        return Cost(flops=..., size_bytes=moved(x, out))

The fast version has the same name in the module of the same name under `kernels/native/`. It is
looked up at the first launch, not at import, because importing numba takes longer than importing
the rest of the project. The native function packs its arguments into a `Launch` (see
`native/abi.py`), or returns None to say "this case is not worth a compiled version": integer
arithmetic, for instance, is left to NumPy.

Who moves launches about (`capture/fusion/`) must know what they write. Most kernels write `out` and
nothing else, and that is what is taken for granted; the others say so in their declaration:

    @kernel(writes=("out", "mean", "rstd"))
    def layer_norm(x, weight, bias, out, mean, rstd, *, eps):
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from baremetal.kernels.cost import Cost

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch

Operand = TypeVar("Operand")


class Kernel:
    """One operation on memory: `reference` to read, `cost` to count, `native` to run.

    Attributes:
        name: the kernel's name, unique in the registry.
        reference: the NumPy version, called as ``reference(*arrays, **attributes)``.
        writes: the names of the arrays that it writes; all others it only reads.
    """

    def __init__(self, reference: Callable[..., None], writes: Sequence[str] = ("out",)) -> None:
        self.name = reference.__name__
        self.writes = tuple(writes)
        self.reference = reference
        self.__doc__ = reference.__doc__
        self.__name__ = reference.__name__
        self.__module__ = reference.__module__
        self._cost: Callable[..., Cost] | None = None
        self._native: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"

    def costs(self, function: Callable[..., Cost]) -> Callable[..., Cost]:
        """Decorator: declare the cost as a function of the same arguments as the reference."""
        self._cost = function
        return function

    def cost(self, *arrays: Any, **attributes: Any) -> Cost:
        """FLOPs and bytes of one launch with these arguments."""
        if self._cost is None:
            raise NotImplementedError(
                f"kernel '{self.name}' has no cost: declare one with @{self.name}.costs"
            )
        return self._cost(*arrays, **attributes)

    def operand_names(self, count: int) -> tuple[str, ...]:
        """What `count` arrays given to it are called; of any number, the last is `out`."""
        names, variadic = self._arrays
        return (*names * (count - 1), "out") if variadic else names[:count]

    @cached_property
    def _arrays(self) -> tuple[tuple[str, ...], bool]:
        """The names of its array parameters, and whether the only one stands for any number."""
        parameters = inspect.signature(self.reference).parameters.values()
        arrays = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        return tuple(p.name for p in arrays), arrays[0].kind is inspect.Parameter.VAR_POSITIONAL

    def written(self, operands: Sequence[Operand | None]) -> list[Operand]:
        """Those of its operands (arrays, or what stands for them) that it writes."""
        names = self.operand_names(len(operands))
        pairs = zip(names, operands, strict=True)
        return [x for name, x in pairs if name in self.writes and x is not None]

    def pack(self, *arrays: Any, **attributes: Any) -> "Sequence[Launch] | None":
        """The launches that perform this call natively, or None where NumPy does it."""
        if self._native is None:
            self._native = self._find_native()
        return self._native(*arrays, **attributes)

    def run(self, *arrays: Any, **attributes: Any) -> None:
        """Run now: natively where a native version takes these arguments, else in NumPy."""
        launches = self.pack(*arrays, **attributes)
        if launches is None:
            self.reference(*arrays, **attributes)
        else:
            for launch in launches:
                launch.run()

    def _find_native(self) -> Callable[..., Any]:
        family = self.__module__.rpartition(".")[2]
        module = importlib.import_module(f"baremetal.kernels.native.{family}")
        return getattr(module, self.name)


_REGISTRY: dict[str, Kernel] = {}


@overload
def kernel(reference: Callable[..., None], /) -> Kernel: ...
@overload
def kernel(*, writes: Sequence[str]) -> Callable[[Callable[..., None]], Kernel]: ...
def kernel(reference: Any = None, *, writes: Sequence[str] = ("out",)) -> Any:
    """Decorator: declare a kernel by its NumPy reference and enter it in the registry.

    `writes` names the arrays that it writes, where that is not `out` alone.
    """

    def declare(reference: Callable[..., None]) -> Kernel:
        declared = Kernel(reference, writes)
        if declared.name in _REGISTRY:
            raise ValueError(f"two kernels are called '{declared.name}': rename one of them")
        _REGISTRY[declared.name] = declared
        return declared

    return declare if reference is None else declare(reference)


def registry() -> dict[str, Kernel]:
    """All kernels declared so far, by name (a copy)."""
    return dict(_REGISTRY)
