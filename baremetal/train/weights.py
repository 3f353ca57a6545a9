"""Weights that a model has learned already: to sample from, or to start another training with.

They come from a checkpoint of ours, which carries its tokenizer, or from Hugging Face's files,
which may have a tokenizer.json beside them:

    runs/pydoc-gpt-1                         a run: its last checkpoint
    runs/pydoc-gpt-1/checkpoints/best        its best one
    gpt2/                                    model.safetensors, config.json, tokenizer.json
    gpt2/model.safetensors                   the same

Either way there are four things: the sizes of a model, its parameters, a tokenizer, and what a
configuration has to say to agree with them.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baremetal import nn
from baremetal.checkpoint import Checkpoint, load_checkpoint
from baremetal.checkpoint.layout import is_checkpoint
from baremetal.data import Tokenizer, make_tokenizer, tokenizer_from_json
from baremetal.errors import BaremetalError
from baremetal.nn import LanguageModel, LanguageModelConfig
from baremetal.train.build import model_of, sizes_of
from baremetal.train.config import config_from_mapping
from baremetal.train.pretrained import is_pretrained, read_pretrained

# What weights decide when a run starts from them.
SHAPE_FIELDS = (
    "model", "layers", "heads", "kv_heads", "width", "context", "experts", "active_experts",
    "tokenizer",
)  # fmt: skip
KINDS: Mapping[str, type[LanguageModelConfig]] = {
    "gpt": nn.GPTConfig,
    "llama": nn.LlamaConfig,
    "moe": nn.GrokConfig,
}
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Weights:
    """A trained model, not yet built.

    Attributes:
        path: where it came from.
        sizes: of the model.
        state: parameter name -> float32 array, as `Module.load_state_dict` takes it.
        tokenizer: what made its tokens.
        options: the fields of a `TrainConfig` that these weights decide.
    """

    path: Path
    sizes: LanguageModelConfig
    state: dict[str, np.ndarray]
    tokenizer: Tokenizer
    options: dict[str, Any]

    def build_model(self, *, seed: int = 0, dropout: float = 0.0) -> LanguageModel:
        """The model; `dropout` (GPT only) and its seed belong to a training, not to weights."""
        sizes = self.sizes
        if isinstance(sizes, nn.GPTConfig):
            sizes = dataclasses.replace(sizes, dropout=dropout)
        model = model_of(sizes, seed)
        model.load_state_dict(self.state)
        return model


def load_weights(path: str | os.PathLike[str], tokenizer: str = "") -> Weights:
    """Read weights of ours or of Hugging Face's, whichever lie at `path`.

    Args:
        path: a run, a checkpoint, or a folder or `.safetensors` file of Hugging Face's.
        tokenizer: for the latter, the tokenizer.json to use (or `byte`); empty: the one beside
            them. A table of embeddings may have more rows than the tokenizer has entries.

    Raises:
        BaremetalError: nothing there, damaged, tensors that do not fit, or no tokenizer.
    """
    if not str(path).strip():  # Path("") would be the folder we are in
        raise BaremetalError("the path of the weights is empty: give a run or a checkpoint")
    place = Path(path)
    if is_checkpoint(place.parent) and place.suffix == ".safetensors":
        place = place.parent  # one file of our own: the checkpoint is meant
    if not is_checkpoint(place) and is_pretrained(place):
        return _pretrained_weights(place, tokenizer)
    return weights_of(load_checkpoint(place, groups=["model"]))


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The weights in a checkpoint of ours."""
    state = checkpoint.state
    config = config_from_mapping(state["config"], f"checkpoint {checkpoint.path}")
    tokenizer = tokenizer_from_json(state["tokenizer"])
    saved = state.get("sizes")  # checkpoints of before have none: the options tell them
    sizes = sizes_of(config, tokenizer.vocab_size) if saved is None else _sizes_from_json(saved)
    options = {name: state["config"][name] for name in SHAPE_FIELDS}
    return Weights(checkpoint.path, sizes, checkpoint.tensors["model"], tokenizer, options)


def sizes_to_json(sizes: LanguageModelConfig) -> dict[str, Any]:
    """A model's sizes for a checkpoint; a Hugging Face model has some that no option tells."""
    kind = next(name for name, sort in KINDS.items() if type(sizes) is sort)
    return {"kind": kind, **asdict(sizes)}


def _sizes_from_json(saved: dict[str, Any]) -> LanguageModelConfig:
    kind = KINDS[saved["kind"]]
    return kind(**{name: value for name, value in saved.items() if name != "kind"})


# ---------------------------------------------------------------- Hugging Face


def _pretrained_weights(path: Path, choice: str) -> Weights:
    sizes, state = read_pretrained(path)
    folder = path.parent if path.suffix == ".safetensors" else path
    choice = choice or _tokenizer_beside(folder)
    tokenizer = _known_tokenizer(choice)
    padded = choice != "byte" and tokenizer.vocab_size < sizes.vocab_size  # usual in such files
    if tokenizer.vocab_size != sizes.vocab_size and not padded:
        raise BaremetalError(
            f"tokenizer {choice} has {tokenizer.vocab_size:,} entries, the embedding in {path} has "
            f"{sizes.vocab_size:,} rows: give the tokenizer that these weights learned with"
        )
    options = {
        "model": "gpt" if isinstance(sizes, nn.GPTConfig) else "llama",
        "layers": sizes.layers,
        "heads": sizes.heads,
        "kv_heads": getattr(sizes, "kv_heads", 0),
        "width": sizes.width,
        "context": sizes.context,
        "tokenizer": choice,
    }
    return Weights(path, sizes, state, tokenizer, options)


def _tokenizer_beside(folder: Path) -> str:
    if os.path.isfile(folder / TOKENIZER):
        return str(folder / TOKENIZER)
    raise BaremetalError(
        f"{folder} has no {TOKENIZER}, and weights without their tokenizer mean nothing: "
        f"give it with --tokenizer PATH/{TOKENIZER}"
    )


def _known_tokenizer(choice: str) -> Tokenizer:
    """A tokenizer that does not depend on the text of this run."""
    if choice == "char" or choice.split(":")[0] == "bpe":
        raise BaremetalError(
            f"--tokenizer {choice} would be learned from your text, but these weights know their "
            f"own tokens: give the {TOKENIZER} that they learned with"
        )
    return make_tokenizer(choice, "")
