"""Words for error messages: names shown on one line, and the nearest known spelling.

An error is printed as one line, and what it quotes comes from outside: a file name may hold a
line break, or bytes that are no Unicode at all. Quoting happens here, once.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from os import PathLike


def shown(name: str | PathLike[str]) -> str:
    """`name` in quotes, on one line, printable on any terminal that knows UTF-8."""
    # Undecodable bytes of a file name reach Python as lone surrogates, which cannot be printed.
    printable = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in printable)
    return f"'{escaped}'"


def shown_character(character: str) -> str:
    """A character and its code point: `'é' (U+00E9)`; invisible ones in escaped form."""
    return f"{shown(character)} (U+{ord(character):04X})"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean 'pydoc'? ` when a known word is near `word`, otherwise nothing."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {shown(near[0])}? " if near else ""


def first_line(error: BaseException) -> str:
    """The first line of what a library's exception says, or its type when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
