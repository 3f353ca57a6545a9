"""Quantities: "800 Gb/s" in a file, 800_000_000_000 in a program, and back, without loss.

Hardware is described in many units, and the wrong one is a factor of 8 or of 1000 that no test of
the program will notice. So in files and options a number never stands alone: it is a string with
its unit, and it becomes an integer of one base unit here, in the only place that converts:

    quantity            base unit    examples
    a duration          ps           "1.5 us", "250 ns", "0 s"
    a size              B            "288 GB", "480 GiB"
    a link's rate       bit/s        "800 Gb/s", or in bytes: "100 GB/s" is the same
    a memory's rate     B/s          "8 TB/s"
    arithmetic          FLOP/s       "2.45 PFLOP/s"
    power               W            "1.4 kW"

A rate is that of one direction: data sheets of NVLink and of PCIe print the sum of both, which no
message ever sees. Prefixes are decimal (1 GB is 10^9 B, as in data sheets), and sizes may use the
binary ones (1 GiB is 2^30 B). Capitals count: b is a bit and B a byte, m is milli and M mega.

Integers, not floats: two readers that add the same durations in another order get the same sum.
What is finer than the base unit (1.5 ps) is refused, not rounded. A fraction of one, such as an
efficiency, is a `fractions.Fraction`, read from "65 %" or 0.65, and as exact.

Source of the prefixes: BIPM, The International System of Units (SI), 9th edition, table 7; binary
ones: IEC 80000-13.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from baremetal.machine.errors import MachineError

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
LARGEST = 2**62  # of every base unit: 53 days, 4 EB, 4 EFLOP/s; compiled code may still add two
_NUMBER = re.compile(
    r"([+-]?)(\d[\d_]{0,30}(?:\.\d{1,30})?(?:e[+-]?\d{1,2})?)\s*([A-Za-z%].*)?", re.ASCII
)

_RATIO = re.compile(r"\s*([1-9]\d*)\s*:\s*([1-9]\d*)\s*", re.ASCII)


def _prefixed(unit: str, prefixes: Mapping[str, int], base: int = 1) -> dict[str, int]:
    return {prefix + unit: factor * base for prefix, factor in prefixes.items()}


@dataclass(frozen=True)
class Quantity:
    """A kind of quantity: what it is called, its base unit, and every unit it is written in.

    Attributes:
        name: for messages, ``"a duration"``.
        base: the unit of the integers, ``"ps"``.
        units: how many of the base unit each written unit is.
        written: the units that `show` chooses from.
        example: one that is right, for messages.
    """

    name: str
    base: str
    units: Mapping[str, int]
    written: tuple[str, ...]
    example: str

    def parse(self, text: object) -> int:
        """The integer that a string such as ``"1.5 us"`` stands for, in the base unit.

        Raises:
            MachineError: no string, no number, a negative one, another unit or none, or more
                digits than the base unit can hold.
        """
        shown = short(text)
        number, unit = self._parts(text)
        if unit not in self.units:
            raise MachineError(f"{shown} {self._wrong_unit(unit)}; {self._expected}")
        exact = number * self.units[unit]
        if exact.denominator != 1:
            raise MachineError(f"{shown} is finer than 1 {self.base}, the smallest {self.name}")
        if exact > LARGEST:
            raise MachineError(
                f"{shown} is more than 2^62 {self.base}: compiled code counts in 64 bits"
            )
        return exact.numerator

    def show(self, value: int) -> str:
        """`value` of the base unit as a string that `parse` reads back exactly.

        The shortest; of equally short ones that with the largest unit; none below 1 of its unit.
        """
        fitting = [unit for unit in self.written if self.units[unit] <= value] or [self.base]
        largest_first = sorted(fitting, key=lambda unit: -self.units[unit])
        texts = [f"{_decimal(Fraction(value, self.units[u]))} {u}" for u in largest_first]
        return min(texts, key=len)

    def _parts(self, text: object) -> tuple[Fraction, str]:
        shown = short(text)
        if not isinstance(text, str):
            raise MachineError(f"{shown} has no unit; {self._expected}")
        match = _NUMBER.fullmatch(text.strip().replace("µ", "u").replace("μ", "u"))
        if match is None:
            raise MachineError(f"{shown} is no {self.name.partition(' ')[2]}; {self._expected}")
        sign, digits, unit = match.groups()
        if sign == "-":
            raise MachineError(f"{shown} is negative; {self._expected}")
        return Fraction(digits.replace("_", "")), unit or ""

    def _wrong_unit(self, unit: str) -> str:
        if not unit:
            return "has no unit"
        alike = [known for known in self.units if known.casefold() == unit.casefold()]
        hint = f" (did you mean {alike[0]}?)" if alike else ""
        return f"is in {unit}{hint}, which is no unit of {self.name}"

    @property
    def _expected(self) -> str:
        return f'expected {self.name} such as "{self.example}"'


def _decimal(value: Fraction) -> str:
    """A fraction whose denominator has no factor but 2 and 5, written out: 3/2 is 1.5."""
    digits = 0
    while (value * 10**digits).denominator != 1:
        digits += 1
    whole = (value * 10**digits).numerator
    return str(whole) if not digits else f"{whole // 10**digits}.{whole % 10**digits:0{digits}d}"


_UP_TO_PETA = {prefix: factor for prefix, factor in _DECIMAL.items() if prefix != "E"}
_SECONDS = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12}
_BYTES = _prefixed("B", _DECIMAL | _BINARY)
_BYTE_RATES = _prefixed("B/s", _DECIMAL)
_BIT_RATES = _prefixed("b/s", _DECIMAL) | _prefixed("bit/s", _DECIMAL)
_FLOP_RATES = _prefixed("FLOP/s", _DECIMAL)
_WATTS = _prefixed("W", {key: _DECIMAL[key] for key in ("", "k", "M", "G")})

DURATION = Quantity("a duration", "ps", _SECONDS, tuple(_SECONDS), "1.5 us")
SIZE = Quantity("a size", "B", _BYTES, tuple(_BYTES), "288 GB")
BIT_RATE = Quantity(
    "a rate of a link", "b/s", _BIT_RATES | _prefixed("B/s", _UP_TO_PETA, 8),
    tuple(_prefixed("b/s", _DECIMAL)), "800 Gb/s",
)  # fmt: skip
BYTE_RATE = Quantity("a rate of memory", "B/s", _BYTE_RATES, tuple(_BYTE_RATES), "8 TB/s")
FLOP_RATE = Quantity(
    "a rate of arithmetic", "FLOP/s", _FLOP_RATES, tuple(_FLOP_RATES), "2.5 PFLOP/s"
)
POWER = Quantity("a power", "W", _WATTS, tuple(_WATTS), "1.4 kW")


def short(value: object) -> str:
    """A value in quotes, cut to fit into a message."""
    return f"{value!r:.80}"


def parse_share(value: object) -> Fraction:
    """A part of one from ``"65 %"``, ``"0.65"`` or the number 0.65, exactly.

    Raises:
        MachineError: it is none, or not from 0 to 1.
    """
    share = None
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        match = _NUMBER.fullmatch(str(value).strip())
        if match is not None and match[3] in (None, "%"):
            share = Fraction(match[1] + match[2].replace("_", "")) / (100 if match[3] else 1)
    if share is None or not 0 <= share <= 1:
        raise MachineError(
            f'{short(value)} is no part of one: expected 0 to 1, or "0 %" to "100 %"'
        )
    return share


def parse_ratio(value: object) -> Fraction:
    """A ratio from ``"3 : 2"``: 3/2.

    Raises:
        MachineError: it is no ratio of two whole numbers above zero.
    """
    match = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise MachineError(
            f'{short(value)} is no ratio: expected two whole numbers such as "2 : 1"'
        )
    return Fraction(int(match[1]), int(match[2]))


def show_ratio(ratio: Fraction) -> str:
    """A ratio as `parse_ratio` reads it: ``3 : 2``."""
    return f"{ratio.numerator} : {ratio.denominator}"


def show_share(share: Fraction) -> str:
    """A part of one as a percentage, exact where that is possible: ``65 %``."""
    percent = share * 100
    return f"{_decimal(percent) if _is_decimal(percent) else f'{float(percent):.6g}'} %"


def _is_decimal(value: Fraction) -> bool:
    return 10**32 % value.denominator == 0


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient of two integers, rounded up: the rounding of every duration here."""
    return -(-numerator // denominator)
