"""From a configuration to the things that train: model, optimiser, data."""

from typing import Any

import numpy as np

from baremetal import nn, optim
from baremetal.data import TextData
from baremetal.nn import LanguageModel
from baremetal.train.config import TrainConfig


def build_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """The model with freshly drawn weights (the same ones for the same seed)."""
    rng = np.random.default_rng(config.seed)
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context": config.context,
        "layers": config.layers,
        "heads": config.heads,
        "width": config.width,
    }
    if config.model == "gpt":
        gpt = nn.GPTConfig(**sizes, dropout=config.dropout)
        return nn.GPT(gpt, rng=rng, dropout_seed=config.seed)
    sizes["kv_heads"] = config.kv_heads
    if config.model == "llama":
        return nn.Llama(nn.LlamaConfig(**sizes), rng=rng)
    sizes |= {"experts": config.experts, "active_experts": config.active_experts}
    return nn.Grok(nn.GrokConfig(**sizes), rng=rng)


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


def build_data(config: TrainConfig, tokenizer: object | None = None) -> TextData:
    """Corpus and tokenizer; a checkpoint's own tokenizer takes the place of a new one."""
    chosen = config.tokenizer if tokenizer is None else tokenizer
    return TextData.from_corpus(config.data, chosen, config.context)  # type: ignore[arg-type]
