"""Compiling the versions of a ladder: each when it is first called, and kept on disk.

    @compiled
    def add_rows(a, b, out):            # NumPy arrays in, machine code for their types

    @ladder_body
    def rows_body(lo, hi, args):        # the calling convention of kernels, for the thread pool

Machine code goes into the folder where the kernels' is (`kernels/native/compiler.py`), below a
name that changes with any file of this one: numba itself would not notice when a function in
another file, which a version calls, has changed.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from baremetal.kernels.native.abi import FLOATING, Body
from baremetal.kernels.native.compiler import COMPILING, arithmetic, cache_folder, compile_or_load

# Division as in C; products and sums may be fused, never reordered unless a version asks for it.
STRICT = arithmetic(reassociate=False)
REORDERED = arithmetic(reassociate=True)

# Decorators for the functions that versions are made of; each keeps its own arithmetic.
inlined = register_jitable(**STRICT)
inlined_reordered = register_jitable(**REORDERED)


@intrinsic
def pointer_to(typing_context, array, index):
    """The pointer to element `index` of a C-contiguous array, counted through all its axes."""
    signature = types.CPointer(array.dtype)(array, types.int64)

    def generate(context, builder, signature, values):
        fields = cgutils.create_struct_proxy(signature.args[0])(context, builder, values[0])
        return builder.gep(fields.data, [values[1]])

    return signature, generate


class Compiled:
    """A function of arrays that is compiled when first called, for the types it is called with."""

    def __init__(self, function: Callable[..., None], options: dict[str, Any]) -> None:
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.function = function
        self.options = options
        self._machine_code: dict[tuple, Callable[..., None]] = {}

    def __call__(self, *arrays: Any, **attributes: Any) -> None:
        arguments = (*arrays, *attributes.values())  # named in the order of the parameters
        kinds = tuple(map(numba.typeof, arguments))
        machine_code = self._machine_code.get(kinds)
        if machine_code is None:
            machine_code = self._machine_code[kinds] = self._compile(kinds)
        machine_code(*arguments)

    def _compile(self, kinds: tuple) -> Callable[..., None]:
        def make(cache: bool) -> Any:
            dispatcher = numba.njit(cache=cache, nogil=True, **self.options)(self.function)
            dispatcher.compile(kinds)
            return dispatcher

        return _kept_on_disk(self.__name__, make)


def compiled(function: Callable | None = None, *, reordered: bool = False) -> Any:
    """Decorator: ``@compiled``, or ``@compiled(reordered=True)`` where sums may be reordered."""
    options = REORDERED if reordered else STRICT
    return Compiled(function, options) if function else lambda f: Compiled(f, options)


class LadderBody(Body):
    """A kernel body (`kernels/native/abi.py`) whose machine code is kept with the ladders'."""

    def address(self, dtype: np.dtype) -> int:
        """The machine-code address of the body for this element type (compiles on first use)."""
        made = self._compiled.get(dtype)
        if made is None:
            signature = types.void(types.int64, types.int64, types.CPointer(FLOATING[dtype]))
            options = REORDERED if self.reassociate else STRICT

            def make(cache: bool) -> Any:
                return numba.cfunc(signature, cache=cache, **options)(self.function)

            made = self._compiled[dtype] = _kept_on_disk(self.name, make)
        return made.address


def ladder_body(function: Callable[..., None]) -> LadderBody:
    """Decorator over ``function(lo, hi, args)``."""
    return LadderBody(function, reassociate=False)


def _kept_on_disk(name: str, make: Callable[[bool], Any]) -> Any:
    """``make(cache)``, with numba's cache in the ladders' part of our folder."""
    COMPILING.tell(name)

    def make_there(cache: bool) -> Any:
        folder = cache_folder()
        if cache and folder is not None:
            numba.config.CACHE_DIR = str(folder / f"ladders-{_sources_key()}")
        return make(cache)

    return compile_or_load(make_there)  # which puts the setting back


@lru_cache(maxsize=1)
def _sources_key() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
