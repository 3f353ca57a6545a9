# %% [markdown]
# # 9. Pipelines I: microbatches, GPipe, the bubble
#
# A model too large for one GPU is cut into stages, one for each. That is easy. Keeping more than
# one of them busy is not: stage 1 has nothing to do before stage 0 is done. Here you cut the batch,
# too, find out exactly how much time is still lost, prove that the gradients have not changed, and
# see what it costs in memory.

# %%
# introduces: baremetal.schedules, baremetal.pipeline
import numpy as np
from lesson import agree, check, finish, quote, show  # tutorials/lesson.py, beside this file

from baremetal import nn, optim
from baremetal.autograd import CPU, Parameter, Tensor
from baremetal.machine import find_link
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import parts_of_stages
from baremetal.pipeline.passage import Passage
from baremetal.pipeline.runner import cut_batch
from baremetal.schedules import Kind, make_schedule
from baremetal.schedules.gpipe import gpipe
from baremetal.schedules.picture import comparison_figure, schedule_figure
from baremetal.schedules.reference import play_slowly
from baremetal.schedules.report import UNITS
from baremetal.schedules.simulate import simulate
from baremetal.schedules.terminal import draw_text
from baremetal.schedules.times import Times
from baremetal.trace import Line, format_bytes, format_percent, line_figure, style

rng = np.random.default_rng(9)
MS = 10**9  # ps

# %% [markdown]
# ## What you will be able to do
#
# - Say how long a step of a GPipe pipeline takes, from stages, microbatches and two times; and
#   which share of it is lost.
# - Build a simulator of pipelines in ten lines, and one with real gradients in twenty more.
# - Say why the loss is divided by the tokens of the whole batch, and what a pipeline costs in
#   memory.

# %% [markdown]
# ## The idea
#
# A model of $p$ stages, one on each *rank* (a GPU, a process). A batch comes in. Rank 0 does its
# forward, F, and sends its activations to rank 1; and so on to the last, which has the loss. Then
# the gradient comes all the way back: backward, B, on the last rank first. At every moment one rank
# works and $p - 1$ wait. All that was gained is room.
#
# So cut the batch into $m$ *microbatches*, and send them in one behind the other. While rank 1 has
# the first, rank 0 has the second. When all forwards are through, all backwards follow. That is
# **GPipe** (Huang et al., 2019). Let F and B be the times for one microbatch on one rank. The last
# rank begins $p - 1$ forwards late, does $m$ of each, and is done $p - 1$ backwards before rank 0:
#
# $$ T = (m + p - 1)(F + B) $$
#
# Of that, each rank works for $m (F + B)$. The rest is the **bubble**. Two fractions are in use,
# and people mix them up. Of the whole time, and compared with the time that is needed:
#
# $$ \text{of the whole} = \frac{p - 1}{m + p - 1}, \qquad
#    \text{over ideal} = \frac{p - 1}{m} $$
#
# The same batch on four ranks, in one piece, in four, and in sixteen:

# %%
timelines = []
for m in (1, 4, 16):
    work = 48 * MS // m  # a batch's forward on one rank takes 48 ms, its backward twice that
    schedule = make_schedule("gpipe", 4, m)
    timelines.append(simulate(schedule, Times.uniform(4, work, work, work)))
show(
    comparison_figure(timelines),
    "Time goes to the right, a row is a rank, a box with number k is microbatch k. Above, in one "
    "piece, three quarters of the area are empty. The same work in four pieces takes less than "
    "half the time; in sixteen, little more than the work itself.",
)

# %% [markdown]
# ## Build it
#
# ### A simulator in ten lines
#
# An *action* is a kind of work, for one microbatch, on one stage. A *schedule* is nothing but the
# order in which each rank does its actions. It says no times: these follow. An action begins when
# its rank is free and what it needs has been done. And this is what it needs:


# %%
def needs(action, p):
    """The actions whose results this one needs."""
    kind, stage, k = action
    if kind == "F":
        return [("F", stage - 1, k)] if stage else []
    return [("F", stage, k)] + ([("B", stage + 1, k)] if stage < p - 1 else [])


def gpipe_by_hand(p, m):
    """For each rank its actions, in their order."""
    return [[(kind, rank, k) for kind in "FB" for k in range(m)] for rank in range(p)]


def play(ranks, time):
    """When each action ends; `time` is by kind."""
    p, end, free = len(ranks), {}, [0] * len(ranks)
    todo = [list(actions) for actions in ranks]
    while any(todo):
        for rank, actions in enumerate(todo):
            while actions and all(each in end for each in needs(actions[0], p)):
                action = actions.pop(0)
                start = max([free[rank], *(end[each] for each in needs(action, p))])
                end[action] = free[rank] = start + time[action[0]]
    return end


def draw(end, time):
    """A line for each rank; a column is one unit of time."""
    for rank in range(1 + max(stage for _, stage, _ in end)):
        line = ["."] * max(end.values())
        for (kind, stage, k), t in end.items():
            if stage == rank:
                line[t - time[kind] : t] = str(k) * time[kind]
        print(f"rank {rank}  {''.join(line)}")


time = {"F": 1, "B": 2}
end = play(gpipe_by_hand(4, 4), time)
draw(end, time)

# %% [markdown]
# A forward is one column wide, a backward two. Not every order works: if rank 1 began with the
# backward of microbatch 0, it would wait for its own forward, which stands behind it in its list,
# all others would wait for rank 1, and `play` would go round for ever. That is a *deadlock*; in
# lesson 12 ranks wait in a circle, and you find the cause.
#
# ### The library's
#
# Its schedules are the same plain data, made by a function each. Its rules are yours, with links
# and buffers in them, and a compiled loop for when there are many actions:

# %%
quote(gpipe)
schedule = make_schedule("gpipe", 4, 4)
print(schedule)
timeline = simulate(schedule, Times.uniform(4, 1 * MS, 1 * MS, 1 * MS))
print()
print(draw_text(timeline, unit=UNITS))

# %% [markdown]
# `2F0` is the forward of stage 2 for microbatch 0, as PyTorch writes it, too. Of the three times
# the first is F; B is the sum of the two others. (A backward computes two things, which lesson 11
# takes apart: the gradient of its input, and that of its weights.) The library's rules in Python,
# to be read, are in `schedules/reference.py`. Does everything end at the same time in all three?

# %%
for p, m in ((2, 1), (4, 4), (5, 9), (8, 3)):
    ours = play(gpipe_by_hand(p, m), {"F": 3, "B": 5})
    schedule = make_schedule("gpipe", p, m)
    theirs = simulate(schedule, Times.uniform(p, 3, 2, 3))
    slowly = play_slowly(
        schedule,
        [[3 if action.kind is Kind.F else 5 for action in actions] for actions in schedule.ranks],
        delays=lambda *message: (0, 0),
    )
    for rank, actions in enumerate(schedule.ranks):
        by_hand = [ours[kind.name, stage, k] for kind, stage, k in actions]
        assert by_hand == slowly.end[rank] == theirs.by_rank(theirs.end_ps)[rank].tolist()
print("every action ends at the same picosecond in all three")

# %% [markdown]
# ### Real gradients
#
# Now with arithmetic. A network of four layers, $x \to \tanh(x W)$, cut into two stages. Of lesson
# 1's tape each stage has a piece of its own: what comes in is a leaf, and where the piece ends, the
# gradient comes from outside. Only numbers cross the cut.


# %%
class HandStage:
    def __init__(self, weights):
        self.weights, self.in_flight = weights, {}

    def forward(self, k, x):
        x = y = Tensor(x, requires_grad=True)  # a leaf: this stage's tape begins here
        for weight in self.weights:
            y = (y @ weight).tanh()
        self.in_flight[k] = x, y  # kept until the backward of this microbatch
        return y.numpy()

    def backward(self, k, dy):
        x, y = self.in_flight.pop(k)
        y.backward(dy)  # adds to the gradients of the weights
        return x.grad.numpy()


ROWS, WIDTH, M = 24, 16, 4
start = rng.standard_normal((4, WIDTH, WIDTH)) / np.sqrt(WIDTH)  # float64
x, target = rng.standard_normal((2, ROWS, WIDTH))
pieces = list(zip(np.split(x, M), np.split(target, M), strict=True))


def pipeline_gradients(divide_by):
    """The gradient of the mean square error of the batch, through two stages and GPipe's order."""
    weights = [Parameter(each) for each in start]
    stages = [HandStage(weights[:2]), HandStage(weights[2:])]
    sent = {}
    for kind, stage, k in sorted(play(gpipe_by_hand(2, M), time), key=end_of.get):
        if kind == "F":
            sent[stage, k] = stages[stage].forward(k, sent[0, k] if stage else pieces[k][0])
        else:
            # d/dy of sum((y - target)^2) / n
            last = 2 * (sent[1, k] - pieces[k][1]) / divide_by if stage else sent["back", k]
            sent["back", k] = stages[stage].backward(k, last)
    return [weight.grad.numpy() for weight in weights]


def uncut_gradients():
    weights = [Parameter(each) for each in start]
    y = Tensor(x)
    for weight in weights:
        y = (y @ weight).tanh()
    error = y - Tensor(target)
    (error * error).mean().backward()
    return [weight.grad.numpy() for weight in weights]


end_of = play(gpipe_by_hand(2, M), time)
uncut = uncut_gradients()
cut = pipeline_gradients(divide_by=ROWS * WIDTH)
agree("gradients, cut and uncut", cut, uncut, rtol=1e-12, atol=1e-15)

# %% [markdown]
# The same, up to the order of a sum. What did you divide by? By the numbers in the *batch*, in each
# microbatch. A training script that was written for one GPU takes the mean over what it is given.
# Given a microbatch:

# %%
wrong = pipeline_gradients(divide_by=ROWS * WIDTH // M)
ratios = [np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(wrong, uncut, strict=True)]
print("with the mean over each microbatch, the gradients are larger by", np.round(ratios, 12))

# %% [markdown]
# $m$ times too large. This is a classic, for with Adam nobody notices (exercise 3). And dividing by
# $m$ afterwards is right only if all microbatches have equally many tokens that count, which
# padding spoils. So divide by the count of the whole batch, which is known before the first
# forward.
#
# ### The library's stages
#
# It cuts any of its language models. A `Stage` is some neighbouring blocks; the first has the
# embedding, too, and the last the head and the loss. A `Passage` is one microbatch's way through a
# stage: your `HandStage`, with a loss. And `InProcess` executes a schedule stage after stage in one
# process: no clock, no link, nothing but who hands what to whom.

# %%
quote(Passage.forward, Passage.backward, InProcess.step)

# %%
P, M, B, T, V = 4, 8, 2, 16, 65  # stages, microbatches, sequences in each, tokens, vocabulary
sizes = nn.GPTConfig(vocab_size=V, context=T, layers=4, heads=4, width=64)


def make_model():
    return nn.GPT(sizes, rng=np.random.default_rng(0)).to(np.float64)


def make_pipeline(schedule):
    """The stages, and what executes the schedule with them."""
    parts = parts_of_stages(schedule, costs=[1.0] * 4)  # four equal blocks
    stages = build_stages(make_model, parts, range(P))
    runners = build_runners(stages, schedule, (B, T), eager=True)
    return stages, InProcess(schedule, [runners[number] for number in range(P)])


windows = rng.integers(0, V, (M * B, T + 1))
inputs, targets = windows[:, :-1], windows[:, 1:]
stages, pipeline = make_pipeline(make_schedule("gpipe", P, M))
for number, stage in stages.items():
    print(f"stage {number}: {stage.part}")
loss = pipeline.step(cut_batch(inputs, targets, M))

model = make_model()
whole = model.loss(inputs, targets)  # the whole batch at once, nothing cut
whole.backward()
agree("the loss", loss, whole.item(), rtol=1e-12)

# %% [markdown]
# A parameter that two stages hold (the token embedding is also the output matrix: *tied*) has a
# part of its gradient on each. The whole one is their sum.

# %%
found = {}
for stage in stages.values():
    for name, parameter in stage.named_parameters():
        found[name] = found.get(name, 0) + parameter.grad.numpy()
worst = 0.0
for name, parameter in model.named_parameters():
    gradient = parameter.grad.numpy()
    worst = max(worst, np.linalg.norm(found[name] - gradient) / np.linalg.norm(gradient))
print(f"{len(found)} gradients; the worst is off by {worst:.0e} of its norm")
assert worst < 1e-12

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: the makespan.** $p = 4$, $m = 8$, F = 10 ms, B = 20 ms. How long is a step?

# %%
prediction = (8 + 4 - 1) * 30  # your number here

timeline = simulate(make_schedule("gpipe", 4, 8), Times.uniform(4, 10 * MS, 10 * MS, 10 * MS))
check(
    "the step",
    prediction,
    timeline.makespan_ps / MS,
    "ms",
    miss="ramps are counted twice or not at all: p - 1 forwards at first, p - 1 backwards at last",
)

# %% [markdown]
# **Checkpoint 2: a bubble of a twentieth.** Eight ranks. How many microbatches are needed, so that
# at most 5 % *of the whole time* are lost? And how much is that *over ideal*?

# %%
prediction = 19 * 7  # your number here: (p - 1)/(m + p - 1) <= 1/20

eight = Times.uniform(8, MS, MS, MS)
m = next(m for m in range(1, 999) if simulate(gpipe(8, m), eight).bubble_makespan <= 1 / 20)
check("microbatches", prediction, m, miss="5 % of what? of the whole: m + p - 1 is below the line")
lost = simulate(gpipe(8, m), eight)
ideal_ps = m * 3 * MS
print(f"of the whole {format_percent(lost.bubble_makespan)}, over ideal "
      f"{format_percent(lost.makespan_ps / ideal_ps - 1)}")  # fmt: skip

# %% [markdown]
# **Checkpoint 3: with a link.** Lesson 8's card between neighbours. A microbatch's activations are
# 4 MiB, F = 1 ms, B = 2 ms, $p = 4$, $m = 8$. Each of the two ramps crosses $p - 1$ links. When all
# follow closely behind one another, nobody waits for a link again. In picoseconds?

# %%
nic = find_link("800g")
hop_ps = 4 * 2**20 * 8 * 1000 // 800 + 2_700_000
prediction = (8 + 4 - 1) * 3 * MS + 2 * (4 - 1) * hop_ps  # your number here

timeline = simulate(gpipe(4, 8), Times.uniform(4, MS, MS, MS), link=nic, size_bytes=4 * 2**20)
check(
    "the step, over 800G",
    prediction,
    timeline.makespan_ps,
    "ps",
    miss="latency forgotten, or paid for each microbatch: only the ramps see it. (If sending takes "
    "longer than computing, the link is the bottleneck, and another formula holds.)",
)

# %% [markdown]
# **Checkpoint 4: memory.** Between its forward and its backward a microbatch's activations stay in
# memory. In GPipe's order all $m$ forwards come first. Measure the peak for 2 and for 4
# microbatches of one size; what is it for 8?


# %%
def peak_bytes(m):
    """The most that the activations of all stages take at once, for m microbatches."""
    _, pipeline = make_pipeline(make_schedule("gpipe", P, m))
    batch = cut_batch(inputs[: m * B], targets[: m * B], m)
    pipeline.step(batch)  # gradients exist from here on
    before = CPU.memory.used_bytes
    CPU.memory.reset_peak()
    pipeline.step(batch)
    return CPU.memory.peak_bytes - before


two, four = peak_bytes(2), peak_bytes(4)
prediction = four + 2 * (four - two)  # your number here

eight = peak_bytes(8)
check(
    "activations of eight microbatches",
    prediction / 1e6,
    eight / 1e6,
    "MB",
    within=0.02,
    miss="something else grows, too, or is let go of: look at what lives until its backward",
)
print(f"{format_bytes(two)} for 2, {format_bytes(four)} for 4, {format_bytes(eight)} for 8")

# %% [markdown]
# Here is the trap. A smaller bubble wants more microbatches; and each of them stays in memory. If
# the batch is fixed, cutting it finer changes nothing, for they are all there in the end: GPipe
# holds the activations of the *whole batch*. The next lesson gets out of it.

# %% [markdown]
# ## Look
#
# What rank 0 and rank 3 hold during a step of eight microbatches, under the schedule itself:

# %%
timeline = simulate(gpipe(4, 8), Times.uniform(4, MS, MS, MS))
show(
    schedule_figure(timeline, "GPipe: 4 ranks, 8 microbatches", unit=UNITS),
    "All forwards (blue), then all backwards (orange). What is white is the bubble, in other "
    "places on every rank, but on each 9 of 33 units.",
)
lines = []
for rank in (0, 3):
    times_ps, held = timeline.activations(rank)
    x, y = np.repeat(times_ps, 2)[1:] / MS, np.repeat(held, 2)[:-1]
    lines.append(Line(f"rank {rank}", x, y, dashed=rank == 3))
show(
    line_figure(
        lines,
        "Microbatches whose activations a rank holds",
        x_label="time in units",
        y_label="microbatches",
        height_in=3.0,
    ),
    "Up with each forward, down with each backward. The last rank (dashed) comes down at once; "
    "rank 0 waits on top, with everything in its hands, while the others are at work.",
)

# %% [markdown]
# And how the bubble fades with the microbatches. Each point is a schedule, simulated:

# %%
counts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
figure, axes = style.new_figure(height_in=3.8)
for number, p in enumerate((2, 4, 8, 16)):
    bubbles = []
    for m in counts:
        played = simulate(gpipe(p, m), Times.uniform(p, MS, MS, MS))
        bubbles.append(played.bubble_makespan)
        assert abs(bubbles[-1] - (p - 1) / (m + p - 1)) < 1e-12  # the formula, each time
    axes.plot(counts, bubbles, color=style.colour(number), marker=style.marker(number), label=p)
axes.set_xscale("log", base=2)
axes.set_xticks(counts, counts)
axes.legend(title="ranks", fontsize=style.SMALL_PT, frameon=False)
style.caption(axes, "The bubble", "microbatches", "share of the whole time")
show(
    figure,
    "Twice as many ranks need twice as many microbatches for the same bubble: what counts is "
    "m / p. With four microbatches for each rank a tenth to a fifth is lost.",
)

# %% [markdown]
# ## Exercises
#
# **1.** One stage is slower than the others: its forward takes 3 ms and its backward 5 ms, those of
# the three others 1 ms and 2 ms. Find the formula for the makespan of $m$ microbatches. Does it
# matter *which* stage it is?

# %% tags=["answer"]
for slow in range(4):
    forward = [3 * MS if stage == slow else MS for stage in range(4)]
    backward = [5 * MS if stage == slow else 2 * MS for stage in range(4)]
    for m in (1, 2, 7, 20):
        # Once through all stages, and then one behind the other at the pace of the slowest.
        formula_ps = sum(forward) + (m - 1) * max(forward) + sum(backward) + (m - 1) * max(backward)
        times = Times(tuple(forward), tuple(backward), (0,) * 4)
        assert simulate(gpipe(4, m), times).makespan_ps == formula_ps
print("T = ΣF + (m - 1) max F + ΣB + (m - 1) max B, wherever the slow stage is")
# So for many microbatches a pipeline is as fast as its slowest stage: balance comes first.

# %% [markdown]
# **2.** Every action costs an overhead of 0.2 ms besides (launching, bookkeeping), however small
# its microbatch. The batch's own work on one rank is 48 ms of forward and 96 ms of backward; 8
# ranks. Into how many microbatches should it be cut?

# %% tags=["answer"]
p, overhead_ms, work_ms = 8, 0.2, 144.0
# T(m) = (m + p - 1)(work/m + 2 overhead): derive, set to zero.
best = np.sqrt((p - 1) * work_ms / (2 * overhead_ms))

steps_ms = {}
for m in range(1, 200):
    forward_ps = round(48 * MS / m)
    times = Times.uniform(p, forward_ps, forward_ps, forward_ps)
    played = simulate(gpipe(p, m), times, host_overhead_ps=int(overhead_ms * MS))
    steps_ms[m] = played.makespan_ps / MS
fastest = min(steps_ms, key=steps_ms.get)
check("microbatches", best, fastest, within=0.03, miss="both actions pay the overhead")
for m in (8, fastest, 199):
    print(f"{m:3} microbatches: {steps_ms[m]:.1f} ms")
# sqrt((p - 1) work / 2 overhead). Near the best it hardly matters; with too few it does.

# %% [markdown]
# **3.** Train with a gradient that is eight times too large: one step of SGD, one of AdamW, and the
# same with the right gradient. Which of the two optimisers would have told you?


# %% tags=["answer"]
def moved(make_optimizer, factor):
    """How far a step moves a weight whose gradient is multiplied by `factor`."""
    weight = Parameter(np.ones(4))
    optimizer = make_optimizer([weight])
    (factor * (weight * Tensor(np.array([0.1, -0.2, 0.3, -0.4]))).sum()).backward()
    optimizer.step()
    return weight.numpy() - 1.0


def sgd(parameters):
    return optim.SGD(parameters, learning_rate=0.01)


def adamw(parameters):
    return optim.AdamW(parameters, learning_rate=0.01, betas=(0.9, 0.99))


for make in (sgd, adamw):
    ratio = moved(make, 8.0) / moved(make, 1.0)
    print(f"{make.__name__}: steps are larger by a factor of {ratio.mean():.4f}")
np.testing.assert_allclose(moved(sgd, 8.0), 8 * moved(sgd, 1.0), rtol=1e-6)
np.testing.assert_allclose(moved(adamw, 8.0), moved(adamw, 1.0), rtol=1e-4)
# Adam divides by the gradient's own size, so its loss curve looks right. Only comparing gradients
# shows the mistake (or clipping by their norm, which now happens nearly always).

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (the papers below, Megatron-LM's source and documentation).
#
# | | here | a GB300 cluster |
# |---|---|---|
# | stages | four, in one process | 16 for Llama 3's largest, of 8 GPUs each |
# | a stage's time | a number, the same for all | measured; first and last have embedding and head |
# | balance | equal blocks | fewer blocks on the first and last stage, or uneven cuts |
# | sending | beside the next action, at no cost | beside it, at a little cost |
# | microbatches per rank | as many as you like | few: large clusters run out of batch |
# | memory at the peak | all microbatches | hardly anybody uses GPipe's order: lesson 10 |
# | besides | nothing | tensor, data, context and expert parallelism |
#
# ## Sources
#
# - Y. Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline
#   Parallelism", NeurIPS 2019, arXiv 1811.06965.
# - D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
#   Megatron-LM", SC 2021, arXiv 2104.04473: there the bubble is counted over ideal.
# - PyTorch documentation, `torch.distributed.pipelining`, read in November 2026: the names of
#   actions.
# - Llama Team, "The Llama 3 Herd of Models", arXiv 2407.21783, 2024, table 4: 16 stages.
# - D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015: its step does not
#   depend on the scale of the gradients.

# %%
finish()
