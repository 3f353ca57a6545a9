"""Failures: published rates, closed forms against a run that is drawn, limits."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.failures.checkpoint import (
    best_s,
    daly_s,
    efficiency,
    first_order_waste,
    young_s,
)  # fmt: skip
from baremetal.cluster.failures.rates import find_fleet
from baremetal.cluster.failures.run import Policy, run


def test_the_published_fleet_and_what_it_means_at_220_000():
    fleet = find_fleet("llama3")
    # 419 in 54 days on 16,384 GPUs; reliability_facts.csv: 3.093 h, 50,677 GPU-hours, 13.82 min.
    assert fleet.mtbf_s(16_384) / 3600 == pytest.approx(3.093, abs=0.001)
    assert 1 / fleet.rate_per_gpu_s / 3600 == pytest.approx(50_677, abs=1)
    assert fleet.mtbf_s(220_000) / 60 == pytest.approx(13.82, abs=0.01)
    assert find_fleet("kokolis").mtbf_s(220_000) / 60 == pytest.approx(8.04, abs=0.01)
    parts = {part: rate / fleet.rate_per_gpu_s for part, rate in fleet.rates_per_gpu_s.items()}
    assert parts["gpu"] == pytest.approx((148 + 72 + 19 + 17 + 6 + 6) / 419)


@pytest.mark.parametrize(("fleet", "left"), [("kokolis", 1 / 7), ("llama3", 1 / 4)])
def test_five_minutes_and_five_minutes_leave_a_seventh_to_a_quarter(fleet, left):
    mtbf_s = find_fleet(fleet).mtbf_s(220_000)
    assert efficiency(best_s(300, mtbf_s), 300, mtbf_s, 300) == pytest.approx(left, rel=0.05)
    assert first_order_waste(young_s(300, mtbf_s), 300, mtbf_s, 300) > 1  # nonsense there


@settings(max_examples=60, deadline=None)
@given(save=st.floats(0, 600), mtbf=st.floats(60, 1e6), factor=st.floats(0.05, 20))
def test_no_interval_beats_the_best(save, mtbf, factor):
    best = best_s(save, mtbf, least_s=1.0)
    here = efficiency(best, save, mtbf, 120)
    assert 0 <= here <= 1
    other = max(best * factor, 1.0)
    assert efficiency(other, save, mtbf, 120) <= here * (1 + 1e-9)


def test_young_and_daly_are_right_where_failures_are_rare():
    best = best_s(60, 1e6)
    assert young_s(60, 1e6) == pytest.approx(best, rel=0.01)
    assert daly_s(60, 1e6) == pytest.approx(best, rel=1e-4)
    assert daly_s(100, 40) == 40
    waste = 1 - efficiency(best, 60, 1e6, 120)
    assert first_order_waste(best, 60, 1e6, 120) == pytest.approx(waste, rel=0.01)
    assert waste == pytest.approx(sqrt(2 * 60 / 1e6) + 120 / 1e6, rel=0.02)


@pytest.mark.parametrize(("every", "save", "mtbf", "restart"), [
    (600, 60, 3600, 300), (300, 300, 800, 300), (100, 1, 10_000, 10),
])  # fmt: skip
def test_a_run_that_is_drawn_loses_what_the_formula_says(every, save, mtbf, restart):
    policy = Policy(save, every, restart)
    outcomes = [run(policy, mtbf, 1e6, np.random.default_rng(seed)) for seed in range(40)]
    drawn = np.array([outcome.goodput for outcome in outcomes])
    error = drawn.std() / sqrt(len(drawn))
    assert abs(drawn.mean() - efficiency(every, save, mtbf, restart)) < 4 * error + 2e-3


def test_time_is_conserved_and_failures_come_at_their_rate():
    policy = Policy(60, 900, 120, memory_save_s=2, memory_every_s=90, broad=0.3)
    outcome = run(policy, 2000, 3e6, np.random.default_rng(5))
    assert 3e6 <= outcome.total_s < 3e6 + 5000
    assert outcome.failures == pytest.approx(outcome.total_s / 2000, rel=0.1)


def test_a_peer_s_memory_saves_most_of_what_storage_would_lose():
    storage = run(Policy(60, 900, 120), 2000, 3e6, np.random.default_rng(1)).goodput
    both = Policy(60, 900, 120, memory_save_s=1, memory_every_s=60, broad=0.1)
    assert run(both, 2000, 3e6, np.random.default_rng(1)).goodput > storage + 0.1


def test_without_spares_the_run_waits_for_repairs():
    none, many = (
        run(Policy(10, 300, 60, spares=n, repair_s=4000), 3000, 1e6, np.random.default_rng(3))
        for n in (0, 50)
    )
    assert none.waiting_s > 0.3 * none.total_s
    assert many.waiting_s == 0


def test_a_replica_that_is_replaced_costs_its_share():
    policy = Policy(0, 600, 900, replicas=100, replaces_replica=True, stall_s=30)
    outcome = run(policy, 1000, 3e6, np.random.default_rng(2))
    # One failure in 1000 s of work: 30 s for all, and on average 900 / 1030 replicas of 100 away.
    expected = (1000 - 1000 * 900 / 1030 / 100) / 1030
    assert outcome.goodput == pytest.approx(expected, rel=0.01)


def test_impossible_policies_are_refused():
    with pytest.raises(ClusterError, match="every_s = 0"):
        Policy(1, 0, 1)
    with pytest.raises(ClusterError, match="rarer than those in storage"):
        Policy(1, 10, 1, memory_every_s=20)
    with pytest.raises(ClusterError, match="work and MTBF must be above 0"):
        efficiency(0, 1, 1, 1)
    with pytest.raises(ClusterError, match="there are llama3, kokolis"):
        find_fleet("mine")
    assert efficiency(1e9, 1, 1, 1) == 0.0
    assert efficiency(100, 0, 1e12, 0) == pytest.approx(1)
