"""Links: occupancy against its formula; the fate of messages: pure, even, compiled alike."""

import math
import pickle
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.machine import Fate, Link, find_link
from baremetal.machine.fate import MOST_LOSSES, fate

ranks = st.integers(0, 2**31 - 1)
words = st.integers(0, 2**63 - 1)
COMPILED = numba.njit(fate)


def link(**changes) -> Link:
    given = {"name": "test", "bandwidth_bps": 800 * 10**9, "latency_ps": 1_000_000}
    return Link(**(given | changes))


# ---------------------------------------------------------------- occupancy


def test_a_kibibyte_over_800g_takes_the_published_time():
    # 1024 B x 8 / 800e9 bit/s = 10.24 ns
    assert link().occupancy_ps(1024) == 10_240
    assert link(overhead_ps=500).occupancy_ps(1024) == 10_740
    assert link().transfer_ps(1024) == 1_010_240


@given(st.integers(0, 2**40), st.integers(1, 10**14), st.integers(0, 10**9))
def test_occupancy_is_the_overhead_and_the_exact_time_rounded_up_once(size, rate, overhead):
    exact = Fraction(size * 8 * 10**12, rate)
    found = link(bandwidth_bps=rate, overhead_ps=overhead).occupancy_ps(size)
    assert found == overhead + math.ceil(exact)


def test_a_link_without_a_bandwidth_takes_its_overhead_alone():
    assert find_link("ideal").occupancy_ps(10**12) == 0
    assert link(bandwidth_bps=None, overhead_ps=7).occupancy_ps(10**12) == 7


@pytest.mark.parametrize("losses", [0, 1, 5])
def test_lost_messages_occupy_the_link_again_after_the_timeout(losses):
    lossy = link(retransmit_timeout_ps=3_000, overhead_ps=10)
    one = lossy.occupancy_ps(4096)
    assert lossy.busy_ps(4096, losses) == (losses + 1) * one + losses * 3_000


def test_a_degraded_link_has_its_share_of_the_bandwidth_and_its_latency():
    half = link().degraded(Fraction(1, 2))
    assert half.bandwidth_bps == 400 * 10**9
    assert half.latency_ps == link().latency_ps
    assert find_link("ideal").degraded(Fraction(1, 2)) == find_link("ideal")


@pytest.mark.parametrize("share", [Fraction(0), Fraction(-1), Fraction(3, 2)])
def test_a_share_of_nothing_or_of_more_than_all_is_refused(refused, share):
    with refused("link test", "above 0 and at most 1"):
        link().degraded(share)


def test_a_link_fails_after_so_many_messages():
    assert [link(fails_after=2).fails_at(n) for n in range(4)] == [False, False, True, True]
    assert not link().fails_at(10**9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_ps": -1}, ["latency_ps = -1"]),
        ({"latency_ps": 1.5}, ["latency_ps = 1.5", "integer"]),
        ({"bandwidth_bps": 0}, ["bandwidth_bps = 0", "at least 1"]),
        ({"overhead_ps": -3}, ["overhead_ps"]),
        ({"jitter_ps": None}, ["jitter_ps"]),
        ({"retransmit_timeout_ps": -1}, ["retransmit_timeout_ps = -1"]),
        ({"loss": 0.5}, ["loss = 0.5", "Fraction"]),
        ({"loss": Fraction(1)}, ["loss 1 lets nothing through"]),
        ({"loss": Fraction(-1, 2)}, ["loss"]),
        ({"fails_after": -1}, ["fails_after"]),
    ],
)
def test_numbers_out_of_range_are_refused(refused, changes, words):
    with refused("link test", *words):
        link(**changes)


def test_a_link_can_be_sent_to_a_process_and_be_a_key():
    original = find_link("800g")
    assert pickle.loads(pickle.dumps(original)) == original
    assert len({original, pickle.loads(pickle.dumps(original))}) == 1


# ---------------------------------------------------------------- fate


def test_fate_is_what_it_was():
    """Recorded: a run that was written down must replay under a later version."""
    half = 1 << 31
    found = [fate(7, 0, 1, n, half, 1_000_000) for n in range(6)]
    assert found == [
        (1, 667256), (1, 849176), (2, 478853), (0, 981008), (3, 449393), (4, 640898),
    ]  # fmt: skip


@given(words, ranks, ranks, words, st.integers(0, 2**32), st.integers(0, 2**50))
def test_compiled_fate_is_the_same_to_the_last_digit(seed, src, dst, n, chance, jitter):
    assert COMPILED(seed, src, dst, n, chance, jitter) == fate(seed, src, dst, n, chance, jitter)


def test_fate_does_not_depend_on_what_was_asked_before():
    lossy = link(loss=Fraction(1, 3), jitter_ps=10**6)
    forwards = [lossy.fate(1, 0, 1, n) for n in range(100)]
    backwards = [lossy.fate(1, 0, 1, n) for n in reversed(range(100))]
    assert forwards == backwards[::-1]


def test_a_chance_of_loss_is_rounded_up_and_never_certain():
    """In parts of 2^32: a loss that is stated is never none, and one below 1 never all."""
    assert link(loss=Fraction(1, 4)).loss_chance == 2**30
    assert link(loss=Fraction(1, 3)).loss_chance == 1_431_655_766  # 2^32 / 3 = 1431655765.33
    assert link(loss=Fraction(1, 10**12)).loss_chance == 1
    assert link(loss=1 - Fraction(1, 10**12)).loss_chance == 2**32 - 1


def test_a_perfect_link_loses_nothing_and_is_never_late():
    assert {link().fate(seed, 0, 1, n) for seed in range(9) for n in range(99)} == {Fate(0, 0)}


@pytest.mark.parametrize("chance", [Fraction(1, 100), Fraction(1, 4), Fraction(1, 2)])
def test_losses_are_geometric(chance):
    """Of N attempts a share p is lost, within five standard deviations; so is each next one."""
    lossy, count = link(loss=chance), 20_000
    losses = np.array([lossy.fate(3, 2, 5, n).losses for n in range(count)])
    for earlier in range(3):
        tried = int((losses >= earlier).sum())
        lost = int((losses > earlier).sum())
        p = float(chance)
        assert abs(lost - p * tried) <= 5 * math.sqrt(tried * p * (1 - p)) + 1


def test_jitter_is_even_from_zero_to_its_most():
    """Chi-squared over 16 cells: 15 degrees of freedom exceed 44.3 once in ten thousand."""
    late, count = link(jitter_ps=15), 32_000
    found = [late.fate(11, 0, 1, n).jitter_ps for n in range(count)]
    cells = np.bincount(found, minlength=16)
    assert len(cells) == 16
    expected = count / 16
    assert ((cells - expected) ** 2 / expected).sum() < 44.3


@pytest.mark.parametrize("word", ["seed", "seed, high half", "src", "dst", "sequence"])
def test_every_word_decides(word):
    """Neighbours in any word share their fate no more often than by chance."""
    base = {"seed": 5, "src": 3, "dst": 4, "sequence": 9}
    step = 1 << 32 if word == "seed, high half" else 1
    name = word.partition(",")[0]

    def draw(n: int) -> int:
        changed = base | {name: base[name] + n * step}
        return fate(*changed.values(), 0, 2**20 - 1)[1]

    found = [draw(n) for n in range(1000)]
    # Birthdays: of 1000 draws from 2^20, 0.48 pairs are expected to be equal.
    assert len(set(found)) >= 995
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.16  # 5 / sqrt(1000)


def test_both_directions_of_a_pair_have_their_own_fate():
    there = [fate(1, 0, 1, n, 0, 2**30)[1] for n in range(50)]
    back = [fate(1, 1, 0, n, 0, 2**30)[1] for n in range(50)]
    assert not set(there) & set(back)


def test_a_message_arrives_at_last_however_bad_the_link():
    assert fate(1, 0, 1, 0, 2**32, 0) == (MOST_LOSSES, 0)
