"""Any `tokenizer.json`, GPT-2's included, through the `tokenizers` library of Hugging Face.

A `tokenizer.json` holds a whole pipeline: a normaliser (such as lower-casing), a pre-tokenizer
that cuts text into words, a model that cuts words into pieces, and a decoder. We let the library
run it, and change three things so that the file serves to train a language model:

- special tokens such as `[CLS]` are not added around a text (one that the text itself spells out,
  such as `<|endoftext|>`, is still read as one token);
- a file's own truncation and padding, meant for batches of sentences, are switched off;
- an unknown character is an error. Most pipelines would turn it into `[UNK]`, and a BPE without
  an unknown token drops it without a word.

The library is an extra: `pip install 'baremetal[tokenizers]'`. It is imported when the first such
tokenizer is made.
"""

import json
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from baremetal.data.text_files import read_text
from baremetal.data.tokenizer import Tokenizer, utf8
from baremetal.data.wording import first_line, shown, shown_character
from baremetal.errors import BaremetalError


def tokenizers_library() -> ModuleType:
    """The `tokenizers` module.

    Raises:
        BaremetalError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise BaremetalError(
            "BPE and tokenizer.json files need the tokenizers library: "
            "pip install 'baremetal[tokenizers]'"
        ) from None
    return tokenizers


class LibraryTokenizer(Tokenizer):
    """A tokenizer that the library runs.

    Args:
        pipeline: the content of a `tokenizer.json`.
        name: how to call it, usually the file's name.

    Raises:
        BaremetalError: the library is missing, or does not accept the pipeline.
    """

    kind = "library"

    def __init__(self, pipeline: dict[str, Any], name: str) -> None:
        library = tokenizers_library()
        self.name = name
        try:
            self._tokenizer = library.Tokenizer.from_str(json.dumps(pipeline))
        except Exception as error:  # the library raises Exception itself
            raise BaremetalError(
                f"the tokenizers library {library.__version__} does not accept the tokenizer "
                f"{shown(name)}: {first_line(error)}"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def from_file(cls, path: str | Path) -> "LibraryTokenizer":
        """Read a local `tokenizer.json`."""
        path = Path(path)
        try:
            pipeline = json.loads(read_text(path, "tokenizer file"))
        except json.JSONDecodeError as error:
            raise BaremetalError(
                f"tokenizer {shown(path)} is not JSON ({error}): give a tokenizer.json"
            ) from None
        if not isinstance(pipeline, dict) or "model" not in pipeline:
            raise BaremetalError(
                f"{shown(path)} has no entry 'model', so it is no tokenizer.json: "
                "vocab.json and tokenizer_config.json are other files of the same model"
            )
        return cls(pipeline, path.name)

    @cached_property
    def _vocab_size(self) -> int:
        # Not the number of entries: ids may leave gaps, and the embedding is indexed by id.
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def encode(self, text: str) -> NDArray[Any]:
        utf8(text)  # the library does not take lone surrogates: refuse them in our words
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=self.dtype)
        place = self._first_unknown(text, encoding, ids)
        if place is not None:
            raise BaremetalError(
                f"character {shown_character(text[place])} at position {place:,} is unknown to the "
                f"tokenizer {shown(self.name)}: leave it out, or choose the tokenizer 'byte', "
                "which knows every character"
            )
        return ids

    def decode(self, ids: ArrayLike) -> str:
        return self._tokenizer.decode(self._checked(ids).tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "tokenizer": self._pipeline}

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> "LibraryTokenizer":
        """The inverse of `to_json`."""
        return cls(description["tokenizer"], description["name"])

    def _first_unknown(self, text: str, encoding: Any, ids: NDArray[Any]) -> int | None:
        """The position of the first character that became `[UNK]` or nothing at all."""
        if self._is_byte_level:
            return None  # every byte has an id, so there is nothing to look for
        if self._unknown_id is not None:
            unknown = np.flatnonzero(ids == self._unknown_id)
            return self._culprit(text, *encoding.offsets[unknown[0]]) if unknown.size else None
        if self._pipeline["normalizer"]:
            return None  # a normaliser may drop characters on purpose, such as control codes
        # Offsets do not tell: after a dropped character the library's own are shifted.
        lost = [c for c in set(text) if not (c.isspace() or self._encode_alone(c))]
        return min((text.index(c) for c in lost), default=None)

    def _culprit(self, text: str, start: int, end: int) -> int:
        """Which character of the unknown word `text[start:end]` is the unknown one."""
        for place in range(start, end):
            if self._unknown_id in self._encode_alone(text[place]):
                return place
        return start

    def _encode_alone(self, character: str) -> list[int]:
        return self._tokenizer.encode(character, add_special_tokens=False).ids

    @cached_property
    def _pipeline(self) -> dict[str, Any]:
        return json.loads(self._tokenizer.to_str())

    @cached_property
    def _is_byte_level(self) -> bool:
        return "ByteLevel" in json.dumps(self._pipeline["pre_tokenizer"])

    @cached_property
    def _unknown_id(self) -> int | None:
        model = self._pipeline["model"]
        # Unigram models give the id itself, the others the token.
        if model.get("unk_id") is not None:
            return model["unk_id"]
        token = model.get("unk_token")
        return None if token is None else self._tokenizer.token_to_id(token)
