"""The two corpora that Python brings, files and folders, and every way to ask for nothing."""

import hashlib
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from baremetal.data import Corpus, corpora, load_corpus


@pytest.fixture(scope="module")
def stdlib():
    return load_corpus("stdlib")


def test_pydoc_is_every_topic_in_order():
    corpus = load_corpus("pydoc")
    assert corpus.name == "pydoc"
    assert list(corpus.sources) == sorted(topics)
    place = 0
    for name in corpus.sources:
        place = corpus.text.index(topics[name].strip(), place)
    assert len(corpus.text) > 400_000
    assert "\r" not in corpus.text


def test_the_fingerprint_is_a_hash_of_the_text():
    assert Corpus("x", "abc", ()).fingerprint == hashlib.sha256(b"abc").hexdigest()[:16]
    assert load_corpus("pydoc").fingerprint == load_corpus("pydoc").fingerprint


def test_stdlib_is_the_library_and_nothing_else(stdlib):
    assert list(stdlib.sources) == sorted(stdlib.sources)
    assert {"argparse.py", "json/decoder.py"} <= set(stdlib.sources)
    for source in stdlib.sources:
        parts = Path(source).parts
        assert parts[0].removesuffix(".py") in sys.stdlib_module_names
        assert not {"site-packages", "test", "tests", "pydoc_data"} & set(parts)
    argparse = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    assert argparse.strip("\n") in stdlib.text


def test_stdlib_passes_over_what_it_cannot_read(tmp_path, monkeypatch):
    (tmp_path / "argparse.py").write_text("good = 1\n", encoding="utf-8")
    (tmp_path / "bisect.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "numpy.py").write_text("not the library\n", encoding="utf-8")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "tool.py").write_text("also = 2\n", encoding="utf-8")
    monkeypatch.setattr(corpora, "_stdlib_roots", lambda: iter([tmp_path]))
    corpus = load_corpus("stdlib")
    assert corpus.sources == ("argparse.py", "json/tool.py")
    assert corpus.text == "good = 1\n\nalso = 2"


def test_stdlib_in_a_zip(tmp_path, monkeypatch):
    archive = tmp_path / "python311.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("json/tool.py", "also = 2\r\n")
        file.writestr("argparse.py", "good = 1\n")
        file.writestr("bisect.pyc", b"\0\0")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "path", [str(archive)])
    corpus = load_corpus("stdlib")
    assert corpus.sources == ("argparse.py", "json/tool.py")
    assert corpus.text == "good = 1\n\nalso = 2"


def test_a_python_without_these_texts_says_so(monkeypatch, refused):
    monkeypatch.setattr(corpora, "_stdlib_roots", lambda: iter([]))
    with refused("without the source", "pydoc"):
        load_corpus("stdlib")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with refused("without pydoc_data", "--data"):
        load_corpus("pydoc")


def test_a_file_keeps_its_text(tmp_path):
    file = tmp_path / "poem.txt"
    file.write_bytes("\ufeffél\r\n\r\n  two \r".encode())
    assert load_corpus(file) == Corpus("poem.txt", "él\n\n  two \n", ("poem.txt",))
    assert load_corpus(str(file)) == load_corpus(file)


def test_a_folder_is_joined_in_order(tmp_path):
    (tmp_path / "b.md").write_text("second\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\nfirst\n\n", encoding="utf-8")
    (tmp_path / "aa.txt").write_text("", encoding="utf-8")
    corpus = load_corpus(tmp_path)
    assert corpus.text == "first\n\nsecond"
    assert corpus.sources == ("a.txt", "aa.txt", "b.md")
    assert corpus.name == tmp_path.name


def test_a_path_may_share_a_corpus_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pydoc").write_text("mine", encoding="utf-8")
    assert load_corpus("./pydoc").text == "mine"
    assert load_corpus(Path("pydoc")).text == "mine"
    assert load_corpus("pydoc").text != "mine"


def test_a_file_without_suffix_is_found_by_its_bare_name(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("poem").write_text("mine", encoding="utf-8")
    assert load_corpus("poem").text == "mine"
    try:
        Path("broken").symlink_to("gone")
    except OSError:
        return
    with refused("there is no", "'broken'"):
        load_corpus("broken")


def test_asking_for_nothing_is_refused(tmp_path, refused):
    with refused("'pydocs'", "did you mean 'pydoc'?", "stdlib"):
        load_corpus("pydocs")
    with refused("'shakespeare'", "pydoc, stdlib"):
        load_corpus("shakespeare")
    with refused("no name"):
        load_corpus("")
    with refused("there is no", "nothing.txt"):
        load_corpus(tmp_path / "nothing.txt")
    with refused("there is no", "missing"):
        load_corpus("missing/folder")
    with refused("holds no text file"):
        load_corpus(tmp_path)
    (tmp_path / "empty.txt").touch()
    with refused("empty.txt", "is empty"):
        load_corpus(tmp_path / "empty.txt")
    with refused("is empty"):
        load_corpus(tmp_path)
    (tmp_path / "blank.txt").write_text(" \n\t\n", encoding="utf-8")
    with refused("blank.txt", "is empty", "4 characters"):
        load_corpus(tmp_path / "blank.txt")


def test_one_bad_file_in_a_folder_is_named(tmp_path, refused):
    (tmp_path / "a.txt").write_text("fine", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\0")
    with refused("b.txt", "binary"):
        load_corpus(tmp_path)


def test_importing_the_room_brings_in_nothing_heavy():
    heavy = "{'tokenizers', 'numba', 'scipy', 'pydoc_data.topics', 'matplotlib'}"
    code = (
        "import sys, baremetal; before = set(sys.modules); import baremetal.data; "
        f"assert not {heavy} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
