"""The command line, called as a person would: what works, and what is refused in one line."""

import csv
import json
from pathlib import Path

import pytest

from baremetal.bench.verbs import BENCHMARKS
from baremetal.cli import VERBS, main

TEXT = "".join(f"{n} green bottles hanging on the wall, and then {n - 1}.\n" for n in range(150))
SMALL = [
    "--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--batch", "4",
    "--steps", "4", "--warmup", "1", "--eval-every", "2", "--eval-batches", "2",
    "--sample-tokens", "8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(here, capsys) -> Path:
    assert main(["train", "--data", "text.txt", "--name", "first", *SMALL]) == 0
    capsys.readouterr()
    return here / "runs" / "first"


def metrics(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def refusal(capsys, *arguments: str) -> str:
    """The one line that these arguments are refused with."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    # A bar may have been on the screen before; the refusal itself is the last line.
    assert lines[-1].startswith("baremetal: ")
    assert "Traceback" not in captured.err
    return lines[-1]


@pytest.mark.parametrize("kind", sorted(BENCHMARKS))
def test_each_benchmark_shows_an_example_of_its_own(kind, capsys):
    with pytest.raises(SystemExit):
        main(["bench", kind, "--help"])
    assert f"Example: baremetal bench {kind}" in capsys.readouterr().out


def test_overview_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and verb.example in out for name, verb in VERBS.items())


@pytest.mark.parametrize("verb", ["train", "sample", "runs", "doctor"])
def test_each_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"baremetal {verb}" in " ".join(capsys.readouterr().out.split())


def test_train_writes_a_run_folder(run):
    assert (run / "config.toml").is_file()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((run / "sample.txt").read_text(encoding="utf-8")) > 8
    rows = metrics(run)
    assert [row["step"] for row in rows] == [2, 4]  # the evaluations
    for key in ("train_loss", "val_loss", "tokens_per_s", "bits_per_byte", "learning_rate"):
        assert all(isinstance(row[key], float) for row in rows), key


def test_train_prints_one_json_object(here, capsys):
    assert main(["train", "--data", "text.txt", "--json", *SMALL]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["step"] == 4
    assert figures["val_loss"] > 0


def test_config_file_and_options_that_win(here, capsys):
    (here / "c.toml").write_text('data = "text.txt"\nsteps = 2\nlayers = 1\n', encoding="utf-8")
    arguments = ["train", "--config", "c.toml", *SMALL, "--steps", "3", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3


def test_sample_is_repeatable_and_continues_the_prompt(run, capsys):
    command = ["sample", str(run), "--prompt", "9 green", "--tokens", "12", "--seed", "3"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("9 green")
    assert main([*command, "--json"]) == 0
    assert first.strip("\n") == "9 green" + json.loads(capsys.readouterr().out)["text"].strip("\n")


def test_fine_tuning_starts_from_the_weights(run, capsys):
    arguments = ["train", "--from", str(run), "--data", "text.txt", "--steps", "2", "--json"]
    assert main([*arguments, "--eval-batches", "2", "--batch", "4", "--learning-rate", "1e-6"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    rows = metrics(run)
    # The rate is tiny: the loss is where the first run left it, not where a fresh model starts.
    assert tuned["val_loss"] == pytest.approx(rows[-1]["val_loss"], rel=1e-3)


def test_fine_tuning_keeps_its_own_options_but_not_another_shape(run, capsys):
    base = ["train", "--from", str(run), "--data", "text.txt", "--steps", "2", "--name", "tuned"]
    assert "64" in refusal(capsys, *base, "--width", "64")
    assert main([*base, "--dropout", "0.3", "--eval-batches", "2", "--json"]) == 0
    capsys.readouterr()
    # Resuming rebuilds the model from the run's own configuration: dropout must be in it.
    assert main(["train", "--resume", "runs/tuned", "--steps", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4
    assert "all its 4 steps" in refusal(capsys, "train", "--resume", "runs/tuned")


def test_a_full_disk_is_one_line(run, capsys, monkeypatch):
    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("baremetal.train.run_folder.RunFolder.log", full)
    line = refusal(capsys, "train", "--resume", str(run), "--steps", "6")
    assert "No space left" in line


def test_runs_lists_draws_and_exports(run, here, capsys):
    assert main(["runs", "--csv", "out.csv", "--plot", "out.png"]) == 0
    assert "first" in capsys.readouterr().out
    with (here / "out.csv").open(encoding="utf-8") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["first"]
    assert (here / "out.png").stat().st_size > 1000


def test_doctor_reports_blas_threads_and_cache(capsys):
    assert main(["doctor", "--json"]) == 0
    names = {finding["name"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert {"BLAS of scipy", "BLAS of numpy", "thread pool", "kernel cache"} <= names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "did you mean 'train'"]),
        (["train", "--foo", "1"], ["--foo"]),
        (["train", "--layers", "many"], ["--layers", "many"]),
        (["train", "--heads", "3"], ["3 heads"]),
        (["train", "--data", "missing.txt"], ["missing.txt"]),
        (["train", "--data", "empty.txt"], ["empty.txt", "empty"]),
        (["train", "--data", "binary.txt"], ["binary.txt"]),
        (["train", "--data", "short.txt"], ["longer than the data"]),
        (["train", "--data", "text.txt", "--context", "5000"], ["5,000"]),
        (["train", "--resume", "nowhere"], ["nowhere"]),
        (["train", "--from", "nowhere"], ["nowhere"]),
        (["train", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["train", "--data", "text.txt", "--threads", "4096"], ["4096"]),
        (["train", "--data", "text.txt", "--out", "text.txt"], ["text.txt"]),
        (["sample", "nowhere"], ["nowhere"]),
        (["runs", "--folder", "nowhere"], ["nowhere"]),
        (["bench", "stpe"], ["stpe"]),
    ],
)
def test_bad_input_is_one_line(arguments, words, here, capsys):
    (here / "empty.txt").write_bytes(b"")
    (here / "binary.txt").write_bytes(bytes(range(256)))
    (here / "short.txt").write_text("too short", encoding="utf-8")
    line = refusal(capsys, *arguments)
    assert all(word in line for word in words), line
    assert not (here / "runs").exists()  # nothing half-made is left


def test_more_refusals_that_need_a_run(run, capsys):
    assert "exists" in refusal(capsys, "train", "--data", "text.txt", "--name", "first", *SMALL)
    assert "all its 4 steps" in refusal(capsys, "train", "--resume", str(run))
    assert "--temperature" in refusal(capsys, "sample", str(run), "--temperature", "hot")
    assert "prompt" in refusal(capsys, "sample", str(run), "--prompt", "")
    assert "no run called" in refusal(capsys, "runs", "second")
    # A checkpoint of another shape.
    assert "--width 32 contradicts" in refusal(
        capsys, "train", "--resume", str(run), "--width", "32", "--steps", "9"
    )


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_offered(run, capsys):
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    line = refusal(capsys, "sample", str(run))
    assert last.name in line
    assert "the last good one is" in line
    good = line.partition("the last good one is ")[2].split()[0]
    assert main(["sample", good, "--tokens", "3"]) == 0
    assert main(["train", "--resume", good, "--steps", "5", "--json"]) == 0
    capsys.readouterr()
    assert main(["sample", str(run), "--tokens", "3"]) == 0
