"""Quantities: each unit against its definition, there and back without loss, refusals."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.machine.units import (
    BIT_RATE,
    BYTE_RATE,
    DURATION,
    FLOP_RATE,
    LARGEST,
    POWER,
    SIZE,
    ceil_div,
    parse_ratio,
    parse_share,
    show_ratio,
    show_share,
)

KINDS = [DURATION, SIZE, BIT_RATE, BYTE_RATE, FLOP_RATE, POWER]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (DURATION, "1.5 us", 1_500_000),
        (DURATION, "1.5 µs", 1_500_000),  # micro sign
        (DURATION, "1.5 μs", 1_500_000),  # Greek mu
        (DURATION, "0 s", 0),
        (DURATION, "250ns", 250_000),
        (DURATION, "1e-6 s", 1_000_000),
        (SIZE, "288 GB", 288 * 10**9),
        (SIZE, "480 GiB", 480 * 2**30),
        (SIZE, "4_096 B", 4096),
        (BIT_RATE, "800 Gb/s", 800 * 10**9),
        (BIT_RATE, "800 Gbit/s", 800 * 10**9),
        (BIT_RATE, "100 GB/s", 800 * 10**9),
        (BYTE_RATE, "3.35 TB/s", 3_350 * 10**9),
        (FLOP_RATE, "2.45 PFLOP/s", 2_450 * 10**12),
        (POWER, "1.4 kW", 1400),
    ],
)
def test_each_unit_is_its_multiple_of_the_base_unit(kind, text, expected):
    assert kind.parse(text) == expected


def test_every_prefix_is_a_power():
    """SI: 1000 to the first, second ...; IEC: 1024. The whole row of each, from its standard."""
    for power, prefix in enumerate(["", "k", "M", "G", "T", "P", "E"]):
        assert FLOP_RATE.parse(f"1 {prefix}FLOP/s") == 1000**power
    for power, prefix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi"], start=1):
        assert SIZE.parse(f"1 {prefix}B") == 1024**power
    for power, unit in enumerate(["ps", "ns", "us", "ms", "s"]):
        assert DURATION.parse(f"1 {unit}") == 1000**power


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.base)
def test_every_unit_that_is_known_can_be_read(kind):
    for unit, factor in kind.units.items():
        assert kind.parse(f"3 {unit}") == 3 * factor


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.base)
@given(value=st.one_of(st.integers(0, LARGEST), st.integers(0, 5000).map(lambda n: n * 10**12)))
def test_shown_and_read_again_is_the_same_number(kind, value):
    assert kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (DURATION, 0, "0 ps"),
        (DURATION, 1_500_000, "1.5 us"),
        (DURATION, 999, "999 ps"),
        (DURATION, 1000, "1 ns"),  # a unit fits where there is just one of it
        (POWER, 1400, "1.4 kW"),
        (SIZE, 2**35, "32 GiB"),
        (SIZE, 3 * 2**50, "3 PiB"),
        (SIZE, 80 * 10**9, "80 GB"),
        (BIT_RATE, 7_200 * 10**9, "7.2 Tb/s"),
        (FLOP_RATE, 500 * 10**9, "500 GFLOP/s"),  # not 0.5 TFLOP/s
    ],
)
def test_a_quantity_is_shown_as_people_write_it(kind, value, expected):
    assert kind.show(value) == expected


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (DURATION, "-1 us", ["'-1 us'", "negative", "1.5 us"]),
        (DURATION, "1.5 ps", ["finer than 1 ps"]),
        (DURATION, "800 Gb/s", ["Gb/s", "no unit of a duration"]),
        (DURATION, "12", ["no unit"]),
        (DURATION, 12, ["12 has no unit", "1.5 us"]),
        (DURATION, None, ["None", "no unit"]),
        (DURATION, True, ["True", "no unit"]),
        (DURATION, "soon", ["'soon' is no duration"]),
        (DURATION, "", ["'' is no duration"]),
        (DURATION, "1,5 us", ["'1,5 us' is no duration"]),
        (DURATION, "9" * 5000 + " s", ["is no duration"]),
        (DURATION, "1e99 s", ["'1e99 s' is more than", "64 bits"]),
        (FLOP_RATE, "9 EFLOP/s", ["more than", "64 bits"]),
        (DURATION, "nan s", ["'nan s'"]),
        (DURATION, "inf s", ["'inf s'"]),
        (BIT_RATE, "800 GB", ["GB", "no unit of a rate of a link", "800 Gb/s"]),
        (BIT_RATE, "800 gb/s", ["did you mean", "b/s"]),
        (BYTE_RATE, "8 Tb/s", ["Tb/s", "did you mean TB/s"]),  # bits are not bytes
        (SIZE, "288 Gb", ["did you mean GB"]),
        (POWER, "0.5 W", ["finer than 1 W"]),
    ],
)
def test_what_is_no_such_quantity_is_refused(refused, kind, text, words):
    with refused(*words):
        kind.parse(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("65 %", Fraction(65, 100)), ("0.65", Fraction(65, 100)), (0.65, Fraction(65, 100)),
        (1, Fraction(1)), ("0 %", Fraction(0)),
        ("66.6%", Fraction(666, 1000)), (1e-9, Fraction(1, 10**9)),
    ],
)  # fmt: skip
def test_a_share_is_exact(value, expected):
    assert parse_share(value) == expected


@pytest.mark.parametrize("value", ["101 %", 1.5, -0.1, "-3 %", "a third", None, True, "0.5 GB", []])
def test_what_is_no_share_is_refused(refused, value):
    with refused(repr(value), "part of one"):
        parse_share(value)


@given(st.integers(0, 10**9))
def test_a_share_shown_and_read_again_is_the_same(billionths):
    share = Fraction(billionths, 10**9)
    assert parse_share(show_share(share)) == share


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_ratio_shown_and_read_again_is_the_same(above, below):
    assert parse_ratio(show_ratio(Fraction(above, below))) == Fraction(above, below)


@pytest.mark.parametrize("value", ["2", 2, "0 : 1", "1 : 0", "-1 : 2", "a : b", None])
def test_what_is_no_ratio_is_refused(refused, value):
    with refused(repr(value), "2 : 1"):
        parse_ratio(value)


@given(st.integers(0, LARGEST), st.integers(1, LARGEST))
def test_rounding_up_gives_the_least_integer_not_below(numerator, denominator):
    result = ceil_div(numerator, denominator)
    assert (result - 1) * denominator < numerator <= result * denominator
