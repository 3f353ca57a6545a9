"""Climbing a small ladder of the test's own: verdicts, figures, forms of the report, refusals."""

import json

import numpy as np
import pytest

from baremetal.bench.ladders import command
from baremetal.bench.ladders.climb import climb, relative_error, take_turns
from baremetal.bench.ladders.ladder import Afterword, Ladder, Problem
from baremetal.bench.ladders.report import ladder_text
from baremetal.cli import main
from baremetal.errors import BaremetalError
from baremetal.kernels.matmul import matmul


def make_problem(size, rng):
    a, b = rng.standard_normal((2, size, size), dtype=np.float32)
    return Problem((a, b), (np.empty((size, size), np.float32),))


def small_ladder():
    ladder = Ladder("small", matmul, make_problem, 8, "rows", 64, "arithmetic", 1e-5)

    @ladder.version("right", "as it should be")
    def right(a, b, out):
        np.matmul(a, b, out=out)

    @ladder.version("slow", "tried at a smaller size", largest_size=4)
    def slow(a, b, out):
        np.matmul(a, b, out=out)

    return ladder


def with_wrong_version(wrong):
    ladder = small_ladder()
    ladder.version("wrong", "on purpose")(wrong)
    return ladder


def off_by_one(a, b, out):
    np.matmul(a, b, out=out)
    out[-1, -1] += 1


def unwritten(a, b, out):
    np.matmul(a[:-1], b, out=out[:-1])


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    """The machine's limits, measured on next to nothing."""
    monkeypatch.setattr("baremetal.bench.ladders.climb.PRODUCT_SIZE", 32)
    monkeypatch.setattr("baremetal.bench.ladders.climb.STREAM_SIZE_BYTES", 1 << 12)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Make the command find a ladder of ours, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def install(ladder):
        monkeypatch.setattr(command, "find_ladder", lambda name: ladder)
        return tmp_path

    return install


# ---------------------------------------------------------------- right or wrong


@pytest.mark.parametrize("wrong", [off_by_one, unwritten])
def test_a_wrong_version_is_named_and_the_exit_status_is_one(wrong, installed, capsys):
    installed(with_wrong_version(wrong))
    assert main(["ladder", "small", "--seconds", "0", "--plot", "none"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "NOT OK  " in line] == ["3"]
    assert any("expected" in line for line in lines)
    assert lines[-1] == "NOT OK: version 3 differs from the reference"


def test_right_versions_exit_with_zero(installed, capsys):
    folder = installed(small_ladder())
    assert main(["ladder", "small", "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "NOT OK" not in out
    assert out.count("  OK  ") == 2
    assert "roofline drawn: ladder-small.png" in out
    assert (folder / "ladder-small.png").read_bytes().startswith(b"\x89PNG")


def test_relative_error():
    expected = np.array([4.0, -8.0])
    assert relative_error(np.array([4.0, -8.0]), expected) == 0
    assert relative_error(np.array([4.0, -7.0]), expected) == 0.125
    assert relative_error(np.array([np.nan, -8.0]), expected) == np.inf
    assert relative_error(np.array([np.inf, -8.0]), expected) == np.inf
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.empty(0), np.empty(0)) == 0


# ---------------------------------------------------------------- figures


def test_json_is_one_object_with_figures_that_belong_together(installed, capsys):
    installed(with_wrong_version(unwritten))
    status = main(["ladder", "small", "--json", "--seconds", "0", "--plot", "roof.svg"])
    assert status == 1
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (result["ladder"], result["size"], result["plot"]) == ("small", 8, "roof.svg")
    assert [row["version"] for row in result["versions"]] == [1, 2, 3]
    assert [row["size"] for row in result["versions"]] == [8, 4, 8]
    assert [row["right"] for row in result["versions"]] == [True, True, False]
    assert result["versions"][2]["error"] is None  # NaN has no place in JSON
    assert result["all_right"] is False
    first = result["versions"][0]
    assert first["flops"] == 2 * 8**3
    assert first["size_bytes"] == 3 * 8 * 8 * 4
    assert first["best_s"] <= first["median_s"]
    assert first["rounds"] == 3
    assert first["flops_per_s"] == pytest.approx(first["flops"] / first["best_s"])
    assert first["bytes_per_s"] == pytest.approx(first["size_bytes"] / first["best_s"])
    least_s = max(
        first["flops"] / result["peak_flops"], first["size_bytes"] / result["bandwidth_Bps"]
    )
    assert first["share_of_limit"] == pytest.approx(least_s / first["best_s"])
    assert len(first["first"]) == len(first["expected"]) == 5
    assert {"processor", "cores", "threads", "blas"} <= set(result["machine"])


def test_limits_and_figures_come_from_the_shortest_times(monkeypatch):
    times_s = [[3.0, 1.0, 2.0], [8.0, 2.0, 4.0], [0.5, 0.25, 1.0], [1.0, 2.0, 6.0]]
    monkeypatch.setattr("baremetal.bench.ladders.climb.take_turns", lambda *_: times_s)
    result = climb(small_ladder())
    assert result["peak_flops"] == 2 * 32**3 / 1.0
    assert result["bandwidth_Bps"] == 3 * 4096 / 2.0
    right, slow = result["versions"]
    assert (right["best_s"], right["median_s"]) == (0.25, 0.5)
    assert (slow["best_s"], slow["median_s"]) == (1.0, 2.0)


def test_only_the_versions_asked_for_are_run(installed, capsys):
    def never(a, b, out):
        pytest.fail("version 3 was not asked for")

    installed(with_wrong_version(never))
    assert main(["ladder", "small", "--versions", "2,1", "--json", "--seconds", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["version"] for row in result["versions"]] == [1, 2]


def test_the_afterword_comes_when_all_versions_are_climbed(installed):
    ladder = small_ladder()
    row = {"threads": 2, "ours_flops_per_s": 1.5e9, "share": 0.5, "peak_bytes": 2000, "b_error": 1}
    ladder.epilogue = lambda size: Afterword("key", "a heading", [row], f"size {size}")
    result = climb(ladder, budget_s=0)
    assert result["afterword"]["rows"] == [row]
    text = ladder_text(result)
    for words in ("a heading", "1.50 GFLOP/s", "50.0 %", "2.00 kB", "1.0e+00", "size 8"):
        assert words in text
    assert "afterword" not in climb(ladder, [1], budget_s=0)


def test_a_smaller_size_is_extrapolated_honestly():
    result = climb(small_ladder(), budget_s=0)
    result["versions"][1]["flops_per_s"] = 512.0  # the whole problem has 1024 FLOP
    assert "version 2 was timed at size 4; at this rate, size 8 would take 2.00 s" in ladder_text(
        result
    )


def test_turns_are_taken_until_the_budget_is_spent(monkeypatch):
    """A clock of our own: `slow` takes 10 s a call and `quick` 1 s, with 5 s to spend on each."""
    clock = [0.0]
    calls = []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def taking(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    slow, quick = take_turns([taking("slow", 10.0), taking("quick", 1.0)], budget_s=5.0)
    assert slow == [10.0] * 3  # never fewer than three
    assert quick == [1.0] * 5
    assert calls[:6] == ["slow", "quick"] * 3
    assert calls[6:] == ["quick"] * 2


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--versions", "1,x"], "numbers separated by commas"),
        (["--versions", "7"], "no version 7"),
        (["--size", "65"], "choose 1 to 64"),
        (["--size", "-1"], "choose 1 to 64"),
        (["--plot", "roof.jpg"], ".png, .svg or .pdf"),
        (["--plot", "nowhere/roof.png"], "no folder nowhere"),
        (["--seconds", "-1"], "--seconds -1"),
        (["--seconds", "nan"], "--seconds nan"),
    ],
)
def test_refusals_are_one_line(options, words, installed, capsys):
    folder = installed(small_ladder())
    assert main(["ladder", "small", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert words in captured.err
    assert list(folder.iterdir()) == []


def test_an_unknown_ladder_is_refused(capsys):
    assert main(["ladder", "matmull"]) == 2
    assert "choose one of matmul, softmax, layer_norm, attention" in capsys.readouterr().err


def test_help_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ladder", "--help"])
    assert stop.value.code == 0
    assert "baremetal ladder matmul" in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------- pictures


def test_names_in_the_picture_do_not_cover_each_other(tmp_path):
    from matplotlib.text import Text

    from baremetal.bench.ladders.picture import draw_ladder, ladder_figure

    rates = [8e6, 2e9, 30e9, 70e9, 88e9, 99e9, 198e9, 199e9]
    rows = [
        {
            "version": i + 1, "idea": f"an idea of {i + 1}", "flops": 1e9, "size_bytes": 1e7,
            "flops_per_s": rate, "best_s": 1e9 / rate,
        }
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    rows[0] |= {"flops": 1e6, "size_bytes": 1e5, "best_s": 1e6 / rates[0]}
    result = {
        "ladder": "matmul", "size": 960, "size_means": "rows", "versions": rows,
        "peak_flops": 204e9, "bandwidth_Bps": 30e9,
    }  # fmt: skip
    figure = ladder_figure(result)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    names = [text for text in axes.texts if "idea" in text.get_text()]
    assert len(names) == len(rates)
    assert all(text.get_text() for text in axes.texts)
    # The box of the words alone: an annotation's own box holds its line, too.
    boxes = [Text.get_window_extent(name, renderer) for name in names]
    for i, box in enumerate(boxes):
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert draw_ladder(result, tmp_path / "roof.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["matmul", "softmax", "layer_norm", "attention"])
def test_the_real_ladders_by_command(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for rows in ("softmax", "layer_norm"):
        monkeypatch.setattr(f"baremetal.bench.ladders.{rows}.ELEMENTS", 10_000)
    size = "70" if name == "matmul" else "40"
    assert main(["ladder", name, "--size", size, "--versions", "1,3", "--seconds", "0"]) == 0
    assert f"the {name} ladder" in capsys.readouterr().out
    assert (tmp_path / f"ladder-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_errors_of_a_ladder_are_the_one_exception_of_users():
    with pytest.raises(BaremetalError):
        command.run_ladder("matmul", versions="1,,b")
