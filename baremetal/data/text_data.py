"""From a corpus to everything that a trainer asks for.

    corpus --split--> training text   --encode--> train       (tokens)
                      validation text --encode--> validation  (tokens), bytes per token

The text is split before it is encoded, so that every tokenizer is judged on the very same text: the
last tenth, in one piece. One piece, because a window of the training text must not overlap one of
the validation text, and the last, because what is to be predicted lies ahead.

With a cache folder, both parts are written once as token files and mapped from then on; they are
found again by the fingerprints of corpus and tokenizer. A cache can only save time: one that
cannot be written is done without, and a damaged file is made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baremetal.data.batches import (
    Batch,
    EpochSampler,
    RandomSampler,
    check_sizes,
    evaluation_batches,
    make_sampler,
)
from baremetal.data.corpora import Corpus, load_corpus
from baremetal.data.tokenizer import Tokenizer, bits_per_byte, utf8_size_bytes
from baremetal.data.tokenizers import make_tokenizer
from baremetal.data.tokens import open_tokens, write_tokens
from baremetal.data.track import Track, untracked
from baremetal.data.wording import shown
from baremetal.errors import BaremetalError

LONG_TEXT = 10_000_000  # characters; a tokenizer.json takes some seconds for so many


@dataclass(frozen=True)
class TextData:
    """Tokens to train and to validate on.

    Attributes:
        corpus_name: as `Corpus.name`.
        corpus_fingerprint: as `Corpus.fingerprint`.
        tokenizer: what made the tokens, and turns samples back into text.
        train: shape (tokens,), `tokenizer.dtype`, in memory or mapped.
        validation: the same, for the rest of the text.
        bytes_per_token: bytes of UTF-8 per token of the validation text.
        context: tokens per sample.
    """

    corpus_name: str
    corpus_fingerprint: str
    tokenizer: Tokenizer
    train: NDArray[Any]
    validation: NDArray[Any]
    bytes_per_token: float
    context: int

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus | str | Path = "pydoc",
        tokenizer: Tokenizer | str | Path = "char",
        context: int = 64,
        *,
        validation_fraction: float = 0.1,
        cache_folder: str | Path | None = None,
        track: Track = untracked,
    ) -> "TextData":
        """Load, split and encode a corpus.

        Args:
            corpus: a `Corpus`, or what `load_corpus` takes.
            tokenizer: a `Tokenizer` (from a checkpoint), or what `make_tokenizer` takes.
            context: tokens per sample; both parts must hold at least one window.
            validation_fraction: how much of the text to keep for validation, above 0, below 1.
            cache_folder: where to keep token files; None to keep the tokens in memory.
            track: is shown what is read and encoded, for a bar.

        Raises:
            BaremetalError: anything wrong with the corpus, the tokenizer or the sizes.
        """
        if not isinstance(corpus, Corpus):
            corpus = load_corpus(corpus, track)
        train_text, validation_text = split_text(corpus.text, validation_fraction)
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = make_tokenizer(tokenizer, corpus.text, train_text)
        folder = None if cache_folder is None else Path(cache_folder)
        stem = f"{corpus.fingerprint}-{tokenizer.fingerprint}"
        parts = []
        texts = (("train", train_text), ("validation", validation_text))
        for part, text in track(texts, "encoding", at_once=len(corpus.text) > LONG_TEXT):
            # The length tells apart two splits of the same text.
            file = None if folder is None else folder / f"{stem}-{part}-{len(text)}.tokens"
            tokens = encode_cached(text, tokenizer, file)
            check_sizes(tokens, 1, context, f"the {part} part of {shown(corpus.name)}")
            parts.append(tokens)
        return cls(
            corpus_name=corpus.name,
            corpus_fingerprint=corpus.fingerprint,
            tokenizer=tokenizer,
            train=parts[0],
            validation=parts[1],
            bytes_per_token=utf8_size_bytes(validation_text) / len(parts[1]),
            context=context,
        )

    def sampler(self, batch: int, seed: int, kind: str = "random") -> RandomSampler | EpochSampler:
        """A sampler of training batches, `random` or `epoch`."""
        return make_sampler(kind, self.train, batch, self.context, seed)

    def evaluation_batches(
        self, batch: int, n_batches: int | None = None, out: Batch | None = None
    ) -> Iterator[Batch]:
        """Fixed batches of the validation text, see `batches.evaluation_batches`."""
        return evaluation_batches(self.validation, batch, self.context, n_batches, out)

    def bits_per_byte(self, loss_nats: float) -> float:
        """A mean validation loss in nats per token, as bits per byte of validation text."""
        return bits_per_byte(loss_nats, self.bytes_per_token)


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """Cut `text` once: the validation part is the last `validation_fraction` of its characters.

    Raises:
        BaremetalError: the fraction is not between 0 and 1.
    """
    if not 0 < validation_fraction < 1:
        raise BaremetalError(
            f"a validation fraction of {validation_fraction} leaves nothing to train or to "
            "validate on: give a number above 0 and below 1, such as 0.1"
        )
    cut = len(text) - int(len(text) * validation_fraction)
    return text[:cut], text[cut:]


def encode_cached(text: str, tokenizer: Tokenizer, file: Path | None) -> NDArray[Any]:
    """The tokens of `text`, shape (tokens,): mapped from `file` if it holds them, else encoded.

    `file` must be named after text and tokenizer; it is written when it is missing or damaged.
    """
    if file is None:
        return tokenizer.encode(text)
    try:
        return open_tokens(file, tokenizer=tokenizer.fingerprint)
    except BaremetalError:
        tokens = tokenizer.encode(text)
    try:
        write_tokens(
            file, tokens, tokenizer=tokenizer.fingerprint, text_bytes=utf8_size_bytes(text)
        )
        return open_tokens(file, tokenizer=tokenizer.fingerprint, verify=False)
    except BaremetalError:
        # No permission, no room, or nothing to write: memory does as well.
        return np.asarray(tokens)
