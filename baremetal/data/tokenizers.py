"""The menu of tokenizers: from a word on the command line, or from what a checkpoint carries.

    char            one token per character of the corpus (the default)
    byte            one token per byte
    bpe:512         byte-pair encoding with 512 entries, trained on the training text
    gpt2/tokenizer.json    any local file of the `tokenizers` library

(The library of the same name is always imported absolutely, by `library_tokenizer`.)
"""

import os
from pathlib import Path
from typing import Any

from baremetal.data.bpe_tokenizer import BPETokenizer
from baremetal.data.byte_tokenizer import ByteTokenizer
from baremetal.data.char_tokenizer import CharTokenizer
from baremetal.data.library_tokenizer import LibraryTokenizer
from baremetal.data.tokenizer import Tokenizer
from baremetal.data.wording import did_you_mean, shown
from baremetal.errors import BaremetalError

KINDS = ("char", "byte", "bpe:512")


def make_tokenizer(choice: str | Path, text: str, training_text: str | None = None) -> Tokenizer:
    """Make the tokenizer that `choice` names.

    Args:
        choice: `char`, `byte`, `bpe:SIZE`, or the path of a `tokenizer.json`.
        text: the whole corpus. The character vocabulary is taken from all of it, so that the
            validation text meets no unknown character; which characters exist is the only thing
            that leaks.
        training_text: what merges may be learned from; all of `text` when not given.

    Raises:
        BaremetalError: no such kind, a size that is no number, or a file that does not serve.
    """
    name = str(choice)
    if name == "char":
        return CharTokenizer(text)
    if name == "byte":
        return ByteTokenizer()
    if name == "bpe" or name.startswith("bpe:"):
        return BPETokenizer.train(training_text or text, _bpe_size(name))
    if os.path.exists(name) or name.endswith(".json"):
        return LibraryTokenizer.from_file(name)
    raise BaremetalError(
        f"unknown tokenizer {shown(name)}: {did_you_mean(name, KINDS)}"
        f"give {', '.join(KINDS)}, or the path of a tokenizer.json"
    )


def _bpe_size(name: str) -> int:
    size = name.removeprefix("bpe").removeprefix(":")
    if not (size.isascii() and size.isdigit()):
        raise BaremetalError(
            f"tokenizer {shown(name)} does not say how many entries to learn: write bpe:512"
        )
    return int(size)


def tokenizer_from_json(description: dict[str, Any]) -> Tokenizer:
    """Make again the tokenizer whose `to_json` a checkpoint carries.

    Raises:
        BaremetalError: the description is damaged or of a kind that this version does not know.
    """
    kinds: dict[str, type[CharTokenizer | ByteTokenizer | LibraryTokenizer]] = {
        "char": CharTokenizer,
        "byte": ByteTokenizer,
        "bpe": BPETokenizer,
        "library": LibraryTokenizer,
    }
    kind = description.get("kind") if isinstance(description, dict) else None
    if kind not in kinds:
        raise BaremetalError(
            f"a saved tokenizer is of kind {shown(str(kind))}, expected one of {', '.join(kinds)}: "
            "the file is damaged or was written by a newer version"
        )
    try:
        return kinds[kind].from_json(description)
    except (KeyError, TypeError) as error:
        raise BaremetalError(
            f"a saved tokenizer of kind '{kind}' is damaged, {type(error).__name__}: {error}: "
            "go back to an older checkpoint"
        ) from None
