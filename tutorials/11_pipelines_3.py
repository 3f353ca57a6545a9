# %% [markdown]
# # 11. Pipelines III: zero bubble, and a schedule of your own
#
# A backward pass does two things, and only one of them is waited for. Take them apart, and most of
# the bubble can be filled; spend memory, and it is filled whole. Here you do both, find out what
# else it buys (1F1B pays for a slow link with every microbatch, and this does not), fold a pipeline
# into a V, run two microbatches beside each other, and then write a schedule by hand: have it
# refused, mend it, and train a model with it.

# %%
# introduces: baremetal.schedules.zb_h1, baremetal.schedules.zb_h2, baremetal.schedules.zb_v
# introduces: baremetal.schedules.v_half, baremetal.schedules.v_min
# introduces: baremetal.schedules.dualpipe, baremetal.schedules.dualpipev
import functools
import tempfile
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
from lesson import agree, check, finish, quote, show, starting  # tutorials/lesson.py

from baremetal import nn
from baremetal.autograd import Parameter, Tensor
from baremetal.autograd.backward import Owed
from baremetal.machine import Link
from baremetal.pipeline.build import build_runners, build_stages
from baremetal.pipeline.costs import action_costs
from baremetal.pipeline.in_process import InProcess
from baremetal.pipeline.partition import Part, parts_of_stages
from baremetal.pipeline.runner import cut_batch
from baremetal.pipeline.stage import Stage
from baremetal.schedules import (
    SCHEDULES,
    Kind,
    ScheduleError,
    Share,
    from_text,
    make_schedule,
    to_csv,
)
from baremetal.schedules.check import check_schedule
from baremetal.schedules.dualpipe import steady
from baremetal.schedules.picture import comparison_figure, schedule_figure
from baremetal.schedules.report import UNITS
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import wire
from baremetal.schedules.zb_h1 import split_1f1b
from baremetal.schedules.zb_v import rank_order
from baremetal.trace import Line, line_figure, style, table
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import PipelineTrainer

rng = np.random.default_rng(11)
UNIT = 10**9  # ps: the pictures count in units of this

# %% [markdown]
# ## What you will be able to do
#
# - Split the backward pass of a layer in two, and say who waits for which half.
# - Give idle time (in both measures) and memory of eight schedules, and say how slow a link may be
#   before each of them begins to pay for it.
# - Write a schedule by hand, read why it is refused, draw it, simulate it, and train with it.

# %% [markdown]
# ## The idea
#
# Backward through a linear layer $y = x W^T$ is two products. With $g$, the gradient of $y$:
#
# $$ dx = g W, \qquad dW = g^T x $$
#
# Lesson 9 did both in one go and called it B. But look who waits. For $dx$ waits the rank before,
# and with it all ranks before that one. For $dW$ waits nobody before the optimiser's step. So take
# them apart: **I**, the input-gradient, as soon as possible, and **W**, the weight-gradient,
# whenever there is nothing better to do.

# %%
figure, axes = style.new_figure(height_in=3.4)
places = {}
for rank in range(3):
    places[f"F{rank}"], places[f"I{rank}"] = (rank, 2 - rank), (5 - rank, 2 - rank)
    places[f"W{rank}"] = (6.6, 2 - rank)
colours = {"F": style.BLUE, "I": style.VERMILION, "W": style.GREEN}
for name, (x, y) in places.items():
    box = {"facecolor": colours[name[0]], "edgecolor": "none", "boxstyle": "round,pad=0.45"}
    ink = style.ink_on(colours[name[0]])
    axes.text(x, y, name[0], ha="center", va="center", color=ink, bbox=box)
awaited = [("F0", "F1"), ("F1", "F2"), ("F2", "I2"), ("I2", "I1"), ("I1", "I0")]
free = [(f"I{rank}", f"W{rank}") for rank in range(3)]
for source, target in awaited + free:
    line = {"arrowstyle": "->", "color": style.INK, "shrinkA": 13, "shrinkB": 13}
    line["linestyle"] = "-" if target[0] != "W" else ":"
    axes.annotate("", xy=places[target], xytext=places[source], arrowprops=line)
axes.grid(False)
axes.set(xlim=(-0.5, 7.2), ylim=(-0.6, 2.6), xticks=[])
axes.set_yticks([2, 1, 0], ["rank 0", "rank 1", "rank 2"])
style.caption(axes, "One microbatch on three ranks: who waits for whom", "", "")
show(
    figure,
    "Solid: a chain in which each box waits for the one before, across all ranks. Dotted: W needs "
    "its own rank's I and nothing needs W, so it can be moved to the right as far as one likes.",
)

# %% [markdown]
# What is a bubble, after all? A rank has nothing to do because what it needs is not there. W needs
# nobody else. So every W that has not been done yet is something to do, in stock: keep a few back,
# and do them where you would have waited. Two prices are to be paid. What a W needs, the layer's
# input $x$ and $g$, must be kept until then: **memory**. And the order of everything has to be
# chosen well: choose it badly, and the stock is used up, or filled, in the wrong places.
#
# With $F$, $I$, $W$ the times of the three for one microbatch on one rank, and $p$ ranks, the idle
# time of each rank goes from 1F1B's to zero in two steps:
#
# $$ \underbrace{(p-1)(F+I+W)}_{\text{1F1B}} \;\to\; \underbrace{(p-1)(F+I-W)}_{\text{ZB-H1}}
#    \;\to\; \underbrace{(p-1)(F+I-2W)}_{\text{ZB-H2}} $$
#
# Where all three times are equal, the last one is zero. (A stock can fill no more than there is:
# the second formula holds as long as $W \le F$, the third if $2W \le F + I$ besides.)

# %% [markdown]
# ## Build it
#
# ### One layer, two products

# %%
T, C = 96, 64
x = Tensor(rng.standard_normal((T, C)), requires_grad=True)
W = Parameter(rng.standard_normal((C, C)))
g = rng.standard_normal((T, C))

(x @ W.T).backward(g)
whole = x.grad.numpy().copy(), W.grad.numpy().copy()
x.zero_grad(), W.zero_grad()

owed = (x @ W.T).backward(g, defer_weights=True)  # I
print(f"after I: the gradient of x is there, of W {W.grad}; {len(owed)} piece of work is owed")
owed.pay()  # W
halves = x.grad.numpy().copy(), W.grad.numpy().copy()

agree("dx", halves[0], g @ W.data)
agree("dW", halves[1], g.T @ x.data)
print(
    "the same bits as in one go:", all((a == b).all() for a, b in zip(whole, halves, strict=True))
)

# %% [markdown]
# The tape of lesson 1 knows for each operation which of its inputs are parameters. A backward with
# `defer_weights` runs the rules for all other inputs and notes the rest:

# %%
quote(Owed)

# %% [markdown]
# Is it worth it? Only if W is a good part of the work. Each of the three is one product of the same
# size for a linear layer: $F = I = W$. Attention has no weights, so there I is more and
# W is nothing. What it comes to, for a middle stage of a GPT, counted in the launches' arithmetic:

# %%
LAYERS, HEADS, WIDTH, CONTEXT, VOCAB = 6, 4, 64, 32, 65
sizes = {"vocab_size": VOCAB, "context": CONTEXT, "layers": LAYERS, "heads": HEADS, "width": WIDTH}


def make():
    return nn.GPT(nn.GPTConfig(**sizes), rng=np.random.default_rng(0))


costs = action_costs(Stage(make(), Part(2, 4, LAYERS)), (2, CONTEXT))
print(
    "  ".join(
        f"{k.name} {costs[k].flops / costs[Kind.F].flops:.2f}" for k in (Kind.F, Kind.I, Kind.W)
    )
)

# %% [markdown]
# Close to equal. From here on $F = I = W = 1$ unit, unless said otherwise.
#
# ### Three orders, one after the other
#
# 1F1B first, from lesson 10: rank $i$ does $p - i$ forwards, then a backward and a forward in
# turns. (There it was $p - 1 - i$ ahead, then a forward and a backward in turns: the same order.)
# Written as words, one line for each rank:


# %%
def by_words(p, m, order):
    """A schedule of p ranks from the words that `order(rank)` gives."""
    lines = [" ".join(f"{rank}{word}" for word in order(rank)) for rank in range(p)]
    return from_text("\n".join(lines), name=f"{order.__name__}, m = {m}")


wired = functools.cache(wire)  # who sends what to whom: worked out once for each schedule


def played(schedule, F=1, I=1, W=1, c=0, pair=None):
    """The schedule's timeline, with times of a rank's whole share and a latency, in units."""
    chunks = len(schedule.paths[0]) // len(schedule.ranks)
    times = [int(time * UNIT) // chunks for time in (F, I, W)]
    overlap = None if pair is None else int(pair * UNIT) // chunks
    every = Times.uniform(schedule.stages, *times, overlap_ps=overlap)
    link = Link("hop", bandwidth_bps=None, latency_ps=int(c * UNIT)) if c else None
    return simulate(wired(schedule), every, link=link)


def idle(timeline):
    """(within the largest span, within the makespan), in units: what is left beside the work."""
    busy = max(timeline.busy_ps)
    return (max(timeline.span_ps) - busy) / UNIT, (timeline.makespan_ps - busy) / UNIT


p, m = 4, 8


def one_f_one_b(rank):
    ahead = p - rank
    yield from (f"F{k}" for k in range(ahead))
    for k in range(m):
        yield f"B{k}"
        if k + ahead < m:
            yield f"F{k + ahead}"


def split_at_once(rank):
    for word in one_f_one_b(rank):
        yield from [f"I{word[1:]}", f"W{word[1:]}"] if word[0] == "B" else [word]


def split_and_late(rank):
    """As above, but W of a microbatch comes `rank` microbatches after its I."""
    ahead, late = p - rank, rank
    yield from (f"F{k}" for k in range(ahead))
    for k in range(m):
        yield f"I{k}"
        if k >= late:
            yield f"W{k - late}"
        if k + ahead < m:
            yield f"F{k + ahead}"
    yield from (f"W{k}" for k in range(m - late, m))


timelines = [
    played(by_words(p, m, order)) for order in (one_f_one_b, split_at_once, split_and_late)
]
show(
    comparison_figure(timelines, unit=UNITS),
    "Above: 1F1B. In the middle each backward is in two pieces, and already less is idle: on the "
    "way up, a gradient no longer waits for W on each rank. Below, later ranks keep W in stock, "
    "and do them where they would have waited, above all at the end.",
)
for timeline in timelines:
    print(f"{timeline.schedule.name:>22}: idle {idle(timeline)[0]:g} units, microbatches held by "
          f"rank: {[int(peak) for peak in timeline.peak_activations]}")  # fmt: skip

# %% [markdown]
# 9 units, 6, 3: each is $p - 1$ times something, $F+I+W$, $F+I$, $F+I-W$. And the memory? Rank 0
# holds as much as before. The others hold more, but none holds more than rank 0 did, and a GPU's
# memory is bought for the fullest. So it is free. This is **ZB-H1** (Qi et al., 2024):

# %%
quote(split_1f1b)
assert make_schedule("zb-h1", p, m).ranks == timelines[-1].schedule.ranks
print("your words and the library's schedule are the same")

# %% [markdown]
# How *much* to put W off is a choice, and it matters. The counter-example that comes to mind first:
# if W can wait, let all of them wait to the end.


# %%
def all_late(rank):
    words = [*split_at_once(rank)]
    yield from (word for word in words if word[0] != "W")
    yield from (word for word in words if word[0] == "W")


timeline = played(by_words(p, m, all_late))
print(f"all W at the end: idle {idle(timeline)[0]:g}, held {timeline.peak_activations}")

# %% [markdown]
# No better than with W at once, and everything is held until the end, as in GPipe: the stock is
# there, and nobody takes from it. A W fills a hole only if it stands *before* what would be waited
# for.
#
# ### Twice the memory: ZB-H2
#
# What is left of the bubble in the last picture? Once at the beginning each rank waits for the
# first gradient to come up. In that time it could do more *forwards*, $2p - 1$ on rank 0 instead of
# $p$, if there is room for their activations. The same function, with other numbers:

# %%
h1, h2 = (played(make_schedule(name, p, m)) for name in ("zb-h1", "zb-h2"))
show(
    comparison_figure([h1, h2], unit=UNITS),
    "Below, no row has a gap: each rank works from its first box to its last. And yet the whole is "
    "not one unit shorter: it has become a parallelogram.",
)
for timeline in (h1, h2):
    print(
        f"{timeline.schedule.name}: idle {idle(timeline)[0]:g} within the span, "
        f"{idle(timeline)[1]:g} within the makespan; held {max(timeline.peak_activations):g}"
    )

# %% [markdown]
# Here two measures part that were the same so far. A rank's *span* is from its own first box to its
# own last; the *makespan* is from the first of all to the last of all. **Zero bubble is zero in the
# span only.** Rank 3 starts three forwards late, and nothing in the world can change that; so it
# ends late, too. What has been won is won only if rank 0 may begin the next step while rank 3 still
# works on this one. Does it? The optimiser stands between. The norm of the gradient for clipping
# needs all ranks, and with it everybody waits for rank 3. (Qi et al. let each rank step with what
# it knows, check afterwards, and undo the step in the rare case that the norm was too large.) This
# library waits, as nearly everybody does. So beware of figures: always ask, of which of the two?
#
# ### A V, and half the memory
#
# $2p - 1$ microbatches are a lot. **ZB-V** gets the same zero with 1F1B's $p$. Cut the model into
# $2p$ stages, and lay them out as a V: rank $i$ holds stages $i$ and $2p - 1 - i$. A microbatch
# goes down the ranks and up again, and its loss is on the rank where it came in. A stage is half as
# long, so the same pattern holds half as much.

# %%
quote(rank_order)
v_shapes = [played(make_schedule(name, p, m)) for name in ("zb-v", "v-half", "v-min")]
show(
    comparison_figure(v_shapes, unit=UNITS),
    "Pale boxes are a rank's second stage, on the way back up. ZB-V has a slope left and right, "
    "and no gap. V-Half and V-Min let fewer microbatches in, and have gaps instead.",
)

# %% [markdown]
# And if even $p$ is too much? How much a rank holds is a matter of how long a microbatch lives
# there, from its F to its W, and how often a new one is let in. In a V the fast way down and the
# slow way up add up to the same on each rank, so there is a dial: **V-Half** and **V-Min** (Qi et
# al., 2024) hold about a half and about a third of $p$ (on many ranks; on four it is 3 and 2), and
# pay with idle time. Every one of them has formulas, that
# the library keeps beside its generator; simulated and predicted:

# %%
NAMES = ("1f1b", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min", "dualpipe", "dualpipev")
rows = []
for name in NAMES:
    schedule = make_schedule(name, p, m)
    timeline, form, v = played(schedule), SCHEDULES[name], schedule.chunks
    span, makespan = idle(timeline)
    share = Share(1, 1, 1)
    assert span == form.idle_span(p, m, v, share)
    assert makespan == form.idle_makespan(p, m, v, share)
    held = max(timeline.peak_activations)
    assert held == max(form.peaks(p, m, v))
    rows.append([name, f"{span:g}", f"{makespan:g}", f"{held:g}"])
print(table(rows, ["schedule", "idle in the span", "in the makespan", "microbatches held"]))

# %% [markdown]
# ### Two microbatches beside each other: DualPipe
#
# The last two rows are DeepSeek's. Their models send every token to experts on other machines and
# back, inside each layer, and while that goes on a GPU would stand still. So they give it something
# else to do in that time: a *forward* of one microbatch and a *backward* of another run beside each
# other, one computes while the other communicates. Such a pair is one step, `F&B`, with a time of
# its own that is less than the sum.
#
# To have pairs all the time there must be forwards and backwards in equal number on each rank, from
# the first moment on. **DualPipe** lets microbatches in at both ends. Each rank holds two stages,
# its own and the mirrored one; so all parameters are held twice, and the gradients of the copies
# have to be summed. **DualPipeV** is the same folded in the middle: a V, nothing twice.

# %%
quote(steady)
schedule = make_schedule("dualpipe", p, m + 2)
apart, beside = played(schedule), played(schedule, pair=2.5)
show(
    comparison_figure([apart, beside], unit=UNITS),
    "Boxes of half the height, one above the other: a pair. Dark boxes are microbatches that enter "
    "at rank 0, pale ones enter at rank 3. Above, a pair takes as long as its parts, 3 units; "
    "below, 2.5.",
)
for text, timeline in (("as its parts", apart), ("2.5 units", beside)):
    print(f"a pair takes {text}: makespan {timeline.makespan_ps / UNIT:g}, "
          f"held {max(timeline.peak_activations):g}")  # fmt: skip

# %% [markdown]
# With ordinary models there is nothing to hide, a pair takes what its parts take, and then DualPipe
# is a schedule with some idle time and a lot of memory. It is for experts.
#
# ### What a slow link costs
#
# So far, messages were there at once. Lesson 10 found that 1F1B pays a hop's latency $c$ with every
# microbatch: $[2(p-1)m/p + 2(p-2)]\,c$ in all, where $p$ divides $m$. And ZB-H1? Measure
# what a latency adds to the makespan, in units of $c$:


# %%
named = functools.cache(make_schedule)  # it will be asked for again and again


def price(name, p, m, c):
    """What latency c adds to the makespan, in units of c."""
    schedule = named(name, p, m)
    return (played(schedule, c=c).makespan_ps - played(schedule).makespan_ps) / UNIT / c


COUNTS = (8, 16, 32, 64, 128)
rows = []
for name, c in (("1f1b", 0.25), ("zb-h1", 0.25), ("zb-h1", 0.5), ("zb-h1", 0.75), ("zb-h1", 1.0)):
    rows.append([name, f"{c:g}", *(f"{price(name, p, m, c):.4g}" for m in COUNTS)])
print(table(rows, ["price in units of c", "c", *(f"m = {m}" for m in COUNTS)]))

# %% [markdown]
# Look at the second and the third row. **As long as $c \le W/2$ (and $m \ge 2p$), ZB-H1 pays
# $4(p-1)\,c$, however many microbatches there are.** Two times $p - 1$ hops to fill the pipeline,
# two times to empty it, and in between nothing: while a message is under way, there is a W to do.
# Beyond $W/2$ the price grows with $m$ again. Where links are slow and batches large, this is worth
# more than the smaller bubble. (We know of no source that prints it.)
#
# Why $W/2$? Count the microbatches that are *in flight*, as you would count customers in a
# shop: how many there are is how fast they come, times how long they stay (J. Little, 1961).
# Rank 0 lets microbatch $k + n$ in when microbatch $k$ has come back, where $n$ is how many it has
# let in ahead. The trip down, up, and to the end of its W on rank 0 takes at least
#
# $$ t_\text{trip} = p\,(F + I) + W + 2(p-1)\,c $$
#
# In that time $n$ microbatches come, so each of them takes at least $t_\text{trip} / n$; and, of
# course, at least the work, $F + I + W$. Latency is hidden as long as the second is the larger:
#
# $$ \frac{p\,(F+I) + W + 2(p-1)\,c}{n} \;\le\; F + I + W $$
#
# ZB-H1 has $n = p$. Put it in, and everything goes away but $2(p-1)\,c \le (p-1)\,W$. In 1F1B every
# rank does its W before the gradient goes on, the trip is $p(F+I+W) + 2(p-1)c$ with the same
# $n = p$, and there is nothing to hide behind: $2(p-1)c/p$ for each microbatch, from the first
# picosecond on. And ZB-H2 has $n = 2p - 1$: it hides up to $(F + I)/2 + W$, here $2W$. **Memory
# buys off idle time, and latency, too.** Does the argument hold? To the last digit:


# %%
def slope(name, p, n, c, F=1, I=1, W=1):
    """What another microbatch adds to the makespan, beyond its work; in units."""
    few, many = (played(named(name, p, k * n), F, I, W, c).makespan_ps for k in (6, 12))
    return Fraction(many - few, 6 * n * UNIT) - Fraction(F + I + W)


for name, p, n in (
    ("1f1b", 4, 4),
    ("zb-h1", 4, 4),
    ("zb-h2", 4, 7),
    ("zb-h1", 8, 8),
    ("zb-h2", 3, 5),
):
    for c in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(3, 2), Fraction(5, 2)):
        trip = p * (3 if name == "1f1b" else 2) + (0 if name == "1f1b" else 1) + 2 * (p - 1) * c
        assert slope(name, p, n, c) == max(Fraction(0), trip / n - 3), (name, p, c)
print("the time of a microbatch is the larger of its work and its trip / n, in all 25 cases")

# %% [markdown]
# ### A schedule of your own
#
# Three ranks, six microbatches, and a slow link: $c = W = 1$. ZB-H1 hides half of that; ZB-H2 hides
# it all and holds five microbatches. Say that you have room for *four*. Nobody has written down a
# schedule for that, so write one. By the argument above, four in flight hide
#
# $$ c \le \frac{4 \cdot 3 - (3 \cdot 2 + 1)}{4} = 1.25 $$
#
# So: four forwards ahead on rank 0, and three on rank 1. And on rank 2 three as well, to be on the
# safe side?

# %%
first_try = """
0F0 0F1 0F2 0F3 0I0 0W0 0F4 0I1 0W1 0F5 0I2 0W2 0I3 0W3 0I4 0W4 0I5 0W5
1F0 1F1 1I0 1W0 1F2 1I1 1W1 1F3 1I2 1W2 1F4 1I3 1W3 1F5 1I4 1W4 1I5 1W5
2F0 2F1 2F2 2I0 2W0 2F3 2I1 2W1 2F4 2I2 2W2 2F5 2I3 2W3 2I4 2W4 2I5 2W5
"""
try:
    check_schedule(from_text(first_try, name="mine"))
except ScheduleError as error:
    print(textwrap.fill(str(error), 96))

# %% [markdown]
# The checker has played it, without times: who waits for whom does not depend on how long anything
# takes. It came to a point where nobody could go on, and followed from there who waits for whom
# until it came round: that is the message. Read it as a circle. Rank 2 wants microbatch 2 before it
# gives anything back; rank 1 (two forwards ahead, not three: a slip of the pen) wants something
# back before it sends microbatch 2. One of them has to give way. More forwards on rank 1, then; and
# the last rank, which has nobody to wait for, can do its I at once, and keep one W in stock:

# %%
mine = from_text(
    """
0F0 0F1 0F2 0F3 0I0 0W0 0F4 0I1 0W1 0F5 0I2 0W2 0I3 0W3 0I4 0W4 0I5 0W5
1F0 1F1 1F2 1I0 1W0 1F3 1I1 1W1 1F4 1I2 1W2 1F5 1I3 1W3 1I4 1W4 1I5 1W5
2F0 2I0 2F1 2I1 2W0 2F2 2I2 2W1 2F3 2I3 2W2 2F4 2I4 2W3 2F5 2I5 2W4 2W5
""",
    name="mine",
)
print(check_schedule(mine).text())

# %%
candidates = [
    make_schedule("1f1b", 3, 6),
    make_schedule("zb-h1", 3, 6),
    mine,
    make_schedule("zb-h2", 3, 6),
]
timelines = [played(schedule, c=1) for schedule in candidates]
show(
    schedule_figure(timelines[2], "Mine: three ranks, c = W", unit=UNITS, arrows=True),
    "Arrows are messages, each under way for one unit. Rank 0 waits for the first gradient, as "
    "ever; after that the ranks wait for a unit now and then, and most arrows pass while there is "
    "something to do at both of their ends.",
)
rows = [
    [t.schedule.name, f"{t.makespan_ps / UNIT:g}", f"{max(t.peak_activations):g}"]
    for t in timelines
]
print(table(rows, ["c = W", "makespan", "microbatches held"]))

# %% [markdown]
# Between the two, as it should be. (Perhaps you find a better one: 25 is not a bound.) Does it
# *train*? Any order that the checker lets pass gives the gradients of the model that was never cut.
# First in this process, in double precision:

# %%
SAMPLES = 2  # of a microbatch


def make_double():
    return make().to(np.float64)


windows = rng.integers(0, VOCAB, (6 * SAMPLES, CONTEXT + 1))
batch = cut_batch(windows[:, :-1].copy(), windows[:, 1:].copy(), microbatches=6)
parts = parts_of_stages(mine, [1.0] * LAYERS)
stages = build_stages(make_double, parts, range(3))
runners = build_runners(stages, mine, (SAMPLES, CONTEXT))
for stage in stages.values():
    stage.model.zero_grad()
loss = InProcess(mine, [runners[number] for number in range(3)]).step(batch)

uncut = make_double()
uncut_loss = uncut.loss(windows[:, :-1], windows[:, 1:])
uncut_loss.backward()
agree("loss", loss, uncut_loss.item(), rtol=1e-12)
worst = 0.0
for name, parameter in uncut.named_parameters():
    here = [dict(stage.named_parameters()).get(name) for stage in stages.values()]
    found = sum(each.grad.numpy() for each in here if each is not None)  # tied: on two stages
    exact = parameter.grad.numpy()
    worst = max(worst, np.linalg.norm(found - exact) / np.linalg.norm(exact))
print(f"the worst of all gradients is {worst:.0e} of its norm away from the uncut model's")
assert worst < 1e-12

# %% [markdown]
# And then with three processes, a link of that latency between them, and a modelled clock. A
# schedule in a file is as good as one with a name:

# %%
room = tempfile.TemporaryDirectory(prefix="lesson_11_")
folder = Path(room.name)
(folder / "mine.txt").write_text(str(mine), encoding="utf-8")
(folder / "slow.toml").write_text(
    '[link]\nname = "slow"\n'
    'bandwidth = { value = "unlimited", source = "lesson 11" }\n'
    'latency = { value = "10 us", source = "lesson 11" }\n',
    encoding="utf-8",
)
config = TrainConfig(
    layers=LAYERS, width=WIDTH, heads=HEADS, context=CONTEXT, batch=12, warmup=5, steps=30,
    stages=3, microbatches=6, schedule=str(folder / "mine.txt"), link=str(folder / "slow.toml"),
    charge="unit", unit_times="10 us, 10 us, 10 us",
)  # fmt: skip
trainer = PipelineTrainer(config)
with starting():
    losses = [trainer.train_step().train_loss for _ in range(config.steps)]
last = trainer.last
simulated = trainer.ranks.simulate(last)
trainer.close()
print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} after {config.steps} steps")
print(f"executed makespan {last.executed.makespan_ps:,} ps, simulated {simulated.makespan_ps:,} ps")
assert (last.executed.end_ps == simulated.end_ps).all()
assert losses[-1] < losses[0]

# %% [markdown]
# On the command line that is `baremetal train --stages 3 --microbatches 6 --schedule mine.txt`. And
# the same words, a cell each, are what PyTorch's `torch.distributed.pipelining` reads, so what you
# design here runs on GPUs there:

# %%
for line in to_csv(mine).splitlines():
    print(f"{line[:72]} ...")

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: idle time.** ZB-H1, 8 ranks, 16 microbatches, and times that are not equal:
# $F = 10$, $I = 12$, $W = 8$.

# %%
prediction = (8 - 1) * (10 + 12 - 8)  # your number here

check(
    "idle time of ZB-H1",
    prediction,
    idle(played(make_schedule("zb-h1", 8, 16), F=10, I=12, W=8))[0],
    "units",
    miss="F + I - W for each rank but one: the split saves one W, the stock of W saves another",
)

# %% [markdown]
# **Checkpoint 2: memory.** How many microbatches does ZB-H2 hold on 8 ranks, and V-Min?

# %%
predictions = 2 * 8 - 1, (8 + 4) // 3  # your numbers here

for name, prediction in zip(("zb-h2", "v-min"), predictions, strict=True):
    check(
        f"microbatches held by {name}",
        prediction,
        max(played(make_schedule(name, 8, 16)).peak_activations),
        miss="ZB-H2: 2p - 1 forwards ahead on rank 0. V-Min: floor((p + 4) / 3)",
    )

# %% [markdown]
# **Checkpoint 3: two measures.** ZB-V on 4 ranks, 8 microbatches, $F = I = W = 1$. The bubble in
# the span is zero. Which share of the makespan is idle? (The slope is $p - 1$ stages, and a stage
# here is half a rank's share.)

# %%
prediction = 1.5 / (8 * 3 + 1.5)  # your number here

timeline = played(make_schedule("zb-v", 4, 8))
assert timeline.bubble_span == 0
check(
    "idle share of the makespan, ZB-V",
    prediction,
    timeline.bubble_makespan,
    miss="rank 3 starts three half forwards late: 1.5 units beside 24 of work",
)

# %% [markdown]
# **Checkpoint 4: the price of a link.** Latency $c = 0.5$, 8 ranks, 128 microbatches. What does it
# add to the makespan of 1F1B, and of ZB-H1?

# %%
predictions = (2 * 7 * 128 / 8 + 2 * 6) * 0.5, 4 * 7 * 0.5  # your numbers here

for name, prediction in zip(("1f1b", "zb-h1"), predictions, strict=True):
    check(
        f"added to {name}",
        prediction,
        0.5 * price(name, 8, 128, 0.5),
        "units",
        miss="1F1B pays 2(p-1)/p hops with every microbatch; ZB-H1 pays 4(p-1) once, if c <= W/2",
    )

# %% [markdown]
# **Checkpoint 5: your own schedule, executed.** How long was a step of the three processes, in
# microseconds? A unit was 10 us, and so was a hop.

# %%
prediction = 25 * 10  # your number here

check(
    "executed makespan",
    prediction,
    last.executed.makespan_ps / 1e6,
    "us",
    miss="executed and simulated time are the same integers: look for other times, or another link",
)

# %% [markdown]
# ## Look
#
# What does a microbatch cost when the link is slow? For seven schedules: what each further one adds
# to the makespan beyond its work, against the latency. Flat at zero means hidden.

# %%
p = 4
latencies = np.linspace(0, 2.5, 21)
groups_of = {"1f1b": 4, "zb-h1": 4, "zb-h2": 7, "zb-v": 8, "v-half": 8, "v-min": 8, "dualpipe": 8}
lines = [
    Line(name, latencies, [float(slope(name, p, n, Fraction(c))) for c in latencies],
         dashed=name in ("zb-v", "v-half", "v-min"))
    for name, n in groups_of.items()
]  # fmt: skip
show(
    line_figure(
        lines,
        "What latency adds to each microbatch, on 4 ranks",
        x_label="latency of a hop, in units (F = I = W = 1)",
        y_label="units for each microbatch",
        y_range=(-0.1, 4.0),
        height_in=4.8,
    ),
    "Each line leaves zero where its microbatches in flight no longer cover their trip: V-Min at "
    "once (it holds the fewest, and passes every rank four times), V-Half at 0.25, ZB-H1 at 0.5, "
    "ZB-V at 1, ZB-H2 at 2. 1F1B and DualPipe pay from the beginning, but not steeply. Dashed: the "
    "three V's.",
)

# %% [markdown]
# Read it together with the table of memory, and it is one story: V-Min, V-Half, ZB-V and ZB-H2 hold
# 2, 3, 4 and 7 microbatches, and that is the order in which they forgive a slow link. On one
# machine, where a hop is a thousandth of a microbatch's work, take the one that fits into memory.
# Between machines or buildings, look here first. (In DualPipe's pairs here, a message leaves when
# the whole pair has ended, so its price is counted with care, not with favour.)
#
# `baremetal schedule compare --stages 4 --microbatches 8 --latency 0.5` makes the table for any
# sizes and times.

# %% [markdown]
# ## Exercises
#
# **1.** Eight ranks, and room for four microbatches; links take no time. Which schedule of this
# lesson fits, and how long does it take for 32 microbatches? What if a hop takes a quarter of a
# unit: is 1F1B, with room for eight, still the slower one?

# %% tags=["answer"]
p, m = 8, 32
for name in ("1f1b", "v-half", "v-min"):
    schedule = make_schedule(name, p, m)
    fast, slow = played(schedule), played(schedule, c=0.25)
    print(f"{name:>6}: held {max(fast.peak_activations):g}, makespan {fast.makespan_ps / UNIT:g}, "
          f"with c = 0.25: {slow.makespan_ps / UNIT:g}")  # fmt: skip
assert [n for n in NAMES if max(SCHEDULES[n].peaks(p, m, SCHEDULES[n].chunks)) <= 4] == ["v-min"]
v_min, one = make_schedule("v-min", p, m), make_schedule("1f1b", p, m)
assert played(v_min).makespan_ps < played(one).makespan_ps
assert played(v_min, c=0.25).makespan_ps > played(one, c=0.25).makespan_ps
# V-Min is the shorter one as long as messages are there at once. It pays four hops with every
# microbatch, 1F1B not even two.

# %% [markdown]
# **2.** The bound $c \le W/2$ of ZB-H1 has no $F$ and no $I$ in it. Take $F = 2$, $I = 3$, $W = 1$
# and then $F = I = 2$, $W = 1$, on 6 ranks: does the price stay at $4(p-1)c$ up to $c = 0.5$ and no
# further? And 24 microbatches or 240, is it the same?

# %% tags=["answer"]
for F, I in ((2, 3), (2, 2)):
    for c in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 5)):
        added = []
        for m in (24, 240):
            schedule = make_schedule("zb-h1", 6, m)
            with_c, without = played(schedule, F, I, 1, c), played(schedule, F, I, 1)
            added.append(Fraction(with_c.makespan_ps - without.makespan_ps, UNIT))
        print(f"F {F}, I {I}, c {float(c):g}: adds {float(added[0]):g} and {float(added[1]):g}")
        assert (added == [20 * c, 20 * c]) == (c <= Fraction(1, 2))
# The trip has p F and p I in it, and the work of p microbatches has, too: they go away.

# %% [markdown]
# **3.** The last stage of a model has the output matrix, and is often the longest. Two ranks, four
# microbatches; rank 0 takes 1 unit for each of F, I, W, and rank 1 takes 2. Rank 1 has 24 units of
# work and cannot begin before time 1: no order ends before 25. Write one that ends at 25 and holds
# at most three microbatches.

# %% tags=["answer"]
order = from_text(
    """
0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1F3 1I3 1W2 1W3
""",
    name="uneven",
)
uneven = Times((UNIT, 2 * UNIT), (UNIT, 2 * UNIT), (UNIT, 2 * UNIT))
timeline = simulate(order, uneven)
print(f"makespan {timeline.makespan_ps / UNIT:g}, held {timeline.peak_activations}")
assert timeline.makespan_ps == 25 * UNIT
assert max(timeline.peak_activations) <= 3
# Rank 1 never waits; that is all it takes. Its last W stands at the end: meanwhile rank 0 does its
# last I and W. If rank 1's W came first, rank 0 would still be at work when rank 1 has ended.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (the papers and notes below).
#
# | | here | a GB300 cluster |
# |---|---|---|
# | split into I and W | every operation of the tape | mostly linear layers only |
# | times of F, I and W | given, or a roofline | measured, and different on every rank |
# | the optimiser's step | waits for all ranks | the same, or checked afterwards |
# | a pair's time | given | two streams of kernels that share a chip: found by trying |
# | messages | leave when the step that made them has ended | can leave earlier, layer by layer |
# | where a hop leads | everywhere as long | to the next tray by NVLink, the next rack by 800G |
# | finding an order | by hand, or by name | by hand, by name, or by a search over measured times |

# %% [markdown]
# ## Sources
#
# - P. Qi, X. Wan, G. Huang, M. Lin, "Zero Bubble Pipeline Parallelism", ICLR 2024, arXiv
#   2401.10241: ZB-H1, ZB-H2, ZB-V, the optimiser's step without a barrier.
# - P. Qi, X. Wan, N. Amar, M. Lin, "Pipeline Parallelism with Controllable Memory", NeurIPS 2024,
#   arXiv 2405.15362: V-Half, V-Min.
# - DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv 2412.19437: DualPipe.
# - DeepSeek-AI, notes to github.com/deepseek-ai/DualPipe, 2025, after Sea AI Lab, "DualPipe could
#   be better without the Dual", 2025: DualPipeV.
# - J. Little, "A Proof for the Queuing Formula: L = λW", Operations Research 9, 1961.
# - PyTorch, `torch.distributed.pipelining`, read in November 2026: the words `2F0`, `2I0`, `2W0`.

# %%
room.cleanup()
finish()
