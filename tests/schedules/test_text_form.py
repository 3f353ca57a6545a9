"""Schedules written by hand: read, written, and refused with line and column."""

import pytest

from baremetal.schedules import (
    SCHEDULES,
    Action,
    Kind,
    Overlap,
    from_text,
    make_schedule,
    read_schedule,
    to_csv,
    to_text,
)

BY_HAND = """\
# 1F1B on two ranks
0F0 0F1   0B0 0B1

1F0\t1B0 1F1 1B1  # the last stage answers at once
"""


def test_a_schedule_written_by_hand():
    schedule = from_text(BY_HAND, "mine")
    assert schedule.ranks == make_schedule("1f1b", 2, 2).ranks
    assert (schedule.name, schedule.microbatches, schedule.paths) == ("mine", 2, ((0, 1),))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_there_and_back(name):
    schedule = make_schedule(name, 4, 8)
    assert from_text(to_text(schedule), name) == schedule


def test_an_overlapped_pair():
    text = "0F0 0F1 1F0 (1F1;1I0)OVERLAP_F_B 1W0 1B1 0B0 0B1"
    step = from_text(text).ranks[0][3]
    assert step == Overlap(Action(Kind.F, 1, 1), Action(Kind.I, 1, 0))
    assert from_text(text.replace(";", "; ").replace(" 1I0", "1I0")).ranks[0][3] == step


def test_files_are_read_by_their_suffix(tmp_path):
    schedule = make_schedule("zb-v", 2, 4)
    text, table = tmp_path / "mine.txt", tmp_path / "mine.CSV"
    text.write_text("\ufeff" + to_text(schedule), encoding="utf-8")  # as some editors begin a file
    table.write_text(to_csv(schedule), encoding="utf-8")
    assert read_schedule(text).ranks == read_schedule(str(table)).ranks == schedule.ranks
    assert read_schedule(text).name == "mine.txt"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0F0 0B0\n  1F0 1X0", "line 2, column 7: '1X0': expected stage, kind (F, I, W or B)"),
        ("0F0 F0", "line 1, column 5: 'F0'"),
        ("0F0,0B0", "line 1, column 1: '0F0,0B0'"),
        ("0F-1", "column 1: '0F-1'"),
        ("0f0", "'0f0'"),
        ("0F0 (0B0;0F0)OVERLAP_F_B", "column 5: '(0B0;0F0)OVERLAP_F_B': a pair is a forward first"),
        ("0F0 (0F0;0W0)OVERLAP_F_B", "then a backward (I or B)"),
        ("0F0 (0F0;0B0)", "column 5: '(0F0;0B0)': expected"),
        ("0F9999999999", "column 1"),
        ("# nothing\n\n", "no actions; expected stage"),
        ("0F0 0B0\n2F0 2B0", "there is a stage 2 but no stage 1"),
        ("0F1 0B1", "there is a microbatch 1 but no microbatch 0"),
        ("0F0 1B0\n1F0 0B0", "stage 1 has actions on rank 0 and 1F0 on rank 1"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(text, words, refused):
    with refused("by hand", words):
        from_text(text)


def test_files_that_cannot_be_read(tmp_path, refused):
    with refused("cannot read the schedule", "gone.txt", "No such file"):
        read_schedule(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes(b"# \xe9\n0F0 0B0\n")
    with refused("latin.txt", "it is not UTF-8 text"):
        read_schedule(tmp_path / "latin.txt")
