"""Hugging Face checkpoints on disk: there and back, and what is wrong with some."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from baremetal.checkpoint import read_safetensors, write_safetensors
from baremetal.errors import BaremetalError
from baremetal.nn import GPT, GPTConfig, Grok, GrokConfig, Llama, LlamaConfig
from baremetal.train.pretrained import load_pretrained, save_pretrained

SIZES = {"vocab_size": 11, "context": 6, "layers": 2, "heads": 4, "width": 16}
TOKENS = np.arange(6)[None, :]
CASES = {
    "gpt": lambda rng: GPT(GPTConfig(**SIZES), rng=rng),
    "gpt untied": lambda rng: GPT(GPTConfig(**SIZES, tied=False, norm_eps=1e-4), rng=rng),
    "llama": lambda rng: Llama(LlamaConfig(**SIZES, kv_heads=2), rng=rng),
    "llama tied": lambda rng: Llama(LlamaConfig(**SIZES, tied=True, rotary_base=77.0), rng=rng),
}


@pytest.fixture(params=CASES)
def model(request):
    rng = np.random.default_rng(1)
    model = CASES[request.param](rng).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape).astype(np.float32)
    return model


def refusal(*inputs, **options):
    with pytest.raises(BaremetalError) as caught:
        load_pretrained(*inputs, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("where", ["new/folder", "new/weights.safetensors"])
def test_a_saved_model_comes_back_bit_for_bit(model, tmp_path, where):
    path = save_pretrained(model, tmp_path / where)
    again = load_pretrained(tmp_path / where).eval()
    assert type(again) is type(model)
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert a.tobytes() == b.tobytes(), name
    assert np.array_equal(model(TOKENS).numpy(), again(TOKENS).numpy())

    # And the file, once loaded and saved, has the same bits again.
    other = save_pretrained(again, tmp_path / "other")
    first, second = read_safetensors(path), read_safetensors(other)
    assert {n: a.tobytes() for n, a in first.items()} == {n: a.tobytes() for n, a in second.items()}
    assert other.read_bytes() == path.read_bytes()
    assert path.with_name("config.json").read_text(encoding="utf-8") == (
        tmp_path / "other" / "config.json"
    ).read_text(encoding="utf-8")


def test_the_file_is_what_transformers_expects(tmp_path):
    model = CASES["gpt"](np.random.default_rng(0))
    path = save_pretrained(model, tmp_path)
    with safe_open(path, "numpy") as file:  # the format's own library
        assert file.metadata() == {"format": "pt"}
        names = set(file.keys())
        weight = file.get_tensor("transformer.h.1.mlp.c_fc.weight")
    assert np.array_equal(weight, model.blocks[1].mlp.up.weight.data.T)  # Conv1D: (in, out)
    assert len(names) == 2 + 2 * 12 + 2
    assert "lm_head.weight" not in names
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert settings["architectures"] == ["GPT2LMHeadModel"]
    assert (settings["n_head"], settings["n_positions"]) == (4, 6)


def test_without_config_json_heads_and_context_are_given(tmp_path):
    model = CASES["llama"](np.random.default_rng(0)).eval()
    path = save_pretrained(model, tmp_path)
    (tmp_path / "config.json").unlink()
    assert "heads" in refusal(path)
    assert "context" in refusal(path, heads=4)
    again = load_pretrained(path, heads=4, context=6)
    assert again.config.kv_heads == 2
    assert again.config.norm_eps == 1e-6  # what transformers takes when nothing is said
    for name, array in model.state_dict().items():
        assert array.tobytes() == again.state_dict()[name].tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_without_a_loss(tmp_path, dtype):
    path = save_pretrained(CASES["gpt"](np.random.default_rng(0)), tmp_path)
    halves = {name: array.astype(dtype) for name, array in read_safetensors(path).items()}
    write_safetensors(path, halves)
    model = load_pretrained(tmp_path)
    again = read_safetensors(save_pretrained(model, tmp_path / "again"))
    for name, array in halves.items():
        assert again[name].dtype == np.float32
        assert np.array_equal(again[name], array.astype(np.float32))


def test_what_is_wrong_is_said_with_the_path(tmp_path):
    assert "nowhere" in refusal(tmp_path / "nowhere.safetensors")
    assert "model.safetensors" in refusal(tmp_path)  # an empty folder

    path = save_pretrained(CASES["gpt"](np.random.default_rng(0)), tmp_path)
    tensors = read_safetensors(path)
    removed = tensors.pop("transformer.ln_f.weight")
    write_safetensors(path, {**tensors, "transformer.ln_g.weight": removed})
    message = refusal(tmp_path)
    assert str(path) in message
    assert "missing 'ln_f.weight'" in message
    assert "unexpected 'ln_g.weight'" in message

    path.write_bytes(path.read_bytes()[:-10])
    assert "model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff", b'"a"'])
def test_a_broken_config_json_is_refused(tmp_path, text):
    save_pretrained(CASES["gpt"](np.random.default_rng(0)), tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    assert "config.json" in refusal(tmp_path)


def test_a_checkpoint_in_several_files_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert "several files" in refusal(tmp_path)


def test_a_model_without_a_counterpart_leaves_no_file(tmp_path):
    model = Grok(GrokConfig(**SIZES), rng=np.random.default_rng(0))
    with pytest.raises(BaremetalError, match="no counterpart"):
        save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BaremetalError, match="cannot write"):
        save_pretrained(CASES["gpt"](np.random.default_rng(0)), tmp_path / "file" / "folder")
