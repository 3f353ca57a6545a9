"""`baremetal schedule`, called as a person would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import baremetal
from baremetal.cli import main
from baremetal.schedules import SCHEDULES


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def document(capsys):
    """What a verb prints with --json."""

    def run(*arguments):
        assert main(["schedule", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(capsys):
    """The one line that these arguments are refused with."""

    def run(*arguments):
        assert main(["schedule", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.strip().splitlines()
        return line

    return run


SIZES = ["--stages", "4", "--microbatches", "8", "--chunks", "1"]
TIMES = ["--f", "10", "--b", "12", "--w", "8", "--latency", "0"]


def test_simulate_gives_the_closed_forms(document):
    found = document("simulate", "--schedule", "1f1b", *SIZES, *TIMES)
    assert found["makespan"] == found["span"] == 11 * 30
    assert found["bubble_makespan"] == found["bubble_span"] == pytest.approx(3 / 11)
    assert found["peak_activations"] == 4
    per_stage = found["per_stage"]
    assert per_stage["peak_activations"] == [4, 3, 2, 1]
    assert per_stage["span"] == [330, 300, 270, 240]
    assert per_stage["bubble_makespan"] == pytest.approx([3 / 11] * 4)
    assert per_stage["bubble_span"] == pytest.approx([90 / 330, 60 / 300, 30 / 270, 0])
    assert per_stage["makespan"] == [330, 310, 290, 270]  # each B20 earlier, down the pipeline


def test_latency_host_overhead_and_links(document):
    found = document("simulate", "--stages", "2", "--microbatches", "1", "--latency", "0.5")
    assert found["makespan"] == 7
    assert found["per_stage"]["exposed_transfer"] == [0.5, 0.5]
    found = document("simulate", "--stages", "1", "--microbatches", "4", "--host-overhead", "0.25")
    assert found["makespan"] == 12 + 8 * 0.25
    # 100 MB at 800 Gb/s last 1 ms, a unit; the latency is given in place of the link's
    wire = ["--link", "800g", "--bytes", "100 MB", "--latency", "0"]
    found = document("simulate", "--stages", "2", "--microbatches", "1", *wire)
    assert found["makespan"] == 8


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_what_is_played_is_the_closed_form(name, document):
    sizes = ["--schedule", name, "--stages", "4", "--microbatches", "12"]
    found = document("simulate", *sizes)
    forms = found["closed_form"]
    assert "peak_activations" in forms
    for key, value in forms.items():
        assert found[key] == pytest.approx(value), key


def test_closed_forms_with_latency_and_only_where_they_hold(document):
    found = document("simulate", "--latency", "0.5", "--microbatches", "16")
    assert found["closed_form"]["makespan"] == found["makespan"]
    assert document("simulate", "--f", "1,2,1,1")["closed_form"] == {}
    assert document("simulate", "--link", "800g")["closed_form"] == {}


def test_a_closed_form_counts_a_pair_on_all_chunks(document):
    """DualPipeV's times are per chunk: a pair lasts 2 where its parts, F and B, last 3."""
    sizes = ["--schedule", "dualpipev", "--stages", "4", "--microbatches", "12", "--overlap", "2"]
    found = document("simulate", *sizes)
    assert found["makespan"] == found["closed_form"]["makespan"]


def test_times_with_units_come_back_in_seconds(document):
    times = ["--f", "1 ms", "--b", "1.5 ms", "--w", "500 us"]
    found = document("simulate", "--stages", "1", "--microbatches", "2", *times)
    assert found["unit"] == "s"
    assert found["makespan"] == pytest.approx(6e-3)
    assert found["makespan_ps"] == 6 * 10**9


def test_times_by_stage_and_stragglers(document):
    found = document("simulate", "--stages", "2", "--microbatches", "1", "--f", "1,3")
    assert found["makespan"] == 1 + 3 + 2 + 2
    slow = ["--straggler", "1:1.5"]
    found = document("simulate", "--stages", "2", "--microbatches", "1", *slow)
    assert found["makespan"] == 1 + 1.5 + 3 + 2


def test_simulate_prints_a_table_and_a_rate(capsys):
    assert main(["schedule", "simulate", *SIZES, "--repeat", "2"]) == 0
    out = capsys.readouterr().out
    assert "27.3 % of the largest span (33), 27.3 % of the makespan" in out
    assert "million actions a second" in out


def test_draw_in_all_forms(here, capsys):
    assert main(["schedule", "draw", *SIZES, "--width", "80"]) == 0
    assert "rank 3  ..." in capsys.readouterr().out
    files = ["--plot", "a.png", "--perfetto", "a.json", "--arrows"]
    assert main(["schedule", "draw", *SIZES, *files]) == 0
    assert (here / "a.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((here / "a.json").read_text(encoding="utf-8"))["traceEvents"]


def test_check_tells_memory_and_slots(document, capsys):
    found = document("check", *SIZES)
    assert found["deadlock_free"] is True
    assert found["per_stage"]["peak_activations"] == [4, 3, 2, 1]
    assert found["needed_slots"]["0->1"] == 4
    assert main(["schedule", "check", *SIZES]) == 0
    assert "complete, in order, free of deadlock" in capsys.readouterr().out


BY_HAND = """# two ranks, each first wants what the other would send later
0F0 0F1 0B1 0B0
1F1 1B1 1F0 1B0
"""


def test_a_schedule_by_hand_is_drawn_checked_and_played(here, document, capsys):
    (here / "mine.txt").write_text(BY_HAND, encoding="utf-8")
    found = document("simulate", "--schedule", "mine.txt")
    assert (found["stages"], found["microbatches"], found["makespan"]) == (2, 2, 10)
    assert found["closed_form"] == {}
    assert document("check", "--schedule", "mine.txt")["needed_slots"]["0->1"] == 2
    assert main(["schedule", "draw", "--schedule", "mine.txt", "--width", "48"]) == 0
    assert capsys.readouterr().out.startswith("rank 0  F0--F1--")


def test_a_deadlock_is_refused_with_its_circle(here, refusal):
    (here / "mine.txt").write_text(BY_HAND, encoding="utf-8")
    line = refusal("simulate", "--schedule", "mine.txt", "--slots", "1")
    assert "mine.txt is deadlocked: rank 0 waits in 0F1 for a free slot" in line
    assert "rank 1, which waits in 1F1 for the activations of 0F1 from rank 0" in line


def test_a_file_of_other_sizes_is_refused(here, refusal):
    (here / "mine.txt").write_text(BY_HAND, encoding="utf-8")
    line = refusal("draw", "--schedule", "mine.txt", "--stages", "4")
    assert "--stages 4" in line
    assert "mine.txt has 2" in line
    assert "no.txt" in refusal("draw", "--schedule", "no.txt")
    (here / "half.txt").write_text("0F0 0F1 0B0", encoding="utf-8")
    assert "0B1" in refusal("check", "--schedule", "half.txt")


def test_what_is_exported_is_read_again(here, document, capsys):
    sizes = ["--schedule", "zb-v", "--stages", "4", "--microbatches", "8"]
    for files in (["--csv", "a.csv"], ["--text", "a.txt"], ["--csv", "b.csv", "--communication"]):
        assert main(["schedule", "export", *sizes, *files]) == 0
    capsys.readouterr()
    assert "SEND_F" in (here / "b.csv").read_text(encoding="utf-8")
    wanted = document("simulate", *sizes)
    for file in ("a.csv", "a.txt", "b.csv"):
        found = document("simulate", "--schedule", file)
        for key in ("makespan", "span", "bubble_span", "peak_activations", "per_stage"):
            assert found[key] == wanted[key], (file, key)
    assert main(["schedule", "export", *sizes]) == 0
    assert capsys.readouterr().out == (here / "a.txt").read_text(encoding="utf-8")


def test_compare_is_one_table_and_one_picture(here, document, capsys):
    found = document("compare", "--stages", "2", "--microbatches", "4", "--plot", "all.png")
    by_name = {each["schedule"]: each for each in found["schedules"]}
    assert set(by_name) | set(found["refused"]) == set(SCHEDULES)
    assert by_name["gpipe"]["makespan"] == by_name["1f1b"]["makespan"] == 15
    assert by_name["gpipe"]["peak_activations"] == 4
    for each in found["schedules"]:  # all do the same work, in however many chunks
        assert each["per_stage"]["busy"] == [12, 12], each["schedule"]
    assert (here / "all.png").read_bytes().startswith(b"\x89PNG")
    assert main(["schedule", "compare", "--stages", "3", "--microbatches", "3"]) == 0
    out = capsys.readouterr().out
    assert "bubble of span" in out
    assert "not here: zb-v has no schedule for 3 ranks, 3 microbatches" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paint"], ["schedule paint", "draw, check, simulate"]),
        (["draw", "--schedule", "zb-9"], ["zb-9", "1f1b"]),
        (["draw", "--stages", "0"], ["0 ranks"]),
        (["draw", "--width", "5"], ["width of 5"]),
        (["draw", "--plot", "a.gif"], ["a.gif", ".png"]),
        (["simulate", "--f", "fast"], ["--f", "fast", "number of units"]),
        (["simulate", "--f", "-1"], ["--f", "0 or more"]),
        (["simulate", "--f", "1,2,3"], ["--f has 3 times for 4 stages"]),
        (["simulate", "--f", "1,,2"], ["--f", "separated by commas"]),
        (["simulate", "--f", "1e30"], ["--f", "at most 4611686 s"]),
        (["simulate", "--f", "1e999999999"], ["--f", "1e999999999"]),
        (["simulate", "--f", "1/0"], ["--f", "1/0"]),
        (["simulate", "--bytes", "9" * 5000, "--link", "800g"], ["--bytes"]),
        (["simulate", "--straggler", "0:1e999"], ["--straggler", "0:1e999"]),
        (["simulate", "--latency", "1e6 s"], ["all steps and messages", "4.61e+06 s"]),
        (["simulate", "--link", "800g", "--bytes", "9" * 20], ["800g", "picoseconds"]),
        (["simulate", "--link", "900g"], ["900g", "800g"]),
        (["simulate", "--bytes", "4 miles", "--link", "800g"], ["--bytes", "4 miles"]),
        (["simulate", "--straggler", "1"], ["--straggler", "1:1.5"]),
        (["simulate", "--straggler", "9:2"], ["straggler 9", "ranks 0 to 3"]),
        (["simulate", "--slots", "-1"], ["--slots -1"]),
        (["check", "--slots", "-1"], ["--slots -1"]),
        (["simulate", "--microbatches", "many"], ["--microbatches", "many"]),
        (["simulate", "--repeat", "-1"], ["--repeat -1"]),
        (["simulate", "--seed", "-1"], ["--seed -1"]),
        (["compare", "--stages", "0"], ["no schedule exists"]),
        (["draw", "--chunks", "0"], ["0 chunks"]),
        (["export", "--communication"], ["--communication", "--csv"]),
        (["export", "--csv", "."], ["."]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(refusal, arguments, words):
    line = refusal(*arguments)
    assert line.startswith("baremetal: ")
    for word in words:
        assert word in line, line


def test_nothing_is_compiled_before_it_is_needed():
    """numba and matplotlib take a second to import: --help should not."""
    code = "import sys, baremetal.schedules.verbs; print({'numba', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(baremetal.__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_help_names_the_verbs(capsys):
    assert main(["schedule"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("draw", "check", "simulate", "compare"))
