"""Weights from a local Hugging Face checkpoint, and back into one.

A checkpoint is a folder with two files (or the path of the first of them):

    model.safetensors     the tensors, under Hugging Face's names
    config.json           what the shapes do not tell: heads, context, eps, ...

GPT-2 and Llama are known; `nn/huggingface/` says which tensor is which parameter. Nothing is
downloaded: fetch the two files yourself and give their folder. Without a config.json the number of
heads (and for a Llama the context) has to be given.

    model = load_pretrained("gpt2/")
    model = load_pretrained("model.safetensors", heads=12)
    save_pretrained(model, "my-gpt2/")        # transformers' from_pretrained reads it

Weights are kept in float32 (float16 and bfloat16 become float32 without a loss), so a float32
checkpoint that is loaded and saved again has the same bits in every tensor.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import CheckpointError, read_safetensors, write_safetensors
from baremetal.checkpoint.durable import write_atomically
from baremetal.errors import BaremetalError
from baremetal.nn import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from baremetal.nn.huggingface import from_hugging_face, to_hugging_face

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
SHARDED = "model.safetensors.index.json"


def load_pretrained(
    path: str | os.PathLike[str], *, heads: int | None = None, context: int | None = None
) -> LanguageModel:
    """A `GPT` or a `Llama` with the weights of a local checkpoint, in float32.

    Args:
        path: the folder, or the `.safetensors` file; config.json is looked for beside it.
        heads: number of attention heads; goes before config.json.
        context: longest sequence of a Llama, in tokens; goes before config.json.

    Raises:
        BaremetalError: no such file, damaged, neither a GPT-2 nor a Llama, tensors that are
            missing, unexpected or misshaped (all are named), or a size that nothing tells.
    """
    sizes, state = read_pretrained(path, heads=heads, context=context)
    rng = np.random.default_rng(0)  # draws weights that are all overwritten
    model = GPT(sizes, rng=rng) if isinstance(sizes, GPTConfig) else Llama(sizes, rng=rng)
    model.load_state_dict(state)
    return model


def read_pretrained(
    path: str | os.PathLike[str], *, heads: int | None = None, context: int | None = None
) -> tuple[GPTConfig | LlamaConfig, dict[str, np.ndarray]]:
    """The sizes and the weights, by our names, of a local checkpoint; see `load_pretrained`."""
    weights = _weights_file(Path(path))
    settings = _read_settings(weights.with_name(SETTINGS))
    tensors = read_safetensors(weights)
    try:
        return from_hugging_face(tensors, settings, heads=heads, context=context)
    except BaremetalError as error:
        raise CheckpointError(f"{weights}: {error}") from error


def save_pretrained(model: LanguageModel, path: str | os.PathLike[str]) -> Path:
    """Write a `GPT` or a `Llama` as a checkpoint that Hugging Face's transformers can load.

    Args:
        path: a folder, made if need be, or a file that ends in `.safetensors`; config.json goes
            beside it. Files that are there are replaced.

    Returns:
        The path of the `.safetensors` file.

    Raises:
        BaremetalError: a model that has no counterpart there, no disk space, no permission.
    """
    tensors, settings = to_hugging_face(model.config, model.state_dict())
    target = Path(path)
    weights = target if target.suffix == ".safetensors" else target / WEIGHTS
    text = json.dumps(settings, indent=2) + "\n"
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        # Their loaders ask for the format of the tensors, by which they mean the framework.
        write_safetensors(weights, tensors, {"format": "pt"})
        write_atomically(weights.with_name(SETTINGS), lambda file: file.write(text.encode("utf-8")))
    except OSError as error:
        raise CheckpointError(f"cannot write {weights.parent}: {error}") from error
    return weights


def is_pretrained(path: Path) -> bool:
    """Whether this looks like a Hugging Face checkpoint: such a folder, or a file of tensors."""
    if path.suffix == ".safetensors":
        return True
    return any(os.path.isfile(path / name) for name in (WEIGHTS, SHARDED, SETTINGS))


def _weights_file(path: Path) -> Path:
    """The file of tensors that is meant."""
    if not os.path.isdir(path):  # Path.is_dir raises where a parent is forbidden
        return path
    if not (path / WEIGHTS).exists() and (path / SHARDED).exists():
        raise CheckpointError(
            f"{path} holds a checkpoint in several files ({SHARDED}): only single-file checkpoints "
            "are read here; save it with a larger max_shard_size"
        )
    return path / WEIGHTS


def _read_settings(path: Path) -> Mapping[str, Any] | None:
    """The contents of config.json, or None if there is none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: expected a table of settings, found {settings!r:.40}")
    return settings
