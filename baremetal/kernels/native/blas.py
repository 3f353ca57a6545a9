"""The matrix product of the machine's BLAS, called from compiled code by symbol.

SciPy exports the addresses of its BLAS for Cython (`scipy.linalg.cython_blas`, in its
`__pyx_capi__` table). We give those addresses names that LLVM's linker can resolve, so compiled
kernels call BLAS directly, without Python and without copies, and can still be cached on disk
(a ctypes pointer would be baked in as a number that the next process cannot use).

Row-major on a column-major library: BLAS reads memory column by column, so a row-major matrix is
to it the transpose. From  C = A B  follows  Cᵀ = Bᵀ Aᵀ, hence the operands are swapped and
nothing is copied.

BLAS runs single-threaded here: `pool.py` owns the threads and gives each its own part of C.
Whose library that limits, and where it cannot be limited: `blas_library.py`.

Importing this module registers the symbols. A cached kernel that is loaded before its symbol is
known crashes the process, so `abi.py`, which every kernel imports, imports this.
"""

import ctypes

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from scipy.linalg import cython_blas

from baremetal.kernels.native.blas_library import blas_report, limit_own_blas

__all__ = ["blas_report", "gemm", "gemv"]

ROUTINES = ("sgemm", "dgemm", "sgemv", "dgemv")
# How the C declaration of each must begin. A BLAS with 64-bit sizes would read past our 32 bits.
DECLARED_AS = {"gemm": "void(char*,char*,int*,int*,int*,", "gemv": "void(char*,int*,int*,"}


def _capsule_address(name: str) -> int:
    """The address of a BLAS routine in SciPy's export table, its C signature checked first."""
    capsule = cython_blas.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    signature = get_name(capsule)
    if not signature.decode().replace(" ", "").startswith(DECLARED_AS[name[1:]]):
        raise ImportError(
            f"this SciPy's {name} is declared as {signature.decode()!r}, expected 32-bit int "
            "sizes: install a SciPy built with the usual LP64 BLAS"
        )
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return get_pointer(capsule, signature)


def _register() -> None:
    for name in ROUTINES:
        llvm.add_symbol(f"baremetal_{name}", _capsule_address(name))
    limit_own_blas()


_register()


def _by_address(builder, value):
    """Fortran takes every argument by address: put a value on the stack and pass where."""
    slot = cgutils.alloca_once(builder, value.type)
    builder.store(value, slot)
    return slot


def _size(builder, value):
    return _by_address(builder, builder.trunc(value, ir.IntType(32)))


def _letter(builder, transposed):
    """'T' or 'N', from a boolean."""
    char = ir.IntType(8)
    return _by_address(builder, builder.select(transposed, char(ord("T")), char(ord("N"))))


def _call(builder, routine: str, element: types.Type, arguments: list) -> None:
    symbol = f"baremetal_{'s' if element is types.float32 else 'd'}{routine}"
    signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, symbol), arguments)


@intrinsic
def gemm(typing_context, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """C = alpha op(A) op(B) + beta C, row-major, inside a body.

    op(A) is (m, k), op(B) is (k, n), C is (m, n); `ta` and `tb` are booleans that say whether the
    matrix lies transposed in memory; `lda`, `ldb`, `ldc` are the distances between rows in
    elements. `a`, `b`, `c` are pointers to float32 or float64. With beta = 0, C is not read.
    """
    element, size, flag = c.dtype, types.int64, types.boolean
    signature = types.void(
        flag, flag, size, size, size, element, a, size, b, size, element, c, size
    )

    def generate(context, builder, signature, values):
        ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = values
        arguments = [
            _letter(builder, tb), _letter(builder, ta),
            _size(builder, n), _size(builder, m), _size(builder, k),
            _by_address(builder, alpha), b, _size(builder, ldb), a, _size(builder, lda),
            _by_address(builder, beta), c, _size(builder, ldc),
        ]  # fmt: skip
        _call(builder, "gemm", element, arguments)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gemv(typing_context, ta, m, n, alpha, a, lda, x, step, beta, y):
    """y = alpha op(A) x + beta y, row-major, inside a body: the product with a single vector.

    op(A) is (m, n), lying transposed if `ta`; the n elements of x are `step` apart, the m of y
    are contiguous. BLAS has a routine for it because a matrix that is used once should be read
    once, and not, as `gemm` does to use it many times, be rearranged first.
    """
    element, size, flag = y.dtype, types.int64, types.boolean
    signature = types.void(flag, size, size, element, a, size, x, size, element, y)

    def generate(context, builder, signature, values):
        ta, m, n, alpha, a, lda, x, step, beta, y = values
        arguments = [
            _letter(builder, builder.not_(ta)),
            _size(builder, builder.select(ta, m, n)), _size(builder, builder.select(ta, n, m)),
            _by_address(builder, alpha), a, _size(builder, lda), x, _size(builder, step),
            _by_address(builder, beta), y, _size(builder, ir.IntType(64)(1)),
        ]  # fmt: skip
        _call(builder, "gemv", element, arguments)
        return context.get_dummy_value()

    return signature, generate
