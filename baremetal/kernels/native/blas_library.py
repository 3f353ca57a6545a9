"""Which BLAS libraries are loaded in this process, whose they are, and how they are set.

NumPy and SciPy from PyPI each bring a BLAS of their own, with threads of its own. Ours is
SciPy's: it is called from inside our threads, so it must not start any itself (`pool.py` says
why), and it is limited to one. NumPy's belongs to the user and is left alone.

That is possible only where the two are different libraries. Where they come from conda or from a
Linux distribution both use one BLAS, and limiting it would slow down NumPy for the whole process.
So it is not touched, and `blas_report` says what to do: start with `OPENBLAS_NUM_THREADS=1`
(`MKL_NUM_THREADS=1` for MKL), or install SciPy from PyPI. A program that owns its process, as the
command line does, may call `limit_shared_blas()` instead.

Apple's Accelerate, which SciPy's wheels for newer macOS use, and the reference BLAS are unknown
to threadpoolctl. They are reported as such; Accelerate divides its work by its own judgement.

This file imports neither numba nor llvmlite.
"""

import importlib
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

# Set by hand these override what OpenBLAS finds out about the processor by itself.
HELD_BACK_BY = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def _home(package: str) -> Path:
    """The folder of an installed package, links resolved."""
    file = importlib.import_module(package).__file__
    assert file is not None
    return Path(file).resolve().parent


def _bundled(package: str) -> tuple[Path, ...]:
    """Where the wheels of a package keep the libraries they bring: Linux and Windows, macOS."""
    home = _home(package)
    return home.with_name(f"{package}.libs"), home / ".dylibs", home


@lru_cache(maxsize=1)
def _loaded() -> tuple[Any, ...]:
    """threadpoolctl's handles on all BLAS libraries in this process, SciPy's among them."""
    from threadpoolctl import ThreadpoolController

    importlib.import_module("scipy.linalg.cython_blas")  # loads the library, if nobody has yet
    controllers = ThreadpoolController().lib_controllers
    return tuple(library for library in controllers if library.user_api == "blas")


def _is_in(library: Any, folders: tuple[Path, ...]) -> bool:
    return any(folder in Path(library.filepath).resolve().parents for folder in folders)


def own_libraries(package: str) -> list[Any]:
    """The BLAS libraries that this package ("scipy" or "numpy") brought along for itself."""
    return [library for library in _loaded() if _is_in(library, _bundled(package))]


def shared_libraries() -> list[Any]:
    """BLAS libraries outside the folders of Python packages: conda's, or the system's.

    (Inside, there may be others' as well: PyTorch brings one for some processors.)
    """
    packages = (_home("scipy").parent, _home("numpy").parent)
    return [library for library in _loaded() if not _is_in(library, packages)]


def limit_own_blas() -> None:
    """One thread for SciPy's own BLAS. Does nothing where SciPy shares one with NumPy."""
    for library in own_libraries("scipy"):
        library.set_num_threads(1)


def limit_shared_blas() -> None:
    """One thread for a BLAS that SciPy and NumPy share: for programs that own their process."""
    if not own_libraries("scipy"):
        for library in shared_libraries():
            library.set_num_threads(1)


def blas_report() -> dict[str, dict[str, Any]]:
    """What SciPy's BLAS (which our kernels call) and NumPy's BLAS (the user's) are.

    Returns:
        {"scipy": {...}, "numpy": {...}}, each with `library` ("openblas", "mkl", ..., or
        "unknown"), `version`, `architecture` (the core type whose code it runs, where it says),
        `threads`, `path`, and `warning`: what is wrong and what to do, or "".
    """
    return {package: _describe(package) for package in ("scipy", "numpy")}


def _describe(package: str) -> dict[str, Any]:
    own = own_libraries(package)
    candidates = own or shared_libraries()
    if not candidates:
        return _unknown()
    info = candidates[0].info()
    name = info["internal_api"]
    warnings = [_environment_warning(name)]
    if package == "scipy" and not own:
        warnings.append(_sharing_warning(name, info["num_threads"]))
    return {
        "library": name,
        "version": info.get("version"),
        "architecture": info.get("architecture"),
        "threads": info["num_threads"],
        "path": info["filepath"],
        "warning": "; ".join(filter(None, warnings)),
    }


def _unknown() -> dict[str, Any]:
    name = "Accelerate" if sys.platform == "darwin" else "unknown"
    return {
        "library": name, "version": None, "architecture": None, "threads": None, "path": None,
        "warning": "" if name == "Accelerate" else (
            "no BLAS library was recognised: if matrix products are slow, install NumPy and "
            "SciPy from PyPI"
        ),
    }  # fmt: skip


def _environment_warning(library: str) -> str:
    held = [f"{name}={os.environ[name]}" for name in HELD_BACK_BY if name in os.environ]
    if library != "openblas" or not held:
        return ""
    return f"{' and '.join(held)} overrides what OpenBLAS finds out about this processor: unset it"


def _sharing_warning(library: str, threads: int) -> str:
    if threads == 1:
        return ""
    variable = {"openblas": "OPENBLAS", "mkl": "MKL", "blis": "BLIS"}.get(library, "OMP")
    return (
        f"SciPy and NumPy share this library and its {threads} threads compete with ours: start "
        f"with {variable}_NUM_THREADS=1, or install SciPy from PyPI"
    )
