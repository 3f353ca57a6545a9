"""Writing text: draw the next token from the model's distribution, append it, repeat.

    temperature   divide the logits by it: below 1 the likely becomes likelier, at 0 the likeliest
                  token is taken always
    top-k         keep only the k likeliest tokens
    top-p         keep the fewest likeliest tokens that hold p of the probability
                  (A. Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020)

The key-value cache makes each new token cost one position. When the context is full, the last
half of it is read anew and writing goes on from there.
"""

from collections.abc import Iterator

import numpy as np

from baremetal.autograd import no_grad
from baremetal.errors import BaremetalError
from baremetal.nn.language_model import LanguageModel


def choose_token(
    logits: np.ndarray,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> int:
    """Draw one token from logits (vocab_size,). `top_k=0` and `top_p=1` keep all tokens."""
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise BaremetalError(
            f"temperature {temperature}, top-k {top_k}, top-p {top_p}: expected temperature >= 0, "
            "top-k >= 0 and 0 < top-p <= 1"
        )
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")  # the likeliest first; equal ones in order
    if top_k:
        order = order[:top_k]
    probabilities = np.exp(scaled[order] - scaled[order[0]])
    probabilities /= probabilities.sum()
    if top_p < 1:
        # Keep a token if what comes before it does not yet hold p: always at least one.
        kept = np.cumsum(probabilities) - probabilities < top_p
        order, probabilities = order[kept], probabilities[kept]
        probabilities /= probabilities.sum()
    return int(order[rng.choice(len(order), p=probabilities)])


def generate(
    model: LanguageModel,
    prompt: np.ndarray,
    count: int,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[int]:
    """Yield `count` new tokens after `prompt` (time,), one at a time as they are drawn.

    Raises:
        BaremetalError: the prompt is empty.
    """
    if prompt.size == 0:
        raise BaremetalError("the prompt is empty: give at least one token to continue")
    context = model.config.context
    text = [int(token) for token in prompt]
    was_training = model.training
    model.eval()
    try:
        cache = model.new_cache()
        unread = np.array(text[-context:])
        for _ in range(count):
            if cache.length + len(unread) > context:
                cache = model.new_cache()
                unread = np.array(text[-max(context // 2, 1) :])
            with no_grad():
                logits = model(unread[None, :], cache).data[0, -1]
            token = choose_token(logits, rng, temperature=temperature, top_k=top_k, top_p=top_p)
            text.append(token)
            unread = np.array([token])
            yield token
    finally:
        model.train(was_training)
