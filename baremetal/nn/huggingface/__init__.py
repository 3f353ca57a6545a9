"""Weights under Hugging Face's names: GPT-2 and Llama, there and back."""

from baremetal.nn.huggingface.convert import from_hugging_face, to_hugging_face

__all__ = ["from_hugging_face", "to_hugging_face"]
