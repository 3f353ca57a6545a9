"""Llama (H. Touvron et al., 2023) under the names of Hugging Face's `LlamaForCausalLM`.

    theirs (H heads, K key-value heads, D = W / H)          ours
    embed_tokens.weight                (V, W)               token_embedding.weight  (V, W)
    layers.0.input_layernorm.weight    (W,)                 blocks.0.norm_1.weight  (W,)
    layers.0.self_attn.q_proj.weight   (H D, W)  \\
    layers.0.self_attn.k_proj.weight   (K D, W)   }         blocks.0.attention.qkv.weight
    layers.0.self_attn.v_proj.weight   (K D, W)  /                        ((H + 2K) D, W)
    layers.0.self_attn.o_proj.weight   (W, W)               blocks.0.attention.out.weight (W, W)
    layers.0.post_attention_layernorm.weight (W,)           blocks.0.norm_2.weight  (W,)
    layers.0.mlp.gate_proj.weight      (hidden, W)  }       blocks.0.mlp.gate_up.weight
    layers.0.mlp.up_proj.weight        (hidden, W)  }                     (2 hidden, W)
    layers.0.mlp.down_proj.weight      (W, hidden)          blocks.0.mlp.down.weight (W, hidden)
    norm.weight                        (W,)                 norm.weight             (W,)
    lm_head.weight                     (V, W)               head.weight, if it is not tied

All but the head begin with `model.`. Rotary positions turn the two halves of a head against each
other ("rotate_half") on both sides, so no rows need to change places. (Meta's own files turn
neighbours, and are permuted when they are converted to Hugging Face's.) Older files carry the
frequencies as `self_attn.rotary_emb.inv_freq`: no weights, left out. Stretched rotary positions
(`rope_scaling`, Llama 3.1 and later) are refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.nn.huggingface.entries import Entry
from baremetal.nn.huggingface.names import Arrays, count_layers
from baremetal.nn.huggingface.settings import (
    Settings,
    check_agreement,
    check_supported,
    is_tied,
    matrix_shape,
    number,
    required,
)
from baremetal.nn.llama import LlamaConfig

KIND = "a Llama"
PREFIX = "model."
MARK = "embed_tokens.weight"
IGNORED = re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
SUPPORTED: Mapping[str, tuple] = {
    "model_type": ("llama",),  # Gemma, Mistral and others use the same names for other functions
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
}
# What a config.json that does not mention them means (transformers' LlamaConfig).
DEFAULT_EPS = 1e-6
DEFAULT_ROTARY_BASE = 10_000.0


def infer_config(
    tensors: Arrays, settings: Settings, heads: int | None = None, context: int | None = None
) -> LlamaConfig:
    """The sizes of tensors without prefix; see `from_hugging_face` for what is raised."""
    vocab_size, width = matrix_shape(tensors, MARK, KIND)
    hidden, _ = matrix_shape(tensors, "layers.0.mlp.gate_proj.weight", KIND)
    kv_rows, _ = matrix_shape(tensors, "layers.0.self_attn.k_proj.weight", KIND)
    heads = required("heads", heads, settings, "num_attention_heads")
    layers = count_layers(tensors, r"layers\.(\d+)\.")
    head_width = width // heads
    if head_width == 0 or width % heads or kv_rows % head_width:
        raise BaremetalError(
            f"{heads} heads do not fit a width of {width} and key projections of {kv_rows} rows: "
            "both must be multiples of the width of one head"
        )
    kv_heads = kv_rows // head_width
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
    }
    check_agreement(settings, sizes, "Llama")
    check_supported(settings, SUPPORTED, "Llama")
    return LlamaConfig(
        vocab_size=vocab_size,
        context=required("context", context, settings, "max_position_embeddings"),
        layers=layers,
        heads=heads,
        width=width,
        kv_heads=kv_heads,
        hidden=hidden,
        rotary_base=_rotary_base(settings),
        norm_eps=number(settings, "rms_norm_eps", DEFAULT_EPS),
        tied=is_tied(tensors, MARK, settings),
    )


def _rotary_base(settings: Settings) -> float:
    """The base of the rotary frequencies: by itself, or (transformers 5) among `rope_parameters`.

    Raises:
        BaremetalError: the rotary positions are of another type than the original one.
    """
    parameters = settings.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise BaremetalError(f"config.json: rope_parameters = {parameters!r}: expected a table")
    check_supported(parameters, {"rope_type": ("default",)}, "Llama")
    return number({**settings, **parameters}, "rope_theta", DEFAULT_ROTARY_BASE)


def entries(config: LlamaConfig) -> list[Entry]:
    """The table of correspondences for a model of these sizes."""
    width, hidden = config.width, config.hidden_width
    kv_rows = config.key_value_heads * (width // config.heads)
    table = [Entry("token_embedding.weight", {"embed_tokens.weight": (config.vocab_size, width)})]
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"layers.{index}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        qkv = {
            f"{attention}.q_proj.weight": (width, width),
            f"{attention}.k_proj.weight": (kv_rows, width),
            f"{attention}.v_proj.weight": (kv_rows, width),
        }
        gate_up = {
            f"{mlp}.gate_proj.weight": (hidden, width),
            f"{mlp}.up_proj.weight": (hidden, width),
        }
        after = f"{theirs}.post_attention_layernorm.weight"
        table += [
            Entry(f"{ours}.norm_1.weight", {f"{theirs}.input_layernorm.weight": (width,)}),
            Entry(f"{ours}.attention.qkv.weight", qkv),
            Entry(f"{ours}.attention.out.weight", {f"{attention}.o_proj.weight": (width, width)}),
            Entry(f"{ours}.norm_2.weight", {after: (width,)}),
            Entry(f"{ours}.mlp.gate_up.weight", gate_up),
            Entry(f"{ours}.mlp.down.weight", {f"{mlp}.down_proj.weight": (width, hidden)}),
        ]
    table.append(Entry("norm.weight", {"norm.weight": (width,)}))
    if not config.tied:
        table.append(Entry("head.weight", {"lm_head.weight": (config.vocab_size, width)}))
    return table


def settings_of(config: LlamaConfig) -> dict[str, Any]:
    """What belongs into config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": config.tied,
    }
