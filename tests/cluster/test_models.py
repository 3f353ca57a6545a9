"""The models that ship: each number has a source, and parameters are the published ones."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models import (
    Experts,
    LatentAttention,
    ModelDescription,
    active_parameters,
    find_model,
    layer_parameters,
    model_parameters,
    models,
)
from baremetal.cluster.models.catalogue import DATA, find_entry, read_model
from baremetal.cluster.models.parameters import predictor_parameters
from baremetal.machine.reading import NOT_STATED

HERE = Path(__file__).parent
NAMES = [entry.model.name for entry in models()]


def test_every_file_is_found_and_called_as_its_model():
    assert sorted(path.stem for path in DATA.iterdir()) == sorted(NAMES)
    assert len(NAMES) >= 35


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name):
    entry = find_entry(name)
    sources = entry.model.sources
    assert {"layers", "width", "heads", "kv_heads", "head_width", "vocab_size"} <= sources.keys()
    assert entry.model.experts is None or "experts.count" in sources
    assert NOT_STATED not in sources.values()
    assert all(len(text) > 20 for text in sources.values()), "a source is more than a word"
    assert entry.about


def test_only_what_nobody_published_is_hypothetical_and_says_so():
    for entry in models():
        assert entry.model.hypothetical == entry.model.name.startswith("hypothetical")
        assert entry.model.hypothetical == entry.about.startswith("HYPOTHETICAL")
        said = [text.startswith("chosen here") for text in entry.model.sources.values()]
        assert all(said) if entry.model.hypothetical else not any(said)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("LLAMA3.1_405B", "llama3-405b"),
        ("Llama3.1-8B", "llama3-8b"),
        ("LLAMA3_70B", "llama3-70b"),
        ("DeepSeekV3", "deepseek-v3"),
        ("deepseekv2", "deepseek-v2"),
        ("GPT OSS 120B", "gpt-oss-120b"),
        ("Qwen3_30B_a3B", "qwen3-30b-a3b"),
        ("Qwen3_235B_a22B", "qwen3-235b-a22b"),
        ("Grok1-314B MoE", "grok1-314b"),
        ("Llama4-Maverick-400B MoE", "llama4-maverick-400b"),
        ("Nemotron4-340B", "nemotron4-340b"),
        ("GPT3-175B", "gpt3-175b"),
        ("GPT-145.6B", "megatron-145b"),
        ("22B", "megatron-22b"),
        ("moe 10T", "hypothetical-moe-10t"),
    ],
)
def test_names_are_found_as_published_tables_spell_them(spelled, name):
    assert find_model(spelled).name == name


def test_a_model_is_cut_down_by_its_name():
    cut = find_model("DeepSeekV3@layers=4@experts.dense_layers=1@extra_predictors=0")
    assert cut.name == "deepseek-v3@layers=4@experts.dense_layers=1@extra_predictors=0"
    assert [cut.has_experts(layer) for layer in range(cut.layers)] == [False, True, True, True]
    assert cut.experts == replace(find_model("deepseek-v3").experts, dense_layers=1)
    assert cut.extra_predictors == 0
    for wrong in ("layers", "layers=", "layers=-1", "layers=two", "layer=3", "experts=4"):
        with pytest.raises(ClusterError, match="expected name@field=number"):
            find_model(f"deepseek-v3@{wrong}")
    with pytest.raises(ClusterError, match="has no experts"):
        find_model("llama3-8b@experts.count=4")
    with pytest.raises(ClusterError, match="layers = 0"):
        find_model("llama3-8b@layers=0")
    with pytest.raises(ClusterError, match="every 0th layer"):
        find_model("deepseek-v3@experts.every=0")


# ---------------------------------------------------------------- parameters


# Exact counts: without extra predictors, and what the checkpoint has that is not counted here.
CHECKPOINTS = [
    # Hugging Face, safetensors of meta-llama/Llama-3.1-8B, 70B, 405B
    ("llama3-8b", 8_030_261_248, 0),
    ("llama3-70b", 70_553_706_496, 0),
    ("llama3-405b", 405_853_388_800, 0),
    ("llama2-7b", 6_738_415_616, 0),  # meta-llama/Llama-2-7b-hf
    ("llama2-70b", 68_976_648_192, 0),  # meta-llama/Llama-2-70b-hf
    ("qwen3-30b-a3b", 30_532_122_624, 0),  # Qwen/Qwen3-30B-A3B
    ("qwen3-235b-a22b", 235_093_634_560, 0),  # Qwen/Qwen3-235B-A22B
    ("mixtral-8x7b", 46_702_792_704, 0),  # mistralai/Mixtral-8x7B-v0.1, keras-hub's preset
    ("mixtral-8x22b", 140_620_634_112, 0),  # mistral-community/Mixtral-8x22B-v0.1
    ("deepseek-v2", 235_741_434_880, 0),  # deepseek-ai/DeepSeek-V2
    ("gpt-oss-120b", 116_829_156_672, 36 * 64),  # openai/gpt-oss-120b: sinks
    ("kimi-k2", 1_026_408_232_448, 60 * 384),  # moonshotai/Kimi-K2-Instruct: router's bias
]


@pytest.mark.parametrize(("name", "published", "not_counted"), CHECKPOINTS)
def test_parameters_are_those_of_the_checkpoint(name, published, not_counted):
    assert model_parameters(find_model(name)).total + not_counted == published


# In billions, as printed: the difference is below half a unit of the last digit.
PRINTED = [
    ("gpt3-175b", "174.6"),  # arXiv 2005.14165, Table D.1: 174,600M
    ("palm-540b", "540.4"),  # arXiv 2204.02311, Table 1: 540.35
    ("mt-nlg-530b", "530"),  # arXiv 2201.11990
    ("nemotron4-15b", "15.6"),  # arXiv 2402.16819: 3.2B and 12.5B
    ("nemotron4-340b", "341"),  # arXiv 2406.11704: 9.4B and 331.6B
    ("llama4-maverick-400b", "401"),  # Llama-4-Maverick-17B-128E: 402B with its vision part of 1B
    ("megatron-22b", "22"),  # arXiv 2205.05198, Table 3
    ("megatron-175b", "175"),
    ("zero-bubble-1.5b", "1.5"),  # arXiv 2401.10241, Table 3
    ("zero-bubble-6.2b", "6.2"),
    ("zero-bubble-14.6b", "14.6"),
    ("zero-bubble-28.3b", "28.3"),
]


@pytest.mark.parametrize(("name", "printed"), PRINTED)
def test_parameters_come_out_as_printed(name, printed):
    assert rounds_to(model_parameters(find_model(name)).total / 1e9, printed)


def test_the_series_of_sc21_comes_out_to_its_printed_digits():
    with (HERE / "megatron_sc21_sizes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        model = find_model(row["model"])
        sizes = [int(row[field]) for field in ("layers", "hidden", "heads", "vocab", "seq")]
        assert sizes == [model.layers, model.width, model.heads, model.vocab_size, model.context]
        assert model.hidden == 4 * model.width
        printed = "1008" if row["params_B"] == "1008.0" else row["params_B"]
        assert rounds_to(model_parameters(model).total / 1e9, printed)


def test_deepseek_v3_with_its_predictor():
    # deepseek-ai/DeepSeek-V3, README_WEIGHTS.md: 671B; 36.6B active with the head's 0.9B; a module
    # of 11.5B, which is 11.6B here; 685B in all on Hugging Face, with embedding and head twice.
    model = find_model("deepseek-v3")
    parts = model_parameters(model)
    assert rounds_to((parts.total - parts.predictors) / 1e9, "671")
    assert rounds_to(active_parameters(model, embedding=False).total / 1e9, "36.6")
    assert rounds_to(parts.head / 1e9, "0.9")
    assert predictor_parameters(model).total / 1e9 == pytest.approx(11.5, rel=0.01)
    assert rounds_to((parts.total + parts.embedding + parts.head) / 1e9, "684")


# In billions; whether the publisher counts the embedding.
ACTIVE = [
    ("gpt-oss-120b", "5.13", False),  # model card, arXiv 2508.10925, Table 1
    ("qwen3-30b-a3b", "3.35", True),  # arXiv 2505.09388: 3.3B (cut)
    ("qwen3-235b-a22b", "22", True),  # 22B
    ("mixtral-8x7b", "12.9", True),  # arXiv 2401.04088: 12.9B (with 47B in all)
    ("mixtral-8x22b", "39", True),  # mistral.ai/news/mixtral-8x22b: 39B of 141B
    ("deepseek-v2", "21", False),  # arXiv 2405.04434: 21B of 236B
    ("llama4-maverick-400b", "17", True),  # 17B
    ("kimi-k2", "33", True),  # arXiv 2507.20534: 32.6B
]


@pytest.mark.parametrize(("name", "printed", "embedding"), ACTIVE)
def test_active_parameters_come_out_as_printed(name, printed, embedding):
    active = active_parameters(find_model(name), embedding)
    assert rounds_to(active.total / 1e9, printed)
    assert active.predictors == 0


def test_grok_is_half_a_percent_above_its_name():
    # xai-org/grok-1: "314B"; its own run.py makes 315.7B, which is counted elsewhere as well.
    parts = model_parameters(find_model("grok-1"))
    assert parts.total / 1e9 == pytest.approx(314, rel=0.006)
    assert parts.experts == 64 * 8 * 3 * 6144 * 32768
    assert active_parameters(find_model("grok-1")).experts == parts.experts // 4


def test_embeddings_of_nemotron_are_those_printed():
    # arXiv 2406.11704: 9.4B embedding, 331.6B other parameters; 2402.16819: 3.2B (3.15B) and 12.5B.
    for name, ends, others in (
        ("nemotron4-340b", "9.4", "331.6"),
        ("nemotron4-15b", "3.1", "12.5"),
    ):
        parts = model_parameters(find_model(name))
        assert rounds_to((parts.embedding + parts.head) / 1e9, ends)
        assert rounds_to((parts.total - parts.embedding - parts.head) / 1e9, others)


def test_hypothetical_models_are_near_their_names():
    for name, size in (("1.5t", 1.5e12), ("6t", 6e12), ("10t", 1e13)):
        model = find_model(f"hypothetical-moe-{name}")
        assert model_parameters(model).total == pytest.approx(size, rel=0.005)
        assert model.experts.count % 72 == 0 == model.layers % 16


def test_a_small_model_counted_by_the_shapes_of_its_arrays():
    # GPT-2's block by hand: w and b of qkv, out, up, down; gain and bias of two norms.
    model = ModelDescription(
        "tiny", layers=2, width=8, heads=2, kv_heads=2, head_width=4, hidden=32, vocab_size=11,
        context=5, gated=False, tied=True, bias=True, learned_positions=5, norm_parameters=2,
    )  # fmt: skip
    block = 8 * 24 + 24 + 8 * 8 + 8 + 8 * 32 + 32 + 32 * 8 + 8 + 2 * 16
    assert layer_parameters(model, 0).total == block
    assert model_parameters(model).total == 11 * 8 + 5 * 8 + 2 * block + 16
    assert active_parameters(model, embedding=False).total == 11 * 8 + 2 * block + 16
    untied = replace(model, tied=False, parallel_block=True)
    assert model_parameters(untied).total == model_parameters(model).total + 11 * 8 - 2 * 16


def test_sparse_and_latent_layers_counted_by_the_shapes_of_their_arrays():
    model = ModelDescription(
        "tiny-moe", layers=5, width=8, heads=2, kv_heads=1, head_width=4, hidden=16, vocab_size=11,
        context=5, query_key_norm=True, experts=Experts(3, 2, 6, 7, every=2, dense_layers=1),
    )  # fmt: skip
    assert [model.has_experts(layer) for layer in range(5)] == [False, False, True, False, True]
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
    norms = 2 * 8 + 2 * 4
    sparse = attention + norms + 3 * 3 * 8 * 6 + 3 * 8 * 7 + 8 * 3
    assert layer_parameters(model, 2).total == sparse
    assert layer_parameters(model, 1).total == attention + norms + 3 * 8 * 16
    latent = replace(model, latent=LatentAttention(5, 3, 4, 2, 6))
    maps = 8 * 5 + 5 * 2 * 6 + 8 * (3 + 2) + 3 * 2 * (4 + 6) + 2 * 6 * 8
    assert layer_parameters(latent, 1).attention == maps
    whole = replace(latent, latent=replace(latent.latent, query_rank=0))
    assert layer_parameters(whole, 1).attention == maps - 8 * 5 - 5 * 2 * 6 + 8 * 2 * 6


# ---------------------------------------------------------------- bad input

GOOD = """
[model]
name = "mine"
layers = 2
width = 8
heads = 2
hidden = 32
vocab_size = 100
context = 16
"""


def test_a_model_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "[model.experts]\ncount = 4\nactive = 1\nhidden = 5\n", encoding="utf-8")
    model = find_model(str(path))
    assert (model.name, model.kv_heads, model.head_width, model.context) == ("mine", 2, 4, 16)
    assert model.experts == Experts(4, 1, 5)
    assert model.gated
    assert not model.bias


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("layers = 2", "layers = 0"), "layers: 0 is no whole number of at least 1"),
        (("layers = 2", 'layers = "two"'), "layers: 'two' is no whole number"),
        (("layers = 2\n", ""), "layers is missing"),
        (("hidden = 32", ""), "hidden = 0, but it has dense layers"),
        (("width = 8", "witdh = 8"), "width is missing"),
        (("hidden = 32", "hidden = 32\nvocabsize = 3"), "did you mean 'vocab_size'"),
        (("heads = 2", "heads = 3"), "heads 3 do not divide 8"),
        (("heads = 2", "heads = 2\nkv_heads = 4"), "share 4 keys"),
        (("heads = 2", 'heads = 2\nbias = "yes"'), "bias: 'yes' is neither true nor false"),
        (("[model]", "[modell]"), "did you mean 'model'"),
        (("[model]", "[model"), "not valid TOML"),
        (("hidden = 32", "[model.experts]\ncount = 2\nactive = 3\nhidden = 4"), "3 active of 2"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "wrong.toml"
    assert change[0] in GOOD
    text = GOOD.replace(*change)
    if "[model.experts]" in text:  # what comes behind it would belong to the table
        table = "vocab_size = 100\ncontext = 16\n"
        text = text.replace(table, "").replace("[model.experts]", table + "[model.experts]")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClusterError) as refused:
        read_model(path)
    assert message in str(refused.value)
    assert "wrong.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_names_and_files_are_refused():
    with pytest.raises(ClusterError, match="did you mean 'llama3-405b'"):
        find_model("lama3-405b")
    with pytest.raises(ClusterError, match="unknown model 'bert'"):
        find_model("bert")
    with pytest.raises(ClusterError, match=r"cannot read nowhere\.toml"):
        find_model("nowhere.toml")


def rounds_to(value: float, printed: str) -> bool:
    """Whether a value is what was printed, to its last digit."""
    digits = len(re.sub(r"^\d+\.?", "", printed))
    return f"{value:.{digits}f}" == printed
