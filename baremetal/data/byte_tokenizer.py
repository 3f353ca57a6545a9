"""One token per byte of UTF-8: 256 ids, and no text in any language that it cannot encode.

The price is paid outside ASCII: a Greek letter takes two tokens, a Chinese character three. A
model that samples byte by byte can stop in the middle of a character; `decode` shows such a
remainder as U+FFFD, the replacement character.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from baremetal.data.tokenizer import Tokenizer, utf8


class ByteTokenizer(Tokenizer):
    """A byte is a token; its id is its value."""

    name = "byte"

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> NDArray[Any]:
        return np.frombuffer(utf8(text), dtype=np.uint8).astype(self.dtype)

    def decode(self, ids: ArrayLike) -> str:
        return self._checked(ids).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        return {"kind": "byte"}

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> "ByteTokenizer":
        """The inverse of `to_json`."""
        return cls()
