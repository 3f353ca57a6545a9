# %% [markdown]
# # 12. Things go wrong: deadlock, stragglers, a killed stage, exact resume
#
# Processes that wait for one another have a weakness: if one does not come, nobody does. Here you
# break a pipeline in every way that is known to happen (an order that cannot work, too few buffers,
# a slow rank, messages that are late, lost or damaged, a process that is killed and one that
# hangs), say beforehand what it will cost, and then go on as if nothing had been: to the last bit.

# %%
# introduces: baremetal.comm.faults, baremetal.pipeline.faults, baremetal.pipeline.supervisor
# introduces: baremetal.schedules.deadlock, baremetal.train.restart, baremetal.checkpoint
import dataclasses
import math
import multiprocessing
import tempfile
import textwrap
import time
from fractions import Fraction
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from lesson import agree, check, finish, quote, show, starting  # tutorials/lesson.py

from baremetal.checkpoint import load_checkpoint
from baremetal.machine import Link
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.executed import first_difference
from baremetal.pipeline.partition import partition
from baremetal.pipeline.supervisor import Supervisor
from baremetal.schedules import Kind, ScheduleError, from_text, make_schedule
from baremetal.schedules.check import check_schedule
from baremetal.schedules.deadlock import describe_deadlock
from baremetal.schedules.picture import comparison_figure
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.trace import Line, format_percent, line_figure, table
from baremetal.train.build import build_data
from baremetal.train.config import TrainConfig
from baremetal.train.pipelined import PipelineTrainer
from baremetal.train.restart import Restarts, fit_or_say_how_to_go_on
from baremetal.train.run_folder import RunFolder
from baremetal.train.trainer import Trainer

rng = np.random.default_rng(12)
US = 10**6  # ps

# %% [markdown]
# ## What you will be able to do
#
# - Read a deadlock: who waits for whom, and which one has to give way; also where only the number
#   of buffers is at fault.
# - Predict what a slow rank, a late message and a lost message cost, for two schedules.
# - Kill a process of a run, read what the others say, and end with the same bits as a run that was
#   never disturbed.

# %% [markdown]
# ## The idea
#
# A thing that fails once in a time $T$ is a good thing, if $T$ is years. Of $n$ such things one
# fails every
#
# $$ M = \frac{T}{n} $$
#
# Meta published what happened to 16,384 GPUs in 54 days: 419 interruptions that nobody had planned
# (Llama 3, 2024). That is a GPU, with all that it needs, that fails once in almost six years; and a
# machine that fails every three hours.

# %%
T_h = 54 * 24 * 16_384 / 419  # hours of one GPU for each interruption
counts = np.logspace(1, np.log10(300_000), 60)
show(
    line_figure(
        [Line("time to the next interruption", counts, T_h / counts)],
        "The more of them, the sooner",
        x_label="GPUs in one run",
        y_label="hours",
        log_x=True,
        log_y=True,
        references={"a week": 168.0, "a day": 24.0, "an hour": 1.0},
    ),
    "Extrapolated from one published run by T / n. Eight GPUs run for months. At 200,000 and more, "
    "something fails several times an hour.",
)

# %% [markdown]
# And the others? They wait for a message that will not come. Nothing in `receive` tells a neighbour
# that is slow from one that is gone, so without more they wait for ever. Everything in this lesson
# is an answer to one of three questions.
#
# - **Can this work at all?** A schedule whose ranks wait in a circle can be refused before anything
#   starts. This is a question about an order, and it has an exact answer.
# - **What does it cost?** A slow rank, a late message: nothing is broken, and everybody pays.
# - **Who ends it, and from where does it go on?** Somebody must watch, end all of them, say in one
#   sentence why; and what a step depends on must have been written down, all of it.

# %% [markdown]
# ## Build it
#
# ### A circle
#
# Play a schedule without times: each rank does what it can, in its order. If nobody can go on and
# something is left, then each rank that is stuck waits for another one that is stuck. Follow that
# from any of them, and you must come round, for there are only so many.


# %%
def awaited(schedule, action, done):
    """What an action (F or B) needs from another stage and has not got; None if nothing."""
    kind, stage, k = action
    from_stage = schedule.before(stage) if kind == Kind.F else schedule.behind(stage)
    source = (kind, from_stage, k)
    return None if from_stage is None or source in done else source


def find_circle(schedule):
    """The ranks that wait in a circle: for each the action it is at, and what that waits for."""
    todo, done = [list(actions) for actions in schedule.actions_by_rank()], set()
    somebody_moved = True
    while somebody_moved:
        somebody_moved = False
        for actions in todo:
            while actions and awaited(schedule, actions[0], done) is None:
                done.add(actions.pop(0))
                somebody_moved = True

    waits = {}
    rank = next((rank for rank, actions in enumerate(todo) if actions), None)
    while rank is not None and rank not in waits:
        source = awaited(schedule, todo[rank][0], done)
        waits[rank] = todo[rank][0], source
        rank = schedule.rank_of[source[1]]
    met = list(waits)
    return {rank: waits[rank] for rank in met[met.index(rank) :]} if met else {}


WRONG = """
0F0 0F1 0F2 0B0 0B1 0B2
1F0 1F1 1B0 1B1 1F2 1B2
2F0 2B0 2F2 2B2 2F1 2B1     # "microbatch 2 first, it is the shortest"
"""
wrong = from_text(WRONG, name="wrong")
for rank, (action, (kind, stage, k)) in find_circle(wrong).items():
    print(f"rank {rank} stands before {action} and waits for {stage}{kind.name}{k}")

# %% [markdown]
# Rank 2 wants microbatch 2 before microbatch 1, and rank 1 lets it in only when the gradient of
# microbatch 1 has come back. (Rank 0 is stuck, too, before 0B1. But it is not in the circle: it
# waits for somebody who waits, and nothing in its order is wrong.) The library follows the same
# path:

# %%
quote(describe_deadlock)


def refusal(schedule, slots=None):
    """Why the checker refuses a schedule; None if it does not."""
    try:
        check_schedule(schedule, slots)
    except ScheduleError as error:
        return str(error)
    return None


print(textwrap.fill(refusal(wrong), 96))

# %% [markdown]
# The mend is always the same: *one* of the circle has to do something else first. Here it is rank 2
# that should take what comes.
#
# ### Too few buffers
#
# The order can be right, and it still stands still. A message needs a slot to lie in until it is
# taken (lesson 8), and a sender without a free slot waits. Looped breadth-first sends all
# microbatches through the first chunks of all ranks, and then through the second ones:

# %%
looped = make_schedule("looped-bfs", 2, 4, 2)
print(looped, "\n")
print(textwrap.fill(refusal(looped, slots=1), 96))
print("with 2 slots:", refusal(looped, slots=2) or "free of deadlock")

# %% [markdown]
# Both want to send, both are full, and each would have to *receive* to make room for the other: the
# same circle, with buffers in it. That it went well a thousand times on a machine with more memory
# proves nothing. The library counts how many slots each direction needs so that no sender ever
# waits, whatever the times are, and that is how many it makes unless told otherwise:

# %%
for lane, slots in check_schedule(looped).needed_slots.items():
    print(f"stage {lane}: {slots} slots")

# %% [markdown]
# ### A slow rank
#
# A *straggler* does everything $f$ times as slowly: a hot GPU, a neighbour on the same host. In a
# pipeline every microbatch goes through every rank. So the slow one sets the pace, $f\,(F + B)$ for
# each microbatch, and all others wait for it. One of four ranks takes half as long again:

# %%
p, m, f = 4, 16, Fraction(3, 2)
F, I, W = 10 * US, 10 * US, 10 * US


def stepped(name, p, m, slow=None, f=1, link=None, seed=0):
    """One step, with one slow rank perhaps."""
    times = Times.uniform(p, F, I, W)
    stragglers = {} if slow is None else {slow: f}
    return simulate(make_schedule(name, p, m), times, stragglers=stragglers, link=link, seed=seed)


even, slow = stepped("1f1b", p, m), stepped("1f1b", p, m, slow=3, f=f)
show(
    comparison_figure([even, slow]),
    "Below, rank 3 takes half as long again for everything, and never waits. All others do, with "
    "every microbatch.",
)
rows = []
for name in ("gpipe", "1f1b", "zb-h1"):
    makespans = [stepped(name, p, m, slow=rank, f=f).makespan_ps for rank in range(p)]
    before = stepped(name, p, m).makespan_ps
    rows.append([name, *(f"{t / before:.3f}" for t in makespans)])
print(table(rows, ["times as long, if this one is slow", *(f"rank {r}" for r in range(p))]))

# %% [markdown]
# Nearly the whole factor, from one rank of four; and it would be the same from one of a thousand.
# If rank $p - 1$ is the slow one, 1F1B takes exactly
#
# $$ T = f\,m\,(F + B) + (p - 1)(F + B) $$
#
# No schedule can repair it, because the work that one rank has to do is more than the time the
# others need. What helps is to give it less to do (exercise 3), or to replace it. (MegaScale, on
# more than 10,000 GPUs, found hosts that took about a tenth longer, with nothing visibly wrong;
# without them MFU rose by 0.7 %.)
#
# ### Late messages
#
# *Jitter*: each message is later than it should be by a random time. Which schedules mind? Those
# that wait for every message. Forty steps, each with other lateness, at most half of W, over a
# link that is otherwise perfect:

# %%
jittery = Link("jittery", bandwidth_bps=None, latency_ps=0, jitter_ps=W // 2)
rows = []
for name in ("1f1b", "zb-h1"):
    before = stepped(name, p, m).makespan_ps
    added = [stepped(name, p, m, link=jittery, seed=s).makespan_ps - before for s in range(40)]
    rows.append([name, *(f"{x / US:.0f}" for x in (min(added), np.mean(added), max(added)))])
print(table(rows, ["added to a step, us", "least", "mean", "most"]))

# %% [markdown]
# It is lesson 11's argument once more. A message is late by 2.5 us on average. If each were late by
# just that, the formulas there say 70 us for 1F1B, which pays with every microbatch, and 30 us for
# ZB-H1, which hides what is less than W/2. It comes out somewhat dearer: where a rank waits for two
# messages it waits for the later one. Chance is a function here, of seed, ranks and message number:
# the same seed gives the same step, and the processes that execute it draw the same lateness as the
# simulator.
#
# ### Lost and damaged messages
#
# From here on, real processes: a small model on three ranks, a modelled link with a timeout of
# 20 us after which a lost message is sent again, and faults on purpose. They are written as a line
# of text; so they happen at the same place each time. One run without, by 1F1B, and one with three
# faults, by ZB-H1, whose rank 2 is slow into the bargain. (On the command line the options have the
# same names: `baremetal train --stages 3 --straggler 2:1.5 --fault "drop 0F0 step 2" --restart`.)

# %%
room = tempfile.TemporaryDirectory(prefix="lesson_12_")
folder = Path(room.name)
link_file = folder / "link.toml"
link_file.write_text(
    """
[link]
name = "800g with a timeout"
bandwidth = { value = "800 Gb/s", source = "lesson 8" }
latency = { value = "0 us", source = "lesson 12" }
retransmit_timeout = { value = "20 us", source = "lesson 12" }
""",
    encoding="utf-8",
)
BASE = TrainConfig(
    layers=4, width=32, heads=2, context=32, batch=12, dropout=0.1, steps=9, warmup=3,
    eval_every=100, eval_batches=2, checkpoint_every=3, sample_tokens=0, keep=9,
    stages=3, microbatches=6, schedule="1f1b", link=str(link_file),
    charge="unit", unit_times="10 us, 10 us, 10 us", out=str(folder),
)  # fmt: skip
data = build_data(BASE)


def short(text):
    """Without the name of the folder, which is another one each time."""
    return text.replace(str(folder), "runs")


def run(name, restart=False, **options):
    """Train to the end; returns the trainer, and the executed timeline of each step."""
    config = dataclasses.replace(BASE, name=name, **options)
    run_folder = RunFolder.create(config)
    trainer, steps = PipelineTrainer(config, run_folder, data=data), []

    def on_step(report):
        steps.append(trainer.last)

    def went_back(step, line):
        print(textwrap.fill(short(line), 96))

    try:
        with starting():
            if restart:
                Restarts(trainer, run_folder, went_back).fit(on_step=on_step)
            else:
                fit_or_say_how_to_go_on(trainer, run_folder, on_step=on_step)
    except RankError as error:
        print(textwrap.fill(short(str(error)), 96))
    finally:
        trainer.close()
    return trainer, steps


def bits(trainer):
    """All weights, as bytes."""
    return b"".join(p.data.tobytes() for _, p in trainer.model.named_parameters())


smooth, smooth_steps = run("smooth")
faulty, faulty_steps = run(
    "messages",
    schedule="zb-h1",
    straggler="2:1.5",
    fault="drop 0F0 step 2, corrupt 1F3 step 3, duplicate 2I1 step 4",
)
for number in range(1, 4):
    longer = faulty_steps[number].executed.makespan_ps - faulty_steps[0].executed.makespan_ps
    print(f"step {number + 1} was {longer / US:.0f} us longer than step 1")
print("the same weights in the end:", bits(faulty) == bits(smooth))

# %% [markdown]
# A message that was lost, one that was damaged, one that came twice, another schedule and a slow
# rank: two steps took longer, and no bit of any weight is another. (The damaged message took as
# long to come as the lost one. But for most of that time its rank had a W to do.)
#
# The damaged one was *noticed*, because every message carries a checksum that is made while it is
# copied (lesson 8), and it was asked for again. Without that, one flipped bit in an exponent would
# have been trained on. If it is damaged again and again, the link is no link any more, and the run
# ends:

# %%
_ = run("damaged", stages=2, fault="corrupt 0F3 step 2 times 4")

# %% [markdown]
# ### Who watches?
#
# Now a rank dies. What do the others see? Nothing. Build it: three processes, each in a long wait,
# as if for a message (they sleep for a minute). The second one is killed.

# %%
context = multiprocessing.get_context("spawn")
ranks = [context.Process(target=time.sleep, args=(60,)) for _ in range(3)]
with starting():
    for process in ranks:
        process.start()
ranks[1].kill()
ended = wait([process.sentinel for process in ranks])  # returns when one of them has ended
dead = [rank for rank, process in enumerate(ranks) if process.sentinel in ended]
print(f"rank {dead[0]} is gone; the others would sleep on: {[p.is_alive() for p in ranks]}")
for process in ranks:
    process.kill()
    process.join()

# %% [markdown]
# That is a supervisor: it does not ask the ranks how they are, it waits for the *end of a process*,
# of which the operating system tells it at once. What ours adds: what each rank is doing stands in
# memory that outlives it (a process that is killed has no last words); the others are woken, and
# killed if they do not hear; and of all that goes wrong as a consequence nothing is reported, only
# what went wrong first. The heart of it:

# %%
quote(Supervisor._collect)

# %% [markdown]
# Now the real run. First the worse case: rank 1 of two is alive and does nothing. Its process does
# not end, so there a clock is needed: no progress for longer than a limit (here three seconds),
# while nobody is compiling, is a hang.

# %%
hung, _ = run("hung", stages=2, fault="hang rank 1 step 4 action 1B1", hang_limit=3.0)
print(f"\nprocesses that are left: {len(multiprocessing.active_children())}")

# %% [markdown]
# ### Exact resume
#
# The message says who, in which step, doing what, how it ended, and how to go on: from a
# checkpoint. That is only worth something if it leads to where the run would have gone. So now kill
# rank 1 in step 5, before the action number 7 of its list, let the run restart by itself (with new
# processes, from the last checkpoint), and let rank 0 fail in step 8 as well:

# %%
rough, rough_steps = run(
    "rough", restart=True, fault="kill rank 1 step 5 action 7, raise rank 0 step 8"
)
print("\nthe same bits as the run that was never interrupted:", bits(rough) == bits(smooth))

# %% [markdown]
# Twice it failed, twice it went back and did steps again, and the weights are the *same bits*. That
# is more than a loss curve that looks alike: it can be tested by `==`, and when it fails, something
# was forgotten. What must be in a checkpoint? Everything that the next step depends on:

# %%
checkpoint = load_checkpoint(folder / "smooth" / "checkpoints" / "step-00000006")
for group, tensors in checkpoint.tensors.items():
    print(f"{group}: {sum(a.nbytes for a in tensors.values()):,} B in {len(tensors)} arrays")
print(f"step {checkpoint.step}, state: {', '.join(checkpoint.state)}")

# %% [markdown]
# Weights, and twice as much again: the optimiser's averages. Then small things: the number of the
# step (learning rate, dropout) and the place in the data. Forget a single one and the run goes on
# cheerfully, but as another run. From step 6 on: in one process (it can read the file, too), in one
# process without the averages, and on two ranks with another schedule.


# %%
def last_losses(trainer, checkpoint):
    """Of the steps from a checkpoint to the end."""
    trainer.restore(checkpoint)
    return [trainer.train_step().train_loss for _ in range(BASE.steps - checkpoint.step)]


single = Trainer(dataclasses.replace(BASE, stages=0, batch=2, accumulate=6), data=data)
nothing = {name: array.copy() for name, array in single.optimizer.state_dict().items()}
forgetful = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, "optimizer": nothing})
other = PipelineTrainer(dataclasses.replace(BASE, stages=2, schedule="zb-v"), data=data)
found = {"never interrupted": [step.losses.sum() for step in smooth_steps[checkpoint.step :]]}
found["in one process"] = last_losses(single, checkpoint)
found["without the averages"] = last_losses(single, forgetful)
with starting():
    found["on 2 ranks, by ZB-V"] = last_losses(other, checkpoint)
other.gather()
other.close()
rows = [[name, *(f"{loss:.6f}" for loss in losses)] for name, losses in found.items()]
print(table(rows, ["loss", "step 7", "step 8", "step 9"]))
print("on 2 ranks, the same bits in the end:", bits(other) == bits(smooth))
assert bits(other) == bits(smooth) == bits(rough)
assert abs(found["without the averages"][-1] - found["never interrupted"][-1]) > 1e-4
agree("losses in one process", found["in one process"], found["never interrupted"], rtol=1e-4)

# %% [markdown]
# Without the averages the first loss is right, and then it is another run. The last row is the best
# of it. Two ranks instead of three, four stages instead of three, another schedule, and still the
# same bits: gradients of a parameter are added in the order of the microbatches, its norm is summed
# by itself, and dropout knows the number of the sample, not the rank. So when a machine is lost for
# good, the run can go on with fewer. (In one process it is the same up to rounding: there a kernel
# may meet other shapes.)

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: how often.** By the rate of Llama 3's run: how many minutes until the next
# interruption of 220,000 GPUs?

# %%
prediction = 54 * 24 * 60 * 16_384 / 419 / 220_000  # your number here

check(
    "minutes to the next interruption",
    prediction,
    60 * T_h / 220_000,
    "min",
    miss="days to minutes; GPUs of the published run over interruptions is the time of one GPU",
)

# %% [markdown]
# **Checkpoint 2: buffers.** On two ranks, how many slots does GPipe need for 8 microbatches from
# stage 0 to stage 1 so that rank 0 never waits, however slow rank 1 is? And 1F1B?

# %%
predictions = 8, 2  # your numbers here

for name, prediction in zip(("gpipe", "1f1b"), predictions, strict=True):
    needed = check_schedule(make_schedule(name, 2, 8)).needed_slots
    check(
        f"slots of {name}, stage 0 to stage 1",
        prediction,
        next(slots for lane, slots in needed.items() if lane.source == 0),
        miss="GPipe may send all before one is taken; 1F1B sends microbatch 2 after the gradient "
        "of microbatch 0 has come, so 0 was taken",
    )

# %% [markdown]
# **Checkpoint 3: a straggler, executed.** In `messages`, rank 2 of three took 1.5 times as long.
# Six microbatches; F, I, W of 10 us each; and it was ZB-H1, so put its bubble, $(p-1)(F+I-W)$, in
# the place of 1F1B's. How long was step 1, in which no message failed? (Within half a percent: what
# a message takes is for you to neglect.)

# %%
prediction = 1.5 * 6 * 30 + 2 * 10  # your number here

check(
    "a step with a straggler",
    prediction,
    faulty_steps[0].executed.makespan_ps / US,
    "us",
    within=0.005,
    miss="f m (F + I + W), and once the bubble of the others, who are as fast as ever",
)

# %% [markdown]
# **Checkpoint 4: a lost message.** In step 2 of `messages` the very first message was lost once.
# Everything waits for it. The timeout is 20 us; the message holds 2 samples of 32 tokens and 32
# numbers of 4 bytes, on a link of 800 Gb/s. By how much was the step longer than step 1, in
# picoseconds?

# %%
size_bytes = 2 * 32 * 32 * 4
prediction = 20 * US + math.ceil(size_bytes * 8 * 10**12 / (800 * 10**9))  # your number here

found = faulty_steps[1].executed.makespan_ps - faulty_steps[0].executed.makespan_ps
check(
    "a lost message",
    prediction,
    found,
    "ps",
    miss="one timeout, and one more transmission: the link is busy for size / bandwidth",
)

# %% [markdown]
# **Checkpoint 5: steps done in vain.** `rough` failed in step 5 and in step 8, with a checkpoint
# after every third. How many steps did it do, complete ones, to get through 9? (A step in which a
# rank fails does not count.)

# %%
prediction = 4 + (7 - 3) + (9 - 6)  # your number here

check(
    "complete steps",
    prediction,
    len(rough_steps),
    miss="4 before the first failure; from 3 again up to 7; from 6 again up to 9",
)

# %% [markdown]
# ## Look
#
# The step in which a message was damaged (`corrupt 1F3`: the activations of microbatch 3 on their
# way from rank 1 to rank 2), beside one of the undisturbed run. Both as three processes executed
# them; and what the simulator says of the second.

# %%
executed = faulty_steps[2].executed
simulated = faulty.ranks.simulate(faulty_steps[2])
show(
    comparison_figure([smooth_steps[2].executed, executed]),
    "Above, 1F1B undisturbed. Below, ZB-H1; rank 2 takes half as long again and sets the pace. Its "
    "F 3 comes late: the activations had to be sent twice. W 0 covers most of that. There are two "
    "more W in stock, but a schedule is an order, and nobody may leave it.",
)
difference = first_difference(executed, simulated)
print("where executed and simulated differ:", difference or "nowhere")
assert difference is None

# %% [markdown]
# The simulator knew: every start and end, to the picosecond. So what goes wrong can be studied
# where nothing is broken, for 220,000 GPUs as well as for three; lesson 15 does.

# %% [markdown]
# ## Exercises
#
# **1.** Two ranks, two chunks, laid out as a V: rank 0 has stages 0 and 3, rank 1 has 1 and 2. This
# order is refused. Read the circle, and mend it by moving *one* action.

# %%
refused = """
0F0 3F0 0F1 3F1 3B1 0B1 3B0 0B0
1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1
"""
print(textwrap.fill(refusal(from_text(refused, name="a V")), 96))

# %% tags=["answer"]
mended = """
0F0 3F0 0F1 3F1 3B1 3B0 0B1 0B0
1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1
"""
assert refusal(from_text(mended, name="a V")) is None
# Rank 1 gives microbatch 0 back first and needs 3B0 for it. Rank 0 had put that behind 0B1, which
# needs microbatch 1 from rank 1. Now 3B0 comes before, and rank 1 can go on.

# %% [markdown]
# **2.** How often should one write a checkpoint? If it takes $\delta$ to write one and one is
# written every $\tau$, a share $\delta / \tau$ of the time goes into writing, and with each failure
# $\tau / 2$ is lost on average, a share $\tau / 2M$. Find the best $\tau$, and the share that is
# lost then, for $\delta = 10$ s and $M = 14$ min. Check it by drawing failures at random.

# %% tags=["answer"]
delta, M = 10.0, 14 * 60.0


def lost_share(tau):
    return delta / tau + tau / (2 * M)


best = math.sqrt(2 * delta * M)  # where the derivative, -delta / tau^2 + 1 / 2M, is zero
assert all(lost_share(best) <= lost_share(best * k) for k in (0.5, 0.9, 1.1, 2.0))


def drawn_share(tau, failures=20_000):
    """Work between failures at random times; only whole intervals count."""
    up = rng.exponential(M, failures)
    kept = np.floor(up / (tau + delta)) * tau
    return 1 - kept.sum() / up.sum()


print(f"every {best:.0f} s: {format_percent(lost_share(best))} lost by the formula, "
      f"{format_percent(drawn_share(best))} drawn")  # fmt: skip
assert abs(drawn_share(best) - lost_share(best)) < 0.02
# sqrt(2 delta M), J. Young, 1974. The formula takes tau + delta for short beside M.

# %% [markdown]
# **3.** Rank 1 of three is 1.5 times as slow as the others, and will be. The model has 12 equal
# blocks, four on each. How many blocks should each rank have, and what does a step of 1F1B gain?
# (A rank's time goes with its blocks; 16 microbatches.)

# %% tags=["answer"]
BLOCK, SLOW = 10 * US, Fraction(3, 2)


def makespan(blocks):
    times = tuple(n * BLOCK for n in blocks)
    order = make_schedule("1f1b", 3, 16)
    return simulate(order, Times(times, times, times), stragglers={1: SLOW}).makespan_ps


every = [(a, b, 12 - a - b) for a in range(1, 11) for b in range(1, 12 - a)]
best = min(every, key=makespan)
print(f"{best}: a step takes {makespan(best) / makespan((4, 4, 4)):.3f} of what it took")
assert sorted(best) == [3, 4, 5]
assert best[1] == 3  # 3 * 1.5 = 4.5 < 5
assert [part.stop - part.start for part in partition([1.0] * 12, 3)] == [4, 4, 4]
# The slow one gets three. No cut of 12 whole blocks makes the largest smaller than 5. (The
# library's partition knows costs of blocks, not speeds of ranks: it would have said 4, 4, 4.)

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (the papers below).
#
# | | here | a GB300 cluster |
# |---|---|---|
# | who watches | one process on the same computer | agents on every host, and one that is elected |
# | a death is seen | at once, by the end of the process | after a timeout, by missed heartbeats |
# | a lost message | asked for again, by the receiver | sent again by the network card |
# | a damaged one | a checksum over the payload, at the end | checksums on each hop, ECC between |
# | a chip that computes wrongly | not looked for | found by doing work twice, if at all |
# | a straggler | given a factor | found among thousands by its times, and taken out |
# | after a failure | all processes are started again | spare machines take over |
# | checkpoints | written while training waits | copied to memory first, written in the background |

# %% [markdown]
# ## Sources
#
# - Llama team, "The Llama 3 Herd of Models", 2024, arXiv 2407.21783, section 3.3.4: 54 days, 16,384
#   GPUs, 419 unexpected interruptions.
# - Z. Jiang et al., "MegaScale: Scaling Large Language Model Training to More Than 10,000 GPUs",
#   NSDI 2024, arXiv 2402.15627: stragglers, and more than a hundred restarts.
# - E. Coffman, M. Elphick, A. Shoshani, "System Deadlocks", ACM Computing Surveys 3, 1971: the
#   circle, and three other conditions.
# - J. Young, "A first order approximation to the optimum checkpoint interval", Communications of
#   the ACM 17, 1974.
# - L. Lamport, "Time, clocks, and the ordering of events in a distributed system", 1978: what
#   surely happens before what, and so how many slots are enough.

# %%
room.cleanup()
finish()
