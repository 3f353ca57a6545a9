"""Model FLOP against what published tables divide by: every row, to its rounding."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models import ModelDescription, find_model, models
from baremetal.cluster.models.flops import (
    CAUSAL,
    FULL,
    NEEDED,
    SILU_ONLY,
    Convention,
    forward_flops,
    hardware_flops,
    korthikanti_flops,
    layer_flops,
    looked_at,
    sample_flops,
    sc21_flops,
    token_flops,
)
from baremetal.cluster.models.parameters import active_parameters

HERE = Path(__file__).parent
NAMES = [entry.model.name for entry in models()]


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- Megatron-Bridge

# Rows whose two figures do not belong together, if those of the same model around them do.
ODD = {
    ("26.02.01", "GPT OSS 120B", "DGX-B300"): 0.0091,
    ("26.02", "GPT OSS 120B", "DGX-B300"): 0.0042,
    ("25.11", "DeepSeekV3 (w/o MTP)", "DGX-GB200"): 0.0028,
}


def bridge_model(row: dict[str, str]) -> tuple[ModelDescription, Convention]:
    model = find_model(re.sub(r" \(.*", "", row["model"]))
    if "w/o MTP" in row["model"]:
        model = replace(model, extra_predictors=0)
    release = tuple(int(part) for part in row["release"].split("."))
    old = model.name == "gpt-oss-120b" and release < (26, 6)
    return model, SILU_ONLY if old else CAUSAL


def bridge_cases():
    """Each figure of each row: some give two, of two precisions."""
    for row in rows("megatron_bridge_flops.csv"):
        printed = [
            re.findall(r"[\d.]+", re.sub(r"\[.*", "", row[field]))
            for field in ("tokens_per_s_per_GPU", "model_TFLOP_per_s_per_GPU")
        ]
        for tokens, tflops in zip(*printed, strict=True):
            yield row, float(tokens), float(tflops)


def bridge_rounding(row: dict[str, str], tokens: float, tflops: float) -> float:
    """By how much the quotient may be off, relatively.

    TFLOP/s are whole. Tokens/s are whole, but follow from a step time of two decimals; in some
    releases from a whole number of samples a second.
    """
    samples = tokens * int(row["GPUs"]) / int(row["seq"])
    if samples == round(samples):
        return 0.5 / tflops + 0.5 / samples
    step_s = int(row["GBS"]) / samples
    return 0.5 / tflops + 0.5 / tokens + 0.005 / step_s


def test_every_row_of_megatron_bridge_divides_by_our_flops():
    cases = list(bridge_cases())
    assert len(cases) > 162
    assert len({bridge_model(row)[0].name for row, _, _ in cases}) == 7
    for row, tokens, tflops in cases:
        model, convention = bridge_model(row)
        found = tflops * 1e12 / tokens / token_flops(model, int(row["seq"]), convention) - 1
        odd = ODD.get((row["release"], row["model"], row["system"]), 0)
        allowed = max(bridge_rounding(row, tokens, tflops) + 0.0005, odd)
        assert abs(found) < allowed, (row, f"{found:+.4%}, allowed {allowed:.4%}")


def test_the_other_conventions_would_not_do():
    # Each of the switches moves some row out of its rounding, so the test above can tell.
    for name, wrong in [
        ("llama3-405b", FULL),
        ("deepseek-v3", NEEDED),
        ("gpt-oss-120b", Convention("no windows", windows=False)),
        ("gpt-oss-120b", SILU_ONLY),
    ]:
        model = find_model(name)
        assert abs(token_flops(model, 0, wrong) / token_flops(model) - 1) > 0.002
    without = replace(find_model("deepseek-v3"), extra_predictors=0)
    assert token_flops(without) / 1e11 == pytest.approx(2.498, abs=0.001)  # 961 / 3848: 2.497


# ---------------------------------------------------------------- NVIDIA's DGX Cloud recipes

PEAK_TF = {  # by which the recipes divide
    ("H100", "BF16"): 989, ("H100", "FP8"): 1979, ("GB200", "BF16"): 2450, ("GB200", "FP8"): 4900,
}  # fmt: skip


def dgxc_model(row: dict[str, str]) -> tuple[ModelDescription, Convention]:
    """What the recipe counts, where it is not quite the model: read in its Notes."""
    model = find_model(re.sub(r" (strong|weak|671B|\(proxy.*)$", "", row["model"]))
    model = replace(model, layers=int(row["layers"]))
    if model.name == "llama3-405b":
        model = replace(model, kv_heads=16)
    if model.name.startswith("nemotron") and row["tag"] == "v25.02.02":
        model = replace(model, kv_heads=model.heads)
    sparse = model.experts is not None
    return model, CAUSAL if sparse else FULL


def test_stated_model_flops_of_the_recipes():
    stated = [row for row in rows("dgxc_flops.csv") if row["model_flops_per_sample"]]
    assert len({row["model"] for row in stated}) == 8
    for row in stated:
        model, convention = dgxc_model(row)
        ours = sample_flops(model, int(row["seq"]), convention)
        assert float(row["model_flops_per_sample"]) == pytest.approx(ours, rel=0.0025), row


def test_model_flops_behind_the_printed_mfu():
    """Rows that state none still divide by one: MFU x peak x GPUs x step / batch."""
    silent = [row for row in rows("dgxc_flops.csv") if not row["model_flops_per_sample"]]
    silent = [row for row in silent if row["model"].startswith(("Nemo", "Deep", "Llama"))]
    assert len(silent) > 20
    for row in silent:
        model, convention = dgxc_model(row)
        peak = PEAK_TF[row["gpu"], row["precision"]] * 1e12
        step_s, mfu = float(row["step_s"]), float(row["MFU_pct_reported"])
        behind = mfu / 100 * peak * int(row["GPUs"]) * step_s / int(row["GBS"])
        ours = sample_flops(model, int(row["seq"]), convention)
        assert behind == pytest.approx(ours, rel=0.004), row


def test_llama_405b_with_its_own_heads_is_a_percent_below_the_recipe():
    assert sample_flops(find_model("llama3-405b"), 8192, FULL) == pytest.approx(2.1507e16, rel=1e-4)


# ---------------------------------------------------------------- papers


def test_palm_reaches_its_printed_utilisation():
    # arXiv 2204.02311, section 4: 46.2 % at 238.3K tokens/s on 6,144 TPU v4 of 275 TFLOP/s
    flops = token_flops(find_model("palm-540b"), 2048, FULL)
    assert 238.3e3 * flops / (6144 * 275e12) == pytest.approx(0.462, abs=0.0005)


def test_sc21_formula_is_ours_with_full_recomputation():
    for row in rows("megatron_sc21_sizes.csv"):
        model = find_model(row["model"])
        hardware = hardware_flops(model, recompute="full", convention=FULL)
        assert sc21_flops(model) == pytest.approx(hardware, rel=1e-12)
        rate = float(row["achieved_TF_per_GPU"]) * 1e12 * int(row["GPUs"])
        seconds = hardware * int(row["GBS"]) / rate
        assert seconds == pytest.approx(float(row["derived_iter_s"]), rel=1e-3)
        mfu = sample_flops(model, 0, FULL) / hardware * float(row["achieved_TF_per_GPU"]) / 312
        assert mfu == pytest.approx(float(row["derived_model_MFU"]), abs=1e-4)


def test_korthikanti_printed_utilisations():
    for row in rows("korthikanti2022_endtoend.csv"):
        model = find_model(row["model"])
        whole = float(row["iter_s_SP_plus_selective"]) * int(row["GPUs"]) * 312e12 / int(row["GBS"])
        plain, printed_hardware = korthikanti_flops(model)
        assert plain == pytest.approx(sample_flops(model, 0, FULL), rel=1e-12)
        # Iteration times are printed to 10 ms: 0.5 % of 1.10 s.
        assert 100 * plain / whole == pytest.approx(float(row["MFU_pct(present work)"]), rel=0.006)
        found = 100 * printed_hardware / whole
        assert found == pytest.approx(float(row["HFU_pct(present work)"]), rel=0.006)
        # What is really computed twice is less.
        again = hardware_flops(model, 0, "selective", FULL) - plain
        assert again == pytest.approx((printed_hardware - plain) / 3, rel=1e-9)


# ---------------------------------------------------------------- of themselves


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_two_flops_for_each_active_weight_and_attention(name):
    model = find_model(name)
    forward = forward_flops(model, 0, NEEDED)
    weights = active_parameters(model, embedding=False)
    vectors = weights.norms + weights.positions
    products = forward.total - forward.attention - forward.predictors
    # Biases are no products; they and the norms are all that may be between.
    assert products / model.context / 2 == pytest.approx(weights.total - vectors, rel=1.2e-3)
    assert products / model.context / 2 <= weights.total - vectors
    if not model.bias:
        assert products == 2 * model.context * (weights.total - vectors)


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_ends_make_the_whole(name):
    model = find_model(name)
    for convention in (FULL, CAUSAL, NEEDED, SILU_ONLY):
        forward = forward_flops(model, 512, convention)
        layers = [layer_flops(model, layer, 512, convention) for layer in range(model.layers)]
        ends = forward.head + forward.predictors
        assert forward.total == pytest.approx(sum(each.total for each in layers) + ends, rel=1e-12)
        assert sum(forward.parts.values()) == pytest.approx(forward.total)
        assert sample_flops(model, 512, convention) == 3 * forward.total
        assert (forward.predictors > 0) == (model.extra_predictors > 0)


@given(
    seq=st.integers(1, 400),
    window=st.integers(1, 400),
)
def test_a_window_is_what_a_count_of_the_mask_says(seq, window):
    model = replace(find_model("gpt-oss-120b"), window=window)
    seen = sum(min(place + 1, window) for place in range(seq)) / seq
    narrow, wide = looked_at(model, 0, seq, CAUSAL), looked_at(model, 1, seq, CAUSAL)
    # A whole sequence is counted as s / 2 by every table; the mask says (s + 1) / 2.
    assert narrow == pytest.approx(seen if window < seq else seq / 2)
    assert wide == seq / 2
    assert looked_at(model, 0, seq, FULL) == seq


@given(
    layers=st.integers(1, 20),
    heads=st.integers(1, 16),
    head_width=st.integers(1, 64),
    vocab_size=st.integers(1, 10**5),
    seq=st.integers(1, 5000),
)
def test_closed_forms_of_gpt(layers, heads, head_width, vocab_size, seq):
    width = heads * head_width
    model = ModelDescription(
        "gpt", layers, width, heads, heads, head_width, 4 * width, vocab_size, seq, gated=False
    )
    full = hardware_flops(model, 0, "full", FULL)
    assert sc21_flops(model) == pytest.approx(full, rel=1e-9)
    plain, _ = korthikanti_flops(model)
    assert plain == pytest.approx(sample_flops(model, 0, FULL), rel=1e-9)
    attention = forward_flops(model, 0, FULL).attention
    assert attention == pytest.approx(4 * seq**2 * width * layers)
    assert forward_flops(model, 0, CAUSAL).attention == attention / 2
    selective = hardware_flops(model, 0, "selective", FULL)
    assert selective == pytest.approx(plain + attention, rel=1e-9)


def test_what_makes_no_sense_is_refused():
    model = find_model("llama3-8b")
    with pytest.raises(ClusterError, match="a sample of -1 tokens"):
        sample_flops(model, -1)
    with pytest.raises(ClusterError, match="recompute 'some'"):
        hardware_flops(model, 0, "some")
