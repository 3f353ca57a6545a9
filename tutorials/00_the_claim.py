# %% [markdown]
# # 0. The claim: what was announced, what is known, what we shall measure
#
# In May 2026 a sentence went round: of a training stack in C, almost finished, whose "potential
# speed improvement vs JAX" was said to be "over an order of magnitude". This course builds the
# layers of such a stack, small enough to read, so that you can judge the sentence yourself. You
# begin with pencil, paper and one core.
#
# You need Python and some NumPy. Nothing here uses a GPU.

# %%
# introduces: baremetal.trace, baremetal.kernels.matmul
from itertools import pairwise

import numpy as np
from lesson import check, finish, quote, show, time_s  # tutorials/lesson.py, beside this file
from threadpoolctl import threadpool_limits

from baremetal.kernels import matmul
from baremetal.trace import Line, Trace, line_figure, table, timeline_figure

threadpool_limits(1)  # one core only: then a rate is the rate of one core
rng = np.random.default_rng(0)

# %% [markdown]
# ## What you will be able to do
#
# - Sort any statement about speed into one of four kinds: claimed, public, measured, modelled.
# - Count the arithmetic of a training step exactly, and the shortest time a chip needs for it.
# - Predict, from two measured numbers, where removing overhead brings 10x and where it brings
#   nothing.

# %% [markdown]
# ## The idea
#
# ### What was announced
#
# On 28 May 2026 Elon Musk wrote on X:
#
# > SpaceX has almost finished writing V1.0 of an in-house AI training stack in C that exact-maps
# > to 220k GB300s with 800G NICs, making heavy use of pipeline parallelism and getting as close to
# > bare metal as possible. The potential speed improvement vs JAX for large training runs is over
# > an order of magnitude.
#
# Read it as you would read a contract. *Almost finished*: at that time it was not. *Potential*:
# no run is reported. *For large training runs*: not for a laptop. *vs JAX*: no version, no model,
# no settings, no number of chips for the other side, and not what is compared (tokens per second?
# days?). When this lesson was written, in November 2026, no benchmark by anybody had been found.
#
# That does not make it false. It makes it a *claim*, and there are three other kinds of
# statement:
#
# | kind | what it rests on | example |
# |---|---|---|
# | **claimed** | the announcement, quoted and dated | "potential … over an order of magnitude" |
# | **public** | a data sheet, a paper, a log | a GB300 does 2,450 TFLOP/s in BF16 (NVIDIA) |
# | **measured** | a command you can run, on a machine you can name | what you will see below |
# | **modelled** | arithmetic with stated assumptions | what 220,000 GPUs would do |
#
# Every page of this project says which kind it speaks of. Mixing them is how a potential becomes
# a fact in three retellings.
#
# ### Work and overhead
#
# Call *work* the time that the arithmetic itself takes, and *overhead* everything that a leaner
# program could leave out: the interpreter, checks, choosing a kernel, starting it. Remove all the
# overhead, and the speed-up is
#
# $$ S = \frac{\text{overhead} + \text{work}}{\text{work}} $$
#
# This is Amdahl's law (1967): what you do not remove is the limit. For $S = 10$ the overhead must
# be *nine times* the work. A program that spends a tenth of its time in Python becomes 1.1x
# faster in C, however good the C.
#
# And even that holds only if the chip waits while Python thinks. JAX and PyTorch let it run
# ahead: the host queues the next operation while the device still works on the last. Then the
# longer of the two decides:
#
# $$ S = \frac{\max(\text{overhead}, \text{work})}{\text{work}} $$
#
# Draw both, for an operation with 2 µs of overhead and 5 µs of work.

# %%
OVERHEAD_US, WORK_US = 2, 5
US = 1_000_000  # picoseconds in a microsecond: the library counts time in whole picoseconds

trace = Trace()
for run_ahead in (False, True):
    title = "runs ahead" if run_ahead else "waits"
    host_free = device_free = 0
    for i in range(5):
        queued = host_free + OVERHEAD_US
        begin = max(queued, device_free)
        trace.add_span(f"{title}: host", str(i), host_free * US, OVERHEAD_US * US, "overhead")
        trace.add_span(f"{title}: device", str(i), begin * US, WORK_US * US, "work")
        device_free = begin + WORK_US
        host_free = queued if run_ahead else device_free
    print(f"{title}: 5 operations in {device_free} µs")

show(
    timeline_figure(trace, "Five operations: the host waits, or runs ahead"),
    "Above, the device idles during every overhead. Below, only the first one is seen: the rest is "
    "hidden under work. Removing overhead that is hidden makes nothing faster.",
)

# %% [markdown]
# So the first question to any claim of 10x is not "is C faster than Python?" but "was the chip
# waiting, for what, and for how much of the time?"

# %% [markdown]
# ## Build it
#
# ### The work: count it
#
# A product of an $(m, k)$ and a $(k, n)$ matrix needs $m n$ dot products of length $k$, each $k$
# multiplications and $k$ additions: $2mkn$ floating-point operations (FLOP). Let a product count
# itself, and train one step of a small network by hand.

# %%
counted = []  # the FLOP of every product, in order


def product(a, b):
    (m, k), (_, n) = a.shape, b.shape
    counted.append(2 * m * k * n)
    return a @ b


def training_step(widths, batch):
    """Forward and backward of a network of len(widths) - 1 linear layers with tanh between."""
    weights = [rng.standard_normal((i, o)) / i**0.5 for i, o in pairwise(widths)]
    values = [rng.standard_normal((batch, widths[0]))]
    for w in weights:
        values.append(np.tanh(product(values[-1], w)))
    grad = values[-1]  # the gradient of a loss, of half the sum of squares for instance
    for layer in reversed(range(len(weights))):
        grad = grad * (1 - values[layer + 1] ** 2)  # back through tanh
        product(values[layer].T, grad)  # the weight's gradient
        if layer > 0:  # nobody asks for the gradient of the data
            grad = product(grad, weights[layer].T)


counted.clear()
training_step(widths=(32, 128, 10), batch=64)
print("products:", counted)

# %% [markdown]
# Five products: two forward, three backward. Each weight is used once forward (2 FLOP per
# example), once for its own gradient (2) and once for the gradient of what came in (2). That is
# the **6 N rule**: a training step costs about 6 x parameters x examples (for language models:
# tokens). The first layer pays only 4, because the data need no gradient.
#
# The library declares the same count beside every kernel. This is its matrix product: the NumPy
# version that one reads, and under it what it costs.

# %%
quote(matmul.matmul)

# %%
a, b, out = np.empty((64, 32)), np.empty((32, 128)), np.empty((64, 128))
check(
    "the first product, by the library's count",
    predicted=counted[0],
    found=matmul.matmul.cost(a, b, out).flops,
    unit="FLOP",
    miss="one of the two forgot that a multiply and an add are two operations",
)

# %% [markdown]
# Now a large number, by the same rule. Llama 3 with 405 billion parameters was trained on 8,192
# H100s with batches of 64 x 32 sequences of 8,192 tokens; an H100 does at most 989 TFLOP/s in
# BF16, and 430 were reached (all *public*). What a step takes is *modelled*: by the 6 N rule.

# %%
tokens = 64 * 32 * 8192
step_flops = 6 * 405e9 * tokens
shortest_s = step_flops / (8192 * 989e12)
reached_s = step_flops / (8192 * 430e12)
print(f"{tokens:,} tokens, {step_flops:.2g} FLOP a step")
print(f"at the peak {shortest_s:.1f} s a step, at the rate reached {reached_s:.1f} s")

# %% [markdown]
# ### The overhead: measure it
#
# A $1 \times 1$ product is two FLOP. All the rest of its time is the call. A large product is
# nearly all arithmetic. So two measurements give both numbers of the model
#
# $$ t(n) = \text{overhead} + \frac{2 n^3}{\text{rate}} $$

# %%


def product_time_s(n):
    """Seconds for one product of two n x n matrices in float32, on one core."""
    a, b = rng.standard_normal((2, n, n), dtype=np.float32)
    out = np.empty((n, n), np.float32)
    return time_s(lambda: np.matmul(a, b, out=out))


empty_s = time_s(lambda: None)
overhead_s = product_time_s(1)
rate = 2 * 512**3 / product_time_s(512)  # FLOP/s
print(f"an empty Python function {empty_s * 1e9:8.0f} ns")
print(f"a 1 x 1 product          {overhead_s * 1e9:8.0f} ns")
print(f"a 512 x 512 product      {rate / 1e9:8.1f} GFLOP/s")

# %% [markdown]
# Typical: some tens of nanoseconds for a Python function, half a microsecond to a few for a NumPy
# product, and for one core some tens of GFLOP/s, or one to two hundred if its vectors are wide. In
# the time of one call the core could have done tens of thousands of FLOP, or more.
#
# ### The same arithmetic in more calls
#
# To see overhead alone, keep the arithmetic and change only the number of calls: multiply 4,096
# rows by a $64 \times 64$ matrix, in one call, in two, ..., in 4,096.

# %%
rows = rng.standard_normal((4096, 64), dtype=np.float32)
weight = rng.standard_normal((64, 64), dtype=np.float32)
result = np.empty_like(rows)


def pieces_time_s(calls):
    """Seconds for the whole product when its rows are dealt out to this many calls."""
    pieces = list(zip(np.split(rows, calls), np.split(result, calls), strict=True))

    def run():
        for x, out in pieces:
            np.matmul(x, weight, out=out)

    return time_s(run)


calls = [1, 16, 256, 1024, 2048]
times_s = [pieces_time_s(k) for k in calls]
for k, seconds in zip(calls, times_s, strict=True):
    print(f"{k:5} calls: {seconds * 1e3:6.2f} ms, {seconds / times_s[0]:4.1f}x the one call")

# %% [markdown]
# Nothing but the number of calls changed. Here is one honest way to be many times faster: do not
# call so often. It is what `jax.jit` does (it traces the whole step and compiles it into one
# program), what CUDA graphs do, and what you will do in lesson 5.
#
# ### The ceiling: what is left to win
#
# Somebody who already reaches a fraction $u$ of the chip's peak (the *model FLOPs utilisation*,
# MFU) can gain at most $1/u$ on the same chips with the same number format, by any means. Six
# *public* rates, in TFLOP/s per chip:

# %%
COLUMNS = ("model", "chips", "format", "source", "reached", "peak")
PUBLIC = [
    ("Llama 3 405B", "8192 H100", "BF16", "Llama 3 paper", 430, 989),
    ("Llama 3.1 405B", "256 GB200", "FP8", "NVIDIA 26.06", 2129, 4900),
    ("DeepSeek-V3", "256 GB200", "MXFP8", "NVIDIA 26.08", 1276, 4900),
    ("GPT-OSS 120B", "64 GB300", "MXFP8", "NVIDIA 26.08", 1077, 4900),
    ("Qwen3 30B-A3B", "8 B200", "MXFP8", "NVIDIA 26.02.01", 614, 4500),
    ("Qwen3 30B-A3B", "8 B200", "MXFP8", "NVIDIA 26.02", 223, 4500),
]
print(
    table(
        [
            (*row, f"{reached / peak:.0%}", f"{peak / reached:.1f}x")
            for row in PUBLIC
            for reached, peak in [row[-2:]]
        ],
        [*COLUMNS, "MFU", "at most"],
    )
)

# %% [markdown]
# Three things to see. The dense models stand above 40 %: from there nobody gets 10x on equal
# terms. The mixture-of-experts models stand far lower, so there is room. And the last two rows
# are the same model on the same chips, 2.75x apart: the faster run took 4 sequences at a time
# instead of 1 (and a later release of the software). Larger pieces, fewer calls. The row we would
# need, what JAX reached on the claimant's machine, is not public.

# %% [markdown]
# ## Predict, then run
#
# Write your own number before you run each cell: that is the point of them.
#
# **Checkpoint 1: FLOP.** A network of widths 100, 200, 200, 10 and a batch of 50. Count the
# weights $N$, take $6 N$ per example, and subtract what the first layer does not pay.

# %%
weights = 100 * 200 + 200 * 200 + 200 * 10
prediction = 6 * weights * 50 - 2 * (100 * 200) * 50  # your number here

counted.clear()
training_step(widths=(100, 200, 200, 10), batch=50)
check(
    "FLOP of the step",
    prediction,
    sum(counted),
    "FLOP",
    miss="did you count 2 FLOP for each weight and example, three times, and only twice for the "
    "first layer?",
)

# %% [markdown]
# **Checkpoint 2: time.** From `overhead_s` and `rate` alone, how long does a $96 \times 96$
# product take? A clock is involved, so the tolerance is generous.

# %%
prediction_s = overhead_s + 2 * 96**3 / rate  # your number here

check(
    "time of one 96 x 96 product",
    prediction_s * 1e6,
    product_time_s(96) * 1e6,
    "µs",
    factor=2.0,
    timed=True,
    miss="small matrices do not run at the full rate (the edges of blocks cost more), or the "
    "machine was busy during one of the three measurements: run the cells again.",
)

# %% [markdown]
# **Checkpoint 3: 10x.** Where would removing the overhead make a product of two $n \times n$
# matrices 10 times faster? Where overhead is nine times work:
# $2n^3/\text{rate} = \text{overhead}/9$. And where 1.1 times? Where overhead is a tenth of work.

# %%
n_10x = (overhead_s / 9 * rate / 2) ** (1 / 3)
n_1_1x = (overhead_s * 10 * rate / 2) ** (1 / 3)
print(f"10x below n = {n_10x:.0f}; 1.1x at n = {n_1_1x:.0f}")

# %% [markdown]
# Expect something between 10 and 30 for the first and 50 to 150 for the second. Language models
# are 1,000 to 20,000 wide. Then predict the experiment with the calls: the work is there once,
# the overhead with every call.

# %%
prediction_s = 4096 * overhead_s + times_s[0]  # your number here

check(
    "4096 calls",
    prediction_s * 1e3,
    pieces_time_s(4096) * 1e3,
    "ms",
    factor=2.0,
    timed=True,
    miss="a call with one row takes another path through NumPy than the 1 x 1 product that was "
    "measured; or the machine was busy.",
)

# %% [markdown]
# ## Look
#
# The whole argument in one picture: the time of one product over its size.

# %%
sizes = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
measured_us = [product_time_s(n) * 1e6 for n in sizes]
work_us = [2 * n**3 / rate * 1e6 for n in sizes]
model_us = [overhead_s * 1e6 + w for w in work_us]

show(
    line_figure(
        [
            Line("measured", sizes, measured_us, markers=True),
            Line("overhead + work", sizes, model_us),
            Line("work alone", sizes, work_us, dashed=True),
        ],
        "One product of two n × n matrices",
        x_label="n",
        y_label="time in µs",
        log_x=True,
        log_y=True,
        y_range=(0.05, 1.5 * max(measured_us)),
    ),
    "Left of the bend the time does not depend on the size: you pay for the call. Right of it the "
    "points lie on the line of the work, and no language that calls the same kernel can be faster. "
    "The gap between the points and the dashed line is all that removing overhead can bring.",
)

# %% [markdown]
# So where could an order of magnitude come from? Each row is a closed form, and has its lesson.
#
# | what is removed | speed-up | 10x needs | lesson |
# |---|---|---|---|
# | overhead, host waits | (overhead + work) / work | overhead = 9 work | 5 |
# | overhead, host runs ahead | max(overhead, work) / work | overhead = 10 work | 5 |
# | slow kernels | 1 / MFU | an MFU of 10 % | 2, 3 |
# | wide numbers | ratio of the peaks | BF16 to NVFP4 on GB300: 6x | 7 |
# | idle pipeline stages | (m + p - 1) / m | p - 1 = 9 m | 9 to 11 |
# | waiting for the network | (transfer + work) / work | transfer = 9 work | 8, 10 |
# | failures and restarts | 1 / goodput | a goodput of 10 % | 12, 15 |
#
# Here p is the number of pipeline stages and m the number of microbatches. The rows multiply: 2x
# here and 3x there and 2x again is 12x. But then it is no longer "C against JAX", it is one whole
# system against another, and one should say so. Lesson 16 adds it all up.

# %% [markdown]
# ## Exercises
#
# **1.** A step takes 3 ms of work and 1 ms of overhead. How much faster is it without overhead,
# if the host waits? If it runs ahead? How much overhead may it have in each case before removing
# it brings 10x?

# %% tags=["answer"]
work_ms, overhead_ms = 3, 1
waits = (overhead_ms + work_ms) / work_ms
runs_ahead = max(overhead_ms, work_ms) / work_ms
print(f"waits: {waits:.2f}x; runs ahead: {runs_ahead:.2f}x, the overhead was hidden already")
print(f"10x needs {9 * work_ms} ms of overhead if it waits, {10 * work_ms} ms if it runs ahead")
assert (27 + 3) / 3 == max(30, 3) / 3 == 10

# %% [markdown]
# **2.** In how many calls can you cut the product of 4,096 rows until it takes *twice* as long as
# in one? Predict it from `overhead_s` and `times_s[0]`, take the next power of two (the rows must
# divide evenly) and measure.

# %% tags=["answer"]
# Twice as long means: the overhead of all calls is as long as the work.
prediction = times_s[0] / overhead_s
calls_2x = 2 ** round(np.log2(prediction))
print(f"predicted {prediction:.0f} calls, so measure {calls_2x}")
check(
    "slow-down",
    (calls_2x * overhead_s + times_s[0]) / times_s[0],
    pieces_time_s(calls_2x) / times_s[0],
    factor=1.6,
    timed=True,
    miss="the machine was busy during one of the measurements, or short pieces run at a lower rate "
    "than long ones: then it is the work that grew, not the overhead.",
)

# %% [markdown]
# **3.** A pipeline has p stages, and a batch is cut into m microbatches. Each stage takes one
# time slot for each microbatch and works on one at a time, so a batch occupies m + p - 1 slots of
# which each stage works in m. Show by playing it through that removing the idle slots brings (m +
# p - 1) / m. How few microbatches must 16 stages have before that is at least 8x? And 10x?

# %% tags=["answer"]


def slots(p, m):
    """Play it through: how many slots until the last stage has finished the last microbatch."""
    finished = np.zeros((p, m), int)
    for micro in range(m):
        for stage in range(p):
            received = finished[stage - 1, micro] if stage else 0
            free = finished[stage, micro - 1] if micro else 0
            finished[stage, micro] = max(received, free) + 1
    return int(finished[-1, -1])


assert all(slots(p, m) == m + p - 1 for p in range(1, 9) for m in range(1, 9))
for m in (1, 2, 4, 16, 128):
    print(f"16 stages, {m:3} microbatches: {slots(16, m) / m:5.2f}x to win")
assert slots(16, 2) / 2 >= 8 > slots(16, 3) / 3
assert slots(16, 1) / 1 >= 10 > slots(16, 2) / 2
# Two for 8x, a single one for 10x. With 220,000 GPUs and a batch of limited size, few microbatches
# for each pipeline are a real possibility: this row of the table is to be taken seriously.

# %% [markdown]
# ## What the real system does that this does not
#
# | | here | a GB300 cluster |
# |---|---|---|
# | arithmetic | one core, 10 to 200 GFLOP/s in float32 | 2,450 TFLOP/s a GPU in BF16 (public) |
# | how many | 1 | 220,000 GPUs (claimed) |
# | one call | about a µs, or a few; Python waits for it | queued ahead; whole steps are compiled |
# | between racks | nothing | 800 Gb/s a GPU, each way (public) |
# | within a rack | nothing | 900 GB/s a GPU, each way (public) |
# | a step | well under a second | seconds (modelled above, for Llama 3 on 8,192 H100s) |
# | a run | this lesson | weeks, with failures |
#
# One public report shows how a JAX pipeline can lose most of its speed to overhead. The open
# project marin tried one on eight H100s: 8,077 tokens/s from 8 stages, against 57,056 without a
# pipeline. A smaller bubble changed nothing; small kernels, transport and the dispatch from
# Python were blamed. It is one trial of one implementation, posted by the project's own assistant
# program, and not that project's last word on pipelines.

# %% [markdown]
# ## Sources
#
# - E. Musk, post on X, 28 May 2026, <https://x.com/elonmusk/status/2059884150187053488>, as
#   reproduced at wpnews.pro on 30 May 2026. That no independent benchmark exists: gagadget.com, 28
#   May 2026.
# - G. Amdahl, "Validity of the single processor approach to achieving large scale computing
#   capabilities", AFIPS 1967.
# - J. Kaplan et al., "Scaling Laws for Neural Language Models", arXiv 2001.08361, 2020: 6 N.
# - "The Llama 3 Herd of Models", arXiv 2407.21783, 2024, table 4: 405B on 8,192 H100s.
# - NVIDIA, dgxc-benchmarking, README at commit 841f5466, read in November 2026: dense peaks. They
#   are the denominators NVIDIA itself uses; data sheets round them up.
# - NVIDIA, Megatron-Bridge, performance summary at commit 067f987d, releases 26.02 to 26.08,
#   2026: TFLOP/s per GPU. The percentages here are these divided by the peaks above.
# - NVIDIA, "Inside NVIDIA Blackwell Ultra", developer blog, read in November 2026: NVLink with
#   1.8 TB/s for both directions together. 800 Gb/s per GPU: ConnectX-8 in the system files of
#   MLPerf Training v5.1, 2025.
# - JAX documentation, "Asynchronous dispatch" and "Just-in-time compilation",
#   <https://docs.jax.dev>, read in November 2026.
# - marin-community/marin, GitHub issue 6532, comment of 24 June 2026; its later pipelines: issue
#   7024, 2026.

# %%
finish()
