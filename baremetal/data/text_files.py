"""From files to text: one rule for encodings, line ends and folders.

A file of text is a sequence of bytes in UTF-8. We read it strictly: a NUL byte or a sequence that
is not UTF-8 means that this is not text, and guessing an encoding would only move the damage into
the vocabulary, where nobody looks. Two things are normalised, so that the same document gives
the same tokens on every system: a byte-order mark at the start is dropped, and the line ends of
Windows (`\\r\\n`) and of old Macs (`\\r`) become `\\n`.

A folder stands for all its text files, subfolders included, in the order of their relative paths
(with `/` between the parts, compared character by character). The rule for what counts:

- the suffix is one of `TEXT_SUFFIXES`, in upper or lower case;
- hidden files and folders (their name starts with a dot) and `__pycache__` are passed over;
- links to folders are not followed (they may lead in a circle);
- a file that counts but cannot be read as text is an error, not a gap.

The whole text is held in memory: this is made for corpora up to a few hundred megabytes.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from baremetal.data.wording import first_line, shown
from baremetal.errors import BaremetalError

# fmt: off
TEXT_SUFFIXES = frozenset({
    ".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex", ".srt",            # prose
    ".html", ".htm", ".xml", ".csv", ".tsv", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".ini",
    ".py", ".pyi", ".pyx", ".jl", ".r", ".m", ".lua", ".rb", ".pl", ".php", ".sh", ".sql",
    ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".rs", ".go", ".f90", ".s",
    ".java", ".kt", ".scala", ".swift", ".js", ".ts", ".jsx", ".tsx", ".css", ".hs", ".ml",
})
# fmt: on
# How a UTF-16 file begins, little- and big-endian: what Windows editors call "Unicode".
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, role: str = "file") -> str:
    """The text of one UTF-8 file, line ends normalised; `role` says in errors what it is for.

    Raises:
        BaremetalError: not found, not a regular file, unreadable, or binary (with the offset).
    """
    named = f"{role} {shown(path)}"
    try:
        # Opening a pipe or a terminal would wait for ever.
        regular = stat.S_ISREG(path.stat().st_mode)
        raw = path.read_bytes() if regular else b""
    except FileNotFoundError:
        raise BaremetalError(
            f"there is no {named} (looked in {shown(Path.cwd())}): check the path"
        ) from None
    except PermissionError:
        raise BaremetalError(
            f"no permission to read the {named}: change its permissions or copy it"
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path itself. The system's own words repeat the path.
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BaremetalError(f"cannot read the {named}: {reason}; check the path") from error
    if not regular:
        raise BaremetalError(
            f"the {named} is not a regular file: give a text file or a folder of them"
        )
    return decode_text(raw, f"the {named}")


def decode_text(raw: bytes, origin: str) -> str:
    """Strict UTF-8 with normalised line ends; `origin` names the bytes in an error."""
    if raw.startswith(UTF16_MARKS):
        raise BaremetalError(f"{origin} is in UTF-16: save it as UTF-8 and try again")
    nul = raw.find(b"\0")
    if nul >= 0:
        raise BaremetalError(
            f"{origin} is binary, a NUL byte stands at byte {nul:,}: give text in UTF-8"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BaremetalError(
            f"{origin} is not UTF-8 (0x{raw[error.start]:02x} at byte {error.start:,}): "
            "save it as UTF-8, or leave it out if it is no text"
        ) from None
    return normalise_newlines(text.removeprefix("\ufeff"))


def normalise_newlines(text: str) -> str:
    """Every `\\r\\n` and every lone `\\r` becomes `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_files_in(folder: Path) -> list[Path]:
    """The text files of a folder by the rule above, as paths relative to it, in order.

    Raises:
        BaremetalError: a folder inside cannot be listed, or no file in it counts as text.
    """
    found = [
        path.relative_to(folder)
        for path in _visible_files(folder)
        if path.suffix.lower() in TEXT_SUFFIXES
    ]
    if not found:
        raise BaremetalError(
            f"folder {shown(folder)} holds no text file (.txt, .md, .py and the like; hidden files "
            "do not count): give a folder that does, or name one file"
        )
    return sorted(found, key=lambda relative: relative.as_posix())


def _visible_files(folder: Path) -> Iterator[Path]:
    """Every file under `folder`, leaving out what is hidden."""

    def refuse(error: OSError) -> None:
        # os.walk passes over a folder that it may not list; a gap in the data should be known.
        raise BaremetalError(
            f"cannot list the data folder {shown(error.filename)}: {error.strerror}; "
            "check its permissions"
        ) from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        # Changing the list in place tells os.walk where not to go.
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        yield from (Path(parent, name) for name in files if not name.startswith("."))
