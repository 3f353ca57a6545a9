"""Corpora: the text to learn from, two of which every Python already has.

| name     | what                                                        | on Python 3.11         |
|----------|-------------------------------------------------------------|------------------------|
| `pydoc`  | the prose behind `help()`: the language reference, by topic | 0.5 MB, 103 characters |
| `stdlib` | the source of the standard library, without its tests       | 11 MB, 218 characters  |
| a path   | any UTF-8 text file, or a folder of them (see `text_files`) |                        |

`pydoc` is small enough to learn in a minute and is real English about a subject that the reader
knows. Three things to know about it:

- The text differs between Python versions (0.47 MB in 3.11, 0.51 MB in 3.13), and so does a loss
  measured on it. `Corpus.fingerprint` says which text it was.
- Its chapters quote each other. Of the windows of 64 characters in the last tenth, which is the
  validation text, about 8 % also stand word for word in the part before: a validation loss on
  `pydoc` flatters a little, as it does on most corpora that nobody has deduplicated.
- Chapters are in alphabetical order of their names, so the last tenth is other subjects than the
  first nine tenths: a small, honest shift.

Documents are joined by one blank line.
"""

import hashlib
import os
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from baremetal.data.text_files import decode_text, read_text, text_files_in
from baremetal.data.track import Track, untracked
from baremetal.data.wording import did_you_mean, shown
from baremetal.errors import BaremetalError

DOCUMENT_BREAK = "\n\n"
NAMED_CORPORA = ("pydoc", "stdlib")
# `pydoc_data` is the other corpus; the rest is tests, which repeat themselves without end.
STDLIB_LEFT_OUT = frozenset({"pydoc_data", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class Corpus:
    """A text with a name.

    Attributes:
        name: `pydoc`, `stdlib`, or the name of the file or folder it was read from.
        text: the whole text; line ends are `\\n`.
        sources: the topics or relative file paths it was put together from, in order.
    """

    name: str
    text: str
    sources: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load_corpus(name_or_path: str | Path, track: Track = untracked) -> Corpus:
    """Load a corpus by name (`"pydoc"`, `"stdlib"`) or from a text file or folder.

    A name wins over a path of the same spelling; write `./stdlib` for a folder called that. A
    `Path` is always a path. `track` is shown the files of a folder.

    Raises:
        BaremetalError: unknown name, nothing at that path, unreadable, empty or binary.
    """
    if name_or_path == "pydoc":
        return _pydoc()
    if name_or_path == "stdlib":
        return _stdlib(track)
    if not str(name_or_path).strip():
        # Path("") is the current folder, which nobody means by an empty option.
        raise BaremetalError(
            "the corpus has no name: give pydoc, stdlib, or the path of a text file"
        )
    path = Path(name_or_path)
    if os.path.isdir(path):
        return _from_folder(path, track)
    if isinstance(name_or_path, str) and _looks_like_a_name(name_or_path):
        raise BaremetalError(
            f"no corpus and no file is called {shown(name_or_path)}: "
            f"{did_you_mean(name_or_path, NAMED_CORPORA)}"
            f"give {', '.join(NAMED_CORPORA)}, or the path of a text file or folder"
        )
    return _refuse_empty(Corpus(path.name, read_text(path, "data file"), (path.name,)), path)


def _looks_like_a_name(word: str) -> bool:
    """A bare word that is no file: more likely a misspelt corpus than a missing file."""
    bare = Path(word).name == word and Path(word).suffix == ""
    return bare and not os.path.lexists(word)


def _from_folder(folder: Path, track: Track) -> Corpus:
    files = text_files_in(folder)
    text = _join(read_text(folder / file, "data file") for file in track(files, "reading"))
    # resolve() gives `.` and `..` a name that says something in a list of runs.
    name = folder.resolve().name or folder.anchor
    return _refuse_empty(Corpus(name, text, tuple(f.as_posix() for f in files)), folder)


def _refuse_empty(corpus: Corpus, path: Path) -> Corpus:
    if not corpus.text.strip():
        raise BaremetalError(
            f"{shown(path)} is empty, {len(corpus.text)} characters of white space: "
            "give a file or folder with text to learn from"
        )
    return corpus


def _join(documents: Iterable[str]) -> str:
    trimmed = (document.strip("\n") for document in documents)
    return DOCUMENT_BREAK.join(document for document in trimmed if document.strip())


def _pydoc() -> Corpus:
    """The topics of `help()`, in the order of their names."""
    try:
        # 0.5 MB of Python source: read only when asked for.
        from pydoc_data.topics import topics
    except ImportError:
        raise BaremetalError(
            "this Python comes without pydoc_data, the text of the corpus 'pydoc': "
            "install the full standard library, or give a text file with --data"
        ) from None
    names = sorted(topics)
    # Some releases of Python give the topics a space or a line break more at their ends.
    text = _join(topics[name].strip() for name in names)
    return Corpus("pydoc", text, tuple(names))


def _stdlib(track: Track) -> Corpus:
    """The modules that `sys.stdlib_module_names` lists, so no installed package slips in."""
    for root in _stdlib_roots():
        documents = dict(_stdlib_documents(root, track))
        if documents:
            return Corpus("stdlib", _join(documents.values()), tuple(documents))
    raise BaremetalError(
        "this Python comes without the source of its standard library, the text of the corpus "
        "'stdlib': use 'pydoc', or give a text file or folder with --data"
    )


def _stdlib_roots() -> Iterator[Path]:
    """Where the library may lie: its folder, or the zip of an embedded Python."""
    yield Path(sysconfig.get_path("stdlib"))
    yield from (Path(entry) for entry in sys.path if entry.endswith(".zip"))


def _stdlib_documents(root: Path, track: Track) -> Iterator[tuple[str, str]]:
    """(relative path, text) of every source file, in the order of the paths.

    What cannot be read or decoded is passed over: a distribution may have changed a file, and
    one file more or less is no reason not to start.
    """
    readers = _zip_readers(root) if zipfile.is_zipfile(root) else _folder_readers(root)
    for name in track(sorted(filter(_is_stdlib_source, readers)), "reading"):
        try:
            yield name, decode_text(readers[name](), name)
        except (OSError, BaremetalError):
            continue


def _is_stdlib_source(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        path.suffix == ".py"
        and path.parts[0].removesuffix(".py") in sys.stdlib_module_names
        and STDLIB_LEFT_OUT.isdisjoint(path.parts)
    )


def _folder_readers(root: Path) -> dict[str, Callable[[], bytes]]:
    readers = {}
    for parent, folders, files in os.walk(root):
        # Installed packages lie inside and may be a hundred times the library: do not go there.
        folders[:] = [f for f in folders if f not in ("site-packages", "dist-packages")]
        for path in (Path(parent, name) for name in files):
            readers[path.relative_to(root).as_posix()] = path.read_bytes
    return readers


def _zip_readers(root: Path) -> dict[str, Callable[[], bytes]]:
    with zipfile.ZipFile(root) as archive:
        names = filter(_is_stdlib_source, archive.namelist())
        contents = {name: archive.read(name) for name in names}
    return {name: partial(bytes, raw) for name, raw in contents.items()}
