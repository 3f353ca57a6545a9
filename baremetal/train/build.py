"""From a configuration to the things that train: model, optimiser, data."""

import numpy as np

from baremetal import nn, optim
from baremetal.data import TextData
from baremetal.nn import LanguageModel
from baremetal.train.config import TrainConfig


def build_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """The model with freshly drawn weights (the same ones for the same seed)."""
    rng = np.random.default_rng(config.seed)
    sizes = {
        "vocab_size": vocab_size,
        "context": config.context,
        "layers": config.layers,
        "heads": config.heads,
        "width": config.width,
    }
    if config.model == "gpt":
        gpt = nn.GPTConfig(**sizes, dropout=config.dropout)
        return nn.GPT(gpt, rng=rng, dropout_seed=config.seed)
    kv_heads = config.kv_heads or config.heads
    if config.model == "llama":
        return nn.Llama(nn.LlamaConfig(**sizes, kv_heads=kv_heads), rng=rng)
    moe = nn.GrokConfig(
        **sizes, kv_heads=kv_heads, experts=config.experts, active_experts=config.active_experts
    )
    return nn.Grok(moe, rng=rng)


def build_optimizer(config: TrainConfig, model: LanguageModel) -> optim.Optimizer:
    """The optimiser over the model's parameters: matrices decay, vectors do not."""
    groups = optim.decay_groups(model.parameters(), config.weight_decay)
    if config.optimizer == "adamw":
        return optim.AdamW(
            groups, learning_rate=config.learning_rate, betas=(config.beta1, config.beta2)
        )
    if config.optimizer == "sgd":
        return optim.SGD(
            groups, learning_rate=config.learning_rate, momentum=config.beta1, nesterov=True
        )
    return optim.Muon(
        model, learning_rate=config.learning_rate, momentum=config.beta1,
        weight_decay=config.weight_decay,
    )  # fmt: skip


def build_data(config: TrainConfig, tokenizer: object | None = None) -> TextData:
    """Corpus and tokenizer; a checkpoint's own tokenizer takes the place of a new one."""
    chosen = config.tokenizer if tokenizer is None else tokenizer
    return TextData.from_corpus(config.data, chosen, config.context)  # type: ignore[arg-type]
