"""Reading and encoding tell what they are doing, for a bar."""

import pytest

from baremetal.data import TextData, text_data


@pytest.fixture
def folder(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"some text of {name}. " * 20, encoding="utf-8")
    return tmp_path


def test_every_file_and_every_encoding_is_tracked(folder, monkeypatch):
    told = []

    def track(items, what, *, at_once=False):
        told.append((what, len(items), at_once))
        return items

    data = TextData.from_corpus(folder, context=8, track=track)
    assert told == [("reading", 3, False), ("encoding", 2, False)]
    assert (data.train == TextData.from_corpus(folder, context=8).train).all()
    told.clear()
    monkeypatch.setattr(text_data, "LONG_TEXT", 100)
    TextData.from_corpus(folder, context=8, track=track)
    assert told == [("reading", 3, False), ("encoding", 2, True)]
