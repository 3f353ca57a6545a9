"""Numbers for people: three significant digits and an SI prefix.

`0.00123` s is printed as `1.23 ms`, `5.12e10` B/s as `51.2 GB/s`. Prefixes are decimal (1 kB is
1000 B), as in the data sheets of links and memories; `format_bytes(..., binary=True)` gives KiB and
MiB. The prefix micro is written `u`, so that every figure can be printed in every encoding.

Source of the prefixes: BIPM, The International System of Units (SI), 9th edition, table 7;
binary ones: IEC 80000-13.
"""

from __future__ import annotations

import math

SI_PREFIXES = dict(enumerate(["p", "n", "u", "m", "", "k", "M", "G", "T", "P", "E"], start=-4))
_BINARY_PREFIXES = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
MISSING = "-"  # what stands where a value is None


def format_si(value: float | None, unit: str) -> str:
    """`format_si(1.5e9, "FLOP")` is `"1.50 GFLOP"`: three digits, a space, a prefixed unit."""
    if value is None:
        return MISSING
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    # Round first: 999.6 has to become 1.00 k, not 1000.
    rounded = float(f"{value:.2e}")
    power = math.floor(math.log10(abs(rounded)) + 1e-12) // 3
    power = min(max(power, min(SI_PREFIXES)), max(SI_PREFIXES))
    return f"{_three_digits(rounded / 1000.0**power)} {SI_PREFIXES[power]}{unit}"


def _three_digits(value: float) -> str:
    """1.23, 12.3, 123; beyond the largest or below the smallest prefix, what `g` gives."""
    size = abs(value)
    if not 0.995 <= size < 1000:
        return f"{value:.3g}"
    return f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}"


def format_seconds(seconds: float | None) -> str:
    """A duration: `1.23 ms`, `59.0 s`, `2 min 05 s`, `3 h 04 min`, `2 d 03 h`."""
    if seconds is None or not math.isfinite(seconds) or abs(seconds) < 59.95:
        return format_si(seconds, "s")
    sign = "-" if seconds < 0 else ""
    whole = round(abs(seconds))
    for unit, below, length, lower in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60)):
        if whole >= length:
            rest = (whole % length) // lower
            return f"{sign}{whole // length} {unit} {rest:02d} {below}"
    return f"{sign}{whole // 60} min {whole % 60:02d} s"


def format_bytes(size_bytes: float | None, *, binary: bool = False) -> str:
    """A size: `512 B`, `1.50 MB`; with `binary`, `1.43 MiB`."""
    if size_bytes is None:
        return MISSING
    if abs(size_bytes) < 1000 and float(size_bytes).is_integer():
        return f"{int(size_bytes)} B"  # bytes are counted: 512 B, never 512.0
    if not binary:
        return format_si(size_bytes, "B")
    power, scaled = 0, float(size_bytes)
    while abs(scaled) >= 999.5 and power < len(_BINARY_PREFIXES) - 1:
        power, scaled = power + 1, scaled / 1024
    return f"{_three_digits(scaled)} {_BINARY_PREFIXES[power]}B"


def format_rate(per_second: float | None, unit: str = "FLOP/s") -> str:
    """A rate: `12.3 GFLOP/s`; for bandwidth, `format_rate(5.12e10, "B/s")`."""
    return format_si(per_second, unit)


def format_count(count: float | None, unit: str = "") -> str:
    """A count: `842`, `1.23 M`, `124 M`; with a unit, `842 FLOP`, `1.23 MFLOP`."""
    if count is not None and abs(count) < 1000 and float(count).is_integer():
        return f"{int(count)} {unit}".rstrip()  # what is counted is never 842.0
    return format_si(count, unit).rstrip()


def format_percent(fraction: float | None) -> str:
    """A fraction of one as a percentage with one decimal: `0.1234` is `12.3 %`."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"
