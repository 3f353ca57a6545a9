# %% [markdown]
# # 2. Kernels: from a Python loop to the roofline
#
# A kernel is a loop over memory that does one thing: add two arrays, take a softmax, multiply two
# matrices. Training is a list of them. In this lesson you make two kernels fast, one step at a
# time, and learn to say beforehand how fast they can become.

# %%
# introduces: baremetal.kernels
import ctypes
import math
import re
import time

import numba
import numpy as np
from lesson import agree, check, finish, quote, show, time_s  # tutorials/lesson.py, beside this
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from baremetal.kernels.elementwise import silu as silu_kernel
from baremetal.kernels.limits import measure_limits
from baremetal.kernels.matmul import matmul as matmul_kernel
from baremetal.kernels.native import matmul as native_matmul
from baremetal.kernels.native import vmath
from baremetal.kernels.native.abi import Launch, body, cast, pointer
from baremetal.kernels.native.softmax import softmax_body
from baremetal.kernels.softmax import softmax
from baremetal.trace import RooflinePoint, attainable_flops, roofline_figure, table

rng = np.random.default_rng(2)
F = np.float32
print(f"{numba.get_num_threads()} threads")

# %% [markdown]
# ## What you will be able to do
#
# - Count the FLOPs and the bytes of a kernel, and say which of the two limits it and what its
#   shortest time is.
# - See whether the compiler vectorised your loop, and find what stopped it if it did not.
# - Write a matrix product in thirty lines that comes near the one in your BLAS library.
# - Read any kernel of this library, and add your own.

# %% [markdown]
# ## The idea
#
# A processor does two things with numbers: it computes, at most $P$ FLOP/s, and it fetches them
# from memory, at most $W$ bytes/s. A kernel with $F$ FLOPs and $B$ bytes therefore needs at least
#
# $$ t \ge \max\left( \frac{F}{P}, \frac{B}{W} \right) $$
#
# because at best the two happen at the same time. Divide $F$ by this time. With the *arithmetic
# intensity* $I = F / B$, in FLOPs per byte, the rate of the kernel is at most
#
# $$ \min(P, I \cdot W) $$
#
# This is the **roofline** (Williams, Waterman and Patterson, 2009). Drawn over $I$ it is a roof: a
# slope where memory is the limit, a flat where arithmetic is. They meet at the *ridge*, $I = P/W$.
# Here is the roof of a made-up machine that does 100 GFLOP/s and moves 20 GB/s, and the best that
# three kernels could do on it.

# %%
PEAK, BANDWIDTH = 100e9, 20e9
kernels = {"add two arrays": 1 / 12, "softmax": 14 / 8, "product of 768 x 768 matrices": 128}
figure = roofline_figure(
    [RooflinePoint(k, i, attainable_flops(i, PEAK, BANDWIDTH)) for k, i in kernels.items()],
    PEAK,
    BANDWIDTH,
    title="An imaginary machine",
)
axes, ridge = figure.axes[0], PEAK / BANDWIDTH
left, right = axes.get_xlim()
axes.axvspan(left, ridge, color="#56B4E9", alpha=0.15, linewidth=0)
axes.axvspan(ridge, right, color="#E69F00", alpha=0.15, linewidth=0)
axes.text(ridge / 1.2, 1e9, "here you wait for memory", ha="right")
axes.text(ridge * 1.2, 1e9, "here you compute")
show(
    figure,
    "Left of the ridge a kernel gets faster only by moving fewer bytes; right of it, only by "
    "computing better. A kernel below the roof has something else wrong with it.",
)

# %% [markdown]
# Why not simply count FLOPs, as in lesson 0? Because it fails. The two loops below do the same
# number of additions with the same function. One adds two long arrays once; the other adds two
# short ones, which fit into a cache, again and again.

# %%
LONG, SHORT = 1 << 24, 1 << 14
a, b = np.ones((2, LONG), F)
out = np.empty(LONG, F)
short_a, short_b, short_out = a[:SHORT], b[:SHORT], out[:SHORT]


def add_short():
    for _ in range(LONG // SHORT):
        np.add(short_a, short_b, out=short_out)


long_s = time_s(lambda: np.add(a, b, out=out))
short_s = time_s(add_short)
print(f"{LONG:,} additions, arrays in memory: {long_s * 1e3:6.1f} ms")
print(f"{LONG:,} additions, arrays in cache:  {short_s * 1e3:6.1f} ms")

# %% [markdown]
# Equal FLOPs, and typically two to ten times the time. An addition reads 8 bytes and writes 4:
# its intensity is 1/12 FLOP/B, far to the left under the roof.

# %% [markdown]
# ## Build it
#
# ### Part one: one number in, one number out
#
# Our first kernel is SiLU, which the large language models of today use between their matrix
# products:
#
# $$ \mathrm{silu}(x) = \frac{x}{1 + e^{-x}} $$
#
# It reads 4 bytes per element and writes 4. Begin with what everybody would write.

# %%
x = rng.standard_normal(1 << 16, dtype=F) * 4
out = np.empty_like(x)
exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))


def ns_per_element(run, elements=x.size):
    return time_s(run) / elements * 1e9


def silu_python(x, out):
    for i in range(x.size):
        out[i] = x[i] / (1.0 + math.exp(-x[i]))


silu_python(x, out)
agree("the Python loop and float64", out, exact)
few = x[:4096]
print(f"Python loop: {ns_per_element(lambda: silu_python(few, out), few.size):.0f} ns per element")

# %% [markdown]
# A hundred nanoseconds or a few hundred for one element. The arithmetic in it is worth about one;
# the rest is the interpreter, which looks up what `/` means for these two objects, 65,536 times.
#
# NumPy looks it up once and loops in C:

# %%
print(f"NumPy: {ns_per_element(lambda: x / (1 + np.exp(-x))):.2f} ns per element")

# %% [markdown]
# Around a hundred times faster, or more. But count its bytes: `-x` reads 4 and writes 4, `exp`
# the same, `1 +` the same, and `/` reads 8 and writes 4. That is 36 bytes per element where 8
# would do, because every step carries the whole array past the processor. The cure is to do all
# steps on one element before going to the next, in a compiled loop. `numba` compiles the Python
# function as it stands:

# %%
silu_compiled = njit(silu_python)
start_s = time.perf_counter()
silu_compiled(x, out)  # the first call compiles
print(f"compiling took {time.perf_counter() - start_s:.1f} s")
agree("the compiled loop and float64", out, exact)
print(f"compiled loop: {ns_per_element(lambda: silu_compiled(x, out)):.2f} ns per element")

# %% [markdown]
# A quarter of the bytes, and yet *slower* than NumPy on most machines. Something else is wrong.
#
# ### Look at what the compiler made
#
# A processor core has registers that hold 4, 8 or 16 numbers of float32 (NEON, AVX2, AVX-512), and
# instructions that work on all of them at once. These are its *lanes*. A loop that uses them is
# *vectorised*, and NumPy's loops are. The compiler (LLVM) does it by itself, if nothing is in the
# way. Whether it did is written in the code it made: `<8 x float>` is eight float32 at once. (You
# may see that with AVX-512, too: on many processors LLVM prefers vectors of half the width.)


# %%
def look(function):
    """What LLVM made of a compiled function: its widest vectors, and what spoils them."""
    code = function.inspect_llvm(function.signatures[0])
    widest = {}
    for count, kind in re.findall(r"<(?:vscale x )?(\d+) x (float|double)>", code):
        widest[kind] = max(int(count), widest.get(kind, 1))
    found = [f"{count} x {kind}" for kind, count in sorted(widest.items(), reverse=True)]
    found = found or ["one number at a time"]
    if "@llvm.exp" in code or "@expf" in code:
        found.append("calls exp")
    if "masked.gather" in code:
        found.append("gathers")
    return ", ".join(found)


print("compiled loop:", look(silu_compiled))

# %% [markdown]
# One number at a time, and for each a call of `exp` in the C library, which takes one number and
# returns one. You need an exponential that is made of plain arithmetic.
#
# ### An exponential without a call
#
# *Step one: make the argument small.* Write $x = n \ln 2 + r$ with $n$ an integer. Then
#
# $$ e^x = 2^n e^r, \qquad |r| \le \tfrac{1}{2} \ln 2 \approx 0.347 $$

# %%
some = np.array([-20.0, -1.0, 0.1, 3.0, 50.0])
n = np.floor(some / math.log(2) + 0.5)
r = some - n * math.log(2)
print(table([(f"{s:g}", f"{k:g}", f"{q:.4f}") for s, k, q in zip(some, n, r, strict=True)], "xnr"))

# %% [markdown]
# *Step two: a polynomial for the small part.* Near zero, a few terms of Taylor's series are
# enough: $e^r \approx 1 + r + r^2/2! + \dots + r^6/6!$. (How good is that? You will predict it
# below.)
#
# *Step three: the power of two costs nothing.* A float32 is a sign bit, 8 bits of exponent and 23
# bits of fraction. A power of two has fraction zero, so it is its exponent, stored with 127 added:

# %%
for power in (1.0, 2.0, 8.0, 0.5):
    bits = f"{F(power).view(np.int32):032b}"
    print(f"{power:4}: {bits[0]} {bits[1:9]} {bits[9:]}   exponent {int(bits[1:9], 2)} - 127")

# %% [markdown]
# So $2^n$ is the integer $n + 127$, shifted left by 23 bits and *read as* a float. All together,
# as a function that numba compiles:

# %%
LOG2_E = F(1 / math.log(2))
LN2_HIGH = F(0.693359375)  # 355/512: so few bits that n times it is exact in float32
LN2_LOW = F(math.log(2) - 0.693359375)  # what is missing to ln 2
ONE, HALF = F(1), F(0.5)
C2, C3, C4, C5, C6 = (F(1 / math.factorial(k)) for k in range(2, 7))


@njit(error_model="numpy")
def exp_unguarded(x):
    n = np.floor(x * LOG2_E + HALF)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    e = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    power = np.int32((np.int32(n) + 127) << 23)
    return e * power.view(np.float32)


for value in (-1.0, 0.1, 50.0, 100.0):
    print(f"exp({value:g}) = {exp_unguarded(F(value)):.6g}, correct: {math.exp(value):.6g}")

# %% [markdown]
# Correct to six digits, until the last line: $e^{100}$ is too large for a float32, the exponent
# ran over into the sign bit, and the answer is nonsense without any warning. For SiLU it is enough
# to keep the argument where float32 has an answer. (The library's exponential gives infinity, as
# it should.)


# %%
@njit(error_model="numpy")
def exp32(x):
    return exp_unguarded(min(max(x, F(-87)), F(88)))


def build(exp, one, **options):
    """A SiLU with this exponential and this constant 1, compiled with these options."""

    @njit(**options)
    def silu(x, out):
        for i in range(x.size):
            out[i] = x[i] / (one + exp(-x[i]))

    return silu


silu_fast = build(exp32, ONE, error_model="numpy")
silu_fast(x, out)
agree("the vectorised loop and float64", out, exact)
ns = ns_per_element(lambda: silu_fast(x, out))
print(f"vectorised: {ns:.2f} ns per element,", look(silu_fast))

# %% [markdown]
# Expect five to ten times less than the first compiled loop, and less than NumPy.
#
# ### One obstacle is enough
#
# Two things in that cell look like decoration: the constant `ONE` in place of `1.0`, and
# `error_model="numpy"`. Take each away alone, and put the library call back alone. The last row
# changes something that looks even more harmless: the loop runs from `lo` to `hi`, so that two
# threads could share it.


# %%
@njit(error_model="numpy")
def silu_range(x, out, lo, hi):
    for i in range(lo, hi):
        out[i] = x[i] / (ONE + exp32(-x[i]))


variants = {
    "nothing in the way": silu_fast,
    "math.exp": build(math.exp, ONE, error_model="numpy"),
    "Python's division": build(exp32, ONE),
    "1.0 instead of float32": build(exp32, 1.0, error_model="numpy"),
}
rows = []
for name, function in variants.items():
    ns = ns_per_element(lambda function=function: function(x, out))
    rows.append((name, f"{ns:.2f}", look(function)))
ns = ns_per_element(lambda: silu_range(x, out, 0, x.size))
rows.append(("a range lo, hi", f"{ns:.2f}", look(silu_range)))
print(table(rows, ["variant", "ns", "vectors"]))

# %% [markdown]
# Each of them has its reason:
#
# - **A call** works on one number. LLVM may still do the division on many lanes, but between them
#   it unpacks the numbers, calls `exp` for each, and packs the results.
# - **Python's division** raises an exception when the divisor is 0. That is a branch out of the
#   loop in every pass, and a loop that may be left in the middle cannot do 16 passes at once.
#   `error_model="numpy"` says: give infinity, as C does.
# - **1.0 is a float64.** One such constant pulls everything that it touches into float64. The loop
#   is vectorised, but half the lanes hold twice the bits, and numbers are converted back and forth.
#   Nothing tells you; the result is even a little more accurate.
# - **An index that might be negative** means, in Python, "from the end". With `lo` and `hi` from
#   outside, the compiler has to allow for that in every access: the addresses are no longer
#   neighbours, and it collects the elements one by one (a *gather*).
#
# So: never assume that a loop is vectorised. Look.
#
# ### Threads
#
# Each core has its own lanes. `prange` deals the elements out to all of them:


# %%
@njit(error_model="numpy", parallel=True)
def silu_threads(x, out):
    for i in prange(x.size):
        out[i] = x[i] / (ONE + exp32(-x[i]))


big_x = rng.standard_normal(1 << 24, dtype=F)
big_out = np.empty_like(big_x)
rows = []
for n in (1 << 9, 1 << 16, 1 << 24):
    v, w = big_x[:n], big_out[:n]
    one = ns_per_element(lambda v=v, w=w: silu_fast(v, w), n)
    many = ns_per_element(lambda v=v, w=w: silu_threads(v, w), n)
    rows.append((f"{n:,}", f"{one:.2f}", f"{many:.2f}", f"{one / many:.1f}x"))
print(table(rows, ["elements", "one thread, ns", "all threads, ns", "gain"]))

# %% [markdown]
# With 512 elements threads cost more than they bring: waking them takes microseconds, the work a
# fraction of one. In the middle they pay, up to a factor of the number of cores, if nobody else
# uses them. (On a busy machine you may see absurd numbers here: all threads wait for the last,
# and the last waits until the system gives it a core.)
#
# With 16 million elements (64 MiB in, 64 MiB out) the gain shrinks or is gone, because all
# threads now wait for the same memory. You have reached the slope of the roof. More threads, more
# lanes, a cleverer polynomial: none of it helps any more.

# %% [markdown]
# ### Part two: the matrix product
#
# $C = A B$ with matrices of $768 \times 768$, the width of the smallest GPT-2. By lesson 0 that is
# $2 \cdot 768^3 \approx 0.9$ GFLOP, and three matrices are only 7 MB: an intensity of 128 FLOP/B.
# This one should run at the flat of the roof. First the definition, as three loops.

# %%
N = 768
A, B = rng.standard_normal((2, N, N), dtype=F)
C = np.empty((N, N), F)
expected = A @ B
FAST = {"error_model": "numpy", "fastmath": {"contract"}}  # contract: one instruction for a * b + c


def gflops(multiply, rows=N):
    """GFLOP/s of multiply(A, B, C) for the first `rows` rows of A."""
    a, c = A[:rows], C[:rows]
    rate = 2 * rows * N * N / time_s(lambda: multiply(a, B, c)) / 1e9
    np.testing.assert_allclose(c, expected[:rows], rtol=1e-3, atol=1e-3)
    return rate


@njit(**FAST)
def by_definition(a, b, c):
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = F(0)
            for p in range(b.shape[0]):
                total += a[i, p] * b[p, j]
            c[i, j] = total


rates = {"by definition": gflops(by_definition, rows=96)}
print(f"{rates['by definition']:.1f} GFLOP/s,", look(by_definition))

# %% [markdown]
# About one GFLOP/s, two at best, and no vectors. The inner loop walks *down a column* of $B$:
# neighbours in the loop are 3,072 bytes apart in memory, and each lies on a cache line of its own,
# of which 60 bytes in 64 are thrown away. Besides, every addition waits for the one before
# (exercise 2).
#
# Swap the two inner loops. Now a row of $B$, times one number, is added to a row of $C$:


# %%
@njit(**FAST)
def row_by_row(a, b, c):
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            c[i, j] = F(0)
        for p in range(b.shape[0]):
            factor = a[i, p]
            for j in range(b.shape[1]):
                c[i, j] += factor * b[p, j]


rates["row by row"] = gflops(row_by_row)
print(f"{rates['row by row']:.1f} GFLOP/s,", look(row_by_row))

# %% [markdown]
# The same FLOPs in another order: ten to forty times faster. Could it be better? Count what the
# inner loop moves for each multiply-add (2 FLOP): it loads `c`, loads `b`, stores `c`, 12 bytes.
# They come from a cache, but a cache has a roof, too, and 1/6 FLOP/B is a poor intensity.
#
# ### Blocking: use what you loaded
#
# Take a *tile* of $C$ with 3 rows and 48 columns. It is small enough for the registers: 144
# numbers, nine AVX-512 registers (or eighteen of half the width), and it stays there while $p$ runs
# over all of $k$. In each pass you load 48 numbers of $B$ and 3 of $A$, and do $3 \cdot 48$
# multiply-adds with them.

# %%
ROWS, COLUMNS = 3, 48
TILE = ROWS * COLUMNS
loaded_bytes = 4 * (ROWS + COLUMNS)
flops = 2 * TILE
print(f"row by row: {2 / 12:.2f} FLOP per byte of cache traffic")
print(f"tile:       {flops / loaded_bytes:.2f} FLOP per byte")

# %% [markdown]
# Two details. numba has no array that lives in registers, so you ask LLVM for one (in C it would
# be `float tile[144];`). And the 48 columns of $B$ that a tile needs lie far apart in memory; copy
# them together once (*pack* them), for they serve all tiles below each other.


# %%
@intrinsic(prefer_literal=True)
def local_array(typing_context, count):
    """`count` float32 on the stack, which LLVM moves into registers if it can."""
    length = count.literal_value

    def generate(context, builder, signature, values):
        slot = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), length))
        slot.align = 64
        return builder.bitcast(slot, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(count), generate


@njit(**FAST)
def tiled(a, b, c):
    """c = a @ b for a multiple of ROWS rows and of COLUMNS columns."""
    depth = b.shape[0]
    panel = np.empty((depth, COLUMNS), np.float32)
    for column in range(0, b.shape[1], COLUMNS):
        for p in range(depth):
            panel[p] = b[p, column : column + COLUMNS]
        for row in range(0, a.shape[0], ROWS):
            tile = local_array(TILE)
            for q in range(TILE):
                tile[q] = F(0)
            for p in range(depth):
                for i in range(ROWS):
                    factor = a[row + i, p]
                    for j in range(COLUMNS):
                        tile[i * COLUMNS + j] += factor * panel[p, j]
            for i in range(ROWS):
                for j in range(COLUMNS):
                    c[row + i, column + j] = tile[i * COLUMNS + j]


rates["tiled"] = gflops(tiled)
print(f"{rates['tiled']:.1f} GFLOP/s,", look(tiled))

# %% [markdown]
# With AVX-512 expect two to six times the rate of the row-by-row loop, with AVX2 less. It hardly
# depends on the cache any more: that is what blocking is for. And rows of tiles do not touch each
# other, so threads are easy:


# %%
@njit(parallel=True, **FAST)
def tiled_threads(a, b, c):
    threads = numba.get_num_threads()
    tiles = a.shape[0] // ROWS
    for t in prange(threads):
        lo, hi = tiles * t // threads * ROWS, tiles * (t + 1) // threads * ROWS
        tiled(a[lo:hi], b, c[lo:hi])


rates["tiled, all threads"] = gflops(tiled_threads)
rates["NumPy's BLAS"] = gflops(lambda a, b, c: np.matmul(a, b, out=c))
first = rates["by definition"]
print(
    table(
        [(name, f"{rate:.1f}", f"{rate / first:.0f}x") for name, rate in rates.items()],
        ["matrix product", "GFLOP/s", "gain"],
    )
)

# %% [markdown]
# From the definition to here: typically a hundredfold, and not one FLOP less. What BLAS has beyond
# this: tiles of any size at the edges, a second and a third level of blocks for larger matrices,
# and inner loops written by hand for each processor. Yours depends on what the compiler happens to
# do. Store the finished tile through a slice, for instance (`target = c[row + i, column : column +
# COLUMNS]`, then `target[j] = ...`), and LLVM no longer moves it into registers: try it, and see
# how much of the rate is gone. That is why the library calls BLAS for most of its products. (Large
# float32 ones on a processor with AVX-512 are its own: your tile, with those further blocks around
# it, in `kernels/native/gemm.py`. `baremetal ladder matmul` climbs these rungs, and more.)
#
# ### The library's own
#
# Every kernel of the library exists three times: in NumPy, to read, with its cost beneath; and
# compiled. First the SiLU:

# %%
quote(silu_kernel, vmath.sigmoid, vmath._exp32, vmath._exp_within32, vmath._expm1_reduced32)

# %% [markdown]
# The first is the NumPy version with its cost, a formula that many kernels share: its `flops` is
# set where SiLU asks for it, to 14. The compiled one is `x * sigmoid(x)` in one loop, with the
# functions under it. Where one of them calls `exp` or `_exp_within`, a line that is not shown
# (`@overload`) puts in the version that ends in 32 if the number is a float32.
#
# You know most of what they do. `like(x, 1.0)` is the constant in the type of `x`: the third
# obstacle. Adding and subtracting the large number `ROUND` rounds to the nearest integer without
# asking the processor for it, and leaves $n$ in the low bits; `_times_power` shifts it from there
# into the exponent. `select` takes one of two numbers without a branch, and so sets what lies
# outside float32: zero below `EXP_SMALLEST`, `INFINITY` above `EXP_LARGEST`. The coefficients of
# the polynomial are better than Taylor's (exercise 3).

# %%
theirs = np.empty_like(x)
silu_kernel.run(x, theirs)
silu_fast(x, out)
agree("your SiLU and the library's", out, theirs)

# %% [markdown]
# ### An address and a block of words
#
# How is such a kernel called? Here is the softmax, compiled; lesson 3 needs it.

# %%
quote(softmax_body.function)

# %% [markdown]
# `lo` and `hi` say which rows this call does, so that one function serves one thread or many.
# `args` is a block of 64-bit words: addresses, distances, sizes. `pointer(args, 0)` reads a word as
# an address; behind an address there is no "index from the end", so the fourth obstacle is gone,
# too. The code that is called and the block together are a *launch*, and a launch is plain data:

# %%
scores = rng.standard_normal((4, 8), dtype=F)
weights = np.empty_like(scores)
(launch,) = softmax.pack(scores, weights)
print("code at", hex(launch.address), "for", launch.items, "items")
for word, value in enumerate(launch.block[:5]):
    print(f"word {word}: {hex(value) if value > 1 << 20 else value}")
print("x is at", hex(scores.ctypes.data), "and out at", hex(weights.ctypes.data))

# %% [markdown]
# There is no magic left. Take the two, and make the call by hand, as C would:

# %%
signature = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
call = signature(launch.address)
call(0, 4, launch.block.ctypes.data)

reference = np.empty_like(scores)
softmax.reference(scores, reference)
agree("the call by hand and the NumPy reference", weights, reference)

# %% [markdown]
# A GPU is told what to do in much the same way (`cuLaunchKernel` takes a handle of the function and
# an array of pointers to its arguments). And since a launch is data, a whole training step can be
# written down as a list of them and run again without asking Python: that is lesson 5.
#
# The matrix product (you read its NumPy version in lesson 0) is a body of the same shape. This one
# hands its rows, or its columns, to BLAS:

# %%
quote(native_matmul.matmul_body.function, native_matmul._blocks_of_one)

# %%
matmul_kernel.run(A, B, C)
agree("the library's product and NumPy's", C, expected, rtol=1e-3, atol=1e-3)


# %% [markdown]
# And so is yours. This is all it takes to add a kernel; threads come with it.


# %%
@body
def my_silu_body(lo, hi, args):
    """out = silu(x). Words: 0-1 x out."""
    x, out = pointer(args, 0), pointer(args, 1)
    for i in range(lo, hi):
        out[i] = x[i] / (cast(args, 1) + vmath.exp(-x[i]))


Launch(my_silu_body, x.dtype, (x, out), items=x.size).run()
agree("your kernel and the library's", out, theirs)

# %% [markdown]
# ## Predict, then run
#
# Write your own number before you run each cell.
#
# **Checkpoint 1: the polynomial.** Taylor's series was cut after $r^6/6!$. The first term left
# out is $r^7/7!$, and $|r| \le \tfrac{1}{2} \ln 2$. How large is the error at most, near enough?
# Measured against float64, with the polynomial evaluated in float64, so that nothing else is
# seen.

# %%
prediction = (math.log(2) / 2) ** 7 / math.factorial(7)  # your number here

r = np.linspace(-math.log(2) / 2, math.log(2) / 2, 10_001)
taylor = sum(r**k / math.factorial(k) for k in range(7))
check(
    "largest error of the polynomial",
    prediction,
    np.abs(taylor - np.exp(r)).max(),
    within=0.1,
    miss="the first omitted term is nearly the whole error only if the next is much smaller: here "
    "it is, by r/8. Did you take the largest |r|, and the factorial of 7?",
)
print(f"float32 rounds to within {np.finfo(F).eps / 2:.1e}")

# %% [markdown]
# Twice float32's own rounding: one more term would make it invisible. Or better coefficients.
#
# **Checkpoint 2: FLOPs and bytes.** Count the SiLU of `big_x` ($2^{24}$ elements) and the product
# of two $768 \times 768$ matrices. The library's convention: a negation, addition, multiplication
# or division is one FLOP, an exponential ten (about the length of its polynomial); each input is
# read once and each output written once. The library computes $x \cdot 1/(1 + e^{-x})$.

# %%
silu_flops, silu_bytes = (10 + 4) * 2**24, 8 * 2**24  # your numbers here
matmul_flops, matmul_bytes = 2 * 768**3, 3 * 4 * 768**2

silu_cost = silu_kernel.cost(big_x, big_out)
matmul_cost = matmul_kernel.cost(A, B, C)
for what, predicted, found, unit in [
    ("SiLU", silu_flops, silu_cost.flops, "FLOP"),
    ("SiLU", silu_bytes, silu_cost.size_bytes, "B"),
    ("matrix product", matmul_flops, matmul_cost.flops, "FLOP"),
    ("matrix product", matmul_bytes, matmul_cost.size_bytes, "B"),
]:
    check(what, predicted, found, unit, miss="count again, with the convention above")
print(f"intensities: {silu_cost.intensity:.2f} and {matmul_cost.intensity:.0f} FLOP/B")

# %% [markdown]
# **Checkpoint 3: time.** Now measure the two limits of your machine: the rate of a large product,
# and the bandwidth of a long addition. From them and from the counts above follows the time of the
# SiLU over 16 million elements, of which you have seen no measurement with the library's kernel
# yet.

# %%
limits = measure_limits()
print(f"{limits.peak_flops / 1e9:.0f} GFLOP/s, {limits.bandwidth_Bps / 1e9:.0f} GB/s")

# %%
prediction_s = max(silu_flops / limits.peak_flops, silu_bytes / limits.bandwidth_Bps)  # yours here

check(
    "SiLU of 16 million elements",
    prediction_s * 1e3,
    time_s(lambda: silu_kernel.run(big_x, big_out)) * 1e3,
    "ms",
    factor=2.0,
    timed=True,
    miss="faster than predicted: the machine was busy while the limits were measured, or has a "
    "cache of more than 128 MiB. Slower: it was busy now, or has so few lanes that the "
    "exponential takes longer than the memory.",
)

# %% [markdown]
# **Checkpoint 4: fusing.** NumPy's version moves 36 bytes per element, yours 8. Over arrays that
# no cache can hold, how many times slower should NumPy's be, if bytes are all that counts? (Its
# four steps write into a buffer that is already there, so that making arrays does not count. Both
# on one thread.)

# %%
prediction = 36 / 8  # your number here

buffer = np.empty_like(big_x)


def silu_in_four_passes():
    np.negative(big_x, out=buffer)
    np.exp(buffer, out=buffer)
    np.add(buffer, ONE, out=buffer)
    np.divide(big_x, buffer, out=big_out)


check(
    "four passes over one",
    prediction,
    time_s(silu_in_four_passes) / time_s(lambda: silu_fast(big_x, big_out)),
    factor=2.0,
    timed=True,
    miss="one thread may be too slow to use up the bandwidth: then the arithmetic shows as well, "
    "and it is the same in both. Or the machine was busy.",
)

# %% [markdown]
# ## Look
#
# All kernels of this lesson under the roof of your machine. The limits are measured once more, and
# the best is drawn that was seen in this lesson: a limit that something exceeded is none.

# %%
again = measure_limits()
rates["the library's"] = gflops(lambda a, b, c: matmul_kernel.run(a, b, c))
peak = max(limits.peak_flops, again.peak_flops, *(rate * 1e9 for rate in rates.values()))
add_s = time_s(lambda: np.add(a, b, out=big_out))
bandwidth = max(limits.bandwidth_Bps, again.bandwidth_Bps, 12 * LONG / add_s)
points = [RooflinePoint.measured("NumPy add", LONG, 12 * LONG, add_s)]


def silu_point(label, size_bytes, run):
    return RooflinePoint.measured(label, silu_flops, size_bytes, time_s(run))


naive = build(math.exp, 1.0)
points += [
    silu_point("SiLU, four passes", 36 * LONG, silu_in_four_passes),
    silu_point("SiLU, not vectorised", silu_bytes, lambda: naive(big_x, big_out)),
    silu_point("SiLU, the library's", silu_bytes, lambda: silu_kernel.run(big_x, big_out)),
]
points += [
    RooflinePoint(f"product, {name}", matmul_cost.intensity, rates[name] * 1e9)
    for name in ("by definition", "row by row", "tiled", "the library's")
]
show(
    roofline_figure(points, peak, bandwidth, title="Where each kernel of this lesson lands"),
    "The SiLUs differ on two axes: fusing moves a point to the right (fewer bytes), vectorising "
    "moves it up. The products stand in one column, for they do the same work: what sets them "
    "apart is order, lanes, registers and threads. A point on the roof can only move along it.",
)

# %%
rows = []
for p in points:
    share = p.flops_per_s / attainable_flops(p.intensity, peak, bandwidth)
    rows.append((p.label, f"{p.intensity:.3g}", f"{share:.0%}"))
print(table(rows, ["kernel", "FLOP/B", "of the roof"]))

# %% [markdown]
# On the slope a kernel may come out above 100 %, for two reasons. The machine was perhaps busy
# while the bandwidth was measured. And the bandwidth comes from an addition, counted as 12 bytes
# per element; but the processor moves 16, because it fetches a line of the result before
# overwriting a part of it. A kernel that writes only where it has read (`w -= g`) pays nothing
# extra, and reaches up to 16/12 = 133 %. More than that, on a quiet machine whose caches are small
# beside the arrays, would mean that somebody counted wrong.
#
# And if a kernel with many threads lies far below one with a single thread, then another program
# was using the cores. Measure again when it is done: the first rule of measuring is a quiet
# machine.

# %% [markdown]
# ## Exercises
#
# **1.** The simplest optimiser does `w -= lr * g` on every weight. How many FLOPs and bytes is
# that per weight in float32? Does it wait for memory or for arithmetic, on your machine? On a
# machine with 8 TB/s, how long does it take for 124 million weights at least?

# %% tags=["answer"]
# One multiplication and one subtraction; read w and g, write w.
flops, size_bytes = 2, 12
print(f"{flops / size_bytes:.3f} FLOP/B, the ridge is at {peak / bandwidth:.1f}: memory")
print(f"{124e6 * size_bytes / 8e12 * 1e6:.0f} µs at 8 TB/s")
assert flops / size_bytes < peak / bandwidth


@njit(error_model="numpy")
def sgd(w, g, lr):
    for i in range(w.size):
        w[i] -= lr * g[i]


w, g = np.ones((2, LONG), F)
rate = size_bytes * LONG / time_s(lambda: sgd(w, g, F(0.1)))
print(f"one thread moves {rate / 1e9:.0f} GB/s, the roof was {bandwidth / 1e9:.0f},", look(sgd))
# Up to 4/3 of the roof is in order, for this kernel writes only where it has read. If it is more,
# the machine was busier when the roof was measured, or a large cache holds a part of the arrays.

# %% [markdown]
# **2.** Compile a loop that adds up an array of float32, and look at it. Why is it not vectorised,
# although nothing of the above stands in its way? Allow it with
# `fastmath={"reassoc", "contract", "nsz"}`. What changes in the result, and which of the two is
# nearer to the exact sum (`math.fsum`)?


# %% tags=["answer"]
def add_up(x):
    total = F(0)
    for i in range(x.size):
        total += x[i]
    return total


in_order = njit(error_model="numpy")(add_up)
any_order = njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(add_up)
numbers = rng.random(1 << 20, dtype=F)
exact_sum = math.fsum(numbers)
rows = []
for name, function in (("in order", in_order), ("any order", any_order)):
    error = abs(float(function(numbers)) - exact_sum) / exact_sum
    ns = ns_per_element(lambda function=function: function(numbers), numbers.size)
    rows.append((name, f"{ns:.3f}", f"{error:.1e}", look(function)))
print(table(rows, ["sum", "ns", "relative error", "vectors"]))
# Additions of floats are not associative: (a + b) + c and a + (b + c) round differently. The
# program says "in this order", so the compiler must keep each addition waiting for the one before.
# With many partial sums, one in each lane, each sum stays smaller and rounds less: here the fast
# version is also the more accurate one. But its bits depend on the number of lanes.

# %% [markdown]
# **3.** Taylor's polynomial is exact at $r = 0$ and worst at the ends. Find coefficients of the
# same degree that spread the error over the whole interval, and are at least ten times better.
# (`np.polynomial.chebyshev.chebinterpolate` takes a function on $[-1, 1]$.)

# %% tags=["answer"]
half = math.log(2) / 2
chebyshev = np.polynomial.chebyshev.chebinterpolate(lambda t: np.exp(t * half), deg=6)
r = np.linspace(-half, half, 10_001)
taylor_error = np.abs(taylor - np.exp(r)).max()
chebyshev_error = np.abs(np.polynomial.chebyshev.chebval(r / half, chebyshev) - np.exp(r)).max()
print(f"Taylor {taylor_error:.1e}, Chebyshev {chebyshev_error:.1e}")
print(f"{taylor_error / chebyshev_error:.0f} times better with the same number of operations")
assert taylor_error > 10 * chebyshev_error
# The library also makes the *relative* error level (C. Lawson's algorithm); see the beginning of
# kernels/native/vmath.py.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public*, from NVIDIA's description of the chip.
#
# | | here | one GPU of a GB300 |
# |---|---|---|
# | processors | a few cores | 160 multiprocessors |
# | lanes | 4 to 16 of float32 in each | 128 in each, and 4 tensor cores that multiply tiles |
# | peak | tens to hundreds of GFLOP/s, float32 | 2,450 TFLOP/s in BF16, 14,700 in NVFP4, dense |
# | memory | tens of GB/s | 8 TB/s |
# | ridge | around 5 to 20 FLOP/B | 306 FLOP/B in BF16, 1,838 in NVFP4 |
# | where a tile lives | registers, if LLVM sees fit | 256 KB of tensor memory in each |
# | bringing data in | caches guess | copied ahead by an engine, while the last tile is used |
# | the exponential | a polynomial | special units, twice as fast as on the chip before |
# | a launch | a call, a few µs with Python | a few µs through the driver; hence CUDA graphs |
#
# Read the row of the ridge twice. The larger the machine, the further to the right its ridge:
# what is limited by arithmetic on your laptop waits for memory there. A SiLU of its own is
# wasteful here and unthinkable there; it is fused into the product before it.
#
# ## Sources
#
# - S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for
#   Multicore Architectures", Communications of the ACM 52(4), 2009.
# - J. McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers" (the
#   STREAM benchmark), 1995.
# - W. Cody, W. Waite, "Software Manual for the Elementary Functions", 1980: range reduction with
#   ln 2 in two pieces.
# - K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM Transactions
#   on Mathematical Software 34(3), 2008: tiles and packing.
# - D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", 2016; S. Elfwing, E. Uchibe, K. Doya,
#   "Sigmoid-weighted linear units", 2017: SiLU.
# - NVIDIA, "Inside NVIDIA Blackwell Ultra: The Chip Powering the AI Factory Era", August 2025, and
#   "Making Softmax More Efficient with NVIDIA Blackwell Ultra", February 2026; the peaks from
#   NVIDIA/dgxc-benchmarking, read in November 2026.

# %%
finish()
