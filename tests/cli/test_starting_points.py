"""Where `train` and `sample` start: a file of options, a run, its best checkpoint, weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from baremetal.checkpoint import best_checkpoint, load_checkpoint
from baremetal.cli import main
from baremetal.data import BPETokenizer
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.train.pretrained import save_pretrained
from baremetal.train.weights import load_weights

TEXT = "".join(f"{n} green bottles hanging on the wall, and then {n - 1}.\n" for n in range(150))
SMALL = [
    "--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--batch", "4",
    "--steps", "4", "--warmup", "1", "--eval-every", "2", "--eval-batches", "2",
    "--sample-tokens", "8",
]  # fmt: skip
BRIEF = ["--data", "text.txt", "--steps", "1", "--batch", "2", "--eval-batches", "1", "--json"]


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


# Sizes that no option of `train` can ask for, so that they have to come from the files.
MODELS = {
    "gpt": lambda rng: GPT(
        GPTConfig(vocab_size=320, context=32, layers=1, heads=2, width=16, norm_eps=0.25),
        rng=rng,
    ),
    "llama": lambda rng: Llama(
        LlamaConfig(
            vocab_size=320, context=32, layers=1, heads=2, width=16, kv_heads=1, hidden=24,
            rotary_base=77.0,
        ),
        rng=rng,
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def folder(request, here) -> Path:
    path = here / "hub"
    save_pretrained(MODELS[request.param](np.random.default_rng(5)), path)
    tokenizer = BPETokenizer.train(TEXT, 300).to_json()["tokenizer"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return path


def refusal(capsys, *arguments: str) -> str:
    # Where the refusal does not come, a training of one step does, not one of two thousand.
    brief = BRIEF if arguments[0] == "train" and "--steps" not in arguments else []
    assert main([*arguments, *brief]) == 2
    err = capsys.readouterr().err.strip()
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("baremetal: ")
    return line


# ---------------------------------------------------------------- --config


def test_the_command_line_mends_a_bad_combination_in_the_file(here, capsys):
    (here / "c.toml").write_text("heads = 3\nwidth = 16\nlayers = 1\n", encoding="utf-8")
    line = refusal(capsys, "train", "--config", "c.toml", "--data", "text.txt")
    assert "3 heads" in line
    assert "c.toml" in line
    mended = ["train", "--config", "c.toml", "--heads", "2", "--context", "8", *BRIEF]
    assert main(mended) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer = 1", ["c.toml", "layer", "did you mean 'layers'"]),
        ("[train]\nlayers = 1", ["c.toml", "'train'"]),
        ("layers = 1.5", ["c.toml", "layers", "float"]),
        ("model = ['gpt']", ["c.toml", "model"]),
    ],
)
def test_wrong_keys_and_types_in_the_file_are_named(text, words, here, capsys):
    (here / "c.toml").write_text(text, encoding="utf-8")
    line = refusal(capsys, "train", "--config", "c.toml", "--layers", "1")
    assert all(word in line for word in words), line


# ---------------------------------------------------------------- --resume


@pytest.mark.parametrize("option", ["--resume", "--from", "--config"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_path_is_refused(option, empty, here, capsys):
    assert f"{option} is empty" in refusal(capsys, "train", option, empty, "--data", "text.txt")
    assert f"{option} is empty" in refusal(capsys, "train", f"{option}={empty}")
    assert not (here / "runs").exists()


def test_an_empty_checkpoint_is_refused_by_sample(capsys):
    assert "is empty" in refusal(capsys, "sample", "")


@pytest.mark.parametrize(
    ("option", "value", "has"),
    [
        ("--tokenizer", "byte", "char"),
        ("--heads", "4", "2"),  # the same shapes of tensors, another function
        ("--context", "8", "16"),
        ("--model", "llama", "gpt"),
        ("--optimizer", "sgd", "adamw"),
        ("--sampler", "epoch", "random"),
        ("--seed", "1", "1337"),
        ("--name", "second", "first"),
        ("--out", "elsewhere", "runs"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(run, option, value, has, capsys):
    before = (run / "config.toml").read_bytes()
    line = refusal(capsys, "train", "--resume", str(run), "--steps", "6", option, value)
    assert f"{option} {value} contradicts" in line
    assert f"has {option} {has}" in line
    assert (run / "config.toml").read_bytes() == before


def test_resume_takes_options_from_a_file_too(run, here, capsys):
    (here / "c.toml").write_text("steps = 6\nlearning_rate = 0.5\n", encoding="utf-8")
    assert main(["train", "--resume", str(run), "--config", "c.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6
    assert "learning_rate = 0.5" in (run / "config.toml").read_text(encoding="utf-8")
    (here / "c.toml").write_text("steps = 8\nheads = 4\n", encoding="utf-8")
    assert "--heads 4" in refusal(capsys, "train", "--resume", str(run), "--config", "c.toml")


# ---------------------------------------------------------------- the best checkpoint


def test_the_best_checkpoint_has_a_path(run, capsys):
    checkpoints = run / "checkpoints"
    (checkpoints / "best").write_text("step-00000002\n", encoding="utf-8")  # not the last one
    best = str(checkpoints / "best")
    assert best_checkpoint(run) != load_checkpoint(run).path
    assert load_weights(best).path == best_checkpoint(run)
    assert main(["sample", best, "--tokens", "3"]) == 0
    assert main(["train", "--from", best, "--name", "tuned", *BRIEF]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", best, "--steps", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3


def test_a_run_without_a_best_checkpoint_says_so(run, capsys):
    (run / "checkpoints" / "best").unlink()
    assert "marked as the best" in refusal(capsys, "sample", str(run / "checkpoints" / "best"))


# ---------------------------------------------------------------- Hugging Face


def test_training_starts_from_hugging_face_and_goes_on(folder, here, capsys):
    arguments = ["train", "--from", str(folder), "--name", "tuned", "--context", "16", *BRIEF]
    assert main([*arguments, "--learning-rate", "1e-9"]) == 0
    capsys.readouterr()
    tuned, source = load_weights(here / "runs" / "tuned"), load_weights(folder)
    assert tuned.sizes == source.sizes
    for name, array in source.state.items():  # the rate is tiny: they are the file's own
        assert np.allclose(tuned.state[name], array, atol=1e-6), name
    assert main(["train", "--resume", "runs/tuned", "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert main(["sample", "runs/tuned", "--prompt", "green", "--tokens", "3"]) == 0


@pytest.mark.parametrize("where", [".", "model.safetensors"])
def test_sample_reads_hugging_face(folder, where, capsys):
    command = ["sample", str(folder / where), "--prompt", "green", "--temperature", "9"]
    # At such a temperature, rows beyond the tokenizer's 300 entries would be drawn soon.
    assert main([*command, "--tokens", "60"]) == 0
    assert capsys.readouterr().out.startswith("green")


def test_without_a_tokenizer_beside_them_weights_need_one(folder, here, capsys):
    (folder / "tokenizer.json").rename(here / "t.json")
    given = ["--context", "16", *BRIEF]
    assert "--tokenizer" in refusal(capsys, "train", "--from", str(folder), *given)
    assert "--tokenizer" in refusal(capsys, "sample", str(folder))
    with_it = ["train", "--from", str(folder), "--tokenizer", "t.json", *given]
    assert main(with_it) == 0
    capsys.readouterr()
    assert main(["sample", str(folder), "--tokenizer", "t.json", "--tokens", "2"]) == 0
    capsys.readouterr()
    for choice, word in (("char", "learned"), ("bpe:300", "learned"), ("byte", "320")):
        arguments = ["train", "--from", str(folder), "--tokenizer", choice, *given]
        assert word in refusal(capsys, *arguments)


def test_hugging_face_weights_refuse_what_does_not_fit(folder, capsys):
    start = ["train", "--from", str(folder), "--data", "text.txt"]
    assert "--width 64 contradicts" in refusal(capsys, *start, "--width", "64")
    assert "at most 32" in refusal(capsys, *start, "--context", "33")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wrong = {key: 2 * settings[key] for key in ("n_embd", "hidden_size") if key in settings}
    (folder / "config.json").write_text(json.dumps(settings | wrong), encoding="utf-8")
    line = refusal(capsys, *start)
    assert "model.safetensors" in line
    assert "32, by the tensors 16" in line
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(capsys, *start)


def test_one_file_of_our_own_means_its_checkpoint(run):
    last = load_checkpoint(run).path
    assert load_weights(last / "model.safetensors").path == last


def test_even_a_default_shape_that_contradicts_the_weights_is_refused(run, capsys):
    line = refusal(capsys, "train", "--from", str(run), *BRIEF, "--width", "128")  # the default
    assert "--width 128 contradicts" in line
