"""From a configuration to the things that train: model, optimiser, data."""

from typing import Any

import numpy as np

from baremetal import nn, optim
from baremetal.data import TextData, Tokenizer
from baremetal.data.track import Track, untracked
from baremetal.nn import LanguageModel, LanguageModelConfig
from baremetal.train.config import TrainConfig


def sizes_of(config: TrainConfig, vocab_size: int) -> LanguageModelConfig:
    """The sizes of the model that a configuration asks for."""
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context": config.context,
        "layers": config.layers,
        "heads": config.heads,
        "width": config.width,
    }
    if config.model == "gpt":
        return nn.GPTConfig(**sizes, dropout=config.dropout)
    sizes["kv_heads"] = config.kv_heads
    if config.model == "llama":
        return nn.LlamaConfig(**sizes)
    return nn.GrokConfig(**sizes, experts=config.experts, active_experts=config.active_experts)


def model_of(sizes: LanguageModelConfig, seed: int) -> LanguageModel:
    """A model of these sizes with freshly drawn weights (the same ones for the same seed)."""
    rng = np.random.default_rng(seed)
    if isinstance(sizes, nn.GPTConfig):
        return nn.GPT(sizes, rng=rng, dropout_seed=seed)
    if isinstance(sizes, nn.GrokConfig):  # before Llama, whose sizes it extends
        return nn.Grok(sizes, rng=rng)
    assert isinstance(sizes, nn.LlamaConfig)
    return nn.Llama(sizes, rng=rng)


def build_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """The model that a configuration asks for, with freshly drawn weights."""
    return model_of(sizes_of(config, vocab_size), config.seed)


def build_optimizer(config: TrainConfig, model: LanguageModel) -> optim.Optimizer:
    """The optimiser over the model's parameters: matrices decay, vectors do not."""
    if config.optimizer == "muon":
        return _muon(config, model)
    groups = optim.decay_groups(model.parameters(), config.weight_decay)
    if config.optimizer == "adamw":
        return optim.AdamW(
            groups, learning_rate=config.learning_rate, betas=(config.beta1, config.beta2)
        )
    return optim.SGD(
        groups, learning_rate=config.learning_rate, momentum=config.beta1, nesterov=True
    )


def _muon(config: TrainConfig, model: LanguageModel) -> optim.Muon:
    """Muon for the matrices inside the blocks, AdamW for embeddings, routers, norms and biases.

    A router's rows are one expert each: making them orthogonal would force the experts apart.
    """
    named = list(model.named_parameters())
    inside = [
        p
        for name, p in named
        if name.startswith("blocks.") and p.ndim == 2 and ".router." not in name
    ]
    chosen = {id(p) for p in inside}
    others = [p for _, p in named if id(p) not in chosen]
    return optim.Muon(
        inside,
        optim.decay_groups(others, config.weight_decay),
        learning_rate=config.learning_rate,
        momentum=config.beta1,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
    )


def build_data(
    config: TrainConfig, tokenizer: Tokenizer | None = None, track: Track = untracked
) -> TextData:
    """Corpus and tokenizer; a checkpoint's own tokenizer takes the place of a new one."""
    chosen = config.tokenizer if tokenizer is None else tokenizer
    return TextData.from_corpus(config.data, chosen, config.context, track=track)
