"""BLAS: the right routine, the right memory, and nobody else's library touched."""

import json
import subprocess
import sys

import numpy as np
import pytest

from baremetal.kernels.native import blas, blas_library
from baremetal.kernels.native.abi import Launch, body, integer, pointer, scalar
from baremetal.kernels.native.blas_library import blas_report

DTYPES = [np.float32, np.float64]


@body
def product_body(lo, hi, args):
    """C (m, n) = alpha op(A) op(B) + beta C. Words: 0-2 A B C, 3-5 m n k, 6-7 ta tb, 8-10 lda..."""
    blas.gemm(
        integer(args, 6) != 0, integer(args, 7) != 0,
        integer(args, 3), integer(args, 4), integer(args, 5), scalar(args, 11),
        pointer(args, 0), integer(args, 8), pointer(args, 1), integer(args, 9),
        scalar(args, 12), pointer(args, 2), integer(args, 10),
    )  # fmt: skip


@body
def vector_body(lo, hi, args):
    """y (m) = alpha op(A) x + beta y. Words: 0-2 A x y, 3-4 m n, 5 ta, 6 lda, 7 step of x."""
    blas.gemv(
        integer(args, 5) != 0, integer(args, 3), integer(args, 4), scalar(args, 8),
        pointer(args, 0), integer(args, 6), pointer(args, 1), integer(args, 7),
        scalar(args, 9), pointer(args, 2),
    )  # fmt: skip


def small_integers(rng, shape, dtype):
    """Numbers whose products and sums are exact in any order."""
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("ta", [False, True])
def test_gemm(ta, tb, dtype):
    rng = np.random.default_rng(0)
    m, n, k = 4, 7, 5
    a = small_integers(rng, (k, m + 3) if ta else (m, k + 3), dtype)
    b = small_integers(rng, (n, k + 2) if tb else (k, n + 2), dtype)
    c = small_integers(rng, (m, n + 1), dtype)
    op_a = a[:, :m].T if ta else a[:, :k]
    op_b = b[:, :k].T if tb else b[:, :n]
    expected = c.copy()
    expected[:, :n] = 2 * (op_a @ op_b) - 3 * c[:, :n]
    steps = a.shape[1], b.shape[1], c.shape[1]
    words = [a, b, c, m, n, k, ta, tb, *steps, 2.0, -3.0]
    Launch(product_body, c.dtype, words, 1).run()
    np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ta", [False, True])
def test_gemv(ta, dtype):
    rng = np.random.default_rng(0)
    m, n = 6, 5
    a = small_integers(rng, (n, m + 3) if ta else (m, n + 3), dtype)
    x, y = small_integers(rng, (n, 4), dtype), small_integers(rng, m + 1, dtype)
    op_a = a[:, :m].T if ta else a[:, :n]
    expected = y.copy()
    expected[:m] = 2 * (op_a @ x[:, 0]) - 3 * y[:m]
    Launch(vector_body, y.dtype, [a, x, y, m, n, ta, a.shape[1], 4, 2.0, -3.0], 1).run()
    np.testing.assert_array_equal(y, expected)


def test_a_blas_with_other_sizes_is_refused(monkeypatch):
    assert blas._capsule_address("sgemm") != 0
    monkeypatch.setitem(blas.DECLARED_AS, "gemm", "void(char*,char*,long*,")
    with pytest.raises(ImportError, match=r"sgemm is declared as 'void .*LP64"):
        blas._capsule_address("sgemm")


IN_A_FRESH_PROCESS = """
import json, sys
import numpy, scipy.linalg, threadpoolctl

def threads(folder):
    return [
        library["num_threads"] for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas" and folder in library["filepath"]
    ]

import baremetal.kernels.native.blas_library as library
light = not any(name in sys.modules for name in ("numba", "llvmlite"))
before = threads("numpy.libs")
import baremetal.kernels.native.blas
print(json.dumps([light, before, threads("numpy.libs"), threads("scipy.libs"),
                  [x.num_threads for x in library.own_libraries("scipy")]]))
"""


def test_only_scipys_library_is_limited():
    run = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS],
        capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    light, numpy_before, numpy_after, scipy_after, own = json.loads(run.stdout)
    assert light, "reporting on BLAS must not need the compiler"
    assert numpy_after == numpy_before
    assert set(scipy_after) <= {1}
    assert set(own) <= {1}


def test_report_on_this_machine():
    report = blas_report()
    assert set(report) == {"scipy", "numpy"}
    for library in report.values():
        assert {"library", "version", "architecture", "threads", "path", "warning"} == set(library)
    json.dumps(report)  # `baremetal doctor --json` prints it
    if blas_library.own_libraries("scipy"):
        assert report["scipy"]["threads"] == 1


class FakeLibrary:
    """What threadpoolctl hands out for a library."""

    user_api = "blas"

    def __init__(self, filepath, internal_api="openblas", num_threads=8):
        self.filepath = str(filepath)
        self.internal_api = internal_api
        self.num_threads = num_threads

    def set_num_threads(self, num_threads):
        self.num_threads = num_threads

    def info(self):
        info = {"internal_api": self.internal_api, "filepath": self.filepath}
        return info | {"version": "1.2.3", "num_threads": self.num_threads}


@pytest.fixture
def loaded(monkeypatch):
    """Pretend that these libraries are loaded, in a clean environment."""
    for name in blas_library.HELD_BACK_BY:
        monkeypatch.delenv(name, raising=False)

    def pretend(*libraries):
        monkeypatch.setattr(blas_library, "_loaded", lambda: libraries)
        return libraries

    return pretend


def wheel(package, name):
    """Where the wheel of a package keeps a library."""
    return blas_library._home(package).with_name(f"{package}.libs") / name


def test_wheels_from_pypi(loaded):
    ours, theirs, somebodys = loaded(
        FakeLibrary(wheel("scipy", "libscipy_openblas-1.so")),
        FakeLibrary(wheel("numpy", "libscipy_openblas64_-2.so")),
        FakeLibrary("/usr/lib/libopenblas.so"),
    )
    blas_library.limit_own_blas()
    blas_library.limit_shared_blas()  # SciPy shares none
    assert (ours.num_threads, theirs.num_threads, somebodys.num_threads) == (1, 8, 8)
    report = blas_report()
    assert report["scipy"]["path"] == ours.filepath
    assert report["numpy"]["path"] == theirs.filepath
    assert report["numpy"]["threads"] == 8
    assert report["scipy"]["warning"] == report["numpy"]["warning"] == ""


def test_wheels_on_macos_keep_libraries_inside_the_package(loaded):
    (ours,) = loaded(FakeLibrary(blas_library._home("scipy") / ".dylibs" / "libopenblas.dylib"))
    blas_library.limit_own_blas()
    assert ours.num_threads == 1


@pytest.mark.parametrize(("name", "variable"), [("openblas", "OPENBLAS"), ("mkl", "MKL")])
def test_a_library_shared_with_numpy_is_left_alone(loaded, name, variable):
    # PyTorch's own library, inside the folder of packages, belongs to neither of the two.
    shared, foreign = loaded(
        FakeLibrary("/opt/conda/lib/libblas.so", name),
        FakeLibrary(blas_library._home("numpy").with_name("torch.libs") / "libopenblas.so"),
    )
    blas_library.limit_own_blas()
    assert shared.num_threads == 8
    report = blas_report()
    assert report["scipy"]["path"] == report["numpy"]["path"] == shared.filepath
    assert f"{variable}_NUM_THREADS=1" in report["scipy"]["warning"]
    assert report["numpy"]["warning"] == ""
    blas_library.limit_shared_blas()  # what a program that owns its process may do
    assert (shared.num_threads, foreign.num_threads) == (1, 8)
    assert blas_report()["scipy"]["warning"] == ""


@pytest.mark.parametrize(
    ("platform", "library", "warns"), [("darwin", "Accelerate", False), ("linux", "unknown", True)]
)
def test_an_unknown_library_is_reported_as_such(loaded, monkeypatch, platform, library, warns):
    loaded()
    monkeypatch.setattr(sys, "platform", platform)
    blas_library.limit_own_blas()
    for entry in blas_report().values():
        assert entry["library"] == library
        assert bool(entry["warning"]) == warns


@pytest.mark.parametrize("name", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"])
def test_variables_that_hold_openblas_back_are_named(loaded, monkeypatch, name):
    loaded(
        FakeLibrary(wheel("scipy", "libopenblas.so")),
        FakeLibrary(wheel("numpy", "libmkl_rt.so"), "mkl"),
    )
    monkeypatch.setenv(name, "Haswell")
    report = blas_report()
    assert f"{name}=Haswell" in report["scipy"]["warning"]
    assert report["numpy"]["warning"] == ""  # MKL does not read it
