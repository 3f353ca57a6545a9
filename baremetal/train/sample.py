"""Text from a checkpoint, piece by piece as it is drawn."""

from collections.abc import Iterator

import numpy as np

from baremetal.data import Tokenizer
from baremetal.errors import BaremetalError
from baremetal.nn.generate import generate
from baremetal.train.weights import load_weights


def sample(
    checkpoint: str,
    prompt: str,
    count: int,
    *,
    seed: int = 0,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    tokenizer: str = "",
) -> Iterator[str]:
    """Yield the continuation of `prompt` as text.

    A token may be part of a character (bytes, BPE), so what is shown is what the text so far
    decodes to beyond what was shown before; a character appears when its last byte has.

    Raises:
        BaremetalError: no weights there (see `load_weights`, which gets `tokenizer`), an empty or
            unknown-charactered prompt, bad options.
    """
    if count < 0:
        raise BaremetalError(f"--tokens {count}: expected 0 or more")
    if seed < 0:
        raise BaremetalError(f"--seed {seed}: expected 0 or more")
    if not prompt:
        raise BaremetalError("the prompt is empty: give at least one character to continue")
    weights = load_weights(checkpoint, tokenizer)
    model = weights.build_model()
    start = weights.tokenizer.encode(prompt)
    rng = np.random.default_rng(seed)
    tokens = generate(
        model, start, count, rng, temperature=temperature, top_k=top_k, top_p=top_p,
        vocab_size=weights.tokenizer.vocab_size,
    )  # fmt: skip
    return _as_text(weights.tokenizer, start, tokens)


def _as_text(tokenizer: Tokenizer, start: np.ndarray, tokens: Iterator[int]) -> Iterator[str]:
    known = [int(token) for token in start]
    shown = len(tokenizer.decode(np.array(known)))
    for token in tokens:
        known.append(token)
        text = tokenizer.decode(np.array(known))
        complete = text.rstrip("\ufffd")  # an unfinished character decodes to a placeholder
        if len(complete) > shown:
            yield complete[shown:]
            shown = len(complete)
