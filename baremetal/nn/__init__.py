"""Modules and models; the words are PyTorch's."""

from baremetal.nn.attention import CausalSelfAttention
from baremetal.nn.cache import KeyValueCache
from baremetal.nn.experts import Experts
from baremetal.nn.generate import choose_token, generate, next_token_distribution
from baremetal.nn.gpt import GPT, Block, GPTConfig
from baremetal.nn.grok import Grok, GrokConfig
from baremetal.nn.huggingface import from_hugging_face, to_hugging_face
from baremetal.nn.language_model import LanguageModel, LanguageModelConfig
from baremetal.nn.layers import Dropout, DropoutState, Embedding, LayerNorm, Linear, RMSNorm
from baremetal.nn.llama import Llama, LlamaConfig
from baremetal.nn.mlp import MLP, SwiGLU
from baremetal.nn.module import Module, StateError
from baremetal.nn.precision import PRECISIONS, Precision, find_precision, use_precision

__all__ = [
    "GPT",
    "MLP",
    "PRECISIONS",
    "Block",
    "CausalSelfAttention",
    "Dropout",
    "DropoutState",
    "Embedding",
    "Experts",
    "GPTConfig",
    "Grok",
    "GrokConfig",
    "KeyValueCache",
    "LanguageModel",
    "LanguageModelConfig",
    "LayerNorm",
    "Linear",
    "Llama",
    "LlamaConfig",
    "Module",
    "Precision",
    "RMSNorm",
    "StateError",
    "SwiGLU",
    "choose_token",
    "find_precision",
    "from_hugging_face",
    "generate",
    "next_token_distribution",
    "to_hugging_face",
    "use_precision",
]
