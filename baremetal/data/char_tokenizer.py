"""One token per character: the default, for it has nothing to explain.

The vocabulary is the sorted set of the characters that the training corpus holds, and a
character's id is its place in that order. A character that the corpus never showed has no id and
is refused: there is no embedding for it that was ever trained.

Encoding looks every character up in one table indexed by code point. As UTF-32, text is already an
array of code points, so the whole corpus is one NumPy gather.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from baremetal.data.tokenizer import Tokenizer
from baremetal.data.wording import shown_character
from baremetal.errors import BaremetalError

UNKNOWN = -1


class CharTokenizer(Tokenizer):
    """A character is a token.

    Args:
        characters: the vocabulary, as a string; order and repetitions do not matter.
    """

    name = "char"

    def __init__(self, characters: str) -> None:
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise BaremetalError("a character vocabulary needs text to learn from, got none")

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[Any]:
        points = _code_points(text)
        # "clip" sends every code point beyond the table to its last entry, which is UNKNOWN.
        ids = self._id_of_point.take(points, mode="clip")
        if ids.size and ids.min() == UNKNOWN:
            self._refuse(text, int((ids == UNKNOWN).argmax()))
        return ids.astype(self.dtype)

    def decode(self, ids: ArrayLike) -> str:
        points = self._points[self._checked(ids)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "characters": self.characters}

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> "CharTokenizer":
        """The inverse of `to_json`."""
        return cls(description["characters"])

    @cached_property
    def _points(self) -> NDArray[np.uint32]:
        """(vocab_size,): the code point of each id."""
        return _code_points(self.characters)

    @cached_property
    def _id_of_point(self) -> NDArray[np.int32]:
        """(largest code point + 2,): the id of each code point, or UNKNOWN."""
        table = np.full(int(self._points[-1]) + 2, UNKNOWN, dtype=np.int32)
        table[self._points] = np.arange(self.vocab_size, dtype=np.int32)
        return table

    def _refuse(self, text: str, place: int) -> None:
        raise BaremetalError(
            f"character {shown_character(text[place])} at position {place:,} is not among the "
            f"{self.vocab_size} characters of this vocabulary: leave it out, or train with the "
            "tokenizer 'byte', which knows every character"
        )


def _code_points(text: str) -> NDArray[np.uint32]:
    # surrogatepass: a lone surrogate (an undecodable byte of a command line) must reach the check
    # above, which names it, instead of failing here.
    raw = text.encode("utf-32-le", "surrogatepass")
    return np.frombuffer(raw, dtype="<u4")
