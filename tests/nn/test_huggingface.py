"""Names there and back, logits against transformers' own and against a NumPy model by their names.

The golden numbers come from transformers 5.23.0 with torch 2.13.0 on weights that are a formula.
"""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from baremetal.nn import GPT, GPTConfig, Llama, StateError
from baremetal.nn.huggingface import from_hugging_face, to_hugging_face

GPT2_SETTINGS = {"model_type": "gpt2", "n_head": 2, "n_layer": 2, "n_embd": 8, "vocab_size": 7}
LLAMA_SETTINGS = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 6,
    "rms_norm_eps": 1e-6,
}
TOKENS = np.array([[1, 4, 2, 0, 3, 3], [5, 6, 0, 2, 1, 4]])


def gpt2_shapes(vocab=7, context=6, width=8, layers=2):
    shapes = {"wte.weight": (vocab, width), "wpe.weight": (context, width)}
    for i in range(layers):
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            shapes[f"h.{i}.{name}.weight"] = (inputs, outputs)
            shapes[f"h.{i}.{name}.bias"] = (outputs,)
    norms = [f"h.{i}.ln_{j}" for i in range(layers) for j in (1, 2)]
    shapes |= {f"{n}.{part}": (width,) for n in [*norms, "ln_f"] for part in ("weight", "bias")}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def llama_shapes(vocab=7, width=8, layers=2, kv_rows=4, hidden=6):
    shapes = {"lm_head.weight": (vocab, width), "model.embed_tokens.weight": (vocab, width)}
    for i in range(layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        shapes |= {
            f"{attention}.q_proj.weight": (width, width),
            f"{attention}.k_proj.weight": (kv_rows, width),
            f"{attention}.v_proj.weight": (kv_rows, width),
            f"{attention}.o_proj.weight": (width, width),
            f"{mlp}.gate_proj.weight": (hidden, width),
            f"{mlp}.up_proj.weight": (hidden, width),
            f"{mlp}.down_proj.weight": (width, hidden),
            f"model.layers.{i}.input_layernorm.weight": (width,),
            f"model.layers.{i}.post_attention_layernorm.weight": (width,),
        }
    return {**shapes, "model.norm.weight": (width,)}


def by_formula(shapes, dtype=np.float32):
    """Weights that anybody can compute: cosines, and around one for the norms."""
    tensors = {}
    for k, name in enumerate(sorted(shapes)):
        values = 0.4 * np.cos(0.7 * (k + 1) * np.arange(np.prod(shapes[name])) + k)
        if len(shapes[name]) == 1 and name.endswith("weight"):
            values = 1 + values
        tensors[name] = values.astype(dtype).reshape(shapes[name])
    return tensors


GPT2, LLAMA = by_formula(gpt2_shapes()), by_formula(llama_shapes())


def build(tensors, settings=None, **options):
    config, state = from_hugging_face(tensors, settings, **options)
    kind = GPT if isinstance(config, GPTConfig) else Llama
    model = kind(config, rng=np.random.default_rng(0)).eval()
    model.load_state_dict(state)
    return model


# ------------------------------------------------------------ the same function


@pytest.mark.parametrize(
    ("tensors", "settings", "last", "third"),
    [
        (
            GPT2,
            GPT2_SETTINGS,
            [0.34477046, 0.44745645, 0.51538125, 0.543268, 0.52895031, 0.47354046, 0.38134302],
            [0.61081152, 0.55807274, 0.46197939, 0.32999658, 0.17237758, 0.00136723, -0.16974936],
        ),
        (
            LLAMA,
            LLAMA_SETTINGS,
            [1.21800878, 1.53043446, 1.15589672, 0.26251364, -0.74870348, -1.42385137, -1.45987759],
            [
                0.87263517,
                0.63458959,
                0.11169692,
                -0.46133299,
                -0.82728513,
                -0.82189525,
                -0.44758274,
            ],
        ),
    ],
    ids=["gpt2", "llama"],
)
def test_logits_are_those_of_transformers(tensors, settings, last, third):
    logits = build(tensors, settings)(TOKENS).numpy()
    np.testing.assert_allclose(logits[0, -1], last, atol=2e-6)
    np.testing.assert_allclose(logits[1, 2], third, atol=2e-6)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, heads):
    """(T, H D), (T, K D), (T, K D) -> (T, H D)."""
    t = len(q)
    q, k, v = (x.reshape(t, -1, q.shape[-1] // heads).transpose(1, 0, 2) for x in (q, k, v))
    k, v = (np.repeat(x, heads // len(x), axis=0) for x in (k, v))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    scores[:, ~np.tri(t, dtype=bool)] = -np.inf
    return (softmax(scores) @ v).transpose(1, 0, 2).reshape(t, -1)


def numpy_gpt2(w, tokens, heads):
    """GPT-2 of one sequence by Hugging Face's names, in float64."""
    w = {name.removeprefix("transformer."): a.astype(np.float64) for name, a in w.items()}

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def conv1d(name, x):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in range(2):
        q, k, v = np.split(conv1d(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)), 3, axis=-1)
        x = x + conv1d(f"h.{i}.attn.c_proj", attend(q, k, v, heads))
        u = conv1d(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))
        u = u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))) / 2
        x = x + conv1d(f"h.{i}.mlp.c_proj", u)
    return norm("ln_f", x) @ w.get("lm_head.weight", w["wte.weight"]).T


def numpy_llama(w, tokens, heads, eps, base):
    """Llama of one sequence by Hugging Face's names, in float64."""
    w = {name.removeprefix("model."): a.astype(np.float64) for name, a in w.items()}

    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"]

    def rotate(x, width):
        half = width // 2
        angles = np.arange(len(x))[:, None, None] * base ** (-np.arange(half) / half)
        x = x.reshape(len(x), -1, width)
        a, b = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).reshape(len(x), -1)

    x = w["embed_tokens.weight"][tokens]
    for i in range(2):
        p = f"layers.{i}"
        y = norm(f"{p}.input_layernorm", x)
        q, k, v = (y @ w[f"{p}.self_attn.{part}_proj.weight"].T for part in "qkv")
        width = q.shape[-1] // heads
        y = attend(rotate(q, width), rotate(k, width), v, heads)
        x = x + y @ w[f"{p}.self_attn.o_proj.weight"].T
        y = norm(f"{p}.post_attention_layernorm", x)
        gate, up = (y @ w[f"{p}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{p}.mlp.down_proj.weight"].T
    return norm("norm", x) @ w.get("lm_head.weight", w["embed_tokens.weight"]).T


def random(shapes):
    rng = np.random.default_rng(5)
    return {
        n: (0.4 * rng.standard_normal(s) + (len(s) == 1)).astype(np.float32)
        for n, s in shapes.items()
    }


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gpt2_is_the_numpy_model_by_their_names(heads, tied):
    tensors = random(gpt2_shapes() | ({} if tied else {"lm_head.weight": (7, 8)}))
    model = build(tensors, heads=heads)
    assert model.config.tied is tied
    for row, logits in zip(TOKENS, model(TOKENS).numpy(), strict=True):
        np.testing.assert_allclose(logits, numpy_gpt2(tensors, row, heads), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_rows"), [(1, 8), (2, 4), (4, 2), (4, 4)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_is_the_numpy_model_by_their_names(heads, kv_rows, tied):
    tensors = random(llama_shapes(kv_rows=kv_rows))
    if tied:
        del tensors["lm_head.weight"]
    settings = {"rms_norm_eps": 1e-3, "rope_theta": 50.0}
    model = build(tensors, settings, heads=heads, context=6)
    assert model.config.tied is tied
    assert model.config.kv_heads == kv_rows * heads // 8
    for row, logits in zip(TOKENS, model(TOKENS).numpy(), strict=True):
        expected = numpy_llama(tensors, row, heads, 1e-3, 50.0)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------ there and back


def assert_same_bits(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        other = theirs[name]
        assert (array.shape, array.dtype) == (other.shape, other.dtype), name
        assert array.tobytes() == other.tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", ["gpt2", "gpt2 untied", "llama", "llama tied"])
def test_there_and_back_is_the_same_bits(kind, dtype):
    shapes = gpt2_shapes() if "gpt2" in kind else llama_shapes()
    if kind == "gpt2 untied":
        shapes["lm_head.weight"] = (7, 8)
    if kind == "llama tied":
        del shapes["lm_head.weight"]
    tensors = by_formula(shapes, dtype)
    config, state = from_hugging_face(tensors, heads=2, context=9 if "llama" in kind else None)
    again, settings = to_hugging_face(config, state)
    assert_same_bits(tensors, again)
    assert from_hugging_face(again, settings)[0] == config


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt", {"norm_eps": 1e-6}),
        ("gpt", {"tied": False}),
        ("llama", {"kv_heads": 2, "rotary_base": 5e5, "norm_eps": 1e-4}),
        ("llama", {"tied": True, "hidden": 10}),
    ],
)
def test_our_models_go_there_and_come_back(tiny, kind, changes):
    model = tiny(kind, **changes)
    tensors, settings = to_hugging_face(model.config, model.state_dict())
    config, state = from_hugging_face(tensors, settings)
    assert_same_bits(model.state_dict(), state)
    if kind == "llama":  # defaults come back filled in
        filled = {"kv_heads": config.kv_heads, "hidden": model.config.hidden_width}
        assert config == dataclasses.replace(model.config, **filled)
    else:
        assert config == model.config


def test_names_without_prefix_masks_and_a_copy_of_the_tied_head_are_accepted():
    bare = {name.removeprefix("transformer."): array for name, array in GPT2.items()}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 6, 6)), "h.1.attn.masked_bias": np.array(-1e4)}
    bare["lm_head.weight"] = bare["wte.weight"].copy()
    config, state = from_hugging_face(bare, GPT2_SETTINGS)
    assert config.tied
    assert_same_bits(state, from_hugging_face(GPT2, GPT2_SETTINGS)[1])

    bare = {name.removeprefix("model."): array for name, array in LLAMA.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(1)
    config, state = from_hugging_face(bare, LLAMA_SETTINGS)
    assert not config.tied
    assert_same_bits(state, from_hugging_face(LLAMA, LLAMA_SETTINGS)[1])


def test_config_json_decides_about_ties_if_it_says_so(refused):
    same = {**LLAMA, "lm_head.weight": LLAMA["model.embed_tokens.weight"].copy()}
    assert from_hugging_face(same, LLAMA_SETTINGS)[0].tied
    untied = {**LLAMA_SETTINGS, "tie_word_embeddings": False}
    config, state = from_hugging_face(same, untied)
    assert not config.tied
    assert "head.weight" in state
    with refused("config.json ties", "lm_head.weight"):
        from_hugging_face(LLAMA, {**LLAMA_SETTINGS, "tie_word_embeddings": True})
    with pytest.raises(StateError, match=r"missing 'lm_head\.weight'"):
        from_hugging_face(GPT2, {**GPT2_SETTINGS, "tie_word_embeddings": False})


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("tensors", "settings", "kind", "one", "norm"),
    [
        (GPT2, GPT2_SETTINGS, "GPT-2", "h.1.mlp.c_fc.bias", "transformer.ln_f.weight"),
        (LLAMA, LLAMA_SETTINGS, "Llama", "layers.1.mlp.up_proj.weight", "model.norm.weight"),
    ],
    ids=["gpt2", "llama"],
)
def test_every_misfit_is_named(tensors, settings, kind, one, norm):
    prefix = norm.split(".")[0]
    damaged = {**tensors, "stranger": np.ones(2), norm: np.ones(5)}
    del damaged[f"{prefix}.{one}"]
    with pytest.raises(StateError) as caught:
        from_hugging_face(damaged, settings)
    for part in (kind, f"missing '{one}'", "unexpected 'stranger'", "shape (5,), expected (8,)"):
        assert part in str(caught.value)

    config, state = from_hugging_face(tensors, settings)
    del state["norm.weight"]
    state |= {"stranger": np.ones(2), "blocks.0.norm_1.weight": np.ones(5)}
    with pytest.raises(StateError) as caught:
        to_hugging_face(config, state)
    for part in ("missing 'norm.weight'", "unexpected 'stranger'", "'blocks.0.norm_1.weight'"):
        assert part in str(caught.value)


def test_a_missing_layer_is_missing_and_a_wild_number_is_no_layer():
    kept = {name: array for name, array in GPT2.items() if ".h.0." not in name}
    with pytest.raises(StateError, match=r"missing 'h\.0\.ln_1\.weight'") as caught:
        from_hugging_face(kept, heads=2)
    assert "h.1." not in str(caught.value)
    wild = {**GPT2, "transformer.h.999999999999.ln_1.weight": np.ones(8)}
    with pytest.raises(StateError, match=r"unexpected 'h\.999999999999\.ln_1\.weight'"):
        from_hugging_face(wild, heads=2)


def test_what_shapes_do_not_tell_must_be_given(refused):
    with refused("heads", "n_head", "config.json"):
        from_hugging_face(GPT2)
    with refused("heads", "num_attention_heads"):
        from_hugging_face(LLAMA, context=6)
    with refused("context", "max_position_embeddings"):
        from_hugging_face(LLAMA, heads=4)
    with refused("context = 4", "GPT-2"):
        from_hugging_face(GPT2, heads=2, context=4)
    for wrong in (0, -2, "four", 2.0, True):
        with refused("heads", repr(wrong)):
            from_hugging_face(GPT2, {"n_head": wrong})
    assert from_hugging_face(GPT2, GPT2_SETTINGS, heads=4)[0].heads == 4  # goes before
    assert from_hugging_face(LLAMA, LLAMA_SETTINGS, context=3)[0].context == 3


@pytest.mark.parametrize(
    ("tensors", "settings", "change", "words"),
    [
        (GPT2, GPT2_SETTINGS, {"n_layer": 3}, ("n_layer is 3", "tensors 2")),
        (GPT2, GPT2_SETTINGS, {"n_head": 3}, ("width 8", "3 heads")),
        (GPT2, GPT2_SETTINGS, {"activation_function": "relu"}, ("'relu'", "'gelu_new'")),
        (GPT2, GPT2_SETTINGS, {"model_type": "gptj"}, ("'gptj'", "'gpt2'")),
        (GPT2, GPT2_SETTINGS, {"layer_norm_epsilon": "tiny"}, ("layer_norm_epsilon", "'tiny'")),
        (LLAMA, LLAMA_SETTINGS, {"num_key_value_heads": 4}, ("num_key_value_heads is 4",)),
        (LLAMA, LLAMA_SETTINGS, {"head_dim": 4}, ("head_dim is 4", "tensors 2")),
        (LLAMA, LLAMA_SETTINGS, {"num_attention_heads": 16}, ("16 heads", "width of 8")),
        (LLAMA, LLAMA_SETTINGS, {"num_attention_heads": 3}, ("3 heads", "width of 8")),
        (LLAMA, LLAMA_SETTINGS, {"rope_scaling": {"factor": 8.0}}, ("rope_scaling",)),
        (LLAMA, LLAMA_SETTINGS, {"rope_parameters": {"rope_type": "yarn"}}, ("'yarn'",)),
        (LLAMA, LLAMA_SETTINGS, {"rope_parameters": 3}, ("rope_parameters",)),
        (LLAMA, LLAMA_SETTINGS, {"rope_theta": 0}, ("rope_theta",)),
        (LLAMA, LLAMA_SETTINGS, {"model_type": "gemma"}, ("'gemma'", "'llama'")),
        (LLAMA, LLAMA_SETTINGS, {"hidden_act": "gelu"}, ("'gelu'",)),
    ],
)
def test_settings_that_do_not_fit_are_refused(tensors, settings, change, words, refused):
    with refused(*words):
        from_hugging_face(tensors, {**settings, **change})


def test_the_newer_place_of_the_rotary_base_is_read():
    settings = {**LLAMA_SETTINGS, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    assert from_hugging_face(LLAMA, settings)[0].rotary_base == 77.0
    assert from_hugging_face(LLAMA, LLAMA_SETTINGS)[0].rotary_base == 10_000.0
    assert from_hugging_face(LLAMA, heads=4, context=6)[0].norm_eps == 1e-6


def test_other_tensors_are_refused(refused):
    with refused("neither a GPT-2", "nor a Llama", "bert.weight"):
        from_hugging_face({"bert.weight": np.ones(2)})
    with refused("none at all"):
        from_hugging_face({})
    with refused("with and without the prefix", "wte.weight"):
        from_hugging_face({**GPT2, "wte.weight": np.ones((7, 8))}, heads=2)
    with refused("'wpe.weight' is missing"):
        from_hugging_face({"wte.weight": np.ones((7, 8))}, heads=2)
    with refused("'wte.weight' is of shape (3,)"):
        from_hugging_face({"wte.weight": np.ones(3)}, heads=2)


def test_models_without_a_counterpart_are_refused(tiny, refused):
    model = tiny("grok")
    with refused("GrokConfig", "no counterpart"):
        to_hugging_face(model.config, model.state_dict())
    model = tiny("gpt", bias=False)
    with refused("without biases"):
        to_hugging_face(model.config, model.state_dict())
