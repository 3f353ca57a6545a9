"""A file that is replaced is the old one or the new one, and on the disk before it has its name."""

import hashlib
import os
from pathlib import Path

import pytest

from baremetal.checkpoint import durable


def test_size_and_checksum_are_those_of_the_file(tmp_path):
    parts = [b"one", b"", memoryview(b"two" * 1000)]
    written = durable.write_synced(tmp_path / "f", lambda file: [file.write(p) for p in parts])
    content = (tmp_path / "f").read_bytes()
    assert content == b"".join(parts)
    assert written.size_bytes == len(content)
    assert written.sha256() == hashlib.sha256(content).hexdigest()


def test_a_replacement_is_synced_then_renamed_then_its_folder_synced(tmp_path, monkeypatch):
    path, events, honest = tmp_path / "f", [], os.replace
    path.write_bytes(b"old")

    def replace(source, target):
        events.append(("rename", Path(source).read_bytes(), Path(target).read_bytes()))
        honest(source, target)

    monkeypatch.setattr(durable, "_sync", lambda descriptor: events.append("sync file"))
    monkeypatch.setattr(durable, "sync_folder", lambda folder: events.append(folder))
    monkeypatch.setattr(os, "replace", replace)
    durable.write_atomically(path, lambda file: file.write(b"new"))
    assert events == ["sync file", ("rename", b"new", b"old"), tmp_path]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        durable.write_atomically(path, write)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]
