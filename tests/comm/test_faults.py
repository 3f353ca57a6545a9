"""Messages that go wrong on purpose: found, asked for again, and what arrives is what was sent."""

import numpy as np
import pytest

from baremetal.comm.errors import AbortedError, CorruptionError
from baremetal.comm.faults import MessageFault, Wrong
from baremetal.comm.layout import Lane
from baremetal.machine.link import Link

LINK = Link("slow", 8 * 10**12, latency_ps=1000, overhead_ps=10, retransmit_timeout_ps=500)
MESSAGES = 6


def message(k):
    return np.random.default_rng(k).standard_normal(40).astype(np.float32)  # 160 bytes: 170 ps


def run(joined, faults, slots=3, zero_copy=False):
    """Send and receive, both here: while the receiver waits, the sender serves, as it would."""
    lane = Lane(0, 1, slots, (40,), label="gradients 1 -> 0")
    _, (one, two) = joined(lane, links={(0, 1): LINK}, faults=faults)
    sender, receiver = one.senders[0], two.receivers[0]
    two.waiting.duties.append(sender.serve)
    into, arrivals = np.empty(40, np.float32), []
    for k in range(MESSAGES):
        if zero_copy:
            sender.reserve(k)[:] = message(k)
            sender.commit(k, 0)
        else:
            sender.send(k, message(k), 0)
        arrivals.append(receiver.arrival(k))
        receiver.receive(k, into, arrivals[-1])
        np.testing.assert_array_equal(into, message(k))
    one.drain()
    return arrivals, one.counts, two.counts


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("wrong", Wrong)
def test_what_arrives_is_what_was_sent(joined, wrong, slots, zero_copy):
    _, sender, receiver = run(joined, [MessageFault(wrong, 0, 2)], slots, zero_copy)
    assert sender.resent == 1
    assert receiver.requested >= 1
    found = receiver.damaged, receiver.duplicated, receiver.out_of_order
    assert (
        found
        == {
            Wrong.DROP: (0, 0, 0),
            Wrong.CORRUPT: (1, 0, 0),
            Wrong.DUPLICATE: (
                0,
                int(slots > 1),
                0,
            ),  # in the same slot it looks like the message before
            Wrong.REORDER: (0, 0, 1),
        }[wrong]
    )


@pytest.mark.parametrize("wrong", [Wrong.DROP, Wrong.CORRUPT])
def test_a_lost_message_costs_a_timeout_and_another_transmission(joined, wrong):
    arrivals, *_ = run(joined, [MessageFault(wrong, 0, 2)])
    free = np.cumsum([170, 170, 170 + 500 + 170, 170, 170, 170])
    assert arrivals == (free + 1000).tolist()


def test_a_duplicate_occupies_the_link(joined):
    arrivals, *_ = run(joined, [MessageFault(Wrong.DUPLICATE, 0, 2)])
    free = np.cumsum([170, 170, 170, 170 + 170, 170, 170])
    assert arrivals == (free + 1000).tolist()


@pytest.mark.parametrize("bit", [0, 777, 1279, 1280])
def test_any_bit_can_be_flipped(joined, bit):
    *_, receiver = run(joined, [MessageFault(Wrong.CORRUPT, 0, 0, bit=bit)])
    assert receiver.damaged == 1


def test_the_last_message_can_go_wrong(joined):
    *_, receiver = run(joined, [MessageFault(Wrong.CORRUPT, 0, MESSAGES - 1, times=3)])
    assert receiver.damaged == 3


@pytest.mark.parametrize("times", [2, 3])
def test_several_attempts_can_go_wrong(joined, times):
    arrivals, sender, _ = run(joined, [MessageFault(Wrong.CORRUPT, 0, 1, times=times)])
    assert arrivals[1] == 170 + 170 + times * (500 + 170) + 1000
    assert sender.resent == times


def test_a_message_that_is_damaged_every_time_ends_the_run(joined):
    with pytest.raises(CorruptionError, match=r"message 1 is damaged.*4 times"):
        run(joined, [MessageFault(Wrong.CORRUPT, 0, 1, times=4)])


def test_all_of_them_in_one_run(joined):
    faults = [MessageFault(wrong, 0, k) for k, wrong in zip((0, 1, 2, 4), Wrong, strict=True)]
    *_, receiver = run(joined, faults)
    found = receiver.damaged, receiver.duplicated, receiver.out_of_order
    assert found == (1, 1, 1)


def test_two_faults_cannot_show_in_one_slot(joined, refused):
    with refused("two things", "message 3"):
        run(joined, [MessageFault(Wrong.DUPLICATE, 0, 2), MessageFault(Wrong.DROP, 0, 3)])


def test_numbers_count_from_0(refused):
    with refused("numbers count from 0"):
        MessageFault(Wrong.DROP, 0, -1)
    with refused("numbers count from 0", "times from 1"):
        MessageFault(Wrong.CORRUPT, 0, 0, times=0)


def test_drain_waits_until_what_went_wrong_is_mended(joined):
    _, (one, two) = joined(Lane(0, 1, 3, (40,)), faults=[MessageFault(Wrong.DROP, 0, 0)])
    one.senders[0].send(0, message(0), 0)
    rounds = []

    def receive():  # the other process: asks in one round, finds it in the next
        rounds.append(two.receivers[0].try_arrival(0))
        two.receivers[0]._ask(0, 0)
        if rounds[-1] is not None:
            two.receivers[0].receive(0, np.empty(40, np.float32), 0)

    one.waiting.duties.append(receive)
    one.drain()
    assert rounds == [None, None, 0] or rounds == [None, 0]


def test_drain_ends_with_the_run(joined):
    exchange, (one, _) = joined(Lane(0, 1, 3, (40,)), faults=[MessageFault(Wrong.DROP, 0, 0)])
    one.senders[0].send(0, message(0), 0)
    one.waiting.duties.append(lambda: exchange.board.abort("rank 1 was killed"))
    with pytest.raises(AbortedError, match="rank 1 was killed"):
        one.drain()
