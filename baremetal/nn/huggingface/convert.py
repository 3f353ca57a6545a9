"""From Hugging Face's names to our state dict, and back: pure functions of arrays.

    config, state = from_hugging_face(tensors, settings)        # settings: what config.json says
    model = GPT(config, rng=rng)
    model.load_state_dict(state)

    tensors, settings = to_hugging_face(model.config, model.state_dict())

No file is touched here (`train/pretrained.py` does that) and no number is changed: values are
only renamed, transposed, and put together or taken apart, so there and back gives the same bits.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from baremetal.errors import BaremetalError
from baremetal.nn.gpt import GPTConfig
from baremetal.nn.grok import GrokConfig
from baremetal.nn.huggingface import gpt2, llama
from baremetal.nn.huggingface.entries import Entry, read_entries, write_entries
from baremetal.nn.huggingface.names import HEAD, Arrays, with_prefix, without_prefix
from baremetal.nn.language_model import LanguageModelConfig
from baremetal.nn.llama import LlamaConfig


def from_hugging_face(
    tensors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any] | None = None,
    *,
    heads: int | None = None,
    context: int | None = None,
) -> tuple[GPTConfig | LlamaConfig, dict[str, np.ndarray]]:
    """The configuration and the state dict of a GPT-2 or a Llama; which, the names tell.

    Args:
        tensors: arrays by Hugging Face's names; any floating dtype, which is kept.
        settings: what the checkpoint's config.json says, if there is one.
        heads: number of attention heads, which shapes do not tell; goes before the settings.
        context: longest sequence of a Llama (GPT-2's is a table's length); as above.

    Raises:
        StateError: naming every missing, unexpected and misshaped tensor.
        BaremetalError: neither a GPT-2 nor a Llama, settings that contradict the tensors or ask
            for what is not built here, or a size that neither settings nor arguments give.
    """
    settings = {} if settings is None else settings
    if _has(tensors, gpt2):
        if context is not None:
            raise BaremetalError(
                f"context = {context}: a GPT-2's context is the length of its position table, it "
                "cannot be chosen"
            )
        named = without_prefix(tensors, gpt2.PREFIX, gpt2.IGNORED)
        config = gpt2.infer_config(named, settings, heads)
        return config, _read(gpt2.entries(config), named, config.tied, gpt2.KIND)
    if _has(tensors, llama):
        named = without_prefix(tensors, llama.PREFIX, llama.IGNORED)
        sizes = llama.infer_config(named, settings, heads, context)
        return sizes, _read(llama.entries(sizes), named, sizes.tied, llama.KIND)
    some = ", ".join(sorted(tensors)[:3]) or "none at all"
    raise BaremetalError(
        f"these tensors are neither a GPT-2 ('{gpt2.MARK}') nor a Llama ('{llama.MARK}'): their "
        f"names begin with {some}"
    )


def _has(tensors: Arrays, architecture: ModuleType) -> bool:
    """Whether the one tensor is there by which an architecture is known."""
    return architecture.MARK in tensors or architecture.PREFIX + architecture.MARK in tensors


def _read(entries: Sequence[Entry], named: Arrays, tied: bool, kind: str) -> dict[str, np.ndarray]:
    # A tied head may be there all the same, as a copy of the embedding.
    kept = {name: array for name, array in named.items() if not (tied and name == HEAD)}
    return read_entries(entries, kept, kind)


def to_hugging_face(
    config: LanguageModelConfig, state: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by Hugging Face's names (views where possible) and the contents of config.json.

    Raises:
        StateError: the state does not belong to the configuration, with every misfit named.
        BaremetalError: a model that Hugging Face's GPT-2 and Llama cannot express.
    """
    if isinstance(config, GPTConfig):
        tensors = write_entries(gpt2.entries(config), state, gpt2.KIND)
        return with_prefix(tensors, gpt2.PREFIX), gpt2.settings_of(config)
    if isinstance(config, LlamaConfig) and not isinstance(config, GrokConfig):
        tensors = write_entries(llama.entries(config), state, llama.KIND)
        return with_prefix(tensors, llama.PREFIX), llama.settings_of(config)
    raise BaremetalError(
        f"a model with {type(config).__name__} has no counterpart among Hugging Face's GPT-2 and "
        "Llama: keep it in our own format"
    )
