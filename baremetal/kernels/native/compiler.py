"""Compiling kernel bodies, and keeping the machine code on disk.

numba can cache compiled code, but its cache notices neither a changed *callee* in another file
nor a new SciPy under our BLAS calls. So the cache folder is ours, and its name is a hash of
everything the machine code depends on: all kernel sources, the versions of Python, numba,
llvmlite and SciPy, and the CPU. Change any of them and a fresh folder is used; a stale kernel
cannot run. A cache that is missing, unwritable or damaged costs compile time and nothing else.

Where it is: `$BAREMETAL_CACHE_DIR`, else the platform's usual place for caches.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import scipy
from numba.extending import register_jitable

KEPT_FOLDERS = 4  # caches of other versions that stay on disk (switching branches is common)


def cache_root() -> Path:
    """The folder that holds all kernel caches of this user."""
    given = os.environ.get("BAREMETAL_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "baremetal"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "baremetal"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "baremetal"


@lru_cache(maxsize=1)
def cache_key() -> str:
    """Sixteen hex digits that change whenever compiled kernels could."""
    digest = hashlib.sha256()
    native = Path(__file__).parent
    # The declarations one folder up too: bodies use constants that are named there.
    for source in sorted([*native.glob("*.py"), *native.parent.glob("*.py")]):
        digest.update(source.name.encode() + source.read_bytes())
    for part in (
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        scipy.__version__,
        platform.machine(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        os.environ.get("NUMBA_CPU_NAME", ""),
        os.environ.get("NUMBA_CPU_FEATURES", ""),
    ):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """This version's cache folder, made if need be, or None where nothing can be written."""
    try:
        folder = cache_root() / f"kernels-{cache_key()}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # a folder may exist and still refuse files
        os.utime(folder)  # marks it as the most recently used
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    _prune(folder.parent)
    return folder


def _prune(root: Path) -> None:
    """Keep only the most recently used caches; another process may be doing the same."""
    with contextlib.suppress(OSError):
        folders = sorted(root.glob("kernels-*"), key=lambda f: f.stat().st_mtime, reverse=True)
        for old in folders[KEPT_FOLDERS:]:
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def cached_in_our_folder() -> Iterator[bool]:
    """While open, numba caches in our folder. Yields whether there is one.

    numba reads its setting when a function is decorated, and the setting is process-wide: it is
    put back at once, so that the user's own numba functions are cached where they always were.
    """
    folder = cache_folder()
    before = numba.config.CACHE_DIR
    try:
        if folder is not None:
            numba.config.CACHE_DIR = str(folder)
        yield folder is not None
    finally:
        numba.config.CACHE_DIR = before


def compile_or_load(make: Callable[[bool], Any]) -> Any:
    """``make(True)``, which may use the disk cache; ``make(False)`` where that does not work.

    A damaged entry can fail in any way, and a full disk or a folder that has just been deleted
    can too: then compile and keep nothing. A mistake in the kernel's own source is shown.
    """
    with cached_in_our_folder() as cache:
        try:
            return make(cache)
        except numba.errors.NumbaError:
            raise
        except Exception:
            if not cache:
                raise
            return make(False)


def arithmetic(reassociate: bool) -> dict[str, Any]:
    """numba's options for the arithmetic of kernels.

    `error_model="numpy"`: division by zero gives infinity, as in C; Python's check would keep the
    loop from vectorising (a GELU runs 13 times slower with it). Fast-math flags are chosen one
    by one: fused multiply-add always, reordering of sums where it is asked for; never the flags
    that let the compiler assume there are no NaNs or infinities.
    """
    flags = {"contract", "reassoc", "nsz"} if reassociate else {"contract"}
    return {"error_model": "numpy", "fastmath": flags}


def inlined(function: Callable | None = None, *, reassociate: bool = False) -> Any:
    """Decorator for the functions that bodies are made of: ``@inlined``, with its own arithmetic.

    Inlined by force, because a call that is left over makes the same source compute other bits.
    Each body that calls f carries a copy of f, optimised together with that body; but the linker
    keeps only the first f that it meets in a process, and which that is depends on what was
    compiled or loaded before. A reordered sum then has one order today and another tomorrow.
    `compile_body` refuses a body with a call left over.
    """
    if function is None:
        return lambda f: inlined(f, reassociate=reassociate)
    return register_jitable(forceinline=True, **arithmetic(reassociate))(function)


def _refuse_calls_left_over(compiled: Any) -> None:
    """Every function that a body calls must have become part of it; see `inlined`."""
    shared = [
        function.name
        for function in compiled._library.get_defined_functions()
        if function.linkage == llvm.Linkage.linkonce_odr
    ]
    if shared:
        compiled._cache.flush()
        raise TypeError(
            f"the kernel body {compiled.__name__} calls a function that was not inlined "
            f"({', '.join(shared)}), so its bits would depend on what else is loaded: "
            "decorate that function with @inlined"
        )


class CompileListeners:
    """Who wants to know that a kernel is being made ready (a progress bar does).

    Attributes:
        compiled: how many bodies this process has compiled.
        loaded: how many it found on disk instead.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self.compiled = 0
        self.loaded = 0

    @contextlib.contextmanager
    def listen(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Call `listener(name)` before each kernel is compiled or loaded, while open."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def tell(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)


COMPILING = CompileListeners()


def compile_body(function: Callable, signature: Any, reassociate: bool) -> Any:
    """Machine code for one body and one element type, from the cache if it is there.

    Raises TypeError if the body calls a function that is not `inlined`.
    """
    COMPILING.tell(function.__name__)
    options = arithmetic(reassociate)
    compiled = compile_or_load(
        lambda cache: numba.cfunc(signature, cache=cache, **options)(function)
    )
    if compiled.cache_hits:
        COMPILING.loaded += 1
    else:
        COMPILING.compiled += 1
        _refuse_calls_left_over(compiled)
    return compiled
