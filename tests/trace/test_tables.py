"""The table, letter by letter."""

import doctest

import pytest

import baremetal.trace.tables as tables
from baremetal.errors import BaremetalError
from baremetal.trace import Column, format_seconds, table


def test_the_example_in_the_docstring():
    results = doctest.testmod(tables, extraglobs={"format_seconds": format_seconds})
    assert results.attempted > 0
    assert results.failed == 0


def test_numbers_stand_right_and_text_left():
    rows = [
        {"kernel": "matmul", "calls": 48, "rate": 98.123456, "note": "BLAS"},
        {"kernel": "softmax", "calls": 1200, "rate": None, "note": None},
    ]
    assert table(rows) == "\n".join(
        [
            "kernel   calls   rate  note",
            "-------  -----  -----  ----",
            "matmul      48  98.12  BLAS",
            "softmax   1200      -  -",
        ]
    )


def test_title_footer_formats_and_sequences():
    columns = [Column("name"), Column("share", "of all", ".1%"), Column("id", align=">")]
    text = table(
        [("a", 0.25, "x"), ("b", 0.75, "yy")], columns, title="Shares", footer=[("all", 1, "")]
    )
    assert text == "\n".join(
        [
            "Shares",
            "name  of all  id",
            "----  ------  --",
            "a      25.0%   x",
            "b      75.0%  yy",
            "----  ------  --",
            "all   100.0%",
        ]
    )


def test_colour_is_only_there_when_asked_for():
    rows = [{"a": 1}]
    assert "\x1b" not in table(rows, title="T")
    coloured = table(rows, title="T", colour=True)
    assert coloured.startswith("\x1b[1mT\x1b[0m\n\x1b[1ma\x1b[0m\n")


def test_control_characters_are_shown_and_wide_ones_measured():
    text = table([["a\nb", 1], ["日本", 2], ["e\u0301", 3]], ["token", "count"])
    assert text.splitlines()[2:] == [r"a\nb       1", "日本       2", "e\u0301          3"]


@pytest.mark.parametrize(
    ("cell", "right"),
    [
        ("12", True), ("-1.5e-3", True), ("1,024", True), ("3.20 ms", True), ("nan", True),
        ("45 GFLOP/s", True), ("12 %", True), ("2x", True), ("1.5 GB/s", True),
        ("20261121-0930", False), ("v2", False), ("3 min 02", False),
    ],
)  # fmt: skip
def test_what_counts_as_a_quantity(cell, right):
    line = table([[cell]], ["a long title"]).splitlines()[2]
    assert line == (cell.rjust(12) if right else cell)


def test_a_column_of_nothing_stands_left():
    assert table([[None]], ["a long title"]).splitlines()[2] == "-"


def test_no_rows_give_the_heads_alone():
    assert table([], ["a", "bc"]) == "a  bc\n-  --"


def test_errors_name_what_is_missing():
    with pytest.raises(BaremetalError, match=r"no 'time', only name"):
        table([{"name": "x"}], ["name", "time"])
    with pytest.raises(BaremetalError, match="2 cells for 1 columns"):
        table([[1, 2]], ["a"])
    with pytest.raises(BaremetalError, match="pass columns"):
        table([])
