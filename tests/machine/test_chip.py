"""Chips: time against the roofline's closed form, rounded up once; what a chip cannot do."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels.cost import Cost
from baremetal.machine import Chip

costs = st.tuples(st.integers(0, 10**18), st.integers(0, 10**13))


def chip(**changes) -> Chip:
    given = {
        "name": "test", "flops": {"bf16": 10**15, "fp8": 2 * 10**15}, "memory_bytes": 10**11,
        "usable_memory_bytes": 10**11, "memory_rate_Bps": 4 * 10**12,
        "efficiency": Fraction(1, 2), "memory_efficiency": Fraction(4, 5),
    }  # fmt: skip
    return Chip(**(given | changes))


def test_arithmetic_decides_where_it_is_slower():
    # 1e12 FLOP at half of 1e15 FLOP/s: 2 ms; 1e9 B at 0.8 of 4e12 B/s: 0.3125 ms
    assert chip().time_ps(10**12, 10**9, "bf16") == 2 * 10**9
    assert chip().time_ps(10**12, 10**9, "fp8") == 10**9


def test_memory_decides_where_it_is_slower():
    assert chip().time_ps(10**9, 10**9, "bf16") == 312_500_000


def test_nothing_takes_the_launch_overhead():
    assert chip().time_ps(0, 0, "bf16") == 0
    assert chip(launch_overhead_ps=2_000_000).time_ps(0, 0, "bf16") == 2_000_000


@given(costs, st.integers(1, 10**6), st.fractions(Fraction(1, 1000), 1, max_denominator=1000))
def test_a_launch_is_the_roofline_rounded_up_once(cost, overhead, efficiency):
    flops, size_bytes = cost
    exact = overhead + max(
        Fraction(flops * 10**12) / (efficiency * 10**15),
        Fraction(size_bytes * 10**12) / (Fraction(4, 5) * 4 * 10**12),
    )
    found = chip(efficiency=efficiency, launch_overhead_ps=overhead)
    assert found.time_ps(flops, size_bytes, "bf16") == math.ceil(exact)


@given(st.lists(costs, max_size=20))
def test_launches_in_a_row_are_rounded_up_together(launches):
    """Each alone rounds up: their sum is never less, and by less than one picosecond each more."""
    found = chip()
    together = found.sum_ps(launches, "bf16")
    alone = sum(found.time_ps(*cost, "bf16") for cost in launches)
    assert together <= alone <= together + max(len(launches) - 1, 0)


def test_a_sum_of_launches_is_the_exact_sum_rounded_up():
    # 1 FLOP at 3e12 FLOP/s is a third of a picosecond: three are one, and four are two.
    third = chip(flops={"bf16": 3 * 10**12}, efficiency=Fraction(1))
    assert [third.sum_ps([(1, 0)] * n, "bf16") for n in range(5)] == [0, 1, 1, 1, 2]


def test_the_cost_of_a_kernel_has_the_same_roofline():
    """`kernels/cost.py` states the same formula in floats, without efficiencies."""
    cost, full = (
        Cost(3 * 10**12, 5 * 10**9),
        chip(efficiency=Fraction(1), memory_efficiency=Fraction(1)),
    )
    seconds = cost.roofline_s(full.peak("bf16"), full.memory_rate_Bps)
    assert full.time_ps(cost.flops, cost.size_bytes, "bf16") == pytest.approx(seconds * 1e12)


@pytest.mark.parametrize(
    ("asked", "same"),
    [("fp16", "bf16"), ("mxfp8", "fp8"), ("bfloat16", "bf16"), ("float16", "bf16")],
)
def test_precisions_that_share_their_units_share_their_rate(asked, same):
    assert chip().peak(asked) == chip().peak(same)


def test_a_rate_of_its_own_goes_before_a_shared_one():
    assert chip(flops={"bf16": 5, "fp16": 7}).peak("fp16") == 7


@pytest.mark.parametrize("precision", ["nvfp4", "fp32", "float32", "int8", ""])
def test_a_precision_that_it_has_not_is_refused_with_what_it_has(refused, precision):
    with refused("chip test", f"in {precision}", "bf16, fp8"):
        chip().time_ps(1, 1, precision)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_bytes": 0}, ["memory_bytes = 0"]),
        ({"memory_rate_Bps": -1}, ["memory_rate_Bps = -1"]),
        ({"memory_rate_Bps": 1.0}, ["memory_rate_Bps = 1.0"]),
        ({"usable_memory_bytes": 10**12}, ["usable_memory_bytes", "more than its memory"]),
        ({"efficiency": Fraction(0)}, ["efficiency = 0"]),
        ({"efficiency": Fraction(3, 2)}, ["efficiency"]),
        ({"memory_efficiency": 0.8}, ["memory_efficiency = 0.8", "Fraction"]),
        ({"flops": {}}, ["no FLOP/s"]),
        ({"flops": {"int7": 5}}, ["int7", "bf16"]),
        ({"flops": {"bf16": -5}}, ["-5"]),
        ({"flops": {"bf16": 1e15}}, ["1000000000000000.0"]),
        ({"power_W": 0}, ["power_W"]),
        ({"launch_overhead_ps": -1}, ["launch_overhead_ps"]),
    ],
)
def test_numbers_out_of_range_are_refused(refused, changes, words):
    with refused("chip test", *words):
        chip(**changes)
