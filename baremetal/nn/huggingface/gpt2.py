"""GPT-2 (A. Radford et al., 2019) under the names of Hugging Face's `GPT2LMHeadModel`.

    theirs (n_embd = W)                     ours
    wte.weight            (V, W)            token_embedding.weight      (V, W)
    wpe.weight            (context, W)      position_embedding.weight   (context, W)
    h.0.ln_1.weight       (W,)              blocks.0.norm_1.weight      (W,)
    h.0.attn.c_attn.weight (W, 3W)          blocks.0.attention.qkv.weight (3W, W)   transposed
    h.0.attn.c_proj.weight (W, W)           blocks.0.attention.out.weight (W, W)    transposed
    h.0.ln_2.weight       (W,)              blocks.0.norm_2.weight      (W,)
    h.0.mlp.c_fc.weight   (W, 4W)           blocks.0.mlp.up.weight      (4W, W)     transposed
    h.0.mlp.c_proj.weight (4W, W)           blocks.0.mlp.down.weight    (W, 4W)     transposed
    ln_f.weight           (W,)              norm.weight                 (W,)
    lm_head.weight        (V, W)            head.weight, if it is not tied

with a bias beside each but the embeddings and the head. Older files carry the causal mask as
`h.0.attn.bias` and `h.0.attn.masked_bias`: no weights, left out. Some names begin with
`transformer.`, some do not.
"""

import re
from collections.abc import Mapping
from typing import Any

from baremetal.errors import BaremetalError
from baremetal.nn.gpt import GPTConfig
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

KIND = "a GPT-2"
PREFIX = "transformer."
MARK = "wte.weight"  # what no other architecture has
IGNORED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
SUPPORTED: Mapping[str, tuple] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of the tanh form
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
DEFAULT_EPS = 1e-5  # of a config.json that does not mention it


def infer_config(tensors: Arrays, settings: Settings, heads: int | None = None) -> GPTConfig:
    """The sizes of tensors without prefix; see `from_hugging_face` for what is raised."""
    vocab_size, width = matrix_shape(tensors, MARK, KIND)
    context, _ = matrix_shape(tensors, "wpe.weight", KIND)
    layers = count_layers(tensors, r"h\.(\d+)\.")
    sizes = {"vocab_size": vocab_size, "n_embd": width, "n_positions": context, "n_layer": layers}
    check_agreement(settings, sizes, "GPT-2")
    check_supported(settings, SUPPORTED, "GPT-2")
    return GPTConfig(
        vocab_size=vocab_size,
        context=context,
        layers=layers,
        heads=required("heads", heads, settings, "n_head"),
        width=width,
        tied=is_tied(tensors, MARK, settings),
        norm_eps=number(settings, "layer_norm_epsilon", DEFAULT_EPS),
    )


def entries(config: GPTConfig) -> list[Entry]:
    """The table of correspondences for a model of these sizes.

    Raises:
        BaremetalError: the model has no biases; GPT-2 has.
    """
    if not config.bias:
        raise BaremetalError(
            "a GPT without biases cannot be written as a GPT-2, which has them: train it with "
            "bias=True, or keep it in our own format"
        )
    width = config.width
    table = [
        Entry("token_embedding.weight", {"wte.weight": (config.vocab_size, width)}),
        Entry("position_embedding.weight", {"wpe.weight": (config.context, width)}),
    ]
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"h.{index}"
        table += _norm(f"{ours}.norm_1", f"{theirs}.ln_1", width)
        table += _linear(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", width, 3 * width)
        table += _linear(f"{ours}.attention.out", f"{theirs}.attn.c_proj", width, width)
        table += _norm(f"{ours}.norm_2", f"{theirs}.ln_2", width)
        table += _linear(f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", width, 4 * width)
        table += _linear(f"{ours}.mlp.down", f"{theirs}.mlp.c_proj", 4 * width, width)
    table += _norm("norm", "ln_f", width)
    if not config.tied:
        table.append(Entry("head.weight", {"lm_head.weight": (config.vocab_size, width)}))
    return table


def _norm(ours: str, theirs: str, width: int) -> list[Entry]:
    return [Entry(f"{ours}.{part}", {f"{theirs}.{part}": (width,)}) for part in ("weight", "bias")]


def _linear(ours: str, theirs: str, inputs: int, outputs: int) -> list[Entry]:
    return [
        Entry(f"{ours}.weight", {f"{theirs}.weight": (inputs, outputs)}, transposed=True),
        Entry(f"{ours}.bias", {f"{theirs}.bias": (outputs,)}),
    ]


def settings_of(config: GPTConfig) -> dict[str, Any]:
    """What belongs into config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }
