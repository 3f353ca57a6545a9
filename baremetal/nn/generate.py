"""Writing text: draw the next token from the model's distribution, append it, repeat.

    temperature   divide the logits by it: below 1 the likely becomes likelier, at 0 the likeliest
                  token is taken always
    top-k         keep only the k likeliest tokens
    top-p         keep the fewest likeliest tokens that hold p of the probability
                  (A. Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020)

They apply in this order. The key-value cache makes each new token cost one position. When the
context is full, the last half of it is read anew, as if it were all there is, and writing goes on
from there: every key in the cache was made for its position, so the cache cannot simply slide.
"""

from collections.abc import Iterator

import numpy as np

from baremetal.autograd import no_grad
from baremetal.errors import BaremetalError
from baremetal.nn.language_model import LanguageModel


def next_token_distribution(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next and their probabilities, the likeliest first.

    Args:
        logits: (vocab_size,) of any floating dtype; -inf excludes a token.
        temperature: 0 or more; 0 leaves the likeliest token (the first of several) alone.
        top_k: 0 keeps all.
        top_p: above 0 up to 1; 1 keeps all.

    Returns:
        tokens (kept,) int64 and probabilities (kept,) float64 that sum to 1.

    Raises:
        BaremetalError: an option out of its range, or logits that are no distribution.
    """
    if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise BaremetalError(
            f"temperature {temperature}, top-k {top_k}, top-p {top_p}: expected temperature >= 0, "
            "top-k >= 0 and 0 < top-p <= 1"
        )
    peak = logits.max()
    if not np.isfinite(peak) or np.isnan(logits).any():
        raise BaremetalError(
            f"the logits hold NaN or infinity (their maximum is {peak}): nothing can be drawn from "
            "them; are the model's weights finite?"
        )
    if temperature == 0:
        return np.argmax(logits, keepdims=True), np.ones(1)
    # Relative to the largest before dividing: a tiny temperature then cannot overflow upwards.
    with np.errstate(over="ignore"):
        scaled = (logits.astype(np.float64) - float(peak)) / temperature
    tokens = np.argsort(-scaled, kind="stable")  # the likeliest first; equal ones in order
    tokens = tokens[:top_k] if top_k else tokens
    probabilities = np.exp(scaled[tokens])
    probabilities /= probabilities.sum()
    if top_p < 1:
        # Keep a token if what comes before it does not yet hold p: always at least one.
        kept = np.cumsum(probabilities) - probabilities < top_p
        tokens, probabilities = tokens[kept], probabilities[kept]
        probabilities /= probabilities.sum()
    return tokens, probabilities


def choose_token(
    logits: np.ndarray,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> int:
    """Draw one token from logits (vocab_size,); see `next_token_distribution` for the options."""
    tokens, probabilities = next_token_distribution(
        logits, temperature=temperature, top_k=top_k, top_p=top_p
    )
    return int(tokens[rng.choice(len(tokens), p=probabilities)])


def generate(
    model: LanguageModel,
    prompt: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield `count` new tokens after `prompt` (time,), one at a time as they are drawn.

    All are below `vocab_size`: a tokenizer's own, where the model's table is padded beyond it.

    The model is in evaluation mode until the last token was drawn (or the iterator closed), then
    in the mode it was in before. The same generator state gives the same tokens.

    Raises:
        BaremetalError: the prompt is empty or not one sequence, or an option is out of range.
    """
    if prompt.ndim != 1 or prompt.size == 0:
        raise BaremetalError(
            f"the prompt has shape {prompt.shape}: give one sequence of at least one token"
        )
    # Options are checked now, not when the first token is asked for.
    next_token_distribution(np.zeros(1), temperature=temperature, top_k=top_k, top_p=top_p)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    text = [int(token) for token in prompt]
    return _generate(model, text, count, rng, vocab_size, options)


def _generate(
    model: LanguageModel,
    text: list[int],
    count: int,
    rng: np.random.Generator,
    vocab_size: int | None,
    options: dict,
) -> Iterator[int]:
    context = model.config.context
    was_training = model.training
    model.eval()
    try:
        cache = model.new_cache()
        unread = text[-context:]
        for _ in range(count):
            if cache.length + len(unread) > context:
                cache = model.new_cache()
                unread = text[-max(context // 2, 1) :]
            with no_grad():
                logits = model(np.array([unread]), cache).data[0, -1, :vocab_size]
            token = choose_token(logits, rng, **options)
            text.append(token)
            unread = [token]
            yield token
    finally:
        model.train(was_training)
