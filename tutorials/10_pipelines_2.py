# %% [markdown]
# # 10. Pipelines II: 1F1B, interleaving, memory, and what a link's latency costs
#
# GPipe keeps the whole batch in memory. 1F1B does not, and takes exactly as long, so most pipelines
# run it. But exactly as long only if messages take no time. Here you find out what a link's latency
# really costs, which no paper that we know of prints; and then you run the schedule with real
# processes, whose clock stops at the picosecond that you predicted.

# %%
# introduces: baremetal.schedules.one_f_one_b, baremetal.schedules.interleaved
# introduces: baremetal.pipeline.run, baremetal.train.pipelined
import itertools

import numpy as np
from lesson import agree, check, finish, quote, show, starting  # tutorials/lesson.py

from baremetal import nn
from baremetal.machine import Link, find_link
from baremetal.pipeline.run import PipelineRun
from baremetal.pipeline.runner import cut_batch
from baremetal.schedules import Action, Kind, Schedule, make_schedule
from baremetal.schedules.gpipe import gpipe
from baremetal.schedules.interleaved import forwards_ahead, in_rounds, interleaved
from baremetal.schedules.one_f_one_b import one_f_one_b
from baremetal.schedules.picture import comparison_figure, schedule_figure
from baremetal.schedules.report import PS_PER_UNIT, UNITS
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import wire
from baremetal.trace import Line, format_percent, format_seconds, line_figure, style, table
from baremetal.train.build import build_model
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import make_job

MS = 10**9  # ps

# %% [markdown]
# ## What you will be able to do
#
# - Build 1F1B and interleaved 1F1B, and say what each rank must hold in memory.
# - Say what latency adds to a step of GPipe, 1F1B and interleaved 1F1B, in picoseconds; and why the
#   schedule that most pipelines run pays it with every group of microbatches.
# - Run a schedule with real processes over a modelled network, and find every time as predicted.

# %% [markdown]
# ## The idea
#
# In GPipe's order microbatch 0 has come to the last rank, and could turn round. Instead it waits
# until all others are there. So let it: **one forward, one backward**. Rank $i$ lets $p - 1 - i$
# microbatches in ahead, which is how many the ranks behind it need to be busy. From then on, for
# each new microbatch that comes in, an old one goes out. It never holds more than
#
# $$ \min(p - i, m) $$
#
# of them, however large the batch. It is no faster than GPipe: the last rank still begins $p - 1$
# forwards late, and the first still waits for $p - 1$ backwards at last. The bubble is the same.
#
# That is how it is told. It has a price. Count for rank 0: $p$ microbatches may be in flight, and
# the next may come in only when one is back. How long is one away? It does a forward and a backward
# on each of $p$ ranks; and if a message takes a time $c$ from rank to rank, also $2 (p - 1)$ hops.
# What is in flight, divided by how long it is away, is how fast they go through (J. Little's law,
# 1961): $p$ microbatches in each
#
# $$ p (F + B) + 2 (p - 1) c $$
#
# Without $c$ that is $F + B$ for each, and rank 0 never waits. With it, *every* $p$ microbatches
# wait for a round trip. GPipe does not: its forwards follow one another without waiting for an
# answer, and only its two ramps cross the links one by one.

# %%
timelines = []
for c in (0, MS // 2):
    for schedule in (gpipe(4, 8), one_f_one_b(4, 8)):
        timelines.append(simulate(schedule, Times.uniform(4, MS, MS, MS), link=Link("c", None, c)))
show(
    comparison_figure(timelines, unit=UNITS),
    "GPipe and 1F1B; above without latency, below with half a forward per hop. Without it, both "
    "end together, and 1F1B holds four microbatches instead of eight. With it, GPipe's "
    "ramps become a little flatter, and gaps open all through 1F1B.",
)
for timeline in timelines:
    print(f"{timeline.schedule.name:<6} {timeline.makespan_ps / MS:.1f} ms")

# %% [markdown]
# ## Build it
#
# ### One forward, one backward
#
# The order by hand, and lesson 9's simulator with a latency in it: a message that crosses from one
# rank to another is there $c$ later.


# %%
def one_f_one_b_by_hand(p, m):
    """For each rank its actions: (kind, stage, microbatch)."""
    ranks = []
    for rank in range(p):
        ahead = min(p - 1 - rank, m)
        forwards = [("F", rank, k) for k in range(m)]
        actions = forwards[:ahead]
        for k in range(m):
            actions += [*forwards[ahead + k : ahead + k + 1], ("B", rank, k)]
        ranks.append(actions)
    return ranks


def needs(action, p):
    """The actions whose results this one needs."""
    kind, stage, k = action
    if kind == "F":
        return [("F", stage - 1, k)] if stage else []
    return [("F", stage, k)] + ([("B", stage + 1, k)] if stage < p - 1 else [])


def ready(action, end, p, c):
    """When everything that the action needs is there."""
    return max((end[each] + c * (each[1] != action[1]) for each in needs(action, p)), default=0)


def play(ranks, time, c):
    """When each action ends; `time` is by kind, `c` what a hop takes."""
    p, end, free = len(ranks), {}, [0] * len(ranks)
    todo = [list(actions) for actions in ranks]
    while any(todo):
        for rank, actions in enumerate(todo):
            while actions and all(each in end for each in needs(actions[0], p)):
                action = actions.pop(0)
                start = max(free[rank], ready(action, end, p, c))
                end[action] = free[rank] = start + time[action[0]]
    return end


ranks = one_f_one_b_by_hand(4, 6)
for actions in ranks:
    print(" ".join(f"{kind}{k}" for kind, _, k in actions))

# %% [markdown]
# Beside it the library's. Do they come to the same times?

# %%
quote(one_f_one_b)
for p, m, c in itertools.product((2, 3, 5), (1, 4, 11), (0, 2, 30)):
    ours = play(one_f_one_b_by_hand(p, m), {"F": 3, "B": 5}, c)
    theirs = simulate(one_f_one_b(p, m), Times.uniform(p, 3, 2, 3), link=Link("c", None, c))
    assert max(ours.values()) == theirs.makespan_ps, (p, m, c)
print("the same makespans, with and without latency")

# %% [markdown]
# ### What it holds
#
# The simulator counts what each rank holds, from the start of a forward to the end of its backward:

# %%
rows = []
for name in ("gpipe", "1f1b"):
    for m in (8, 32):
        schedule = make_schedule(name, 4, m)
        held = simulate(schedule, Times.uniform(4, MS, MS, MS)).peak_activations
        rows.append((name, m, *(f"{each:g}" for each in held)))
print(table(rows, ["schedule", "microbatches", "rank 0", "rank 1", "rank 2", "rank 3"]))

# %% [markdown]
# GPipe's grows with the batch, that of 1F1B does not. Rank 0 has the most. (It is as if each rank
# kept a queue just long enough to reach the end of the pipeline and back.)
#
# ### Where the latency goes
#
# Who is to blame for the makespan? Start from the last action and ask: what did it wait for? For
# its rank, or for a message. Go there, and ask again. The chain that you find is the **critical
# path**: the step gets shorter only if something on it does; shorten anything else, and nothing
# happens. Each hop on it costs a $c$.


# %%
def critical_path(ranks, time, c):
    """From the first action to the last: each began the moment that the one before let it."""
    p, end = len(ranks), play(ranks, time, c)
    before = {b: a for actions in ranks for a, b in itertools.pairwise(actions)}
    path = [max(end, key=end.get)]
    while True:
        action = path[-1]
        start = end[action] - time[action[0]]
        causes = [each for each in needs(action, p)
                  if end[each] + c * (each[1] != action[1]) == start]  # fmt: skip
        if action in before and end[before[action]] == start:
            causes.append(before[action])
        if not causes:
            return path[::-1], end
        path.append(causes[0])


def hops(path):
    return sum(a[1] != b[1] for a, b in itertools.pairwise(path))


time = {"F": 10, "B": 20}
for m in (4, 8, 12, 16):
    path, _ = critical_path(one_f_one_b_by_hand(4, m), time, c=3)
    print(f"{m:2} microbatches: {hops(path)} hops on the critical path")

# %% [markdown]
# Ten for the first four, and then six more for every four: two ways across three links, as Little
# has it. In a formula, for two ranks or more, and where $p$ divides $m$,
#
# $$ T = (m + p - 1)(F + B) + \left[ 2 (p - 1) \frac{m}{p} + 2 (p - 2) \right] c $$
#
# against GPipe's
#
# $$ T = (m + p - 1)(F + B) + 2 (p - 1)\, c $$
#
# We have not found the first one in print; so do not take it on trust. Here it is over a grid of
# sizes, times and latencies, from none to one that is ten times as long as the work:

# %%


def makespan_ps(schedule, times, c):
    return simulate(schedule, times, link=Link("c", None, c)).makespan_ps


cases = 0
for p, groups in itertools.product((2, 3, 4, 6, 8), (1, 2, 3)):
    m = p * groups
    order = wire(one_f_one_b(p, m))  # its messages, worked out once
    for (f, b), c in itertools.product([(10, 20), (20, 10), (5, 50)], (0, 1, 7, 40, 300)):
        predicted = (m + p - 1) * (f + b) + (2 * (p - 1) * groups + 2 * (p - 2)) * c
        assert makespan_ps(order, Times.uniform(p, f, b, 0), c) == predicted, (p, m, f, b, c)
        cases += 1
print(f"{cases} cases, all exact")

# %% [markdown]
# And where $p$ does not divide $m$? The slope of the makespan, per picosecond of latency:

# %%
times = Times.uniform(4, 10, 10, 10)
counts = list(range(1, 17))
slopes = [
    makespan_ps(one_f_one_b(4, m), times, 1) - makespan_ps(one_f_one_b(4, m), times, 0)
    for m in counts
]
formula = [2 * 3 * m / 4 + 2 * 2 for m in counts]
print("m      ", *(f"{m:4}" for m in counts))
print("found  ", *(f"{slope:4}" for slope in slopes))
print("formula", *(f"{slope:4g}" for slope in formula))

# %% [markdown]
# Right at the multiples of four, wrong on both sides between them: what is really there is a
# staircase. Exercise 2 asks for it.
#
# ### Interleaving
#
# The bubble is $p - 1$ ranks' waiting for a whole share of the model. Make the pieces thinner: cut
# it into $p v$ stages, and let it go round the ranks $v$ times. Rank $i$ holds stages
# $i, p + i, 2p + i, \dots$, its *chunks*. The first microbatch is at the last rank after $p - 1$
# *chunks*, each $v$ times as quick; so the bubble is
#
# $$ \frac{(p - 1)(F + B)}{v} $$
#
# with $F$ and $B$ still those of a rank's whole share. This is how Megatron trains (2021). The
# microbatches go round in groups of $p$, so $m$ must be a multiple of $p$.

# %%
quote(in_rounds, forwards_ahead, interleaved)
timelines = [simulate(one_f_one_b(4, 8), Times.uniform(4, 2 * MS, 2 * MS, 2 * MS))]
for v in (2, 4):
    chunk = 2 * MS // v
    timelines.append(simulate(interleaved(4, 8, v), Times.uniform(4 * v, chunk, chunk, chunk)))
show(
    comparison_figure(timelines, unit=UNITS),
    "1F1B, and interleaved with two and four chunks on each rank; the paler a box, the later its "
    "chunk. The white corners shrink; the boxes multiply, and so do the messages.",
)
rows = []
for timeline in timelines:
    name, v = timeline.schedule.name, timeline.schedule.chunks
    held = max(timeline.peak_activations)
    rows.append((name, v, f"{timeline.makespan_ps / MS:g}", timeline.wiring.messages, f"{held:g}"))
print(table(rows, ["schedule", "chunks", "ms", "messages", "most held"]))

# %% [markdown]
# Nothing is free: more is held ($p + (p-1)/v$ microbatches, by rank 0), and a microbatch crosses
# $p v - 1$ cuts each way instead of $p - 1$. And the latency? Count hops again, now with the
# library's timeline:

# %%
rows = []
for v, groups in itertools.product((2, 4), (2, 3, 6)):
    order = wire(interleaved(4, 4 * groups, v))
    times = Times.uniform(4 * v, 10, 10, 10)  # of a chunk: F = 10, B = 20
    start = makespan_ps(order, times, 0)
    slopes = [(makespan_ps(order, times, c) - start) / c for c in (1, 5, 10, 20, 40)]
    rows.append((v, 4 * groups, *(f"{slope:g}" for slope in slopes)))
print(table(rows, ["chunks", "microbatches", "c = 1", "5", "10", "20", "40"]))

# %% [markdown]
# Here is something that one would not have guessed. Up to $c = 10$ the slope is $2 (p v - 1)$, *and
# does not depend on the number of microbatches*. Interleaving lets in more ahead than 1F1B, and
# what is ahead covers the round trip, until a hop takes longer than the shorter of a chunk's two
# actions. Beyond that it pays with every microbatch, and in many small hops.

# %%
cases = 0
for v, p, groups in itertools.product((2, 3), (2, 3, 4), (2, 3)):
    m = p * groups
    order = wire(interleaved(p, m, v))
    for f, b in ((10, 20), (20, 10), (5, 50)):  # of a chunk
        times = Times.uniform(p * v, f, b, 0)
        for c in (0, 1, min(f, b) // 2, min(f, b)):
            predicted = (m * v + p - 1) * (f + b) + 2 * (p * v - 1) * c
            assert makespan_ps(order, times, c) == predicted, (v, p, m, f, b, c)
            cases += 1
        assert makespan_ps(order, times, 2 * min(f, b)) > predicted + 2 * (p * v - 1) * min(f, b)
print(f"{cases} cases with c up to a chunk's shorter action: T = ... + 2 (p v - 1) c, all exact")

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: memory.** Eight ranks, 32 microbatches, 1F1B. How many does rank 2 hold at most?

# %%
prediction = min(8 - 2, 32)  # your number here

timeline = simulate(one_f_one_b(8, 32), Times.uniform(8, MS, MS, MS))
check(
    "microbatches on rank 2",
    prediction,
    timeline.peak_activations[2],
    miss="ranks count from 0: what was let in ahead, and the one at work",
)

# %% [markdown]
# **Checkpoint 2: latency.** Four ranks, 8 microbatches, F = 1 ms, B = 2 ms, and 0.1 ms from rank to
# rank. How much longer is a step of 1F1B than one of GPipe?

# %%
prediction = (2 * 3 * 8 // 4 + 2 * 2) * 0.1 - 2 * 3 * 0.1  # your number here

times = Times.uniform(4, MS, MS, MS)
longer_ps = makespan_ps(one_f_one_b(4, 8), times, MS // 10) - makespan_ps(
    gpipe(4, 8), times, MS // 10
)
check(
    "1F1B takes longer by", prediction, longer_ps / MS, "ms", miss="the ramps: GPipe pays them, too"
)

# %% [markdown]
# **Checkpoint 3: processes.** Everything so far was simulated. Now four processes: each has its
# stage of a GPT, computes real activations and real gradients, sends them through lesson 8's lanes,
# and updates its weights. Their clock is virtual: F is charged 1 ms, B 2 ms, and each message what
# an 800G card takes for it, occupancy and latency. A microbatch is 2 sequences of 16 tokens of
# width 32, in float32. In picoseconds, how long is the first step?
#
# (A hop takes $c$ = occupancy + latency, as long as nobody has to queue for a link.)

# %%
nic = find_link("800g")
size_bytes = 2 * 16 * 32 * 4
c_ps = size_bytes * 8 * 1000 // 800 + 2_700_000
prediction = (8 + 4 - 1) * 3 * MS + (2 * 3 * 8 // 4 + 2 * 2) * c_ps  # your number here

config = TrainConfig(
    layers=4, heads=2, width=32, context=16, batch=16, clip=0.0,
    stages=4, schedule="1f1b", microbatches=8,
    link="800g", charge="unit", unit_times="1 ms, 1 ms, 1 ms",
)  # fmt: skip
VOCABULARY = 65
model = build_model(config, VOCABULARY)
job = make_job(config, model)
rng = np.random.default_rng(10)
windows = rng.integers(0, VOCABULARY, (config.batch, config.context + 1))
inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()

with starting():
    run = PipelineRun(job)  # four processes, spawned
with run:
    step = run.step(cut_batch(inputs, targets, config.microbatches), rate=1e-3)
    simulated = run.simulate(step)

check(
    "the step, executed",
    prediction,
    step.executed.makespan_ps,
    "ps",
    miss="the link is not as assumed: print(job.link), print(job.message_bytes)",
)
check(
    "actions that ended when the simulator has them end",
    len(simulated.end_ps),
    int((step.executed.end_ps == simulated.end_ps).sum()),
    miss="simulator and processes have different rules: a fault in one of them",
)
print(f"computing really took the ranks {', '.join(map(format_seconds, step.computed_s))}")

# %% [markdown]
# However the system shared two cores among four processes, the modelled times came out the same to
# the last digit. (A rank whose real time is far above the others' had a kernel to compile or load
# in its first step. The modelled clock does not see that, either.) And it was training, not
# theatre: here is the same batch, in one piece.

# %%
whole = model.loss(inputs, targets)
whole.backward()
norm = np.sqrt(sum((p.grad.numpy().astype(np.float64) ** 2).sum() for p in model.parameters()))
agree("loss", step.losses.sum(), whole.item())
agree("norm of the gradient", step.gradient_norm, norm, rtol=1e-4)
assert isinstance(model, nn.GPT)

# %% [markdown]
# **Checkpoint 4: interleaving.** The same with two chunks on each rank: how many messages are sent
# in a step, and how long is it if they take no time?

# %%
prediction = 2 * 8 * (4 * 2 - 1)  # your number here
timeline = simulate(interleaved(4, 8, 2), Times.uniform(8, MS // 2, MS // 2, MS // 2))
check(
    "messages",
    prediction,
    timeline.wiring.messages,
    miss="a microbatch crosses one cut fewer than there are stages, there and back",
)
prediction = 8 * 3 + 3 * 3 / 2  # your number here
check(
    "the step", prediction, timeline.makespan_ps / MS, "ms", miss="only the bubble is divided by v"
)

# %% [markdown]
# ## Look
#
# The step that the four processes executed, and every message in it:

# %%
show(
    schedule_figure(step.executed, "Executed by four processes", arrows=True),
    "Each arrow is a message, from where it departs to where it arrives. An 800G hop of a "
    "message this small is a few thousandths of a forward, too little to be seen.",
)

# %% [markdown]
# So here is the critical path with a latency that one can see, $c = F / 2$:

# %%
path, end = critical_path(one_f_one_b_by_hand(4, 8), {"F": 2, "B": 4}, c=1)
times = Times.uniform(4, 2 * PS_PER_UNIT, 2 * PS_PER_UNIT, 2 * PS_PER_UNIT)
timeline = simulate(one_f_one_b(4, 8), times, link=Link("c", None, PS_PER_UNIT))
figure = schedule_figure(timeline, "1F1B: what each moment waited for", unit=UNITS)
x, y = [], []
for kind, stage, k in path:
    stop = end[kind, stage, k]
    x += [stop - {"F": 2, "B": 4}[kind], stop]
    y += [stage + 0.8, stage + 0.8]
figure.axes[0].plot(x, y, color=style.BLACK, linewidth=2.5, zorder=5)
show(
    figure,
    f"The critical path, in black, with {hops(path)} hops. Down to the last rank and up again for "
    "each group of four makes twelve. The other four are a detour, from rank 3 to rank 1 and back: "
    "the 2 (p - 2) of the formula. What does not lie on the path could be a little slower, and "
    "nobody would notice.",
)

# %% [markdown]
# And all of them, against the latency. Sixteen microbatches, four ranks; F = 1 and B = 2 units of a
# rank's whole share.

# %%
latencies = np.arange(0, 31) * (PS_PER_UNIT // 20)
lines = []
for label, schedule in (
    ("GPipe", gpipe(4, 16)),
    ("1F1B", one_f_one_b(4, 16)),
    ("interleaved, 2 chunks", interleaved(4, 16, 2)),
    ("interleaved, 4 chunks", interleaved(4, 16, 4)),
):
    order, share = wire(schedule), PS_PER_UNIT // schedule.chunks
    times = Times.uniform(schedule.stages, share, share, share)
    spans = [makespan_ps(order, times, int(c)) / PS_PER_UNIT for c in latencies]
    lines.append(Line(label, latencies / PS_PER_UNIT, spans))
meet_ps, halves = 195 * PS_PER_UNIT // 100, Times.uniform(8, *[PS_PER_UNIT // 2] * 3)
wholes = Times.uniform(4, PS_PER_UNIT, PS_PER_UNIT, PS_PER_UNIT)
assert makespan_ps(one_f_one_b(4, 16), wholes, meet_ps) == makespan_ps(
    interleaved(4, 16, 2), halves, meet_ps
)
show(
    line_figure(
        lines,
        "A step, against what a hop takes",
        x_label="c, in units of a rank's forward",
        y_label="makespan in units",
    ),
    "At c = 0 the bubble decides. 1F1B climbs by 28 hops from the first moment, interleaving by 14 "
    "with two chunks and by 30 with four, up to a chunk's forward (1/2 and 1/4). From there on two "
    "chunks climb more steeply than before, and four most steeply of all. GPipe hardly cares, if "
    "only it had the memory.",
)

# %% [markdown]
# Read it from right to left, too. Where hops are long against the work (small microbatches, slow
# links, a pipeline between continents), four chunks are worse than two, and a little beyond the
# right edge, at $c = 1.95$, two are worse than one. What helps most is to have more in flight.
# Exercise 3 does that; lesson 11 finds a way that needs less memory for it.

# %% [markdown]
# ## Exercises
#
# **1.** A pipeline of 16 ranks, 128 microbatches of 8,192 tokens of width 16,384 in bf16; F + B
# takes 60 ms. What share of a step is the bubble, and what share is waiting for messages, over one
# 800G card between neighbours? And over NVLink 5?

# %% tags=["answer"]
p, m, work_ps = 16, 128, 60 * MS
for name in ("800g", "nvlink5"):
    c_ps = find_link(name).transfer_ps(8192 * 16384 * 2)
    waiting_ps = (2 * (p - 1) * m // p + 2 * (p - 2)) * c_ps
    whole_ps = (m + p - 1) * work_ps + waiting_ps
    times = Times.uniform(p, work_ps // 3, work_ps // 3, work_ps // 3)
    played = simulate(one_f_one_b(p, m), times, link=find_link(name), size_bytes=8192 * 16384 * 2)
    assert played.makespan_ps == whole_ps
    print(f"{name:<8} a hop {format_seconds(1e-12 * c_ps)}: bubble "
          f"{format_percent((p - 1) * work_ps / whole_ps)}, "
          f"messages {format_percent(waiting_ps / whole_ps)}")  # fmt: skip
# Not a detail. Here nearly all of c is bandwidth: what passes is 268 MB for each microbatch.

# %% [markdown]
# **2.** Find the formula of 1F1B for any number of microbatches. (Write $m = q p + r$ with $r$ from
# 1 to $p$, and look at the slopes for four ranks above.)

# %% tags=["answer"]
cases = 0
for p, m in itertools.product((2, 3, 4, 5, 7), range(1, 18)):
    q = (m - 1) // p  # full groups before the last one
    r = m - q * p  # and what is in that, 1 to p
    slope = 2 * (p - 1) * (q + 1) + 2 * max(0, r - 2)
    order = wire(one_f_one_b(p, m))
    for (f, b), c in itertools.product([(10, 20), (20, 10)], (1, 100)):
        predicted = (m + p - 1) * (f + b) + slope * c
        assert makespan_ps(order, Times.uniform(p, f, b, 0), c) == predicted, (p, m)
        cases += 1
print(f"2 (p - 1) (q + 1) + 2 max(0, r - 2) hops: {cases} cases, all exact")
# A round trip for every group, begun or full; and in the last group two more hops for each
# microbatch beyond the second.

# %% [markdown]
# **3.** Let twice as many in ahead: $2 (p - 1 - i)$ on rank $i$. What does each rank hold now? By
# Little's law, up to which $c$ should the step take no longer than GPipe's? Try it.


# %% tags=["answer"]
def more_ahead(p, m):
    ranks = []
    for rank in range(p):
        ahead = min(2 * (p - 1 - rank), m)
        steps = [Action(Kind.F, rank, k) for k in range(ahead)]
        for k in range(m):
            steps += [Action(Kind.F, rank, k + ahead)] if k + ahead < m else []
            steps.append(Action(Kind.B, rank, k))
        ranks.append(tuple(steps))
    return Schedule("more ahead", m, tuple(ranks), (tuple(range(p)),))


# In flight on rank 0: 2(p - 1) + 1. They last for (2p - 1)(F + B), which covers the round trip of
# p(F + B) + 2(p - 1) c as long as c <= (F + B)/2.
p, m = 4, 16
for f, b in ((10, 20), (20, 10), (4, 40)):
    times, most = Times.uniform(p, f, b, 0), (f + b) // 2
    for c in (1, most, most + 1):
        ours, theirs = makespan_ps(more_ahead(p, m), times, c), makespan_ps(gpipe(p, m), times, c)
        assert (ours == theirs) == (c <= most)
played = simulate(more_ahead(p, m), Times.uniform(p, 10, 10, 10))
print("held:", *(f"{each:g}" for each in played.peak_activations))
assert played.peak_activations == [7, 5, 3, 1]
# 2(p - i) - 1 microbatches instead of p - i: memory buys latency.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (the papers and documentation below).
#
# | | here | a GB300 cluster |
# |---|---|---|
# | schedule | eleven with a name, or your own | mostly 1F1B, interleaved where it pays |
# | ranks | processes on one machine | several GPUs each, in other racks |
# | stages | equal by FLOP | uneven: embedding, head, memory limits |
# | chunks | as you like | a few: more messages, and more to hold |
# | a hop | one message, known beforehand | sends and receives batched, lest they deadlock |
# | waiting | known to the picosecond | measured, and hidden where possible |
# | activations on rank 0 | p microbatches | the same; recomputed or moved where they do not fit |
# | microbatches | any | a batch has only so many sequences: m / p is small at scale |
#
# ## Sources
#
# - D. Narayanan et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training", SOSP 2019:
#   1F1B.
# - D. Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", ICML 2021, arXiv
#   2006.09503: with a flush, as here.
# - D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
#   Megatron-LM", SC 2021, arXiv 2104.04473: interleaving.
# - J. Little, "A Proof for the Queuing Formula: L = λW", Operations Research 9(3), 1961.
# - J. Kelley, M. Walker, "Critical-path planning and scheduling", 1959.
# - The formulas with latency are our own, found with the simulator and checked on the grids above
#   in November 2026; they are not proven.

# %%
finish()
