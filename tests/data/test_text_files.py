"""Files become text by one rule; whatever breaks it is named, with its place."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data.text_files import decode_text, read_text, text_files_in

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"))


@given(ANY_TEXT)
def test_text_of_every_system_reads_the_same(text):
    unix = text.encode("utf-8")
    windows = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode("utf-8")
    old_mac = text.replace("\n", "\r").encode("utf-8")
    assert decode_text(unix, "unix") == text
    assert decode_text(windows, "windows") == text
    assert decode_text(old_mac, "old mac") == text


def test_a_folder_is_its_visible_text_files_in_order(tmp_path):
    wanted = ["B.md", "a.txt", "a/z.TXT", "b/a.py"]
    passed_over = [".hidden.txt", ".git/x.txt", "b/__pycache__/y.py", "picture.png", "README"]
    for name in wanted + passed_over:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [path.as_posix() for path in text_files_in(tmp_path)] == wanted


def test_a_link_in_a_circle_does_not_hang(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    try:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    assert [path.name for path in text_files_in(tmp_path)] == ["a.txt"]


def test_binary_is_refused_with_the_offset(tmp_path, refused):
    file = tmp_path / "x.txt"
    for raw, words in (
        (b"abc\0def", ("NUL byte", "byte 3")),
        (b"caf\xe9 au lait", ("not UTF-8", "0xe9", "byte 3")),
        (b"end\xc3", ("not UTF-8", "byte 3")),
        ("text".encode("utf-16"), ("UTF-16",)),
    ):
        file.write_bytes(raw)
        with refused("x.txt", *words):
            read_text(file)


def test_what_is_no_readable_file_is_refused(tmp_path, refused, monkeypatch):
    with refused("there is no", "missing.txt"):
        read_text(tmp_path / "missing.txt")
    with refused("not a regular file"):
        read_text(tmp_path)
    with refused("longlong"):  # "name too long", or on Windows "not found"
        read_text(tmp_path / ("long" * 1000))
    with refused("cannot read"):
        read_text(tmp_path / "nul\0inside")

    def locked(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "locked.txt").write_text("x", encoding="utf-8")
    monkeypatch.setattr("pathlib.Path.read_bytes", locked)
    with refused("no permission", "locked.txt"):
        read_text(tmp_path / "locked.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.txt")
    with refused("not a regular file", "pipe.txt"):
        read_text(tmp_path / "pipe.txt")


def test_a_name_that_breaks_lines_is_shown_on_one(tmp_path, refused):
    with refused(r"two\nlines"):
        read_text(tmp_path / "two\nlines")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, refused, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", locked)
    with refused("cannot list", "Permission denied"):
        text_files_in(tmp_path)
