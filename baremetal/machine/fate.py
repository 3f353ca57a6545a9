"""What becomes of one message: how often it is lost, and by how much it is late.

Chance without a generator. A generator's numbers depend on how many were drawn before, so the
simulator, which goes through the messages in order of time, and the processes of a pipeline, which
each see their own, would draw differently. Here a message's fate is a function of who it is: the
seed of the run, the sender, the receiver, and its number on their link. Whoever asks, in whichever
order, hears the same.

The function is a hash. The words are absorbed one by one into 32 bits of state, and each time the
state is mixed so that every bit of it depends on every bit before. The mixer is C. Wellons'
`lowbias32` ("Prospecting for Hash Functions", 2018, https://nullprogram.com/blog/2018/07/31/),
found by a search for the constants with which a changed bit most nearly flips half of the others.

32 bits, although words of 64 would be usual, for a reason: the product of two 32-bit numbers, and
a mask, give the same in Python's unbounded integers and in a machine's wrapping 64-bit ones. So
this one function is what Python calls, and what `numba.njit(fate)` compiles, digit for digit.
"""

LOW = 0xFFFFFFFF  # 32 bits
MOST_LOSSES = 64  # the next attempt arrives: at one half lost, it would take 1e19 messages to see
CERTAIN = 1 << 32  # chances are counted in parts of this


def fate(
    seed: int, src: int, dst: int, sequence: int, loss_chance: int, jitter_ps: int
) -> tuple[int, int]:
    """How often message number `sequence` from `src` to `dst` is lost, and its jitter.

    Args:
        seed: of the run, 0 to 2^63 - 1.
        src: rank that sends.
        dst: rank that receives.
        sequence: number of the message among those from `src` to `dst`, from 0.
        loss_chance: of every attempt, in parts of 2^32.
        jitter_ps: the most it can be late, in ps.

    Returns:
        The number of lost attempts before the one that arrives, 0 to `MOST_LOSSES`; and its
        lateness in ps, evenly from 0 to `jitter_ps`. To be compiled, all arguments are int64.
    """

    def mixed(state: int, word: int) -> int:
        x = ((state ^ (word & LOW)) + 0x9E3779B9) & LOW  # + : a run of zeros must not stay zero
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
        x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
        return x ^ (x >> 16)

    state = 0
    for word in (seed, seed >> 32, src, dst, sequence, sequence >> 32):
        state = mixed(state, word)
    high = mixed(state, 1)
    late = mixed(high, 2)
    # 63 bits, so that the remainder favours no lateness by more than jitter_ps / 2^63.
    jitter = ((high << 31) | (late >> 1)) % (jitter_ps + 1)
    losses = 0
    draw = mixed(late, 3)
    while draw < loss_chance and losses < MOST_LOSSES:
        losses += 1
        draw = mixed(draw, 3 + losses)
    return losses, jitter
