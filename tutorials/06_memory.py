# %% [markdown]
# # 6. Memory: lifetimes, arenas, recomputation
#
# Lesson 5 wrote a step down and gave every array an address, one behind the other. Most of those
# arrays never meet: when one is needed, the other is long dead. Here you find out how long each
# must live, pack all of them into the least memory, and then ask whether they have to live at all.

# %%
# introduces: baremetal.autograd.checkpoint, baremetal.capture.plan_arena
import math
import statistics
import textwrap
import time

import numpy as np
from lesson import agree, check, finish, quote, show  # tutorials/lesson.py, beside this file
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import baremetal
from baremetal import nn, optim
from baremetal.autograd import CPU, AutogradError, Parameter, Tensor, checkpoint, no_grad
from baremetal.autograd.recompute import Stretch
from baremetal.capture import Lifetime, arena_figure, capture, lower_bound, plan_arena
from baremetal.trace import Line, format_bytes, format_seconds, line_figure, table

# One thread: its times mean something even while your machine does something else.
baremetal.set_num_threads(1)
rng = np.random.default_rng(6)

# %% [markdown]
# ## What you will be able to do
#
# - Say how many bytes a training step needs, and for what, before it runs: to the byte.
# - Build a planner that gives every buffer an address, and say how far from the best it is.
# - Trade memory for time by recomputation, and say how much of each.

# %% [markdown]
# ## The idea
#
# Every number of a step lives in memory for some time. Weights, gradients and the optimiser's
# averages live for ever. What a layer computes, its *activations*, lives from the moment it is made
# until the last time it is read, and that moment is far away: the backward pass reads what the
# forward pass made, in reverse order. First made, last freed:

# %%


def draw(axes, lives, offsets, title):
    """Buffers (size, first launch, last launch) as rectangles: address against time."""
    for number, ((size, first, last), offset) in enumerate(zip(lives, offsets, strict=True)):
        colour = ("#56B4E9", "#E69F00", "#8FD3B6", "#CC79A7")[number % 4]
        box = Rectangle((first - 0.5, offset), last - first + 1, size, fc=colour, ec="white")
        axes.add_patch(box)
        middle = (first + last) / 2, offset + size / 2
        axes.text(*middle, "abcdefghijkl"[number], ha="center", va="center")
    launches = 1 + max(last for _, _, last in lives)
    axes.set_xlim(-0.5, launches - 0.5)
    axes.set_xticks(range(launches))
    axes.set_ylim(0, max(o + size for (size, _, _), o in zip(lives, offsets, strict=True)) + 0.5)
    axes.set_title(title, loc="left")
    axes.set_xlabel("launch")
    axes.spines[["top", "right"]].set_visible(False)


layers = 5
lives = [(1, i, 2 * layers - 1 - i) for i in range(layers)]  # made by launch i of the forward
lives += [(1, layers + i, layers + i + 1) for i in range(layers - 1)]  # gradients: made, used, gone
figure = Figure(figsize=(8, 3.4), layout="constrained")
axes = figure.subplots()
offsets = [0, 1, 2, 3, 4, 5, 4, 3, 2]
draw(axes, lives, offsets, "Five layers: forward (0 to 4) and backward (5 to 9)")
axes.set_ylabel("address")
show(
    figure,
    "a to e are activations, f to i gradients. The forward pass piles up what the backward pass "
    "takes down again. Where a rectangle has ended, another may lie: g lies where e was.",
)

# %% [markdown]
# So a step has three questions about memory.
#
# - *When* does each buffer live? With $s_i$ bytes of buffer $i$, from launch $f_i$ to launch $l_i$,
#   no plan in the world needs less than the most that is alive at one moment:
#
# $$ M \ge \max_t \sum_{i:\; f_i \le t \le l_i} s_i $$
#
# - *Where* does it lie? Rectangles that may not overlap, cannot move sideways and should make a low
#   stack. Whether the bound can be reached is a hard question in general (it is NP-complete), and a
#   bad rule wastes a lot; you will see one do so.
# - *Must* it live that long? What was computed once can be computed again.

# %% [markdown]
# ## Build it
#
# ### Where the bytes go
#
# A GPT of six blocks, one step with AdamW, captured. (Its text is random numbers: memory does not
# mind.)

# %%
B, T, C, L, H, V = 8, 128, 128, 6, 4, 65
windows = rng.integers(0, V, (B, T + 1))
inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
sizes = {"vocab_size": V, "context": T, "layers": L, "heads": H, "width": C}
models = {
    "gpt": lambda: nn.GPT(nn.GPTConfig(**sizes), rng=np.random.default_rng(0)),
    "llama": lambda: nn.Llama(nn.LlamaConfig(**sizes), rng=np.random.default_rng(0)),
}


def training(kind="gpt", recompute="none"):
    """A model, its optimiser, and a step that was captured by doing it once."""
    model = models[kind]()
    model.recompute = recompute  # of this later
    optimizer = optim.AdamW(optim.decay_groups(model.parameters(), 0.1), learning_rate=1e-3)

    def step(inputs, targets):
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.clip(1.0, loss)
        optimizer.step()
        return loss

    captured = capture(step, fuse=False)  # one launch for each kernel: easier to count
    captured(inputs, targets)
    return model, optimizer, captured


model, optimizer, captured = training()
plan = captured.plan

weights_bytes = sum(p.data.nbytes for p in model.parameters())
gradient_bytes = sum(p.grad.data.nbytes for p in model.parameters())
moment_bytes = sum(moment.nbytes for moment in optimizer.moments.values())
transient_bytes = sum(buffer.size_bytes for buffer in plan.transient)
for what, size in (
    ("weights", weights_bytes),
    ("gradients", gradient_bytes),
    ("averages", moment_bytes),
    (f"{len(plan.transient)} other buffers", transient_bytes),
):
    print(f"{what:<18} {format_bytes(size):>8}")

# %% [markdown]
# The first three live for ever, and do not depend on the batch. The others come and go, and grow
# with every token; even for this small batch they are the larger part by far. This lesson is about
# them.
#
# ### Lifetimes, read off
#
# A plan is a list of launches, each with its kernel and its operands. An operand without a buffer
# is one that was there before (a weight, a token). Of the others, note the first and the last
# launch that touch them. Nothing else is needed: not who made it, not who holds it.

# %%
first, last = {}, {}
for number, launch in enumerate(plan.launches):
    for operand in launch.operands:
        if operand is not None and operand.buffer is not None:
            first.setdefault(operand.buffer, number)
            last[operand.buffer] = number

# The loss is kept after the step and has memory of its own; the others are ours to place.
buffers = [buffer for buffer in first if buffer.memory is None]
lives = [Lifetime(buffer.size_bytes, first[buffer], last[buffer]) for buffer in buffers]
assert all((b.first, b.last) == (first[b], last[b]) for b in plan.transient)

rows = []
for buffer in buffers[2:12]:
    maker = plan.launches[first[buffer]].kernel.name
    rows.append((maker, str(buffer.shape), first[buffer], last[buffer]))
print(table(rows, ["made by", "shape", "first", "last"]))
print(f"... of {len(plan.launches)} launches")

# %% [markdown]
# That is the first block: norm, product, attention, and so on. Some live for two or three launches,
# and some for nearly the whole step. How much is alive at each moment? And what is the most?


# %%
def alive(lives):
    """Bytes alive during each launch."""
    bytes_alive = np.zeros(1 + max(life.last for life in lives), np.int64)
    for size, first, last in lives:
        bytes_alive[first : last + 1] += size
    return bytes_alive


BOUND = int(alive(lives).max())
print(f"alive at launch {alive(lives).argmax()}: {format_bytes(BOUND)}")
print(f"all buffers together: {transient_bytes / BOUND:.1f} times that")
agree("the library's bound", BOUND, lower_bound(lives))

# %% [markdown]
# ### A planner
#
# Take the buffers in some order. Put each into a gap between those that are already placed *and*
# alive at the same time; all others are air. Which gap? The first that is large enough, from below:
# *first fit*. Or the smallest that is large enough: *best fit*.


# %%
def place(lives, order, best_fit=False):
    """An offset for each buffer, and the height of the stack."""
    offsets, placed = [0] * len(lives), []
    for i in order:
        size, first, last = lives[i]
        met = sorted((offsets[j], offsets[j] + lives[j][0]) for j in placed
                     if lives[j][1] <= last and first <= lives[j][2])  # fmt: skip
        gaps, top = [], 0
        for low, high in met:
            if low - top >= size:
                gaps.append((low - top, top))
            top = max(top, high)
        if not gaps:
            offsets[i] = top  # on top of them all
        else:
            offsets[i] = min(gaps)[1] if best_fit else gaps[0][1]
        placed.append(i)
    return offsets, max(offsets[i] + lives[i][0] for i in placed)


def as_they_come(lives):
    return sorted(range(len(lives)), key=lambda i: lives[i][1])


def largest_first(lives):
    return sorted(range(len(lives)), key=lambda i: (-lives[i][0], lives[i][1]))


# %% [markdown]
# The order looks like a detail. It is what an allocator has no choice about: `malloc` has to answer
# each request when it comes, without knowing the ones after it. Three buffers are enough to see
# what that costs.

# %%
few = [(1, 0, 1), (1, 0, 3), (2, 2, 3)]  # a and b of size 1, then c of size 2, when a is gone
figure = Figure(figsize=(8, 3.2), layout="constrained")
for axes, (title, order) in zip(
    figure.subplots(1, 2, sharey=True),
    {"as they come": as_they_come, "largest first": largest_first}.items(),
    strict=True,
):
    offsets, height = place(few, order(few))
    draw(axes, few, offsets, f"{title}: {height}")
    axes.set_ylim(0, 4.5)
    axes.set_yticks(range(5))
figure.axes[0].set_ylabel("address")
show(
    figure,
    "Left: when c comes, 1 is free below b, which is too little, so c goes on top. The hole stays "
    "a hole: this is fragmentation. Right: c is placed first, though it lives last, and the small "
    "ones go around it. The bound is 3.",
)

# %% [markdown]
# Four instead of three: a third more memory than needed, from three buffers. Now the step, and
# beside it that of a Llama of the same size.

# %%
RULES = {
    "one behind the other (lesson 5)": lambda lives: sum(size for size, _, _ in lives),
    "first fit, as they come": lambda lives: place(lives, as_they_come(lives))[1],
    "first fit, largest first": lambda lives: place(lives, largest_first(lives))[1],
    "best fit, largest first": lambda lives: place(lives, largest_first(lives), best_fit=True)[1],
}


def lives_of(captured):
    return [Lifetime(b.size_bytes, b.first, b.last) for b in captured.plan.transient]


llama_lives = lives_of(training("llama")[2])
rows = []
for name, rule in RULES.items():
    ratios = [rule(each) / lower_bound(each) for each in (lives, llama_lives)]
    rows.append((name, *(f"{ratio:.3f}" for ratio in ratios)))
print(table(rows, ["size over the bound", "GPT", "Llama"]))

# %% [markdown]
# A step's rectangles are kind: most of them nest like brackets, last made, first freed, and no rule
# that shares does badly with those. Knowing the future still buys the last percents (more of them
# where the brackets are broken, as you will see), and above all it buys *one* piece of memory,
# asked for once, in which every address is known. The library follows the same rule, tries five
# orders, and keeps the lowest stack (exercise 3 shows why one order is not enough):

# %%
quote(plan_arena)

# %%
offsets, planned = plan_arena(lives)
assert planned <= RULES["best fit, largest first"](lives)
agree("the arena of the captured step", planned, plan.memory.planned_bytes)

# No two that live at the same time may overlap: look at every pair.
clashes = 0
for i, a in enumerate(lives):
    for j, b in enumerate(lives[:i]):
        apart = offsets[i] + a.size_bytes <= offsets[j] or offsets[j] + b.size_bytes <= offsets[i]
        clashes += a.overlaps(b) and not apart
check("pairs that overlap", 0, clashes, miss="a plan that writes over what is still needed")

# %% [markdown]
# ### Do they have to live?
#
# The mountain is made of activations that wait for the backward pass. Take the plainest deep
# network, $n$ equal layers $x \to \tanh(x W)$, and keep only the input of every $k$-th layer. When
# backward comes to a stretch of $k$ layers, run that stretch once more, on the tape this time, and
# differentiate it. From nothing but lesson 1:

# %%
n, ROWS, WIDTH = 64, 512, 128
UNIT = 4 * ROWS * WIDTH  # bytes of one activation
scale = WIDTH**-0.5
weights = [Parameter(rng.standard_normal((WIDTH, WIDTH), np.float32) * scale) for _ in range(n)]
for weight in weights:
    weight.use_grad_buffer(np.zeros_like(weight.data))  # as an optimiser would
x0 = Tensor(rng.standard_normal((ROWS, WIDTH), np.float32))


def stretch(x, start, k):
    for weight in weights[start : start + k]:
        x = (x @ weight).tanh()
    return x


def by_hand(k):
    """Gradients of (x * x).sum() after all layers; keeps the input of every k-th."""
    kept, x = [], x0
    with no_grad():
        for start in range(0, n, k):
            kept.append(x)
            x = stretch(x, start, k)
    gradient = 2.0 * x
    for start in reversed(range(0, n, k)):
        x = Tensor(kept.pop(), requires_grad=True)  # a leaf: this tape begins here
        stretch(x, start, k).backward(gradient)
        gradient = x.grad


def without():
    x = stretch(x0, 0, n)
    (x * x).sum().backward()


def measured(run):
    """Peak of the memory that it used, in activations, and the bits of the gradients."""
    for weight in weights:
        weight.zero_grad()
    before = CPU.memory.used_bytes
    CPU.memory.reset_peak()
    run()
    peak = (CPU.memory.peak_bytes - before) / UNIT
    return peak, b"".join(weight.grad.numpy().tobytes() for weight in weights)


all_kept, bits = measured(without)
few_kept, bits_by_hand = measured(lambda: by_hand(8))
print(f"keeps everything: {all_kept:.0f} activations; every 8th: {few_kept:.0f}")
print("the gradients have the same bits:", bits == bits_by_hand)

# %% [markdown]
# A third of the memory or less, and not *nearly* the same gradients: the same kernels on the same
# numbers in the same order give the same bits.
#
# The library's `checkpoint` does this to any function. Its first run is off the tape (a rehearsal),
# and what it returns stands for a stretch of tape that was left out. When backward gets there, the
# function runs again, on the tape, and the sweep goes on as if that had been there all the time:

# %%
quote(checkpoint, Stretch.unfold)


# %%
def chain(k):
    x = x0
    for start in range(0, n, k):
        x = checkpoint(lambda x, start=start: stretch(x, start, k))(x)
    (x * x).sum().backward()


peak, bits_of_library = measured(lambda: chain(8))
print(f"every 8th: {peak:.0f} activations, the same bits: {bits == bits_of_library}")

# %% [markdown]
# The second run must meet what the first one met, or its gradients are those of another function.
# What changes in between is refused, and dropout's bits are a function of the step and the place
# (not of a generator that has moved on), so that both runs drop the same elements.

# %%
x = Tensor(np.ones(3, np.float32), requires_grad=True, name="x")
y = checkpoint(lambda x: x * x)(x)
with no_grad():
    x += 1.0
try:
    y.sum().backward()
except AutogradError as error:
    print(textwrap.fill(str(error), 96))

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: what lives for ever.** AdamW keeps two averages for each weight. With $N$ weights
# in float32, how many bytes do weights, gradients and averages take together?

# %%
N = model.num_parameters()
prediction = 16 * N  # your number here

check(
    "bytes that live for ever",
    prediction,
    weights_bytes + gradient_bytes + moment_bytes,
    "B",
    within=0.01,
    miss="four numbers of four bytes for each weight: itself, its gradient, and two averages, of "
    "the gradient and of its square",
)

# %% [markdown]
# **Checkpoint 2: what a block keeps.** For every position, a block of width $C$ with $H$ heads
# keeps for the backward pass: of each norm its input and two numbers (mean and deviation); the
# input of each of the four products; $q$, $k$ and $v$, attention's output and one number per head
# (lesson 3); the input of GELU. Some of these are the same array: what comes out of attention goes
# into the next product. How many *numbers* per position is that?
#
# To find out what the step does, count the buffers that are made from the moment block 2 begins to
# the moment block 3 does, and that are still read when all blocks are done.

# %%
prediction = 4 * B * T * (16 * C + H + 4)  # your number here


def first_use(weight):
    """The first launch that touches this weight."""
    for number, launch in enumerate(plan.launches):
        fixed = [x.array for x in launch.operands if x is not None and x.buffer is None]
        if any(np.may_share_memory(array, weight.data) for array in fixed):
            return number
    raise AssertionError("no launch touches it")


begin, end = (first_use(model.blocks[i].norm_1.weight) for i in (1, 2))
done = first_use(model.norm.weight)
kept = [b for b in buffers if begin <= first[b] < end and last[b] > done]
check(
    "bytes that one block keeps",
    prediction,
    sum(b.size_bytes for b in kept),
    "B",
    miss="norms: 2 (C + 2). Inputs of products: C, C, C and 4C; the second of these is attention's "
    "output. q, k, v: 3C, and H. Input of GELU: 4C. In all 16C + H + 4.",
)

# %% [markdown]
# **Checkpoint 3: the summit.** The most is alive while the backward pass is inside the last block,
# behind its last product: all that all blocks keep; the gradient that came down the residual stream
# ($C$); and the gradient of GELU's output ($4C$), just made. So what is the bound, in bytes? (The
# product with the alphabet comes before, but an alphabet of 65 is small.)

# %%
prediction = 4 * B * T * (L * (16 * C + H + 4) + 5 * C)  # your number here

check(
    "the most that is alive",
    prediction,
    plan.memory.bound_bytes,
    "B",
    miss="look where the maximum is: plan.launches[alive(lives).argmax()]. With an alphabet of "
    "thousands the logits and their gradient, 2 V, make a summit of their own.",
)
check(
    "planned over bound",
    1.0,
    plan.memory.ratio,
    within=0.05,
    miss="the planner left holes: draw the arena and look for white between the rectangles",
)

# %% [markdown]
# **Checkpoint 4: how often to keep.** In the chain of $n = 64$ layers, keeping every $k$-th input
# needs $n / k$ of them, and $k$ activations for the stretch that is being done again, and two for
# the gradient on its way. For which $k$ is that least, and how many activations is it?

# %%
best_k = math.isqrt(n)  # your number here
prediction = n / best_k + best_k + 2  # your number here

peaks = {}
for k in (1, 2, 4, 8, 16, 32, 64):
    peaks[k], found = measured(lambda k=k: chain(k))
    assert found == bits
check("the best k", best_k, min(peaks, key=peaks.get), miss="n/k + k is least where both are equal")
check(
    "activations at that k",
    prediction,
    peaks[best_k],
    miss="the inputs kept, one stretch, and the gradient before and behind the layer at work",
)

# %% [markdown]
# $2 \sqrt{n}$ instead of $n$: a network four times as deep needs twice the memory.
#
# **Checkpoint 5: a block again.** A GPT's block is much fatter inside ($16C$) than where it is cut
# ($C$), so cut at every block. Then each keeps $C$; and while one is being done again it has all
# its $16C + H + 4$ (of which $C$ is the input, kept anyway). The summit is where it was. How many
# bytes?

# %%
prediction = 4 * B * T * (L * C + 15 * C + H + 4 + 5 * C)  # your number here

steps = {policy: training("gpt", policy) for policy in ("none", "selective", "block")}
plans = {policy: captured.plan for policy, (_, _, captured) in steps.items()}
check(
    "the most that is alive",
    prediction,
    plans["block"].memory.bound_bytes,
    "B",
    miss="L inputs, one block without its input, and the two gradients of checkpoint 3",
)

# %% [markdown]
# The middle policy, `selective`, keeps what is dear (products, attention) and does again what is
# cheap: norms and GELU. Its blocks keep $10C + H$. (Exercise 1 uses that.)
#
# **Checkpoint 6: what it costs.** A block's four products cost $24 C^2$ FLOP per position forward,
# and twice that backward; the last of them ($8 C^2$) is not done again, because nothing in the
# backward pass reads what comes out of it. Causal attention costs about $2 C T$ forward and
# $2.5$ times that backward; the alphabet $2 C V$ forward and twice that backward. By what factor
# does the arithmetic of the whole step grow if every block is done again?

# %%
again = L * (16 * C**2 + 2 * C * T)
once = L * (3 * 24 * C**2 + 3.5 * 2 * C * T) + 3 * 2 * C * V
prediction = 1 + again / once  # your number here

flops = {policy: plan.cost.flops for policy, plan in plans.items()}
check(
    "FLOP with recomputation over FLOP without",
    prediction,
    flops["block"] / flops["none"],
    within=0.02,
    miss="one more forward of everything would be 4/3. Less is done: only the blocks, and of them "
    "not the last product.",
)

# %% [markdown]
# ## Look
#
# First the mountain: the captured step's arena, as it was planned, without recomputation and with.

# %%
figure = arena_figure(plans["none"], "One step, everything kept")
show(
    figure,
    "Six blocks up, six blocks down; at the end the optimiser, which needs next to nothing. The "
    "rectangles are where the buffers lie, coloured by the kind of kernel that made them; the line "
    "is how much of them is alive. Nothing lies above the line's summit: the plan could not be "
    "smaller.",
)

# %%
figure = arena_figure(plans["block"], "The same step, every block done again")
figure.axes[0].set_ylim(0, plans["none"].memory.planned_bytes / 1e6 * 1.3)
show(
    figure,
    "The same scale. On the way up only a thin layer of each block stays. On the way down each "
    "block rises once more, by itself, and is taken down before the next one.",
)

# %% [markdown]
# Then memory against time, measured: the three policies in turns, so that a busy moment hits all of
# them alike, and the medians. First, that they do the same:

# %%
times = {policy: [] for policy in steps}
losses = {policy: [] for policy in steps}
for _ in range(9):
    for policy, (_, _, captured) in steps.items():
        start_s = time.perf_counter()
        loss = captured(inputs, targets)
        times[policy].append(time.perf_counter() - start_s)
        losses[policy].append(loss.item())
states = {
    policy: [array.tobytes() for array in model.state_dict().values()]
    for policy, (model, _, _) in steps.items()
}
print("ten steps, the same weights, bit for bit:", states["none"] == states["block"])
print("and the same losses:", losses["none"] == losses["selective"] == losses["block"], "\n")

median_s = {policy: statistics.median(each) for policy, each in times.items()}
rows = [
    (
        policy,
        format_bytes(plan.memory.planned_bytes),
        f"{plan.memory.planned_bytes / plans['none'].memory.planned_bytes:.2f}",
        f"{flops[policy] / flops['none']:.2f}",
        format_seconds(median_s[policy]),
        f"{median_s[policy] / median_s['none']:.2f}",
    )
    for policy, plan in plans.items()
]
print(table(rows, ["policy", "arena", "of none", "FLOP", "step", "time"]))

# %% [markdown]
# `baremetal inspect --compare-recompute` prints such a table for any model, and
# `baremetal train --recompute block` trains with it.
#
# Up and down many times, the brackets are broken, and now the order in which buffers are placed
# begins to matter. The Llama, every block done again:

# %%
llama_lives = lives_of(training("llama", "block")[2])
for name, rule in RULES.items():
    print(f"{name:<32} {rule(llama_lives) / lower_bound(llama_lives):.3f} times the bound")

# %% [markdown]
# Last, the chain: peak memory over $k$.

# %%
ks = [*peaks]
smooth = np.linspace(1, 64, 200)
show(
    line_figure(
        [
            Line("measured", ks, [peaks[k] for k in ks], markers=True),
            Line("n/k + k + 2", smooth, n / smooth + smooth + 2, dashed=True),
        ],
        "A chain of 64 layers, keeping every k-th input",
        x_label="k",
        y_label="peak memory in activations",
        log_x=True,
        references={"everything kept": all_kept},
        y_range=(0, 75),
    ),
    "Keep too many inputs, and they are the memory; keep too few, and the stretch that is done "
    "again is. The valley is flat: half or double the best k costs a fifth more.",
)

# %% [markdown]
# ## Exercises
#
# **1.** A GPT with $L = 80$, $C = 8192$, $H = 64$ reads sequences of 8,192 tokens, with activations
# in 16 bits. How many bytes do its blocks keep of one sequence under each policy? And would what
# lives for ever (16 bytes for each of $12 L C^2$ weights) fit on a GB300 with its 288 GB?

# %% tags=["answer"]
L_, C_, H_, T_ = 80, 8192, 64, 8192
numbers = {"none": 16 * C_ + H_ + 4, "selective": 10 * C_ + H_, "block": C_}
per_sequence = {policy: 2 * T_ * L_ * each for policy, each in numbers.items()}
for policy, size in per_sequence.items():
    print(f"{policy:<10} {format_bytes(size):>8} a sequence, {288e9 / size:5.1f} of them in 288 GB")
for_ever = 16 * 12 * L_ * C_**2
print(f"lives for ever: {format_bytes(for_ever)}, on {math.ceil(for_ever / 288e9)} GPUs at least")
assert per_sequence["none"] > 288e9 / 2 > per_sequence["selective"]
# With everything kept, one sequence is all that fits beside nothing else. (One block that is done
# again needs its 16 C besides, but for one block only.) That the weights' share does not fit on one
# GPU is why it is divided over many: a later lesson.

# %% [markdown]
# **2.** Cut the chain in two halves, put a checkpoint around each, and cut each half in two again,
# down to single layers. How does the memory grow with $n$, and how often is each layer computed?
# Predict both for $n = 64$, then count the launches of `tanh` and measure the peak.


# %% tags=["answer"]
def halves(x, start, count):
    if count == 1:
        return stretch(x, start, 1)
    half = count // 2
    middle = checkpoint(lambda x: halves(x, start, half))(x)
    return checkpoint(lambda x: halves(x, start + half, half))(middle)


def run_halves(count):
    x = halves(x0, 0, count)
    (x * x).sum().backward()


names = []


def note(run, kernel, arrays, attributes):
    names.append(kernel.name)
    run()


with CPU.listen(note):
    run_halves(n)
check(
    "launches of tanh",
    n * (1 + math.log2(n)),
    names.count("tanh"),
    miss="once forward, and once more at each of the log2(n) depths",
)
found = {}
for count in (4, 16, 64):
    for weight in weights:
        weight.zero_grad()
    before = CPU.memory.used_bytes
    CPU.memory.reset_peak()
    run_halves(count)
    found[count] = (CPU.memory.peak_bytes - before) / UNIT
print({count: f"{peak:.0f} activations" for count, peak in found.items()})
check(
    "four times the layers, more activations by",
    2,
    found[64] - found[16],
    miss="one more for each doubling: the middle of each stretch that we are inside of",
)
# Logarithmic memory for a logarithmic factor of time. Between this and sqrt(n) with one more
# forward lies every other compromise; revolve (2000) computes the best one for a given memory.

# %% [markdown]
# **3.** Find a case where *largest first* is not the best order. Let chance look for it: eight
# buffers, random sizes and lifetimes, until `plan_arena` (which tries other orders, too) is lower.

# %% tags=["answer"]
search = np.random.default_rng(0)
while True:
    starts, lengths = search.integers(0, 8, 8), search.integers(1, 5, 8)
    amounts = 64 * search.integers(1, 9, 8)
    drawn = zip(amounts.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    case = [Lifetime(size, start, start + length) for size, start, length in drawn]
    largest = place(case, largest_first(case), best_fit=True)[1]
    offsets, best = plan_arena(case)
    if best < largest:
        break
print(f"largest first {largest} B, plan_arena {best} B, the bound {lower_bound(case)} B")
for life, offset in sorted(zip(case, offsets, strict=True), key=lambda pair: pair[0].first):
    print(f"    {life.size_bytes:4} B, launches {life.first} to {life.last}: at {offset}")
# No order is best for all; trying five costs milliseconds, once.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public*: what the documentation of PyTorch, Megatron and NVIDIA says.
#
# | | here | a GB300 cluster |
# |---|---|---|
# | memory | what your machine has | 288 GB on each GPU |
# | who gives addresses | a plan, before the first step | mostly a caching allocator, at run time |
# | fragmentation | none: the plan is checked | happens; there are settings against it |
# | a plan beforehand | every captured step | CUDA graphs, from memory pools of their own |
# | what lives for ever | 16 bytes a weight, on one machine | divided over the GPUs (ZeRO) |
# | activations | float32 | 16 bits, and fewer where training survives it (lesson 7) |
# | recomputation | norms and GELU, or blocks | parts of a layer by name, or whole layers |
# | its price for whole layers | measured above | about 30 % more arithmetic in each |
# | and besides | nothing | layers divided over GPUs; activations moved to the CPU and back |
#
# ## Sources
#
# - A. Griewank, A. Walther, "Algorithm 799: revolve: an implementation of checkpointing for the
#   reverse or adjoint mode of computational differentiation", ACM TOMS 26(1), 2000.
# - T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv
#   1604.06174, 2016: the square root.
# - V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv
#   2205.05198, 2022: what a block keeps, and doing again only what is cheap.
# - Y. Pisarchyk, J. Lee, "Efficient Memory Management for Deep Neural Net Inference", arXiv
#   2001.03288, 2020: largest first, into the smallest gap.
# - M. Garey, D. Johnson, "Computers and Intractability", 1979: dynamic storage allocation is
#   problem SR2.
# - S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
#   SC 2020: 16 bytes for each weight, and how to divide them.
# - NVIDIA, Megatron Bridge documentation, "Activation Recomputation", read in November 2026: the
#   policies, and 30 % for whole layers.
# - PyTorch documentation, "CUDA semantics: memory management", read in November 2026.
# - NVIDIA, "Inside NVIDIA Blackwell Ultra: The Chip Powering the AI Factory Era", August 2025.

# %%
finish()
