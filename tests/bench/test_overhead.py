"""The overhead curve: what is read off a result, the fit's closed form, saving and drawing it."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from baremetal.bench.machine import describe_machine
from baremetal.bench.overhead import command, launches, measure, reading
from baremetal.bench.overhead.amdahl import fit_step_times, step_time_s
from baremetal.bench.overhead.launches import launches_text, measure_launches
from baremetal.bench.overhead.picture import curve_figure
from baremetal.bench.overhead.report import curve_text
from baremetal.bench.step.sizes import SIZES
from baremetal.cli import main
from baremetal.errors import BaremetalError

# Made up: seconds of a step without work, and FLOP/s of the rest.
FIXED_S = {"baremetal": 1e-6, "jax": 2e-5, "torch": 3e-4}
RATE = {"baremetal": 2e11, "jax": 1e11, "torch": 2e11}
LAUNCHES = {"launches": 10, "per_launch_s": {"replay": 1e-8}, "once_s": {"planning": 1e-5}}
MACHINE = {"processor": "a made-up one", "cores": 2, "python": "3.14", "blas": {}}


def made_up_result(size, against=("jax", "torch"), fixed_s=FIXED_S):
    own_s = step_time_s(size.flops_per_step, fixed_s["baremetal"], RATE["baremetal"])
    rows = []
    for name in dict.fromkeys(["baremetal", *against]):
        known = name if name in FIXED_S else "baremetal"
        seconds = step_time_s(size.flops_per_step, fixed_s[known], RATE[known])
        rows.append({"name": name, "median_step_s": seconds, "ratio": seconds / own_s})
    return {
        "model": size.name,
        "flops_per_step": size.flops_per_step,
        "gemm_rate_flops": 4e11,
        "rows": rows,
        "machine": MACHINE,
    }


@pytest.fixture
def measured(monkeypatch):
    """`compare_steps` answers at once, with times that follow the model exactly."""
    asked = []

    def compare(size, against, *, rounds, seconds, threads, progress):
        asked.append((size.name, tuple(against)))
        for name in ("baremetal", *against):
            for _ in range(2 + rounds):
                progress(f"{size.name} {name}")
        return made_up_result(size, against)

    monkeypatch.setattr(measure, "compare_steps", compare)
    monkeypatch.setattr(measure, "measure_launches", lambda: LAUNCHES)
    monkeypatch.setattr(command, "check_peer", lambda name, known: None)
    return asked


def curve(models=measure.MODELS, against=("jax", "torch"), progress=lambda what: None):
    return measure.measure_curve(
        models, against, rounds=2, seconds=0.1, threads=1, note="made up", progress=progress
    )


# ---------------------------------------------------------------- the fit


@pytest.mark.parametrize("fixed_s", [1e-6, 2e-5, 3e-4])
@pytest.mark.parametrize("rise", [0.0, 0.15, 0.3])
def test_times_that_follow_the_model_give_its_numbers_back(fixed_s, rise):
    flops = [size.flops_per_step for size in SIZES.values()]
    top = max(flops)
    fit = fit_step_times(flops, [step_time_s(f, fixed_s, 3e11, top, rise) for f in flops])
    assert fit.fixed_s == pytest.approx(fixed_s, rel=1e-3)
    assert fit.top_rate_flops == pytest.approx(3e11, rel=1e-3)
    assert fit.rise == pytest.approx(rise, abs=1e-3)
    assert fit.residuals == pytest.approx([1.0] * len(flops), rel=1e-3)


def test_a_size_off_the_model_shows_in_its_residual():
    flops = [2e3, 2e5, 2e7, 2e9, 2e11]
    times_s = [step_time_s(f, 1e-5, 1e11) for f in flops]
    times_s[2] *= 3
    fit = fit_step_times(flops, times_s)
    assert int(np.argmax(fit.residuals)) == 2
    assert fit.residuals[2] > 1.4
    fitted_s = [step_time_s(f, *fit[:4]) for f in flops]
    assert fit.residuals == pytest.approx([t / m for t, m in zip(times_s, fitted_s, strict=True)])


def test_three_sizes_are_not_enough():
    with pytest.raises(BaremetalError, match="at least 4 sizes"):
        fit_step_times([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])


# ---------------------------------------------------------------- measuring and reading


def test_every_size_runs_and_the_scan_only_where_calling_matters(measured):
    told = []
    against = ["jax", "jax.scan", "torch"]
    result = curve(against=against, progress=told.append)
    assert measured == [
        ("micro", ("jax", "jax.scan", "torch")),
        ("micro-100", ("jax", "jax.scan", "torch")),
        ("tiny", ("jax", "jax.scan", "torch")),
        ("small", ("jax", "jax.scan", "torch")),
        ("medium", ("jax", "torch")),
    ]
    assert len(told) == measure.announcements(measure.MODELS, against, rounds=2)
    assert result["machine"]["cores"] >= 1
    assert all("machine" not in each for each in result["models"])
    assert result["versions"].keys() >= {"numpy", "numba", "scipy"}


@pytest.mark.usefixtures("measured")
def test_ratios_shares_and_fixed_costs():
    result = curve()
    micro = result["models"][0]
    micro["gemm_rate_flops"] = 1e11  # the machine was busy then: the best of the run counts
    work = micro["flops_per_step"]
    ours_s = 1e-6 + work / 2e11
    assert reading.speed_up(result, micro, "jax") == pytest.approx((2e-5 + work / 1e11) / ours_s)
    assert reading.share(result, micro, "baremetal") == pytest.approx(work / ours_s / 4e11)
    assert reading.step_s(micro, "jax.scan") is None
    fits = {fit["name"]: fit for fit in reading.fits(result)}
    for name, fixed_s in FIXED_S.items():
        assert fits[name]["fixed_s"] == pytest.approx(fixed_s, rel=1e-3)
        assert fits[name]["top_rate_flops"] == pytest.approx(RATE[name], rel=1e-3)
    text = curve_text(result)
    assert "note: made up" in text
    assert "300 us" in text
    assert result["machine"]["processor"] in text


@pytest.mark.usefixtures("measured")
def test_the_fits_have_a_column_for_each_size():
    lines = curve_text(curve(against=("jax", "jax.scan"))).splitlines()
    heading = next(line for line in lines if line.startswith("contender"))
    assert heading.split()[-5:] == [*measure.MODELS]
    scan = next(line for line in lines if line.startswith("jax.scan "))
    assert scan.split()[-5:] == ["1.00"] * 4 + ["-"]  # medium is not measured in a scan


def test_the_picture_has_a_line_for_each_contender_and_names_the_sizes(measured):
    figure = curve_figure(curve(against=("jax", "jax.scan", "torch")))
    times, ratios, shares = figure.axes
    assert len(shares.lines) == 4
    assert len(times.lines) == 4 + 4  # what was measured, what was fitted
    assert len(ratios.lines) == 3 + 1  # the peers, and the level of 1
    assert {text.get_text() for text in times.texts} >= {*measure.MODELS}
    # Each name bears the mark of its line, for those who cannot go by the colour.
    assert {text.get_text() for text in ratios.texts} == {"■ jax", "◆ jax.scan", "▲ torch"}
    assert [line.get_marker() for line in shares.lines] == ["o", "s", "D", "^"]
    assert ratios.get_xscale() == ratios.get_yscale() == "log"
    scan = next(line for line in shares.lines if len(line.get_xdata()) == 4)
    assert scan.get_linestyle() == "--"


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("measured")
def test_what_was_measured_is_kept_and_can_be_read_again(folder, capsys):
    assert main(["bench", "overhead", "--rounds", "1", "--against", "jax,torch"]) == 0
    first = capsys.readouterr().out
    assert "written: overhead.json" in first
    assert (folder / "overhead.png").stat().st_size > 10_000
    saved = json.loads((folder / "overhead.json").read_text(encoding="utf-8"))
    arguments = ["--from", "overhead.json", "--plot", "again.svg"]
    assert main(["bench", "overhead", *arguments]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[:-1] == first.splitlines()[:-2]
    assert (folder / "again.svg").is_file()
    assert main(["bench", "overhead", *arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["models"] == saved["models"]
    assert {fit["name"] for fit in printed["fits"]} == {"baremetal", "jax", "torch"}


@pytest.mark.usefixtures("measured")
def test_an_interruption_leaves_the_sizes_that_are_done(folder, monkeypatch, capsys):
    compare = measure.compare_steps

    def interrupted(size, against, **options):
        if size.name == "tiny":
            raise KeyboardInterrupt
        return compare(size, against, **options)

    monkeypatch.setattr(measure, "compare_steps", interrupted)
    assert main(["bench", "overhead", "--against", "jax"]) == 130
    saved = json.loads((folder / "overhead.json").read_text(encoding="utf-8"))
    assert [each["model"] for each in saved["models"]] == ["micro", "micro-100"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "nowhere.json"], "nowhere.json"),
        (["--from", "broken.json"], "is no JSON"),
        (["--from", "other.json"], "no 'models'"),
        (["--save", "curve.txt"], "end the name in .json"),
        (["--save", "nowhere/curve.json"], "no folder nowhere"),
        (["--plot", "curve.bmp"], "end the name in .png"),
        (["--models", "micro,huge"], "unknown model 'huge'"),
        (["--against", "tensorflow"], "unknown peer 'tensorflow'"),
        (["--rounds", "0"], "--rounds 0"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_measured(folder, capsys, arguments, said):
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "other.json").write_text("[]", encoding="utf-8")
    given = arguments if "--against" in arguments else [*arguments, "--against", ""]
    assert main(["bench", "overhead", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(folder.glob("*.png"))


def test_the_recorded_curve_can_be_read_and_drawn(folder, capsys):
    """The one that the docs and lesson 5 show: complete, and from this benchmark."""
    assert main(["bench", "overhead", "--from", "recorded", "--plot", "none"]) == 0
    text = capsys.readouterr().out
    recorded = reading.load_curve(reading.RECORDED)
    assert [each["model"] for each in recorded["models"]][:5] == [*measure.MODELS]
    assert {"baremetal", "jax", "jax.scan", "torch"} <= {*reading.contenders(recorded)}
    for result in recorded["models"]:
        assert result["flops_per_step"] == SIZES[result["model"]].flops_per_step
        assert result["model"] in text
    assert recorded["machine"]["processor"] in text
    assert max(map(len, text.splitlines())) <= 100  # what a page of the docs can show


# ---------------------------------------------------------------- launches


def test_launches_are_measured_each_way():
    result = measure_launches(20, budget_s=0.0)
    assert result["launches"] == 20
    assert [*result["per_launch_s"]] == ["numpy", "eager", "one by one", "replay"]
    assert [*result["once_s"]] == ["first call, in all", "planning memory", "binding"]
    assert all(s > 0 for part in ("per_launch_s", "once_s") for s in result[part].values())
    assert "one by one" in launches_text(result)


def test_what_happens_once_is_counted_for_each_launch(monkeypatch):
    """By a clock that goes on by a second whenever somebody looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(launches, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert set(measure_launches(20, budget_s=0.0)["once_s"].values()) == {1 / 20}


def test_the_command_for_launches(capsys):
    assert main(["bench", "launches", "--count", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launches"] == 3
    assert main(["bench", "launches", "--count", "0"]) == 2


def test_what_is_recorded_names_no_file_of_the_machine_it_was_recorded_on():
    recorded = reading.load_curve(reading.RECORDED)
    for machine in (recorded["machine"], describe_machine()):
        assert all("path" not in library for library in machine["blas"].values())
    assert "site-packages" not in reading.RECORDED.read_text(encoding="utf-8")
