"""What a tokenizer is: a map from text to small integers, and back.

A model sees no text, only numbers from 0 to `vocab_size` - 1. A tokenizer cuts text into pieces
and numbers them; the four here differ only in what a piece is:

| tokenizer          | a piece is                  | vocabulary          | bytes per token |
|--------------------|-----------------------------|---------------------|-----------------|
| `CharTokenizer`    | one character               | those of the corpus | about 1         |
| `ByteTokenizer`    | one byte of UTF-8           | 256                 | exactly 1       |
| `BPETokenizer`     | a frequent string of bytes  | as many as you say  | 2 to 4          |
| `LibraryTokenizer` | what a `tokenizer.json` says | GPT-2: 50,257       | see the file    |

A loss per token cannot be compared between them: a longer piece is harder to guess. Divided by
the text that a token stands for, it can. With a mean loss of L nats per token,

    bits per byte = L / (ln 2 * bytes per token)

which is also how well a compressor built on the model would do (Shannon 1948, "A Mathematical
Theory of Communication").
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from baremetal.data.wording import shown_character
from baremetal.errors import BaremetalError


class Tokenizer(ABC):
    """Text to token ids and back; the same for every kind.

    Attributes:
        name: what to write to get this kind again: `char`, `byte`, `bpe:512`, or a file's name.
    """

    name: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of different token ids; every id is below it."""

    @abstractmethod
    def encode(self, text: str) -> NDArray[Any]:
        """Text to ids: shape (tokens,), dtype `self.dtype`.

        Raises:
            BaremetalError: a character that this tokenizer does not know, named with its place.
        """

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """Ids, shape (tokens,), to text.

        Raises:
            BaremetalError: an id outside the vocabulary.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to make this tokenizer again, as plain JSON, with its `kind`."""

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """How ids are stored: `uint16`, or `uint32` when the vocabulary is larger than 65,536.

        Stored as two bytes a token, a corpus takes a quarter of what int64 would; `uint8` would
        take an eighth, but wraps at the first sum that anybody does with it.
        """
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for two tokenizers that encode alike."""
        description = {key: value for key, value in self.to_json().items() if key != "name"}
        canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]

    def _checked(self, ids: ArrayLike) -> NDArray[np.int64]:
        """`ids` as int64, shape (tokens,), each of them inside the vocabulary."""
        numbers = np.asarray(ids)
        if numbers.size == 0:
            return np.zeros(0, dtype=np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise BaremetalError(
                f"token ids have shape {numbers.shape} and dtype {numbers.dtype}, expected "
                "integers of shape (tokens,): decode one sequence at a time"
            )
        wrong = (numbers < 0) | (numbers >= self.vocab_size)
        if wrong.any():
            place = int(wrong.argmax())
            raise BaremetalError(
                f"token id {numbers[place]} at position {place:,} is outside the vocabulary of "
                f"{self.vocab_size:,}: these ids come from another tokenizer than '{self.name}'"
            )
        return numbers.astype(np.int64)


def utf8(text: str) -> bytes:
    """`text` as UTF-8, refusing what is no text.

    Raises:
        BaremetalError: a lone surrogate, which is how Python passes on undecodable bytes.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BaremetalError(
            f"character {shown_character(text[error.start])} at position {error.start:,} is half "
            "of a surrogate pair and no text: leave it out"
        ) from None


def utf8_size_bytes(text: str) -> int:
    """The size of `text` in UTF-8, in bytes."""
    return len(utf8(text))


def bytes_per_token(text: str, ids: NDArray[Any]) -> float:
    """How many bytes of UTF-8 one token stands for, when `text` was encoded to `ids`.

    Measure it over the very text whose loss you divide by it: the validation text.
    """
    if len(ids) == 0:
        raise BaremetalError("an empty text has no bytes per token: give text with tokens in it")
    return utf8_size_bytes(text) / len(ids)


def bits_per_byte(loss_nats: float, bytes_per_token: float) -> float:
    """A mean loss in nats per token, as bits per byte of text."""
    return loss_nats / (math.log(2) * bytes_per_token)
