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
"""

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from baremetal.kernels.cost import Cost

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch


class Kernel:
    """One operation on memory: `reference` to read, `cost` to count, `native` to run.

    Attributes:
        name: the kernel's name, unique in the registry.
        reference: the NumPy version, called as ``reference(*arrays, **attributes)``.
    """

    def __init__(self, reference: Callable[..., None]) -> None:
        self.name = reference.__name__
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


def kernel(reference: Callable[..., None]) -> Kernel:
    """Decorator: declare a kernel by its NumPy reference and enter it in the registry."""
    declared = Kernel(reference)
    if declared.name in _REGISTRY:
        raise ValueError(f"two kernels are called '{declared.name}': rename one of them")
    _REGISTRY[declared.name] = declared
    return declared


def registry() -> dict[str, Kernel]:
    """All kernels declared so far, by name (a copy)."""
    return dict(_REGISTRY)
