# %% [markdown]
# # 8. A link: latency, bandwidth, and an 800G NIC in shared memory
#
# From here on there is more than one processor, and what one has computed another one needs. You
# build the thing that carries it: a ring of slots in memory that two processes share. Then you give
# it a second meaning. The bytes move as fast as your memory lets them; what time that *stands for*
# is computed beside it, to the picosecond, as if a network card of 800 Gb/s lay between the two.

# %%
# introduces: baremetal.machine, baremetal.comm
import math
import multiprocessing
import statistics
import textwrap
import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
from lesson import agree, check, finish, quote, show, starting, time_s  # tutorials/lesson.py
from numba import njit

from baremetal.bench.link.echo import LanePlayer, Turn, answer_turns, make_lanes, play_pipe
from baremetal.comm import (
    CorruptionError,
    Endpoint,
    Exchange,
    Lane,
    LinkQueue,
    VirtualClock,
    checksum,
    make_layout,
    slot,
)
from baremetal.comm.ring import RingReceiver, RingSender
from baremetal.machine import Link, find_link
from baremetal.trace import (
    Line,
    Trace,
    format_bytes,
    format_seconds,
    format_si,
    line_figure,
    table,
    timeline_figure,
)

rng = np.random.default_rng(8)

# %% [markdown]
# ## What you will be able to do
#
# - Build a channel between two processes that loses nothing, doubles nothing, and notices damage:
#   slots, sequence numbers, back-pressure, a checksum made while copying.
# - Say when a message is there, in picoseconds: one message, a queue of them, and a queue with too
#   few slots.
# - Say for any link from which size on its bandwidth matters, and how many messages must be under
#   way to fill it.

# %% [markdown]
# ## The idea
#
# Two numbers describe a link. Its *bandwidth* $\beta$ says how many bits enter it per second. Its
# *latency* $L$ says how long a bit is under way. A message of $n$ bytes keeps the sender's end busy
# for $8 n / \beta$, its *occupancy*, and the last bit is there a latency later (R. Hockney's model,
# 1994):
#
# $$ T(n) = \frac{8 n}{\beta} + L $$
#
# They are not two words for the same thing. A lorry full of discs has a fine bandwidth. Where both
# terms are equal, at $n_{1/2} = \beta L / 8$ bytes, half of the time is spent on each. Far
# below it more bandwidth buys nothing; far above it less latency buys nothing.

# %%
LINKS = {name: find_link(name) for name in ("400g", "800g", "nvlink5")}
sizes = np.logspace(2, 9, 60)
lines = [
    Line(name, sizes, [1e-12 * link.transfer_ps(int(n)) for n in sizes])
    for name, link in LINKS.items()
]
only_bandwidth = 8 * sizes / LINKS["800g"].bandwidth_bps
lines.append(Line("800g, if latency were 0", sizes, only_bandwidth, group="800g", dashed=True))
show(
    line_figure(
        lines,
        "One message",
        x_label="size in B",
        y_label="time in s",
        log_x=True,
        log_y=True,
    ),
    "Level on the left, where the latency is all there is; a slope on the right, where it is "
    "nothing. The bend is at n½. The dashed line forgets the latency of the 800G card, and is "
    "wrong by a factor of dozens for a message of 4 KiB.",
)
rows = [
    (name, format_si(link.bandwidth_bps, "b/s"), format_seconds(1e-12 * link.latency_ps),
     format_bytes(link.bandwidth_bps * link.latency_ps / 8e12))
    for name, link in LINKS.items()
]  # fmt: skip
print(table(rows, ["link", "bandwidth", "latency", "n½"]))
print()
print(textwrap.fill(f"where the latency is from: {LINKS['800g'].sources['latency']}", 96))

# %% [markdown]
# (Bandwidth and latency are *public* figures; each is kept with its source, in
# `baremetal/machine/data`.)
#
# There is a third thing, which the formula hides: the *queue*. While one message occupies the
# sender's end, the next one waits. But it need not wait for the latency! The link is a pipe, and
# many messages can be in it, one behind the other. A message that is ready at time $r$ leaves and
# arrives at
#
# $$ \text{depart} = \max(r, \text{free}), \quad
#    \text{free}' = \text{depart} + \frac{8n}{\beta}, \quad
#    \text{arrive} = \text{free}' + L $$
#
# Three lines. Everything that this and the next four lessons say about time in a pipeline follows
# from them, and from one more: who receives a message sets his clock to the later of now and its
# arrival.

# %% [markdown]
# ## Build it
#
# ### Memory that two can see
#
# Two processes have nothing in common. But they can ask the system for a piece of memory that both
# see. One writes into it, the other reads: what could be simpler? Let us play it in one process
# first, so that we can choose who is when at work. `S` is the sender's turn, `R` the receiver's.


# %%
class Board:
    """One place for one number. Nobody waits for anybody."""

    def __init__(self):
        self.place = 0

    def send(self, value):
        self.place = value
        return True

    def receive(self):
        return self.place


def play(channel, turns, count=4):
    """Send 1, 2, ... `count`, each side at its turns; a side that must wait tries again later."""
    to_send, received = list(range(1, count + 1)), []
    for turn in turns:
        if turn == "S" and to_send and channel.send(to_send[0]):
            to_send.pop(0)
        if turn == "R" and (value := channel.receive()) is not None:
            received.append(value)
    return received


TURNS = "SRSSRRSRSSRRRR"
print("sent [1, 2, 3, 4], received", play(Board(), TURNS))

# %% [markdown]
# Number 2 was overwritten before anybody had seen it, and others were read again and again. Two
# things are missing. The receiver must know *which* message lies there; and the sender must know
# that it may be overwritten. So give each place a *label*, the number of the message in it, plus
# one, so that 0 is "nothing yet". And let the receiver say what it has *taken*.
#
# One place means one message: the sender waits for the receiver after each. With $n$ places, used
# in a circle, it can be $n$ ahead. Message $k$ uses slot $k \bmod n$, and may be written when
# message $k - n$ has been taken from there. This waiting is called **back-pressure**: a receiver
# that is slow makes its sender slow, instead of losing what it sends.


# %%
class Ring:
    """n slots in a circle. Each word in it has one writer, so that no lock is needed."""

    def __init__(self, slots, size=1):
        self.slots, self.sent, self.received = slots, 0, 0
        self.payload = np.zeros((slots, size), np.int64)
        self.label = np.zeros(slots, np.int64)  # written by the sender: message number + 1
        self.taken = np.zeros(slots, np.int64)  # written by the receiver: the same

    def send(self, value):
        at = self.sent % self.slots
        if self.sent >= self.slots and self.taken[at] != self.sent - self.slots + 1:
            return False  # full
        self.payload[at] = value
        self.label[at] = self.sent + 1  # last of all: from here on it counts
        self.sent += 1
        return True

    def receive(self):
        at = self.received % self.slots
        if self.label[at] != self.received + 1:
            return None  # not there yet
        value = self.payload[at].copy()
        self.taken[at] = self.received + 1
        self.received += 1
        return value if value.size > 1 else int(value[0])


assert play(Ring(1), TURNS) == play(Ring(2), TURNS) == [1, 2, 3, 4]
print("with labels:", play(Ring(2), TURNS))

# %% [markdown]
# Now with two that really run at the same time. (Threads, for the moment; they share all memory.)

# %%
ring, count = Ring(slots=4, size=512), 300
messages = rng.integers(0, 1000, (count, 512))


def send_all():
    for message in messages:
        while not ring.send(message):
            time.sleep(0)  # somebody else's turn


sender = threading.Thread(target=send_all)
sender.start()
arrived = []
while len(arrived) < count:
    if (message := ring.receive()) is not None:
        arrived.append(message)
    else:
        time.sleep(0)
sender.join()
check(
    "messages that came whole and in order",
    count,
    sum(np.array_equal(a, b) for a, b in zip(arrived, messages, strict=True)),
    miss="a slot was overwritten, or read before it was full",
)

# %% [markdown]
# Look again at the order of two lines in `send`: payload first, label last. The other way round,
# the receiver would sometimes copy what is not there yet. And here Python protects you from
# something. A compiler may exchange two stores that do not depend on each other, and some
# processors (ARM, not x86) let others see them exchanged. Between processes the label must
# therefore be written by a *release* store, which everything before it precedes, and be read by an
# *acquire* load. NumPy has neither; the library's ring is compiled code that does.
#
# ### A checksum, while copying
#
# A cable, a card or a bug can change a bit, and training would go on with it. So the sender adds
# the message's words up, and the receiver does it again. A plain sum has a hole:


# %%
def sums(message):
    """The plain sum of a message's 32-bit words, and the sum of each times its place."""
    words = message.view(np.uint32).astype(np.uint64)
    return int(words.sum()), int((np.arange(words.size, dtype=np.uint64) * words).sum())


message = rng.integers(2, 2**32 - 2, 1024, dtype=np.uint32)
exchanged = message.copy()
exchanged[[3, 700]] = message[[700, 3]]
(plain, weighted), (plain_after, weighted_after) = sums(message), sums(exchanged)
print("two words changed places:")
print("  the plain sum sees it:   ", plain != plain_after)
print("  the weighted sum sees it:", weighted != weighted_after)

# %% [markdown]
# Both together find every change of one word or of two (J. Fletcher, 1982). The library's are the
# same, modulo a prime, so that they fit 64 bits for a message of any length:

# %%
quote(checksum)
agree("our sums and the library's", sums(message), checksum(message))

# %% [markdown]
# What does it cost? A link in memory is limited by memory. Copying reads every byte and writes it;
# a second pass reads it once more. If it is added up *while* it goes by, nothing is read twice.


# %%
@njit(error_model="numpy")
def copy(source, target):
    for i in range(source.size):
        target[i] = source[i]


@njit(error_model="numpy")
def sum_up(source):
    plain, weighted = np.uint64(0), np.uint64(0)
    for i in range(source.size):
        plain += np.uint64(source[i])
        weighted += np.uint64(np.uint32(i)) * np.uint64(source[i])
    return plain, weighted


@njit(error_model="numpy")
def copy_and_sum(source, target):
    plain, weighted = np.uint64(0), np.uint64(0)
    for i in range(source.size):
        target[i] = source[i]
        plain += np.uint64(source[i])
        weighted += np.uint64(np.uint32(i)) * np.uint64(source[i])
    return plain, weighted


def two_passes():
    copy(large, target)
    return sum_up(target)


large = rng.integers(0, 2**32, 2**23, dtype=np.uint32)  # 32 MiB: no cache holds it
target = np.zeros_like(large)
assert two_passes() == copy_and_sum(large, target)
copy_s, two_s = time_s(lambda: copy(large, target)), time_s(two_passes)
one_s = time_s(lambda: copy_and_sum(large, target))
for what, seconds in (("copy", copy_s), ("copy, then sum", two_s), ("copy and sum", one_s)):
    print(f"{what:<15} {format_seconds(seconds):>8}  {format_si(large.nbytes / seconds, 'B/s')}")

# %% [markdown]
# Typically the sum in the same pass is nearly free, for the processor waits for memory anyway, and
# a second pass makes it half as long again, or more.
#
# ### The library's
#
# A *lane* is a stream of messages of one shape from one rank (a process, a modelled GPU) to
# another. The lanes of a run are known before it starts, and lie in one piece of shared memory,
# made by an `Exchange`. Each rank joins it with an `Endpoint`. Here are both ends of your ring,
# with their waiting; and the compiled code that fills a slot:

# %%
quote(RingSender.send, RingReceiver.receive, slot._put)

# %% [markdown]
# It goes further than yours in three things. The header has a sum of its own. Times travel with the
# message: of that in a moment. And for a large message the label comes *first*, followed by how
# much has been written (`WRITTEN`), block by block: so the receiver copies out while the sender
# still copies in, each on its own core.
#
# Both ends may be in the same process, which is handy for looking. Send, then change one bit on the
# way:

# %%
lane = Lane(src=0, dst=1, slots=2, shape=(4, 256), label="activations 0 -> 1")
layout = make_layout(2, [lane])
x, into = rng.standard_normal(lane.shape).astype(np.float32), np.zeros(lane.shape, np.float32)
with Exchange(layout) as exchange:
    sender = Endpoint(exchange.address, 0).senders[0]
    receiver = Endpoint(exchange.address, 1).receivers[0]
    sender.send(0, x, ready_ps=0)
    receiver.receive(0, into, taken_ps=0)
    agree("message 0", into, x)

    sender.send(1, x, ready_ps=0)
    payload = layout.offsets()[0] + lane.stride_bytes + slot.HEADER_BYTES  # of slot 1
    exchange.memory[payload + 1000] ^= 4
    try:
        receiver.receive(1, into, taken_ps=0)
    except CorruptionError as error:
        print(textwrap.fill(f"message 1: {error}", 96))
    else:
        raise AssertionError("a changed bit went unseen")

# %% [markdown]
# ### What time it stands for
#
# Your memory is not a network card. So *when* a message is there is decided by the three lines of
# above, in integers of picoseconds, and has nothing to do with how long the copying took. The
# sender knows its link, so it computes the arrival and writes it into the header. The receiver has
# a clock that is a number: it sets it to the later of now and that arrival. Such a clock is called
# *virtual*. It shows the same on every machine, however busy, on two cores or on two hundred; and
# two runs that should be equal can be compared to the last digit.


# %%
class TinyLink:
    def __init__(self, bandwidth_bps, latency_ps):
        self.bandwidth_bps, self.latency_ps, self.free_ps = bandwidth_bps, latency_ps, 0

    def carry(self, size_bytes, ready_ps):
        """Departure, end of the occupancy, arrival; ps."""
        depart_ps = max(ready_ps, self.free_ps)
        # Whole picoseconds, rounded up once: -(-a // b) is a / b rounded up.
        self.free_ps = depart_ps + -(-size_bytes * 8 * 10**12 // self.bandwidth_bps)
        return depart_ps, self.free_ps, self.free_ps + self.latency_ps


nic = find_link("800g")
ours, theirs = TinyLink(nic.bandwidth_bps, nic.latency_ps), LinkQueue(nic, src=0, dst=1)
ready_ps, equal = 0, 0
for size_bytes in rng.integers(0, 10**6, 1000).tolist():
    ready_ps += int(rng.integers(0, 10**7))
    equal += ours.carry(size_bytes, ready_ps) == tuple(theirs.carry(size_bytes, ready_ps))
check(
    "messages with the same three times as the library's",
    1000,
    equal,
    miss="rounding: a message's occupancy is rounded up once, not its bits or its bytes",
)
quote(LinkQueue.carry, VirtualClock)

# %% [markdown]
# What the library's link can do beside: be late by chance (`jitter`), lose messages and send them
# again (`loss`, exercise 3), and fail for good. Chance is a function of a seed, the two ranks and
# the message's number, so that whoever asks, in whatever order, hears the same.

# %% [markdown]
# ## Predict, then run
#
# All of these run over the real lane: the bytes go through shared memory. Its ends are in one
# process, where their times are the same as in two.


# %%
def stream(link, size_bytes, slots, count):
    """Send `count` messages as early as link and slots allow, each taken as it arrives; ps."""
    lane = Lane(0, 1, slots, (size_bytes,), "uint8")
    message, into, arrivals_ps = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8), []
    with Exchange(make_layout(2, [lane])) as exchange:
        sender = Endpoint(exchange.address, 0, {(0, 1): link}).senders[0]
        receiver = Endpoint(exchange.address, 1).receivers[0]
        for k in range(count):
            sender.send(k, message, ready_ps=sender.free(k))  # free since when? 0 at first
            arrivals_ps.append(receiver.arrival(k))
            receiver.receive(k, into, taken_ps=arrivals_ps[-1])
    return arrivals_ps


# %% [markdown]
# **Checkpoint 1: one message.** 4 KiB over the 800G card: 800 bits per nanosecond, and a latency of
# 2.7 µs. When is it there, in picoseconds?

# %%
prediction = 4096 * 8 * 1000 // 800 + 2_700_000  # your number here

check(
    "arrival of 4 KiB",
    prediction,
    stream(nic, 4096, slots=1, count=1)[0],
    "ps",
    miss="bits for bytes, or ns for ps",
)

# %% [markdown]
# **Checkpoint 2: a queue.** 16 messages of 1 MiB, all ready at time 0, and slots enough. When is
# the last one there? (Not at 16 times the time of one.)

# %%
occupancy_ps = 2**20 * 8 * 1000 // 800
prediction = 16 * occupancy_ps + 2_700_000  # your number here

check(
    "arrival of the last of 16 MiB",
    prediction,
    stream(nic, 2**20, slots=16, count=16)[-1],
    "ps",
    miss="the latency was paid more than once: messages travel one behind the other",
)

# %% [markdown]
# **Checkpoint 3: one slot.** The same 16 messages through a ring with a single slot. The next
# message may be written when the last one has been taken, and that is when it arrives.

# %%
prediction = 16 * (occupancy_ps + 2_700_000)  # your number here

check(
    "the same with one slot",
    prediction,
    stream(nic, 2**20, slots=1, count=16)[-1],
    "ps",
    miss="with one slot nothing travels behind anything: each pays its latency",
)

# %% [markdown]
# **Checkpoint 4: enough slots.** Messages of 4 KiB occupy the card for 41 ns and travel for 2.7 µs.
# How many slots does the ring need, so that the link never waits for one? A slot is taken from a
# message's departure to its arrival, occupancy plus latency, and in that time the link could send
#
# $$ n = \left\lceil \frac{8 s / \beta + L}{8 s / \beta} \right\rceil $$
#
# messages of $s$ bytes. (In bytes it is called the *bandwidth-delay product*.) Find by trial the
# least number of slots with which 200 messages are as fast as with 200 slots.

# %%
small_ps = nic.occupancy_ps(4096)
prediction = math.ceil((small_ps + nic.latency_ps) / small_ps)  # your number here

best_ps = stream(nic, 4096, 200, 200)[-1]
enough = next(n for n in range(1, 200) if stream(nic, 4096, n, 200)[-1] == best_ps)
check(
    "slots that fill the link",
    prediction,
    enough,
    miss="one more or less: the message that is just leaving needs a slot, too",
)

# %% [markdown]
# And with fewer, $n$ of them? They leave one behind the other, then all wait for the first to
# arrive. Message $k = q n + r$ is there after $q + 1$ such rounds and $r$ occupancies. Say it for
# the last of 200 messages and 16 slots:

# %%
rounds, place = divmod(199, 16)
prediction = (rounds + 1) * (small_ps + nic.latency_ps) + place * small_ps  # your number here

found_ps = stream(nic, 4096, 16, 200)[-1]
check("the last of 200, 16 slots", prediction, found_ps, "ps", miss="messages count from 0")
print(f"{found_ps / best_ps:.1f} times as long as with slots enough")

# %% [markdown]
# ## Look
#
# Five messages of 128 KiB, through two slots. Each has its occupancy, then its latency; from the
# third on they have to wait for a slot.

# %%
trace, queue = Trace(), LinkQueue(nic, 0, 1)
arrivals_ps = []
for k in range(5):
    sent = queue.carry(2**17, ready_ps=arrivals_ps[k - 2] if k >= 2 else 0)
    arrivals_ps.append(sent.arrival_ps)
    busy_ps = sent.free_ps - sent.depart_ps
    trace.add_span("the link sends", str(k), sent.depart_ps, busy_ps, "occupancy")
    trace.add_span(f"message {k}", "occupancy", sent.depart_ps, busy_ps, "occupancy")
    trace.add_span(f"message {k}", "latency", sent.free_ps, nic.latency_ps, "latency")
assert arrivals_ps == stream(nic, 2**17, slots=2, count=5)
show(
    timeline_figure(trace, "Five messages, two slots", categories=["occupancy", "latency"]),
    "In the first row what the sender's end does: two messages close up, then a gap, because the "
    "ring is full until message 0 has been taken at the other end. A third slot would fill nearly "
    "all of the gap, a fourth the rest.",
)

# %% [markdown]
# ### Beside it: what it really takes here
#
# Now two processes, and a stopwatch. A time one way cannot be measured with one clock, so the
# message is sent back, and half of there and back counts. What the other process runs is a function
# of the library (`answer_turns`): a process that is *spawned* begins with nothing, and imports what
# it is to run. Beside our lane, the system's own pipe, which has no checksum.

# %%
SIZES = (2**12, 2**16, 2**20, 2**22, 2**24)
COUNTS = (400, 200, 40, 12, 6)  # round trips of each size
spawn = multiprocessing.get_context("spawn")
one_way_s = {"shared memory": [], "pipe": []}
with Exchange(make_lanes(SIZES)) as exchange:
    orders, their_orders = spawn.Pipe()
    pipe, their_pipe = spawn.Pipe()
    arguments = (exchange.address, their_orders, their_pipe)
    process = spawn.Process(target=answer_turns, args=arguments, daemon=True)
    with starting():
        process.start()
    their_orders.close()
    their_pipe.close()
    try:
        orders.recv()  # it is ready
        ends = Endpoint(exchange.address, 0)
        for number, trips in enumerate(COUNTS):
            player = LanePlayer(ends, number, first=True)
            for name, found in one_way_s.items():
                orders.send(Turn(name, number, trips))
                if name == "pipe":
                    round_trips_s = list(play_pipe(pipe, player.buffer, trips))
                else:
                    round_trips_s = list(player.play(trips, in_place=False))
                found.append(statistics.median(round_trips_s) / 2)
        orders.send(None)
        process.join()
    finally:
        process.kill()
        process.join()

modelled_s = [1e-12 * nic.transfer_ps(size) for size in SIZES]
rows = [
    (format_bytes(size, binary=True), *map(format_seconds, times))
    for size, *times in zip(SIZES, *one_way_s.values(), modelled_s, strict=True)
]
print(table(rows, ["one way", "our lane", "a pipe", "800G, modelled"]))
show(
    line_figure(
        [
            *(Line(f"{name}, measured here", SIZES, y, markers=True)
              for name, y in one_way_s.items()),
            Line("800G, modelled", SIZES, modelled_s, dashed=True, markers=True),
        ],
        "One way, from process to process",
        x_label="size in B",
        y_label="time in s",
        log_x=True,
        log_y=True,
    ),
    "The lines have the same shape: a level, then a slope. Our memory has a latency and a "
    "bandwidth, too. A small message takes a few microseconds to some tens, not far from the "
    "card's; a large one takes ten times as long as over the card, or longer.",
)  # fmt: skip

# %% [markdown]
# The measured one depends on your machine, and on what else it does; with more processes at work
# than cores, a message waits until the receiver has a core. (Then the pipe may win for a small one:
# the system wakes its reader, while ours looks, gives way, and looks again.) The modelled one is a
# number. That is why the lessons on pipelines count in modelled time, and why their predictions can
# be exact.
#
# **Checkpoint 5: Hockney's law, measured.** From the shortest and the longest message you can find
# this machine's own latency and bandwidth. How long should the one of 4 MiB take?

# %%
(small, *_, middle, big), (small_s, *_, middle_s, big_s) = SIZES, one_way_s["shared memory"]
seconds_per_byte = (big_s - small_s) / (big - small)
prediction = small_s + (middle - small) * seconds_per_byte  # your number here

check(
    "4 MiB through our lane",
    prediction * 1e6,
    middle_s * 1e6,
    "µs",
    factor=3,
    timed=True,
    miss="a bandwidth is not one number here (4 MiB may fit into a cache and 16 MiB not), or the "
    "machine was busy",
)

# %% [markdown]
# ## Exercises
#
# **1.** Llama 3's largest model passes on 16,384 numbers of two bytes for each token, and sends
# 8,192 tokens at a time. How long does that take over one 800G card, and over NVLink 5? What share
# of it is latency? And for one token (as when text is generated)?

# %% tags=["answer"]
for tokens in (8192, 1):
    size_bytes = tokens * 16384 * 2
    for name in ("800g", "nvlink5"):
        link = LINKS[name]
        whole_ps = link.transfer_ps(size_bytes)
        time_text, share = format_seconds(1e-12 * whole_ps), link.latency_ps / whole_ps
        print(f"{tokens:>5} tokens by {name:<8}{time_text:>8}, of which latency {share:.1%}")
assert LINKS["800g"].latency_ps < 0.002 * LINKS["800g"].transfer_ps(8192 * 32768)
assert LINKS["800g"].latency_ps > 0.8 * LINKS["800g"].transfer_ps(32768)
# While training it is all bandwidth, while generating all latency: the same wire, two problems.

# %% [markdown]
# **2.** Two sums find every change of two words. Find a change of *three* words that they do not
# see, and try it on the library's. Why is it no reason to worry about a cable, and a good one to
# worry about a person?

# %% tags=["answer"]
damaged = message.copy()
damaged[10] += 1
damaged[11] -= 2
damaged[12] += 1
print("three words changed, and the sums are equal:", checksum(damaged) == checksum(message))
assert checksum(damaged) == checksum(message)
# +1, -2, +1 on neighbours changes neither the sum, nor the sum times the place. Damage by chance
# hits such a pattern about once in 2^118 times; somebody who wants to hits it every time.

# %% [markdown]
# **3.** A link loses each attempt with a chance of 1 %, and the sender notices after 20 µs.
# (Nothing overtakes: *stop and wait*.) With $\ell$ losses a message occupies the link for $(\ell +
# 1)$ occupancies and $\ell$ timeouts. How many times as long do 20,000 messages of 64 KiB take,
# compared with a link that loses none?

# %% tags=["answer"]
lossy = replace(nic, loss=Fraction(1, 100), retransmit_timeout_ps=20_000_000)
occupancy_ps = nic.occupancy_ps(2**16)
losses = 0.01 / 0.99  # on average: 0.01 + 0.01^2 + ...
prediction = ((losses + 1) * occupancy_ps + losses * 20_000_000) / occupancy_ps

queue = LinkQueue(lossy, src=0, dst=1, seed=3)
for _ in range(20_000):
    last = queue.carry(2**16, ready_ps=0)
check(
    "times as long",
    prediction,
    last.free_ps / (20_000 * occupancy_ps),
    within=0.05,
    miss="by chance: another seed, or more messages",
)
assert isinstance(lossy, Link)
# One lost in a hundred, and a quarter of the bandwidth is gone: a timeout is thirty occupancies.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public* (vendors' manuals, NCCL's source).
#
# | | here | GB300 cluster |
# |---|---|---|
# | the wire | memory that two processes share | copper in the rack, fibre between racks |
# | who copies | a core, block by block | the network card, out of GPU memory (RDMA): no core |
# | noticing a message | a core looks at a word | a flag in GPU memory, or an event queue |
# | back-pressure | a word per slot | credits on every hop, in hardware |
# | damage | two sums, end to end | a CRC per packet and hop, and error correction in the light |
# | a lost message | sent again by us, in modelled time | sent again by the card |
# | paths | one queue for each pair of ranks | switches, many paths, other people's traffic |
# | time | a number in picoseconds | what the wall clock says |
#
# ## Sources
#
# - R. Hockney, "The communication challenge for MPP: Intel Paragon and Meiko CS-2", Parallel
#   Computing 20, 1994: latency, bandwidth, n½.
# - A. Alexandrov et al., "LogGP", SPAA 1995: a cost for each message beside that of its bytes.
# - L. Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", CACM 1978.
# - J. Fletcher, "An Arithmetic Checksum for Serial Transmissions", IEEE Transactions on
#   Communications 30(1), 1982.
# - NVIDIA, ConnectX-8 SuperNIC User Manual, read in November 2026: 800 Gb/s.
# - NVIDIA, NCCL, `src/graph/tuning.cc` (latencies of its steps), read in November 2026.

# %%
finish()
