# %% [markdown]
# # 7. Numbers: bf16, fp8, nvfp4, and what training survives
#
# A matrix product of 8-bit numbers takes half the bytes of one of 16-bit numbers, and on a chip
# built for it half the time. In this lesson you build such numbers from nothing, find out in which
# four ways they fail, mend each of them, and then train the same model in 32, 16, 8 and 4 bits.

# %%
# introduces: baremetal.kernels.quantize, baremetal.kernels.number_formats
# introduces: baremetal.autograd.storage, baremetal.autograd.ops.stored_linear
# introduces: baremetal.nn.precision, baremetal.optim.loss_scale, baremetal.bench.precision
import dataclasses

import ml_dtypes
import numpy as np
from lesson import agree, check, finish, quote, show  # tutorials/lesson.py, beside this file
from matplotlib.patches import Rectangle

import baremetal
from baremetal.autograd import CPU, Tensor, ops
from baremetal.autograd.op import Context
from baremetal.autograd.storage import LinearStorage, Storage, load, store
from baremetal.bench.precision.rates import BY_BITS
from baremetal.kernels.number_formats import FORMATS
from baremetal.kernels.optimizer import adjust_loss_scale
from baremetal.kernels.quantize import dequantize, quantize, tile_scales
from baremetal.nn.precision import Precision, use_precision
from baremetal.optim.loss_scale import LossScale
from baremetal.trace import Line, format_bytes, line_figure, table
from baremetal.trace.style import MUTED, PALETTE, caption, new_figure
from baremetal.train.build import build_data
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer

baremetal.set_num_threads(1)  # as in lesson 4: the models are small
rng = np.random.default_rng(7)

# %% [markdown]
# ## What you will be able to do
#
# - Write down every number of an 8- or 4-bit format, and say what is lost between and beyond them.
# - Name the four ways in which few bits fail (range, sums, small gradients, small updates), show
#   each with an example, and mend it.
# - Predict the bytes of a matrix in any of these formats, and read off a loss curve what training
#   survives.

# %% [markdown]
# ## The idea
#
# A floating-point number is a sign $s$, an exponent field $e$ of $E$ bits and a mantissa field $m$
# of $M$ bits:
#
# $$ x = (-1)^s \cdot 2^{e - b} \cdot \left(1 + \frac{m}{2^M}\right), \qquad b = 2^{E - 1} - 1 $$
#
# The exponent decides how *far* the numbers reach, the mantissa how *close* they lie. With $e = 0$
# the leading 1 is left out, $x = (-1)^s \cdot 2^{1 - b} \cdot m / 2^M$: these *subnormal* numbers
# fill the gap between the smallest power of two and zero.

# %%
figure, axes = new_figure(height_in=3.2)
sizes = {"float32": (8, 23)} | {
    name: (f.exponent_bits, f.mantissa_bits) for name, f in FORMATS.items()
}
for row, (E, M) in enumerate(sizes.values()):
    for bit in range(1 + E + M):
        colour = MUTED if bit == 0 else PALETTE[1] if bit <= E else PALETTE[0]
        axes.add_patch(Rectangle((bit, row), 0.88, 0.7, color=colour))
        letter = "s" if bit == 0 else "e" if bit <= E else "m"
        axes.text(bit + 0.44, row + 0.35, letter, ha="center", va="center", color="white")
axes.grid(False)
axes.set(xlim=(0, 32), ylim=(len(sizes), -0.3), xticks=[])
axes.set_yticks(np.arange(len(sizes)) + 0.35, sizes)
caption(axes, "The bits of a number", "", "")
show(
    figure,
    "s: the sign. e: the exponent. m: the mantissa. bfloat16 is float32 cut off after 16 bits: it "
    "reaches as far and lies less close. float16 has more mantissa and less reach.",
)

# %% [markdown]
# Why bother? A multiplier is built from transistors, about the square of the mantissa's bits of
# them; and a matrix has to come from memory before it can be multiplied. The published dense rates
# of a GB300, in TFLOP/s (public, not measured here):

# %%
print(
    table(
        [[f"{bits} bits", f"{rate / 1e12:,.0f}"] for bits, rate in BY_BITS.items()],
        ["operands", "TFLOP/s"],
    )
)

# %% [markdown]
# (The first line is TF32, which cuts float32 operands to 11 significant bits.) Nothing in this
# lesson makes *your* machine faster: the numbers are stored in few bits, read back into float32 and
# multiplied there. The products are those of a tensor core, up to float32's own rounding, so what
# training makes of them is real; only the speed is not.
#
# Everything that goes wrong is one of four things:
#
# | | what fails | what mends it |
# |---|---|---|
# | 1 | too large or too small for the format | a *scale*, shared by few enough numbers |
# | 2 | sums that stop growing | add up in float32 |
# | 3 | gradients that round to zero | scale the loss |
# | 4 | weights that do not move | keep *master weights* in float32 |

# %% [markdown]
# ## Build it
#
# ### A number from its bits
#
# The formula, as a function of a code. With four bits you can print everything there is.


# %%
def value_of(code, E, M):
    """The number that a code of 1 + E + M bits stands for (infinities and NaN not considered)."""
    sign, e, m = code >> (E + M), code >> M & (2**E - 1), code & (2**M - 1)
    b = 2 ** (E - 1) - 1
    size = 2.0 ** (e - b) * (1 + m / 2**M) if e else 2.0 ** (1 - b) * (m / 2**M)
    return -size if sign else size


for code in range(8):
    print(f"{code:04b}  {value_of(code, E=2, M=1):g}")

# %% [markdown]
# Eight numbers and their negatives: that is e2m1, what NVIDIA calls FP4. Eight bits have 256 codes.
# The package `ml_dtypes` has these formats for NumPy; it is our oracle.

# %%
e2m1 = np.array([value_of(code, 2, 1) for code in range(16)])
e4m3 = np.array([value_of(code, 4, 3) for code in range(256)])
e5m2 = np.array([value_of(code, 5, 2) for code in range(256)])

codes = np.arange(256, dtype=np.uint8)
theirs = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
agree("e2m1", e2m1, codes[:16].view(ml_dtypes.float4_e2m1fn).astype(np.float64))
agree("e4m3", e4m3[~np.isnan(theirs)], theirs[~np.isnan(theirs)])
print("codes of e4m3 that are no number:", [f"{c:08b}" for c in codes[np.isnan(theirs)]])

# %% [markdown]
# In e4m3 only the two codes with all bits set are given away, for NaN; there is no infinity. That
# buys the range from 240 up to 448. (e5m2 keeps IEEE's rule: the top exponent is infinity and NaN.)

# %%
figure, axes = new_figure(height_in=2.6)
for row, numbers in enumerate([e5m2, e4m3, e2m1]):
    shown = numbers[(numbers >= 0) & (numbers <= 8)]
    axes.vlines(shown, row - 0.35, row + 0.35, color=PALETTE[row], linewidth=1.2)
axes.grid(False)
axes.set(xlim=(-0.1, 8.1), ylim=(2.6, -0.6))
axes.set_yticks(range(3), ["e5m2", "e4m3", "e2m1"])
caption(axes, "Every number from 0 to 8", "", "")
show(
    figure,
    "Each power of two is divided into as many steps as the mantissa has codes: 4 in e5m2, 8 in "
    "e4m3, 2 in e2m1. Close to zero they lie close, and e2m1 ends at 6.",
)

# %% [markdown]
# ### Rounding
#
# To store a number is to find the nearest one there is. Half-way between two, the one whose last
# bit is 0 wins (*ties to even*), so that ties go up as often as down. Beyond the largest number,
# 8-bit and 4-bit formats *saturate*: they store the largest.


# %%
def rounded(x, numbers):
    """Each x as the nearest of the numbers, ties to the even code, saturating."""
    steps = np.unique(np.abs(numbers))  # sorted; a number's place is its code without sign
    size = np.minimum(np.abs(x), steps[-1])
    above = np.searchsorted(steps, size).clip(1)  # steps[above - 1] <= size <= steps[above]
    up, down = steps[above] - size, size - steps[above - 1]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    return np.copysign(steps[code], x)


E4M3 = e4m3[~np.isnan(theirs)]
x = rng.standard_normal(10_000).astype(np.float32) * np.float32(50)
x[:4] = 0.0, 500.0, 17.0, 19.0  # saturates; 17 and 19 are ties, between 16, 18 and 20
agree("rounding", rounded(x, E4M3), np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn))
print("500, 17 and 19 became", rounded(x[1:4], E4M3))

# %% [markdown]
# The library's kernel does it with bits instead of a search. Its NumPy version, with the cost under
# it:

# %%
quote(quantize)

# %%
codes = np.empty((100, 100), ml_dtypes.float8_e4m3fn)
square = x.reshape(100, 100)
quantize.run(square, None, codes, format="float8_e4m3fn", tile=square.shape)
agree("the compiled kernel", codes.astype(np.float32), rounded(square, E4M3))

# %% [markdown]
# ### Failure 1: the range, and scales
#
# In e4m3 anything beyond 448 saturates, and anything below 0.001 becomes 0. Weights are about 0.02
# and gradients far smaller. So a matrix is stored together with one float32 number, its *scale*,
# chosen so that its largest number lands on the format's largest:
#
# $$ \text{scale} = \frac{\max |x|}{\text{largest}}, \qquad
#    \text{code} = \mathrm{round}\left(\frac{x}{\text{scale}}\right), \qquad
#    \hat x = \text{code} \cdot \text{scale} $$


# %%
def through(x, numbers):
    """x stored with one scale for all of it, and read back."""
    scale = np.abs(x).max() / numbers.max()
    return rounded(x / scale, numbers) * scale


def error(x, again):
    """Relative to the size of x: root mean square over root mean square."""
    return np.sqrt(((again - x) ** 2).mean() / (x**2).mean())


tiny = rng.standard_normal((64, 256)) * 1e-4
for name, numbers in (("e4m3", E4M3), ("e2m1", e2m1)):
    print(
        f"{name}: without a scale {error(tiny, rounded(tiny, numbers)):.0%} of it is lost, "
        f"with one {error(tiny, through(tiny, numbers)):.1%}"
    )

# %% [markdown]
# 8 bits lose a few percent, 4 bits around a tenth. Now the counter-example. A single *outlier*, one
# number among 16,384, and trained networks have them:

# %%
spoilt = tiny.copy()
others = np.ones(spoilt.shape, bool)
others[0, 0] = False
for outlier in (100.0, 0.1):  # a million and a thousand times the others
    spoilt[0, 0] = outlier
    for name, numbers in (("e4m3", E4M3), ("e2m1", e2m1)):
        again = through(spoilt, numbers)
        print(
            f"{name}, outlier {outlier:5}: {error(spoilt[others], again[others]):.1%} of the "
            f"others is lost, {(again[others] == 0).mean():.0%} of them became 0"
        )

# %% [markdown]
# The scale belongs to the outlier. In 4 bits there is nothing left for anybody else; e4m3 has
# exponents enough to bear a factor of a thousand, but not of a million.
#
# The mend: let fewer numbers share a scale. NVFP4 gives each *block* of 16 its own, so that an
# outlier spoils 15 neighbours and no more. A float32 for every 16 numbers would cost 2 bits each,
# so the block's scale is itself stored in 8 bits (e4m3), relative to one float32 for the matrix:


# %%
def through_nvfp4(x, block=16):
    """Two levels of scales: e4m3 for each block of 16 along a row, float32 for the matrix."""
    blocks = x.reshape(-1, block).astype(np.float32)
    wanted = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(6)
    top = wanted.max() / np.float32(448)
    scale = rounded(wanted / top, E4M3).astype(np.float32) * top
    return (rounded(blocks / scale, e2m1).astype(np.float32) * scale).reshape(x.shape)


again = through_nvfp4(spoilt)
print(f"in blocks of 16, {error(spoilt[others], again[others]):.1%} of the others is lost")

# %% [markdown]
# As if the outlier were not there (even a little less than before: a small group has a small
# scale). The library composes it from the same three kernels, and takes any format with any tiles.
# `Storage` says how a matrix is kept; `store` and `load` do it:

# %%
NVFP4 = Storage("float4_e2m1fn", "two-level", (1, 16))


def through_storage(x, storage):
    ctx = Context(CPU, (), {})  # the way to launch and to allocate
    return load(ctx, store(ctx, x, storage), x.shape, storage)


agree("nvfp4", through_storage(spoilt.astype(np.float32), NVFP4), through_nvfp4(spoilt), atol=0)
quote(tile_scales, dequantize, store)

# %% [markdown]
# ### Failure 2: sums
#
# A product of two 8-bit numbers is exact in float32. A *sum* of them is another matter: each
# addition rounds to the format of the running sum. Add ones:

# %%
for name in ("bfloat16", "float16", "float8_e4m3fn"):
    one = np.ones((), ml_dtypes.float8_e4m3fn if "8" in name else np.dtype(name))
    total = one * 0
    for _ in range(5000):
        total = (total + one).astype(one.dtype)
    print(f"{name:>14}: 5,000 ones add up to {float(total):g}")

# %% [markdown]
# Where the numbers lie two apart, adding one is a tie, and the tie goes back to where it was: the
# sum stands still. A matrix product adds up thousands of terms. So no system does that: tensor
# cores multiply narrow numbers and add in float32, and so do we. The library has no kernel whose
# sums are kept in 16 bits (`kernels/precision.py`).
#
# ### Failure 3: gradients that vanish
#
# The loss is a mean over $N$ tokens, so the gradient of one logit is about $p / N$, with a
# probability $p$. A batch of a million tokens, in float16:

# %%
gradient = 0.0123 / np.array([1e3, 1e4, 1e5, 1e6])
S = 2.0**16
rows = [
    [f"{exact:.3e}", f"{float(np.float16(exact)):.3e}", f"{float(np.float16(exact * S)) / S:.3e}"]
    for exact in gradient
]
print(table(rows, ["exact", "in float16", "times S in float16, divided by S"]))

# %% [markdown]
# Nothing between 0 and $6 \cdot 10^{-8}$ exists in float16, and a little above it there is one
# digit left. The mend is one multiplication: backward is linear, so if the *loss* is multiplied by
# $S$, every gradient arrives $S$ times as large, and the optimiser divides by $S$ in float32
# (Micikevicius et al., 2017).
#
# How large? Too large an $S$ overflows. The usual answer is to find out as you go: begin with
# $2^{16}$; when a gradient is not finite, skip that step and halve $S$; after 2,000 steps without
# that, double it. The library's rule, which a captured step can run, because $S$ lies in a buffer:

# %%
quote(adjust_loss_scale, LossScale.forgives)

# %%
BASE = TrainConfig(layers=4, width=64, batch=8, steps=250, warmup=30, eval_batches=10)
data = build_data(BASE)
trainer = Trainer(dataclasses.replace(BASE, precision="fp16", loss_scale="dynamic"), data=data)
trainer.optimizer.loss_scale = 2.0**28  # too large, on purpose
rows = []
while not rows or rows[-1][1] == "skipped":
    report = trainer.train_step()
    rows.append([f"2^{np.log2(report.loss_scale):.0f}", "skipped" if report.skipped else "done"])
print(table(rows, ["loss scale", "step"]))

# %% [markdown]
# bfloat16 needs no loss scale: it reaches as far as float32. Nor does an 8-bit format whose scale
# is taken from each gradient anew.
#
# ### Failure 4: weights that do not move
#
# Late in training a step changes a weight by a thousandth of itself or less. In bfloat16 the next
# number after 1 is 1.0078:

# %%
weight = np.ones((), ml_dtypes.bfloat16)
master = np.ones((), np.float32)
for _ in range(100):
    weight = (weight + np.float32(0.001)).astype(ml_dtypes.bfloat16)
    master = master + np.float32(0.001)
print(f"100 steps of 0.001: in bfloat16 {float(weight):g}, in float32 {float(master):.4f}")
print(f"the float32 weight, rounded to bfloat16 when it is used: {master.astype(weight.dtype)}")

# %% [markdown]
# So the optimiser keeps the *master weights* in float32, and each step rounds a copy for the
# products. (The copy loses digits, but it loses them anew each step: small updates add up in the
# master until they show.)
#
# ### The layer
#
# Now all the mends together. A linear layer $y = x W^T$ has three products: forward, and in the
# backward pass one for each operand. All three are between narrow matrices:
#
# $$ y = \hat x \hat W^T, \qquad dx = \hat g \hat W, \qquad dW = \hat g^T \hat x $$
#
# Rounding has no useful derivative: it is a staircase, flat almost everywhere. The rules take it
# for the identity (*straight-through*). And what is kept for the backward pass is the *stored* $x$.

# %%
quote(ops.stored_linear)

# %%
E4M3_SCALED, E5M2_SCALED = Storage("float8_e4m3fn", "tensor"), Storage("float8_e5m2", "tensor")
fp8 = LinearStorage(inputs=E4M3_SCALED, weights=E4M3_SCALED, gradients=E5M2_SCALED)

x, W, g = (
    rng.standard_normal(shape).astype(np.float32) for shape in ((32, 64), (48, 64), (32, 48))
)
x_t, W_t = Tensor(x, requires_grad=True), Tensor(W, requires_grad=True)
y = ops.stored_linear(x_t, W_t, storage=fp8)
y.backward(g)

E5M2 = e5m2[np.isfinite(np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2).astype(float))]
x_hat, W_hat, g_hat = through(x, E4M3), through(W, E4M3), through(g, E5M2)
agree("y", y.numpy(), x_hat @ W_hat.T, atol=1e-4)
agree("dx", x_t.grad.numpy(), g_hat @ W_hat, atol=1e-4)
agree("dW", W_t.grad.numpy(), g_hat.T @ x_hat, atol=1e-4)

# %% [markdown]
# Why two formats? Gradients spread over more powers of two than weights do, so they get the format
# with more exponent (Micikevicius et al., 2022). With a scale for each small block one can do
# without: DeepSeek-V3 used e4m3 throughout.

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: the largest number of e4m3.** Its largest code is `1111 110` after the sign:
# exponent field 15, mantissa field 6 (7 would be NaN). The bias is 7.

# %%
prediction = 2 ** (15 - 7) * (1 + 6 / 8)  # your number here

check(
    "largest e4m3",
    prediction,
    float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max),
    miss="the bias is 2^(E-1) - 1 = 7, and the mantissa counts eighths",
)

# %% [markdown]
# **Checkpoint 2: where a sum of ones stops.** With $M$ mantissa bits, where do the numbers begin to
# lie two apart? For float16, $M = 10$.

# %%
prediction = 2 ** (10 + 1)  # your number here

total = np.float16(0)
for _ in range(5000):
    total += np.float16(1)
check(
    "a sum of ones in float16",
    prediction,
    float(total),
    miss="between 2^k and 2^(k+1) there are 2^M steps; they are 2 wide where k = M + 1",
)

# %% [markdown]
# **Checkpoint 3: bytes.** A matrix of 4,096 x 4,096 in NVFP4: half a byte a number, one byte for
# each block of 16, one float32 for all.

# %%
prediction = 4096 * 4096 / 2 + 4096 * 4096 / 16 + 4  # your number here

stored = store(Context(CPU, (), {}), np.ones((4096, 4096), np.float32), NVFP4)
check(
    "bytes of 4,096 x 4,096 in NVFP4",
    prediction,
    sum(part.nbytes for part in stored),
    "B",
    miss="two codes share a byte; the scales are bytes too",
)
print(
    f"{8 * prediction / 4096**2:.2f} bits a number; float32 would take {format_bytes(4 * 4096**2)}"
)

# %% [markdown]
# **Checkpoint 4: the largest relative error.** Rounding to $M$ mantissa bits is wrong by at most
# half a step. From 1 on the steps of e4m3 are 1/8 wide: the first tie lies at 1 + 1/16. How wrong
# is it there, relative to the number?

# %%
prediction = (1 / 16) / (1 + 1 / 16)  # your number here

normal = rng.uniform(1, 448, 200_000)
check(
    "largest relative error of e4m3",
    prediction,
    np.max(np.abs(rounded(normal, E4M3) - normal) / normal),
    within=0.01,
    miss="half a step is 1/16, the number 17/16; further up in the same power of two it is less",
)

# %% [markdown]
# **Checkpoint 5: when a gradient vanishes.** The smallest number of float16 is $2^{-24}$, and less
# than half of it rounds to 0. A logit with $p = 0.01$ has the gradient $p / N$. From how many
# tokens $N$ on is it zero?

# %%
prediction = 0.01 * 2**25  # your number here

batches = np.arange(300_000, 400_000, 100)
lost = np.float16(0) == (0.01 / batches).astype(np.float16)
check(
    "tokens from which the gradient is 0",
    prediction,
    float(batches[np.argmax(lost)]),
    "tokens",
    within=0.001,
    miss="half of 2^-24 is 2^-25: p / N < 2^-25",
)

# %% [markdown]
# **Checkpoint 6: the smallest step that moves a weight.** A weight of 1 in bfloat16 ($M = 7$), no
# master weights. How large must an update be? (A tie goes back to 1, whose code is even.)

# %%
prediction = 2.0**-8  # your number here

updates = np.linspace(0, 0.01, 100_001).astype(np.float32)
moves = (np.float32(1) + updates).astype(ml_dtypes.bfloat16) > 1
check(
    "smallest update that moves a weight of 1",
    prediction,
    float(updates[np.argmax(moves)]),
    within=0.001,
    miss="the next number is 1 + 2^-7; from half-way on it is nearer",
)

# %% [markdown]
# ## Look
#
# Does it train? The same model, the same first weights, the same batches, four recipes of the
# library. In `nvfp4` the first and the last of the four blocks stay in bfloat16, as NVIDIA keeps
# some of the blocks at the ends.


# %%
def train(label, recipe, *, before=None, after_step=None):
    """A short training in this precision; prints a line and returns the losses."""
    trainer = Trainer(BASE, data=data)
    use_precision(trainer.model, recipe)
    if before is not None:
        before(trainer)
    losses, times_s = [], []
    for _ in range(BASE.steps):
        report = trainer.train_step()
        losses.append(report.train_loss)
        times_s.append(report.time_s)
        if after_step is not None:
            after_step(trainer)
    planned = trainer.captured.plan.memory.planned_bytes
    figures.append(
        [
            label,
            f"{trainer.evaluate():.3f}",
            format_bytes(planned),
            f"{1e3 * min(times_s):.1f}",
        ]
    )
    return losses


figures = []
curves = {name: train(name, name) for name in ("float32", "bf16", "fp8", "nvfp4")}

# %% [markdown]
# And three that do without one of the mends: e4m3 without any scale for the gradients, e2m1 with
# one scale for each whole matrix, and fp8 without master weights: the weights themselves are
# rounded to 8 bits after each step, as if there were no others.


# %%
def forget_master(trainer):
    """What the optimiser updates is what the products use: nothing is kept beside it."""
    weights = trainer.optimizer.arena.data
    weights[...] = weights.astype(ml_dtypes.float8_e5m2)


E4M3_BARE, E2M1_WHOLE = Storage("float8_e4m3fn"), Storage("float4_e2m1fn", "tensor")
no_scale = Precision("no scale", LinearStorage(gradients=E4M3_BARE))
one_scale = Precision("one scale", LinearStorage(E2M1_WHOLE, E2M1_WHOLE, E2M1_WHOLE))

curves["gradients unscaled"] = train("e4m3, gradients unscaled", no_scale)
curves["one scale a matrix"] = train("e2m1, one scale a matrix", one_scale)
curves["no master weights"] = train("fp8, no master weights", "fp8", after_step=forget_master)

print(table(figures, ["precision", "val loss", "memory of a step", "best step here, ms"]))

# %%
steps = np.arange(1, BASE.steps + 1)
smooth = {name: np.convolve(loss, np.ones(15) / 15, "valid") for name, loss in curves.items()}
show(
    line_figure(
        [Line(name, steps[14:], loss) for name, loss in smooth.items()],
        "What training survives",
        x_label="step",
        y_label="loss (nats per token), mean of 15 steps",
        height_in=4.6,
    ),
    "Four curves lie on each other: float32, and 16, 8 and 4 bits with all the mends. Where one is "
    "missing, the loss stays behind or gets stuck.",
)

# %% [markdown]
# How far apart are the first four? And how far would float32 be from itself, if the first weights
# had been a thousandth larger?


# %%
def enlarge(trainer):
    trainer.optimizer.arena.data[...] *= np.float32(1.001)


nudged = train("float32, nudged", "float32", before=enlarge)
full = np.array(curves["float32"])
for name, loss in {"float32, nudged": nudged, **curves}.items():
    print(f"{name:>18}: on average {np.abs(loss - full).mean():.4f} from float32")

# %% [markdown]
# bfloat16 is closer than that. fp8 and nvfp4 are a few times as far, about a hundredth of a nat,
# and not always above: a short training of a small model says no more about them. (NVIDIA trained
# 12 billion parameters on 10 trillion tokens to be able to say that nvfp4 comes close to fp8.) What
# it does say is what happens without the mends:
#
# - *Gradients unscaled*: with 512 tokens a step, soon nearly all gradients are below half of e4m3's
#   smallest number, 0.002, and are stored as 0. Then nothing flows back through a linear layer or
#   into its weight: embeddings, biases and the last norm learn alone.
# - *One scale a matrix*: it learns, with most of each matrix rounded to 0.
# - *No master weights*: the numbers of e5m2 lie up to a quarter of their size apart, and most
#   updates are smaller than half of that. (In bfloat16 it takes longer until updates are too small.
#   Try it, and do not be surprised if 250 steps show little.)
#
# Two columns of the table are worth a look. *Memory*: what the layers keep for their backward is
# narrow, the rest of a step is not, so the whole shrinks by less than the format. *Time*: it does
# not go down, it goes up. Rounding is extra work here, and the products are the same.
#
# `baremetal bench precision` makes this comparison with every recipe, counts what the products of a
# step would read and compute if a chip took their operands as stored, and draws the differences.

# %% [markdown]
# ## Exercises
#
# **1.** Six bits: e3m2 and e2m3 are both standard formats (OCP, 2023). Give the largest number and
# the smallest above zero of each. (All codes are finite numbers.) Which of the two loses less on
# normally distributed weights with one scale for all?

# %% tags=["answer"]
weights = rng.standard_normal((256, 256))
for E, M in ((3, 2), (2, 3)):
    numbers = np.array([value_of(code, E, M) for code in range(64)])
    print(
        f"e{E}m{M}: largest {numbers.max():g}, smallest {numbers[numbers > 0].min():g}, "
        f"{error(weights, through(weights, numbers)):.1%} lost"
    )
six = [np.array([value_of(c, E, M) for c in range(64)]) for E, M in ((3, 2), (2, 3))]
assert [n.max() for n in six] == [28.0, 7.5]
assert error(weights, through(weights, six[1])) < error(weights, through(weights, six[0]))
# Normally distributed numbers spread over few powers of two: there the mantissa is worth more.

# %% [markdown]
# **2.** *Stochastic rounding* goes up with a probability that is the distance from the number
# below, in steps. It is wrong more often and right on average. Write it for bfloat16 (float32 bits
# plus a random number below $2^{16}$, then cut off 16 bits), and repeat the 100 updates of 0.001 to
# a weight of 1, without master weights, for 10,000 weights at once. What is their mean?


# %% tags=["answer"]
def stochastically(x, rng):
    """x (float32) in bfloat16 (kept as float32): up with the probability of what is cut off."""
    noise = rng.integers(0, 2**16, x.shape, dtype=np.uint32)
    return ((x.view(np.uint32) + noise) & np.uint32(0xFFFF0000)).view(np.float32)


moving = np.ones(10_000, np.float32)
for _ in range(100):
    moving = stochastically(moving + np.float32(0.001), rng)
print(f"mean {moving.mean():.4f}, standard deviation {moving.std():.3f}; to nearest: 1.0000")
# Each step is 0 or 1/128 with mean 0.001: a standard deviation of about 0.0026, so 0.026 after 100
# of them, and 0.00026 for the mean of 10,000 weights.
assert abs(moving.mean() - 1.1) < 5 * 0.00026
# NVIDIA rounds gradients to nvfp4 so: an error without bias averages out over the batches.

# %% [markdown]
# **3.** Outliers can also be *spread*. A Hadamard matrix $H$ of $n \times n$ has entries
# $\pm 1 / \sqrt n$ and $H H^T = 1$. So $(g H)(x H)^T = g x^T$: rotating both operands of a product
# changes nothing, but an outlier of size $a$ becomes $n$ numbers of size $a / \sqrt n$. Build $H$
# from $H_1 = (1)$ by
#
# $$ H_{2n} = \frac{1}{\sqrt 2} \begin{pmatrix} H_n & H_n \\ H_n & -H_n \end{pmatrix} $$
#
# and flip the signs of its rows at random. How much does e2m1 lose of a matrix with one outlier in
# each row of 256, with one scale for all of it, with and without the rotation? And NVFP4, with its
# blocks?


# %% tags=["answer"]
def hadamard(n, rng):
    H = np.ones((1, 1))
    while len(H) < n:
        H = np.block([[H, H], [H, -H]]) / np.sqrt(2)
    return rng.choice([-1.0, 1.0], n)[:, None] * H


H = hadamard(256, rng)
agree("H is a rotation", H @ H.T, np.eye(256), atol=1e-12)
outliers = rng.standard_normal((64, 256))
outliers[np.arange(64), rng.integers(0, 256, 64)] = 50.0
lost = {}
for name, store_it in (("one scale", lambda x: through(x, e2m1)), ("NVFP4", through_nvfp4)):
    lost[name] = error(outliers, store_it(outliers)), error(outliers, store_it(outliers @ H) @ H.T)
    print(f"{name:>9}: {lost[name][0]:.1%} lost, rotated {lost[name][1]:.1%}")
assert lost["one scale"][1] < lost["one scale"][0] / 2
# With one scale for all, a great gain. With blocks of 16 there is none left: an outlier is the
# largest number of its block, so it is stored almost exactly, and hurts its 15 neighbours only.
# (NVIDIA rotates, by 16, in one place: in the product for the weights' gradient.)

# %% [markdown]
# ## What the real system does that this does not
#
# | | here | a GB300 cluster |
# |---|---|---|
# | the products | in float32, of the codes read back | of the codes, summed in float32 |
# | time | longer than in float32 | of the products: by the table of rates above |
# | the axis of the blocks | along the rows | along each product's sum, in second copies |
# | activations between layers | float32 | bfloat16 |
# | the output matrix | float32 | bfloat16 |
# | gradients in 4 bits | to the nearest | rounded at random, operands rotated (exercises 2 and 3) |
# | in bfloat16 for nvfp4 | the first and the last block | about a sixth of the linear layers |
# | the optimiser's averages | float32 | in DeepSeek-V3 bfloat16 |
# | between machines | nothing is sent | narrow activations save the network's bytes, too |

# %% [markdown]
# ## Sources
#
# - P. Micikevicius et al., "Mixed Precision Training", 2017, arXiv 1710.03740: loss scaling, master
#   weights.
# - P. Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv 2209.05433: e4m3 forward,
#   e5m2 for gradients.
# - Open Compute Project, "OCP Microscaling Formats (MX) Specification", version 1.0, 2023: e2m1 and
#   the formats of six bits.
# - DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv 2412.19437: e4m3 throughout, tiles of
#   1 x 128 and 128 x 128.
# - NVIDIA, "Pretraining Large Language Models with NVFP4", September 2025, arXiv 2509.25149: two
#   levels of scales, stochastic rounding, Hadamard rotations, layers kept in bfloat16.
# - Y. Bengio, N. Léonard, A. Courville, "Estimating or Propagating Gradients Through Stochastic
#   Neurons for Conditional Computation", 2013, arXiv 1308.3432: straight-through.
# - PyTorch, `torch.amp.GradScaler`, read in November 2026: 2^16, and 2,000 steps.
# - NVIDIA, dgxc-benchmarking, README at commit 841f5466, read in November 2026: the rates of a
#   GB300 in 16, 8 and 4 bits; Verda, page on the GB300, read in November 2026: TF32.

# %%
finish()
