"""Generated source: written down like any other, so that it can be read, and compiled once.

Some kernels are not written by hand: a chain of element-wise launches becomes one loop, a captured
step one function. Their source is made as text. To be compiled once and not in every process it
needs a file, for numba keeps machine code by the file that a function stands in:

    <cache folder>/generated/<stem>_<sixteen hex digits>.py

The digits are the hash of the text, so another text is another file, and a file's content never
changes. What runs is the text that was given, never what is read back from the disk: a file that
is damaged, or left over from anything, cannot run. numba tells versions of one file
apart by size and time of change. Ours need no telling apart, so all carry one time: two processes
that write the same file at once do not make each other's machine code worthless.

Where the folder cannot be written the module lives in memory alone, which costs compile time in
each process and nothing else.
"""

import contextlib
import hashlib
import linecache
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from baremetal.kernels.native.compiler import cache_folder

WRITTEN_S = 1_767_225_600  # 2026-01-01 in seconds since 1970: the time all generated files carry


@cache
def load_generated(source: str, stem: str) -> ModuleType:
    """The module of this source; the same text gives the same module.

    Args:
        source: Python text, complete with its imports.
        stem: how its file begins; a word that says what it is (an identifier).

    Raises:
        ValueError: the stem is not an identifier.
        SyntaxError: the source is not Python.
    """
    if not stem.isidentifier():
        raise ValueError(f"stem {stem!r} names a file and a module: give an identifier")
    name = f"{stem}_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = _written(source, name)
    filename = f"<generated {name}>" if path is None else str(path)
    code = compile(source, filename, "exec")
    # A traceback shows the lines that run, whatever the disk holds.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(f"baremetal_generated_{name}", f"Generated; see {filename}.")
    module.__file__ = filename
    # numba looks a function's module up by its name when it loads machine code from disk.
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return module


def _written(source: str, name: str) -> Path | None:
    """The file that holds this source, written if need be; None where nothing can be written."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / "generated" / f"{name}.py"
    try:
        if not _holds(path, source):
            path.parent.mkdir(exist_ok=True)
            _write(path, source)
    except OSError:
        return None
    return path


def _holds(path: Path, source: str) -> bool:
    try:
        stamp = path.stat().st_mtime
        return stamp == WRITTEN_S and path.read_bytes() == source.encode()
    except FileNotFoundError:
        return False


def _write(path: Path, source: str) -> None:
    """Whole or not at all: another process may be reading, or writing the same."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(source.encode())
        os.utime(temporary, (WRITTEN_S, WRITTEN_S))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
