"""The matrix product of the machine's BLAS, called from compiled code by symbol.

SciPy exports the addresses of its BLAS for Cython (`scipy.linalg.cython_blas`, in its
`__pyx_capi__` table). We give those addresses names that LLVM's linker can resolve, so compiled
kernels call BLAS directly, without Python and without copies, and can still be cached on disk
(a ctypes pointer would be baked in as a number that the next process cannot use).

Row-major on a column-major library: BLAS reads memory column by column, so a row-major matrix is
to it the transpose. From  C = A B  follows  Cᵀ = Bᵀ Aᵀ, hence the operands are swapped and
nothing is copied.

BLAS runs single-threaded here: `pool.py` owns the threads and gives each its own part of C.

Importing this module registers the symbols. A cached kernel that is loaded before its symbol is
known crashes the process, so `abi.py`, which every kernel imports, imports this.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm
import scipy
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.linalg import cython_blas

SYMBOLS = {"sgemm": "baremetal_sgemm", "dgemm": "baremetal_dgemm"}


def _capsule_address(name: str) -> int:
    """The address of a BLAS routine in SciPy's export table, its C signature checked first."""
    capsule = cython_blas.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    signature = get_name(capsule)
    plain = signature.decode().replace(" ", "")
    # char* x2, then int* for m, n, k: a BLAS with 64-bit integers would read past our 32 bits.
    if not plain.startswith("void(char*,char*,int*,int*,int*,"):
        raise ImportError(
            f"this SciPy's {name} is declared as {signature.decode()!r}, expected 32-bit int "
            "sizes: install a SciPy built with the usual LP64 BLAS"
        )
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return get_pointer(capsule, signature)


@lru_cache(maxsize=1)
def scipy_blas_controllers() -> list:
    """threadpoolctl's handles on the BLAS libraries that SciPy ships (never the user's NumPy)."""
    from threadpoolctl import ThreadpoolController

    home = Path(scipy.__file__).parent.parent
    ours = (home / "scipy", home / "scipy.libs", home / "scipy" / ".dylibs")
    found = ThreadpoolController().lib_controllers
    return [
        library
        for library in found
        if library.user_api == "blas"
        and any(folder in Path(library.filepath).parents for folder in ours)
    ]


def _register() -> None:
    for name, symbol in SYMBOLS.items():
        llvm.add_symbol(symbol, _capsule_address(name))
    for library in scipy_blas_controllers():
        library.set_num_threads(1)


_register()


@intrinsic
def gemm(typing_context, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """C = alpha op(A) op(B) + beta C, row-major, inside a body.

    op(A) is (m, k), op(B) is (k, n), C is (m, n); `ta` and `tb` are booleans that say whether the
    matrix lies transposed in memory; `lda`, `ldb`, `ldc` are the distances between rows in
    elements. `a`, `b`, `c` are pointers to float32 or float64. With beta = 0, C is not read.
    """
    element = c.dtype
    symbol = SYMBOLS["sgemm" if element is types.float32 else "dgemm"]
    integers = types.int64
    flag = types.boolean
    signature = types.void(
        flag, flag, integers, integers, integers, element, a, integers, b, integers, element, c,
        integers,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = values
        char, size = ir.IntType(8), ir.IntType(32)

        def by_address(value):  # Fortran passes everything by address
            slot = cgutils.alloca_once(builder, value.type)
            builder.store(value, slot)
            return slot

        def letter(flag):
            return by_address(builder.select(flag, char(ord("T")), char(ord("N"))))

        def size_of(value):
            return by_address(builder.trunc(value, size))

        arguments = [
            letter(tb), letter(ta), size_of(n), size_of(m), size_of(k),
            by_address(alpha), b, size_of(ldb), a, size_of(lda), by_address(beta), c, size_of(ldc),
        ]  # fmt: skip
        signature_c = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(builder.module, signature_c, symbol)
        builder.call(function, arguments)
        return context.get_dummy_value()

    return signature, generate
