"""Sixteen float32 numbers as one value, for loops whose registers we choose ourselves.

A compiler turns a loop into vector instructions where it can see that it may. Which values stay in
registers from one turn of the loop to the next it decides alone, and for the inner loop of a
matrix product it decides badly more often than not. So BLAS libraries write that loop in assembly.
This is as near to it as a Python file comes: a type `Sixteen` for numba whose values are LLVM
vectors <16 x float>, and three things to do with them,

    v = load(p)                 sixteen numbers from memory, p[0] .. p[15]
    w = add_scaled(w, x, v)     w + x v: one number times a vector, a fused multiply-add
    store(p, v)                 back to memory

A processor with AVX-512 holds a `Sixteen` in one register; with AVX2 LLVM uses two, with NEON
four. Nothing here asks which.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

WIDTH = 16
VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
FLOAT_BYTES = 4


class SixteenType(types.Type):
    """numba's type of sixteen float32 held as one value."""

    def __init__(self) -> None:
        super().__init__(name="Sixteen")


SIXTEEN = SixteenType()


@register_model(SixteenType)
class _SixteenModel(models.PrimitiveModel):
    """Tells numba how the value is held: as an LLVM vector."""

    def __init__(self, manager, type_) -> None:
        super().__init__(manager, type_, VECTOR)


@intrinsic
def load(typing_context, pointer):
    """The sixteen numbers that start at `pointer` (any alignment)."""

    def generate(context, builder, signature, values):
        address = builder.bitcast(values[0], VECTOR.as_pointer())
        vector = builder.load(address)
        vector.align = FLOAT_BYTES
        return vector

    return SIXTEEN(pointer), generate


@intrinsic
def store(typing_context, pointer, vector):
    """Write sixteen numbers to where `pointer` points."""

    def generate(context, builder, signature, values):
        address = builder.bitcast(values[0], VECTOR.as_pointer())
        builder.store(values[1], address).align = FLOAT_BYTES
        return context.get_dummy_value()

    return types.void(pointer, vector), generate


@intrinsic
def add_scaled(typing_context, total, x, vector):
    """total + x * vector, with one rounding where the processor can (fused multiply-add)."""

    def generate(context, builder, signature, values):
        total, x, vector = values
        nothing = ir.Constant(VECTOR, ir.Undefined)
        first = ir.IntType(32)(0)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        x_everywhere = builder.shuffle_vector(
            builder.insert_element(nothing, x, first), nothing, everywhere
        )
        # The versions are compiled with leave to contract the two into one instruction.
        return builder.fadd(builder.fmul(x_everywhere, vector), total)

    return SIXTEEN(total, types.float32, vector), generate
