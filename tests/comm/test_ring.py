"""A lane in shared memory, both ends in this process: order, back-pressure, times, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.comm.board import WaitingFor
from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.comm.errors import AbortedError, CorruptionError, SequenceError
from baremetal.comm.layout import Lane, make_layout
from baremetal.comm.slot import ARRIVAL, HEADER_BYTES
from baremetal.machine.link import Link

LANE = Lane(0, 1, 2, (3, 5), label="activations 0 -> 1")


def message(k, lane=LANE):
    return np.random.default_rng(k).standard_normal(lane.shape).astype(lane.dtype)


@pytest.fixture
def ends(joined):
    _, (sender, receiver) = joined(LANE)
    return sender.senders[0], receiver.receivers[0]


def test_messages_come_as_they_were_sent(ends):
    sender, receiver = ends
    into = np.empty(LANE.shape, np.float32)
    for k in range(7):  # more than there are slots
        transfer = sender.send(k, message(k), 10 * k)
        assert receiver.arrival(k) == transfer.arrival_ps == 10 * k
        receiver.receive(k, into, 10 * k + 1)
        np.testing.assert_array_equal(into, message(k))


@given(
    st.sampled_from(["float32", "float64", "int8", "uint16"]),
    st.lists(st.integers(0, 7), max_size=3),
    st.integers(1, 3),
)
def test_any_shape_dtype_and_number_of_slots(dtype, shape, slots):
    lane = Lane(0, 1, slots, tuple(shape), dtype)
    with Exchange(make_layout(2, [lane, lane])) as exchange:
        one, two = (Endpoint(exchange.address, rank) for rank in range(2))
        into = np.empty(lane.shape, dtype)
        for k in range(4):
            for number in range(2):  # neighbours in memory
                one.senders[number].send(k, np.asarray(100 * message(k + number, lane)), 0)
            for number in range(2):
                two.receivers[number].receive(k, into, 0)
                np.testing.assert_array_equal(into, 100 * message(k + number, lane))


def test_work_can_write_straight_into_the_slot(ends):
    sender, receiver = ends
    into = np.empty(LANE.shape, np.float32)
    for k in range(5):
        np.multiply(message(k), 2, out=sender.reserve(k))
        sender.commit(k, 3)
        receiver.receive(k, into, 4)
        np.testing.assert_array_equal(into, 2 * message(k))


def test_messages_can_be_taken_in_another_order(ends):
    sender, receiver = ends
    into = np.empty(LANE.shape, np.float32)
    sender.send(0, message(0), 0)
    sender.send(1, message(1), 0)
    for k in (1, 0):
        receiver.receive(k, into, 50 + k)
        np.testing.assert_array_equal(into, message(k))
    assert [sender.free(k) for k in (2, 3)] == [50, 51]


def test_a_slot_is_free_from_when_its_message_was_taken(ends):
    sender, receiver = ends
    assert [sender.free(k) for k in range(2)] == [0, 0]
    sender.send(0, message(0), 5)
    receiver.receive(0, np.empty(LANE.shape, np.float32), 1234)
    assert sender.free(2) == 1234


def test_a_sender_waits_for_a_slot_and_says_for_which(ends, joined):
    _, (one, two) = joined(LANE)
    sender, receiver = one.senders[0], two.receivers[0]
    sender.send(0, message(0), 0)
    sender.send(1, message(1), 0)
    seen = []

    def take():  # what the other process would do while this one waits
        seen.append(one.board.waiting(0))
        receiver.receive(0, np.empty(LANE.shape, np.float32), 77)

    one.waiting.duties.append(take)
    assert sender.free(2) == 77
    assert seen == [WaitingFor(0, 2, receiving=False)]
    assert one.board.waiting(0) is None
    assert one.counts.waits == 1
    assert one.counts.waited_ns > 0


def test_a_receiver_waits_for_a_message_and_says_for_which(joined):
    _, (one, two) = joined(LANE)
    seen = []

    def send():
        if not seen:
            one.senders[0].send(0, message(0), 9)
        seen.append(two.board.waiting(1))

    two.waiting.duties.append(send)
    assert two.receivers[0].try_arrival(0) is None
    assert two.receivers[0].arrival(0) == 9
    assert seen[0] == WaitingFor(0, 0, receiving=True)
    assert two.receivers[0].try_arrival(0) == 9


def test_signs_of_life_are_counted_while_waiting(joined):
    exchange, (_, two) = joined(LANE)
    rounds = []

    def end():
        rounds.append(exchange.board.beats()[1])
        if len(rounds) == 5:
            exchange.board.abort("rank 0 was killed")

    two.waiting.duties.append(end)
    with pytest.raises(AbortedError, match="rank 1 stopped: rank 0 was killed"):
        two.receivers[0].arrival(0)
    assert rounds == sorted(set(rounds))  # it grows in every round


def test_the_first_reason_counts(joined):
    exchange, _ = joined(LANE)
    assert exchange.board.aborted is None
    exchange.board.abort("Stufe 2: Überlauf")
    exchange.board.abort("something that came of it")
    assert exchange.board.aborted == "Stufe 2: Überlauf"


def test_a_long_reason_is_cut(joined):
    exchange, _ = joined(LANE)
    exchange.board.abort("ä" * 1000)
    assert set(exchange.board.aborted) == {"ä"}


def test_messages_are_sent_in_order(ends, refused):
    sender, _ = ends
    with refused("activations 0 -> 1", "message 1", "0 is the next"):
        sender.send(1, message(1), 0)
    with refused("message 3", "0 is the next"):
        sender.reserve(3)


def test_a_message_is_taken_once(ends):
    sender, receiver = ends
    into = np.empty(LANE.shape, np.float32)
    sender.send(0, message(0), 0)
    receiver.receive(0, into, 0)
    sender.send(1, message(1), 0)
    sender.send(2, message(2), 0)  # in the slot of number 0
    with pytest.raises(SequenceError, match="message 0 has been taken already"):
        receiver.receive(0, into, 0)


def test_only_what_the_lane_carries(ends, refused):
    sender, receiver = ends
    with refused("(3, 5)", "(5, 3)"):
        sender.send(0, np.empty((5, 3), np.float32), 0)
    with refused("float32", "float64"):
        receiver.receive(0, np.empty((3, 5)), 0)
    with refused("carries arrays", "given float64"):
        sender.send(0, np.float64(3.0), 0)
    with refused("not contiguous"):
        sender.send(0, np.empty((5, 3), np.float32).T, 0)


@pytest.mark.parametrize("byte", [0, 31, 59])
def test_damage_in_the_slot_is_found(ends, byte):
    sender, receiver = ends
    payload = sender.reserve(0)
    payload[:] = message(0)
    sender.commit(0, 0)
    payload.reshape(-1).view(np.uint8)[byte] ^= 4
    with pytest.raises(CorruptionError, match=r"activations 0 -> 1.*message 0 is damaged"):
        receiver.receive(0, np.empty(LANE.shape, np.float32), 0)


def test_damage_in_the_header_is_found(ends):
    sender, receiver = ends
    sender.send(0, message(0), 5)
    receiver._words[0][ARRIVAL] ^= 1 << 40
    with pytest.raises(CorruptionError, match="its header"):
        receiver.arrival(0)


def test_a_strange_number_in_the_slot_is_found(ends):
    sender, receiver = ends
    sender.send(0, message(0), 5)
    receiver._words[0][0] = 9
    with pytest.raises(SequenceError, match="message 8 lies where message 0 is due"):
        receiver.arrival(0)


def test_lanes_between_two_ranks_share_their_link(joined):
    lanes = Lane(0, 1, 4, (100,), "int8"), Lane(0, 1, 4, (200,), "int8"), Lane(1, 0, 4, (1,))
    link = Link("slow", bandwidth_bps=8 * 10**12, latency_ps=1000, overhead_ps=7)  # 1 ps a byte
    _, (one, two) = joined(*lanes, links={(0, 1): link})
    there = one.senders[0].send(0, np.zeros(100, np.int8), 50)
    behind = one.senders[1].send(0, np.zeros(200, np.int8), 60)
    back = two.senders[2].send(0, np.zeros(1, np.float32), 60)
    assert there == (50, 157, 1157)
    assert behind == (157, 364, 1364)
    assert back == (60, 60, 60)  # the other direction is a link of its own
    assert two.receivers[1].arrival(0) == 1364


def test_a_message_is_charged_as_the_plan_says(joined):
    lane = Lane(0, 1, 1, (100,), "int8", modelled_bytes=5000)
    link = Link("slow", bandwidth_bps=8 * 10**12, latency_ps=0)
    _, (one, _) = joined(lane, links={(0, 1): link})
    assert one.senders[0].send(0, np.zeros(100, np.int8), 0).arrival_ps == 5000


def test_words_do_not_share_a_cache_line_with_the_other_side():
    assert HEADER_BYTES == 3 * 64
    assert LANE.stride_bytes == HEADER_BYTES + 64


def test_a_lane_needs_two_ranks_and_a_slot(refused):
    with refused("from rank 1 to rank 1"):
        Lane(1, 1, 1, (1,))
    with refused("0 slots"):
        Lane(0, 1, 0, (1,))
    with refused("rank 2", "2 ranks"):
        make_layout(2, [Lane(0, 2, 1, (1,))])
    with refused("cannot be carried"):
        Lane(0, 1, 1, (2**31, 2))
