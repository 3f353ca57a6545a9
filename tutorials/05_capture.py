# %% [markdown]
# # 5. Where do the microseconds go? Eager, replay, native, and JAX
#
# A small network is trained in steps of a third of a millisecond, and its arithmetic takes a
# hundredth of that. In this lesson you find out what the rest is, remove it, and then look where
# removing it matters and where it does not: against JAX and PyTorch, from 337 parameters to
# millions.

# %%
# introduces: baremetal.capture, baremetal.bench
import textwrap
from importlib.util import find_spec

import numpy as np
from lesson import agree, check, finish, quote, show, time_s  # tutorials/lesson.py, beside this
from numba import njit

from baremetal import nn, set_num_threads
from baremetal.autograd import CPU, AutogradError, Tensor
from baremetal.bench.machine import usable_cores
from baremetal.bench.overhead import reading
from baremetal.bench.overhead.launches import launches_text, measure_launches
from baremetal.bench.overhead.picture import curve_figure
from baremetal.bench.step.compare import compare_steps
from baremetal.bench.step.report import step_table
from baremetal.bench.step.sizes import find_size
from baremetal.bench.step.two_moons import MoonMLP, make_moons
from baremetal.capture import capture
from baremetal.capture.recording import Recording
from baremetal.capture.replay import Replay
from baremetal.kernels.native import pool
from baremetal.optim import SGD
from baremetal.trace import Line, format_bytes, format_seconds, line_figure, style, table

rng = np.random.default_rng(5)
F = np.float32
set_num_threads(1)  # as in lesson 4: takes the same time whatever else your machine does

# %% [markdown]
# ## What you will be able to do
#
# - Take a training step apart into arithmetic, calling, packing and everything else, by
#   measurement.
# - Build a capture from nothing: a list of calls, an arena, a table of words that compiled code
#   walks.
# - Predict what a captured step gains, from the number of its launches and its work; and read a
#   comparison with JAX without fooling yourself.

# %% [markdown]
# ## The idea
#
# A step is a list of $L$ *launches*: kernels that read some arrays and write others. Each has its
# work; and each costs something just for being launched. If that overhead is $o$ and all the work
# together takes $W$,
#
# $$ T = L \cdot o + W $$
#
# Python is slow at the first term: it finds out which operation comes next, what its shapes are,
# where its result should lie, and how to call it. But look at two steps of one training run. The
# operations are the same, in the same order, and so are the shapes. Nothing that Python found out
# in the first step is news in the second. So write it down once, and repeat what was written: that
# is **capture**. With $o'$ for the overhead that is left, it makes a step faster by
#
# $$ S = \frac{L \cdot o + W}{L \cdot o' + W} $$
#
# This is lesson 0's law (Amdahl, 1967) with a count in it. Draw it for a step of 30 launches:

# %%
work_s = np.logspace(-7, 0, 60)
lines = []
for label, before_s, after_s in (
    ("10 µs to 10 ns a launch", 30 * 10e-6, 30 * 10e-9),
    ("1 µs to 10 ns a launch", 30 * 1e-6, 30 * 10e-9),
    ("one call of 15 µs to one of 1 µs", 15e-6, 1e-6),
):
    speed_up = (before_s + work_s) / (after_s + work_s)
    lines.append(Line(label, 1e6 * work_s, speed_up, dashed=label.startswith("one call")))
show(
    line_figure(
        lines,
        "What removing overhead buys",
        x_label="work of one step, in µs",
        y_label="speed-up",
        log_x=True,
        log_y=True,
        references={"10x": 10.0},
    ),
    "Left, where there is no work to speak of, the ratio of the overheads; right, where a step "
    "takes longer than a few milliseconds, nothing. Between them lies one slope, along which "
    "every speed-up fades like 1 / W. (The names stand in the order of the lines.)",
)

# %% [markdown]
# The third line, the dashed one, is the one to think about. JAX compiles the whole step, so it has
# one call for all 30 launches: $L = 1$, with an $o$ of some ten microseconds. A claim of 10x
# against JAX is a claim about that one call.

# %% [markdown]
# ## Build it
#
# ### A step, taken apart
#
# The model is the one of A. Karpathy's micrograd demo: 2-16-16-1 with ReLU, 337 parameters, hinge
# loss, SGD, one point at a time. All of it is lesson 4's library.

# %%
quote(MoonMLP)


# %%
def step_of(model):
    """A function that does one training step of this model."""
    optimizer = SGD(model.parameters(), learning_rate=0.1)

    def training_step(points, labels):
        optimizer.zero_grad()
        loss = model.loss(Tensor(points), Tensor(labels))
        loss.backward()
        optimizer.step()
        return loss

    return training_step


model = MoonMLP((2, 16, 16, 1), rng=np.random.default_rng(0))
training_step = step_of(model)
points, labels = make_moons(100, rng)
one = points[:1], labels[:1]

eager_s = time_s(lambda: training_step(*one))
flops = find_size("micro").flops_per_step
print(f"{flops} FLOP in {format_seconds(eager_s)}: {flops / eager_s / 1e6:.0f} MFLOP/s")

# %% [markdown]
# A processor core does thousands of times that. Everything goes through one door
# (`Device.launch`), so put a listener there and keep what passes:

# %%
launches = []


def keep(run, kernel, arrays, attributes):
    run()
    launches.append((kernel, arrays, attributes))


with CPU.listen(keep):
    training_step(*one)
names = " ".join(kernel.name for kernel, _, _ in launches)
print(textwrap.fill(f"{len(launches)} launches: {names}", 96))

# %% [markdown]
# Now do parts of the step by themselves. *Packing* turns a launch's arrays and numbers into an
# address and a block of words, which is what compiled code takes. *Running* packed launches is what
# remains if that was done before.

# %%


def pack_all():
    return [kernel.pack(*arrays, **attributes) for kernel, arrays, attributes in launches]


packed = [launch for each in pack_all() for launch in each]


def run_all():
    for launch in packed:
        launch.run()


pack_s, run_s = time_s(pack_all), time_s(run_all)
rest_s = eager_s - pack_s - run_s
for what, seconds in (
    ("tape, modules, memory, versions", rest_s),
    ("packing arguments", pack_s),
    ("running packed launches from Python", run_s),
):
    print(f"{what:<36} {format_seconds(seconds):>8}  {seconds / eager_s:4.0%}")

# %% [markdown]
# Typically more than half is the tape and the modules, more than a third is packing, and all
# kernels together, called from Python, are less than a tenth. Neither of the first two is needed
# twice.
#
# ### A list, written at the door
#
# Build it yourself, with nothing but NumPy. A smaller step, with one hidden layer and the gradients
# by hand. Its kernels write into arrays that are given to them; and all of them, and all memory, go
# through a door.


# %%
def product(a, b, out):
    np.matmul(a, b, out=out)


def product_tn(a, b, out):  # aᵀ b
    np.matmul(a.T, b, out=out)


def product_nt(a, b, out):  # a bᵀ
    np.matmul(a, b.T, out=out)


def relu(x, out):
    np.maximum(x, 0, out=out)


def relu_backward(x, grad, out):
    np.multiply(grad, x > 0, out=out)


def hinge_backward(score, label, out):  # of mean(max(0, 1 - label score))
    np.multiply(label, label * score < 1, out=out)
    np.multiply(out, F(-1 / len(label)), out=out)


def descend(grad, weight):
    np.subtract(weight, F(0.1) * grad, out=weight)


class Door:
    """All launches and all memory go through here; `written` is the list, if somebody wants one."""

    written = None

    def launch(self, kernel, *arrays):
        kernel(*arrays)
        if self.written is not None:
            self.written.append((kernel, arrays))

    def empty(self, *shape):
        return np.empty(shape, F)


def hand_step(door, x, y, w1, w2):
    """x (B, 2), y (B, 1), w1 (2, 16), w2 (16, 1)."""
    batch, width = len(x), w1.shape[1]
    hidden, active = door.empty(batch, width), door.empty(batch, width)
    score, d_score = door.empty(batch, 1), door.empty(batch, 1)
    d_active, d_hidden = door.empty(batch, width), door.empty(batch, width)
    d_w1, d_w2 = door.empty(*w1.shape), door.empty(*w2.shape)
    door.launch(product, x, w1, hidden)
    door.launch(relu, hidden, active)
    door.launch(product, active, w2, score)
    door.launch(hinge_backward, score, y, d_score)
    door.launch(product_tn, active, d_score, d_w2)
    door.launch(product_nt, d_score, w2, d_active)
    door.launch(relu_backward, hidden, d_active, d_hidden)
    door.launch(product_tn, x, d_hidden, d_w1)
    door.launch(descend, d_w1, w1)
    door.launch(descend, d_w2, w2)


def start_weights():
    rng = np.random.default_rng(7)
    return rng.standard_normal((2, 16), dtype=F), rng.standard_normal((16, 1), dtype=F) / 4


# %% [markdown]
# Recording is running it once with a list at the door. The arrays in the list are those that the
# recorded step used: who replays it with new data must put these *into* them.


# %%
def record(door, x, y, w1, w2):
    """Run the step once on arrays of our own; return them and the list."""
    own = [door.empty(*array.shape) for array in (x, y, w1, w2)]
    for ours, given in zip(own, (x, y, w1, w2), strict=True):
        ours[...] = given
    door.written = []
    hand_step(door, *own)
    return own, door.written


def replay(written):
    for kernel, arrays in written:
        kernel(*arrays)


eager = start_weights()
(x, y, *captured), written = record(Door(), *one, *start_weights())
hand_step(Door(), *one, *eager)
for number in range(1, 50):
    batch = points[number : number + 1], labels[number : number + 1]
    hand_step(Door(), *batch, *eager)
    x[...], y[...] = batch
    replay(written)
print("the same bits:", all(np.array_equal(a, b) for a, b in zip(eager, captured, strict=True)))
hand_s = time_s(lambda: hand_step(Door(), *one, *eager))
list_s = time_s(lambda: replay(written))
print(f"through the function {format_seconds(hand_s)}, from the list {format_seconds(list_s)}")

# %% [markdown]
# Equal to the last bit after fifty steps; but only a little faster. Our door had no tape, and NumPy
# finds out types and shapes anew in every call. Writing down *what* is called is not enough. One
# must write down what the call comes to.
#
# ### An arena
#
# First the memory. If every array lies in one block, an array is a number: where it begins. This
# door hands out one piece after the other. (Most of them could share, since few live at the same
# time. That is lesson 6.)


# %%
class ArenaDoor(Door):
    def __init__(self, numbers):
        self.memory, self.used = np.zeros(numbers, F), 0

    def empty(self, *shape):
        start, self.used = self.used, self.used + int(np.prod(shape))
        return self.memory[start : self.used].reshape(shape)

    def place_of(self, array):
        return (array.ctypes.data - self.memory.ctypes.data) // 4


# %% [markdown]
# ### A table of words
#
# Now a launch is seven whole numbers: which kernel, where its operands begin, and three sizes. The
# whole step is a table of them, and a compiled loop goes down it. (A GPU's driver does the same
# with the launches that a program queues.)


# %%
CODES = {
    kernel: code
    for code, kernel in enumerate(
        (product, product_tn, product_nt, relu, relu_backward, hinge_backward, descend)
    )
}


def row_of(door, kernel, arrays):
    """(7,) words: kernel, places of up to three operands, rows m, inner k, columns n."""
    places = [door.place_of(array) for array in arrays] + [0]
    m, n = arrays[-1].shape
    k = arrays[0].shape[0] if kernel is product_tn else arrays[0].shape[1]
    return [CODES[kernel], *places[:3], m, k, n]


def table_of(door, written):
    return np.array([row_of(door, *launch) for launch in written], np.int64)


@njit(error_model="numpy")
def multiply(memory, a, b, out, m, k, n, a_row, a_in, b_in, b_col):
    for i in range(m):
        for j in range(n):
            total = F(0)
            for p in range(k):
                total += memory[a + i * a_row + p * a_in] * memory[b + p * b_in + j * b_col]
            memory[out + i * n + j] = total


@njit(error_model="numpy")
def walk(table, memory):
    for row in range(len(table)):
        code, a, b, out = table[row, 0], table[row, 1], table[row, 2], table[row, 3]
        m, k, n = table[row, 4], table[row, 5], table[row, 6]
        if code == 0:  # product: a (m, k), b (k, n)
            multiply(memory, a, b, out, m, k, n, k, 1, n, 1)
        elif code == 1:  # product_tn: a (k, m), b (k, n)
            multiply(memory, a, b, out, m, k, n, 1, m, n, 1)
        elif code == 2:  # product_nt: a (m, k), b (n, k)
            multiply(memory, a, b, out, m, k, n, k, 1, 1, k)
        elif code == 3:  # relu
            for i in range(m * n):
                memory[b + i] = max(memory[a + i], F(0))
        elif code == 4:  # relu_backward
            for i in range(m * n):
                memory[out + i] = memory[b + i] if memory[a + i] > 0 else F(0)
        elif code == 5:  # hinge_backward
            for i in range(m * n):
                inside = memory[b + i] * memory[a + i] < 1
                memory[out + i] = -memory[b + i] / F(m) if inside else F(0)
        else:  # descend
            for i in range(m * n):
                memory[b + i] -= F(0.1) * memory[a + i]


def capture_by_hand(batch):
    """The step for this batch as a table: (door, its own four arrays, table)."""
    door = ArenaDoor(100_000)
    own, written = record(door, *batch, *start_weights())
    return door, own, table_of(door, written)


door, (x, y, *walked), words = capture_by_hand(one)
print(words)
for number in range(1, 50):
    x[...], y[...] = points[number : number + 1], labels[number : number + 1]
    walk(words, door.memory)
agree("w1 after fifty steps, table and NumPy", walked[0], eager[0], rtol=1e-4)
walk_s = time_s(lambda: walk(words, door.memory))
print(f"the same step, walked: {format_seconds(walk_s)}, {list_s / walk_s:.0f} times faster")

# %% [markdown]
# There it is. (They agree up to rounding only: our products add in another order than BLAS.) This
# is the whole trick, and the library's differs from it in three things: its table holds the
# *addresses* of compiled kernels where yours holds codes, so that a new kernel needs no new branch;
# it records what lives when, and lets buffers share; and its kernels are lesson 2's, with threads.
# Here are its door, and its walk:

# %%
quote(Recording.launch, pool._drive_all)

# %% [markdown]
# Same bits, for the step that we took apart:

# %%
step = capture(training_step)
first = {name: array.copy() for name, array in model.state_dict().items()}


def train(run, steps=200):
    """Start from the same weights, do some steps, return all losses."""
    model.load_state_dict(first)
    return [
        run(points[i % 100 : i % 100 + 1], labels[i % 100 : i % 100 + 1]).data.item()
        for i in range(steps)
    ]


by_hand, replayed = train(training_step), train(step)
check(
    "losses that are equal to the last bit",
    200,
    sum(a == b for a, b in zip(by_hand, replayed, strict=True)),
    miss="something in the step is not in the plan: state made in the step, a number frozen",
)
replay_s = time_s(lambda: step(*one))
print(f"eager {format_seconds(eager_s)}, replayed {format_seconds(replay_s)}")

# %% [markdown]
# The plan is plain data. Each line: the kernel, its cost, and where its operands lie. `@` is a
# place in the arena, by its first byte; `fixed` lives before and after the step (weights, inputs);
# `kept` is a result that the caller is given.

# %%
print(step.plan.text())

# %% [markdown]
# ### Native: no table either
#
# The table has no open question left, so it can be written out as a program, as one would have
# written it in C, and be compiled as a whole. Small kernels are compiled into their place.

# %%
native = capture(training_step, level="native", named=model.state_dict)
natively = train(native)
agree("losses, native and eager", natively, by_hand, rtol=1e-4, atol=1e-6)
native_s = time_s(lambda: native(*one))
print(f"native {format_seconds(native_s)}: {eager_s / native_s:.0f} times faster than eager")
program = native.source.splitlines()
at = next(i for i, line in enumerate(program) if line.startswith("def step"))
end = max(i for i in range(at, at + 40) if not program[i])  # where a launch ends
print(f"\nlines {at + 1} to {end} of {len(program)}:\n")
print("\n".join(program[at:end]))

# %% [markdown]
# A comment says which launch it is. Then come names for the addresses of its operands, and the
# call: from which item to which, and lesson 2's block of words, addresses first, then sizes. The
# head of the file (`print(native.source)`) says what each kernel does and what its words are.
#
# A good part of what is left is no longer the step but the call: two arrays are checked and copied
# in.
#
# ### Fewer launches
#
# Since all launches are known, one can look at two of them at once. If one writes rows that the
# next one reads row by row (a residual sum and the norm behind it), both can be done for a few rows
# before going on to the next few: what the first has written is then still in the cache, and need
# not come back from memory. That is *fusion*. The MLP has nothing to fuse; lesson 4's GPT has:


# %%
def gpt_step(fuse):
    """A captured training step of a GPT with two blocks; returns its plan and its losses."""
    config = nn.GPTConfig(vocab_size=65, context=64, layers=2, heads=4, width=128)
    gpt = nn.GPT(config, rng=np.random.default_rng(0))
    optimizer = SGD(gpt.parameters(), learning_rate=0.1)

    def one_step(inputs, targets):
        optimizer.zero_grad()
        loss = gpt.loss(inputs, targets)
        loss.backward()
        optimizer.step()
        return loss

    windows = np.random.default_rng(1).integers(0, 65, (8, 65))
    captured = capture(one_step, fuse=fuse)
    losses = [captured(windows[:, :-1], windows[:, 1:]).item() for _ in range(5)]
    return captured.plan, losses


apart, losses_apart = gpt_step(fuse=False)
fused, losses_fused = gpt_step(fuse=True)
for what, plan in (("apart", apart), ("fused", fused)):
    moved = format_bytes(plan.cost.size_bytes)
    print(f"{what}: {len(plan.launches)} launches that move {moved}")
print("the same losses, bit for bit:", losses_apart == losses_fused, "\n")
print("\n".join(fused.text().splitlines()[1:4]))

# %% [markdown]
# In the plan such launches are one, with a name made of theirs (`add_layer_norm`); in the generated
# program they are one call of a body named `STAGES`, whose words list the bodies that it goes
# through. Those are the same as before, so the bits are, too. `baremetal inspect` writes the
# program of any GPT or Llama into a file, `step.py`, with its plan and its pictures beside it, and
# `baremetal inspect --compare-fusions` times the step with and without each fusion.

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: the arena.** How many bytes does your arena take for a batch of 100? Count: the
# inputs $(100, 2)$ and $(100, 1)$, the weights and their gradients, four arrays of $(100, 16)$ and
# two of $(100, 1)$.

# %%
prediction = 4 * (100 * (2 + 1) + 2 * (2 * 16 + 16) + 4 * 100 * 16 + 2 * 100)  # your number here

door_100, _, words_100 = capture_by_hand((points, labels))
check(
    "bytes of the arena",
    prediction,
    4 * door_100.used,
    "B",
    miss="an array was forgotten, or counted twice: print(words_100) shows where each begins",
)

# %% [markdown]
# **Checkpoint 2: T = L o + W.** In your table's step, the work grows with the batch, the overhead
# does not: $T(B) = a + b B$. Measure $T(1)$ and $T(1000)$. What is $T(100)$?

# %%


def walk_time_s(batch):
    big = make_moons(batch, np.random.default_rng(1))
    door, _, words = capture_by_hand(big)
    return time_s(lambda: walk(words, door.memory))


t_1, t_1000 = walk_time_s(1), walk_time_s(1000)
prediction = t_1 + (t_1000 - t_1) * 99 / 999  # your number here

check(
    "the walk for a batch of 100",
    prediction * 1e6,
    walk_time_s(100) * 1e6,
    "µs",
    factor=1.4,
    timed=True,
    miss="1,000 rows no longer fit the innermost cache, or the machine was busy. (Loops over one "
    "row are so short that they are never vectorised; then T(1) is more than its share.)",
)

# %% [markdown]
# **Checkpoint 3: a hundred times the work.** The eager step of the library, with 100 points instead
# of one. You know how long both take when replayed. What does $T = L \cdot o + W$ say about the
# eager one?

# %%
step_100 = capture(training_step)
step_100(points, labels)
replay_100_s = time_s(lambda: step_100(points, labels))
prediction = eager_s + (replay_100_s - replay_s)  # your number here

eager_100_s = time_s(lambda: training_step(points, labels))
check(
    "an eager step of 100 points",
    prediction * 1e6,
    eager_100_s * 1e6,
    "µs",
    factor=1.3,
    timed=True,
    miss="the overhead of a launch is not the same for both batches: other kernels, or the machine "
    "was busy during one of the measurements",
)

# %% [markdown]
# And what share of that step, in percent, is overhead that replaying removes?

# %%
prediction = 100 * (eager_s - replay_s) / (eager_s - replay_s + replay_100_s)  # your number here

check(
    "overhead of the eager step of 100 points",
    prediction,
    100 * (1 - replay_100_s / eager_100_s),
    "%",
    within=0.02,
    timed=True,
    miss="the machine was busy during one of the measurements",
)

# %% [markdown]
# A hundred times the arithmetic, and almost the same time. On the left of the picture work is free.
#
# **Checkpoint 4: a deeper network.** From the MLP you know what a launch costs eagerly,
# $o = (T_{eager} - T_{replay}) / L$. Here is one with nine hidden layers instead of two. You may
# look at its plan, and at the time of its replay. How long does its eager step take?

# %%
deep_step = step_of(MoonMLP((2, *[16] * 9, 1), rng=np.random.default_rng(0)))
deep = capture(deep_step)
deep(*one)
deep_replay_s = time_s(lambda: deep(*one))
o_s = (eager_s - replay_s) / len(step.plan.launches)
prediction = deep_replay_s + len(deep.plan.launches) * o_s  # your number here

print(f"{len(deep.plan.launches)} launches at {format_seconds(o_s)}")
check(
    "an eager step of the deep network",
    prediction * 1e6,
    time_s(lambda: deep_step(*one)) * 1e6,
    "µs",
    factor=1.3,
    timed=True,
    miss="the launches of the layers that were added are not like the average of those of the "
    "first network (a product packs more arguments than a ReLU), or the machine was busy",
)

# %% [markdown]
# So it is the *number of launches* that an eager framework pays for. A hundred times the points
# cost next to nothing; seven more layers of sixteen numbers make the step two to three times as
# long.

# %% [markdown]
# ## Look
#
# Where the microseconds go, in one step of the MLP:

# %%
table_s = time_s(Replay(step.plan).run)
call_s = replay_s - table_s  # what the call of a captured step costs; a native one's is the same
parts = {  # seconds in: compiled code, calling it from Python, packing, tape and modules
    "eager": (table_s, run_s - table_s, pack_s, rest_s),
    "launch by launch": (table_s, run_s - table_s, 0, 0),
    "replay": (table_s, call_s, 0, 0),
    "native": (max(native_s - call_s, 0), call_s, 0, 0),
}
names = ("compiled code", "calling it", "packing", "tape, modules, memory")
figure, axes = style.new_figure(height_in=3.0)
done = np.zeros(len(parts))
totals_s = np.array([sum(seconds) for seconds in parts.values()])
for number, name in enumerate(names):
    share = 100 * np.array([seconds[number] for seconds in parts.values()]) / totals_s
    axes.barh([*parts], share, left=done, color=style.colour(number), label=name)
    done += share
for row, total_s in enumerate(totals_s):
    axes.text(101, row, format_seconds(total_s), va="center", fontsize=style.SMALL_PT)
axes.invert_yaxis()
axes.legend(fontsize=style.SMALL_PT, frameon=False, loc="lower center", ncols=4,
            bbox_to_anchor=(0.45, 1.12))  # fmt: skip
style.caption(axes, "Where one step of the MLP spends its time", "percent of the step", "")
show(
    figure,
    "Each bar is one step, whose time stands at its right; the colours say where it goes. From bar "
    "to bar the time falls: first goes what Python decided, then its calls. What remains is the "
    "kernels, and one call for all of them.",
)

# %% [markdown]
# What one launch costs in each of these ways, when it has nothing to compute at all:

# %%
print(launches_text(measure_launches(200)))

# %% [markdown]
# ### And JAX?
#
# JAX runs the Python of a step once, too, and compiles what it saw. Then it calls the result once
# for each step. So its overhead is that one call: look up the program, check the arguments (weights
# and moments are arguments), hand the buffers over, make the new arrays. At its very best it does
# many steps in one call, with `lax.scan`; nobody writes a training loop so, because somebody wants
# to see the loss, to evaluate and to stop, but it shows what is left when no call is paid.

# %%
curve = reading.load_curve(reading.RECORDED)
if find_spec("jax"):
    print("JAX is installed here, so this is measured now, on this machine:\n")
    micro = compare_steps(
        find_size("micro"),
        ["baremetal.replay", "jax", "jax.scan"],
        rounds=3,
        threads=usable_cores(),
    )
else:
    print(f"JAX is not installed here: this was recorded on {curve['date']}, on the machine named")
    print("below the table. To measure it anew: pip install 'baremetal[peers]', then this cell, or")
    print("baremetal bench step --model micro --against baremetal.replay,jax,jax.scan\n")
    micro = {**curve["models"][0], "machine": curve["machine"]}
print(step_table(micro))

# %% [markdown]
# Read the last row first: there JAX wins. In a scan it needs about a microsecond for the step, less
# than ours takes, which is called each time: what JAX compiled is as lean as anybody's. What takes
# many times as long is calling it. So say it precisely: *against a jitted step called in a loop, as
# training loops are written*.
#
# Now all sizes, with PyTorch. This is always the recorded run.

# %%
if curve["note"]:
    print(f"({curve['note']}; {curve['date']}, {curve['machine']['processor']})\n")
peers = [name for name in reading.contenders(curve) if not name.startswith("baremetal")]
rows = [
    [result["model"], f"{result['flops_per_step']:.1e}"]
    + [
        "-" if (ratio := reading.speed_up(curve, result, name)) is None else f"{ratio:.1f}x"
        for name in peers
    ]
    for result in curve["models"]
]
print(f"time of a step over that of {reading.OURS}\n")
print(table(rows, ["model", "FLOP a step", *peers]))
show(
    curve_figure(curve),
    "Above, the steps themselves: where a line is level, the fixed cost is all there is. In the "
    "middle the slope of the first picture of this lesson, now measured: far apart on the left, "
    "close together on the right, where all wait for the same matrix products. Below, how much of "
    "the rate of those each reaches.",
)
print(
    "renew it: baremetal bench overhead --save FILE; read it: baremetal bench overhead --from FILE"
)

# %% [markdown]
# Amdahl's reading of the same curve: fit $T = \text{fixed} + \text{FLOP} / \text{rate}$ to each
# contender, so that every size counts alike, with a rate that may rise with the size, for small
# matrices are slower per FLOP than large ones (`baremetal/bench/overhead/amdahl.py`).

# %%
fits = reading.fits(curve)
rows = [
    [fit["name"], format_seconds(fit["fixed_s"]), " ".join(f"{r:.2f}" for r in fit["residuals"])]
    for fit in fits
]
print(table(rows, ["contender", "fixed cost of a step", "measured over fitted, by size"]))

# %% [markdown]
# So where is 10x real? Where the work of a step is less than about a ninth of the fixed cost that
# was removed: networks of some hundred parameters, a robot's controller, the step of an inner
# loop. Where does it fade? As soon as the arithmetic takes longer than the call. Where a ratio
# stays above 1 on the right, it is not overhead that makes it: it is other kernels, fewer passes
# over memory, better use of the threads, and the lowest panel says how much of that is left for
# anybody. A step of a large language model lasts seconds, on thousands of chips. Ten microseconds
# of calling are nothing there; if an order of magnitude is to be found, it is not this one.

# %% [markdown]
# ## Exercises
#
# **1.** Suppose that the next version of JAX halves the fixed cost of its step. What becomes of the
# ratio to our step, for each size of the recorded run? For which of them would you notice?

# %% tags=["answer"]
jax_fit = next(fit for fit in fits if fit["name"] == "jax")
for result in curve["models"]:
    own_s, jax_s = (reading.step_s(result, name) for name in (reading.OURS, "jax"))
    saved_s = min(jax_fit["fixed_s"], jax_s) / 2
    faster = (jax_s - saved_s) / own_s
    print(f"{result['model']:<10} {jax_s / own_s:5.2f}x becomes {faster:5.2f}x")
    if result["model"] == "medium":
        assert saved_s / jax_s < 0.01  # nobody would
# On the left nearly half is gone; from the small GPT on the change is in the third digit.

# %% [markdown]
# **2.** What Python does in a captured function happens once. Capture a function that multiplies
# its input by noise which NumPy draws *inside*, and call it three times. Then do it right. And what
# happens if the function looks at a value: `if y.sum() > 0`?


# %% tags=["answer"]
def noisy(x):
    return Tensor(x) * Tensor(np.random.default_rng().random(3, dtype=F))


def noisy_from_outside(x, noise):
    return Tensor(x) * Tensor(noise)


ones = np.ones(3, F)
frozen = capture(noisy)
results = [frozen(ones).data.copy() for _ in range(3)]
print("drawn inside: ", *results)
assert np.array_equal(results[0], results[2])  # the first noise for ever, and nobody warned you

right = capture(noisy_from_outside)
results = [right(ones, rng.random(3, dtype=F)).data.copy() for _ in range(3)]
print("from outside: ", *results)
assert not np.array_equal(results[0], results[2])


def branching(x):
    y = Tensor(x) * 2.0
    return y if float(y.sum()) > 0 else -y


try:
    capture(branching)(ones)
except AutogradError as error:
    print("a branch:", error)
else:
    raise AssertionError("a value was read while the step was recorded")
# (The library's dropout needs no noise from outside: its kernel computes its bits from a step
# number that lies in a buffer, and a number in a buffer is not frozen.)

# %% [markdown]
# **3.** Write your own scan: a compiled function that is given *all* batches, and for each of them
# copies it to where the step's inputs lie and walks the table. Is a step in it cheaper than one
# that is called from Python? By how much, and why is it not many times cheaper, as it is for JAX?


# %% tags=["answer"]
@njit(error_model="numpy")
def scan(table, memory, x_at, y_at, all_x, all_y):
    for number in range(len(all_x)):
        memory[x_at] = all_x[number, 0]
        memory[x_at + 1] = all_x[number, 1]
        memory[y_at] = all_y[number, 0]
        walk(table, memory)


def called(steps):
    """The same from Python, for steps 0 .. steps - 1; returns the weights."""
    door, (x, y, *weights), words = capture_by_hand(one)
    for number in range(steps):
        x[...], y[...] = points[number : number + 1], labels[number : number + 1]
        walk(words, door.memory)
    return weights


door, (x, y, *scanned), words = capture_by_hand(one)
x_at, y_at = door.place_of(x), door.place_of(y)
scan(words, door.memory, x_at, y_at, points, labels)
for a, b in zip(scanned, called(100), strict=True):
    assert np.array_equal(a, b)


def loop():
    for number in range(100):
        x[...], y[...] = points[number : number + 1], labels[number : number + 1]
        walk(words, door.memory)


scan_s = time_s(lambda: scan(words, door.memory, x_at, y_at, points, labels)) / 100
loop_s = time_s(loop) / 100
print(f"called {format_seconds(loop_s)} a step, scanned {format_seconds(scan_s)}")
# What it saves is Python's two copies and one call: about a microsecond, because that is all that
# there is between two steps here. In JAX's call there are some ten of them to be saved.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (NVIDIA's and JAX's own pages); what a stack in C would do instead is
# *claimed* only.
#
# | | here | GB300 cluster |
# |---|---|---|
# | a launch | compiled code is called: nanoseconds | driver and queue: microseconds |
# | capture | the list at one door | CUDA graphs: a stream is recorded, then launched whole |
# | a launch in a replay | a row of the table: some ten nanoseconds | about as little on the CPU |
# | who waits | the caller does the work itself | the host runs ahead, and hides its overhead |
# | a changed shape | refused, by name | capture or compile again, or pad |
# | steps in one call | your scan | `lax.scan`, or several steps in one graph |
# | communication | none in this lesson | collectives are launches, and part of the graph |
# | one step | microseconds to a second | seconds, on thousands of GPUs |
#
# ## Sources
#
# - G. Amdahl, "Validity of the single processor approach to achieving large scale computing
#   capabilities", AFIPS 1967.
# - A. Karpathy, micrograd, 2020 (https://github.com/karpathy/micrograd): the MLP and the moons.
# - A. Gray, "Getting Started with CUDA Graphs", NVIDIA Technical Blog, September 2019.
# - NVIDIA, "Constant Time Launch for Straight-Line CUDA Graphs and Other Performance Enhancements",
#   NVIDIA Technical Blog, 2024.
# - R. Frostig, M. Johnson, C. Leary, "Compiling machine learning programs via high-level tracing",
#   SysML 2018 (JAX); JAX documentation, "Asynchronous dispatch", read in November 2026.

# %%
finish()
