"""Figures for people: exact strings, and a property that no number escapes three digits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.trace.units import (
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
    format_si,
)

PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9,
            "T": 1e12, "P": 1e15, "E": 1e18}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00123, "1.23 ms"),
        (9.996e-7, "1.00 us"),
        (0.9996, "1.00 s"),
        (12e-12, "12.0 ps"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3_599.6, "1 h 00 min"),
        (11_045, "3 h 04 min"),
        (183_700, "2 d 03 h"),
        (-0.5, "-500 ms"),
        (float("nan"), "nan s"),
        (float("inf"), "inf s"),
        (None, "-"),
    ],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text", "binary"),
    [
        (0, "0 B", "0 B"),
        (512, "512 B", "512 B"),
        (1_000, "1.00 kB", "0.977 KiB"),
        (1_048_576, "1.05 MB", "1.00 MiB"),
        (1_500_000, "1.50 MB", "1.43 MiB"),
        (139e9, "139 GB", "129 GiB"),
        (None, "-", "-"),
    ],
)
def test_bytes(size, text, binary):
    assert format_bytes(size) == text
    assert format_bytes(size, binary=True) == binary


def test_rates_counts_percentages():
    assert format_rate(12.34e9) == "12.3 GFLOP/s"
    assert format_rate(5.12e10, "B/s") == "51.2 GB/s"
    assert format_count(842) == "842"
    assert format_count(1_234_567) == "1.23 M"
    assert format_count(0) == "0"
    assert format_count(842, "FLOP") == "842 FLOP"
    assert format_count(1_234_567, "FLOP") == "1.23 MFLOP"
    assert format_count(0, "FLOP") == "0 FLOP"
    assert format_count(0.5, "FLOP") == "500 mFLOP"
    assert format_count(None, "FLOP") == "-"
    assert format_percent(0.12345) == "12.3 %"
    assert format_rate(None) == format_count(None) == format_percent(None) == "-"


def test_beyond_the_prefixes_the_number_is_still_right():
    assert format_si(2.5e22, "B") == "2.5e+04 EB"
    assert format_si(2e-15, "s") == "0.002 ps"


@given(st.floats(1.1e-12, 0.99e21))
def test_three_digits_say_the_number_to_half_a_unit_in_the_last(value):
    match = re.fullmatch(r"(\d\.\d\d|\d\d\.\d|\d\d\d) ([pnumkMGTPE]?)B", format_si(value, "B"))
    assert match, format_si(value, "B")
    shown = float(match[1]) * PREFIXES[match[2]]
    assert abs(shown - value) <= 0.00501 * value
