"""Corpus to batches in one call: nothing lost between the parts, nothing shared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data import ByteTokenizer, CharTokenizer, Corpus, TextData, split_text

TEXT = "It is a truth universally acknowledged, that a single naïve reader must be in want. " * 20
CORPUS = Corpus("austen", TEXT, ("austen",))


@given(st.text(), st.floats(0.01, 0.99))
def test_the_split_covers_without_overlap(text, fraction):
    train, validation = split_text(text, fraction)
    assert train + validation == text
    assert len(validation) == int(len(text) * fraction)


def test_the_last_tenth_validates():
    data = TextData.from_corpus(CORPUS, context=16)
    assert data.tokenizer.decode(data.train) + data.tokenizer.decode(data.validation) == TEXT
    assert len(data.validation) == len(TEXT) // 10
    assert data.corpus_name == "austen"
    assert data.corpus_fingerprint == CORPUS.fingerprint


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
def test_every_tokenizer_validates_on_the_same_text(tokenizer):
    if tokenizer.startswith("bpe"):
        pytest.importorskip("tokenizers")
    data = TextData.from_corpus(CORPUS, tokenizer, context=4)
    validation_text = split_text(TEXT)[1]
    assert data.tokenizer.decode(data.validation) == validation_text
    size_bytes = len(validation_text.encode("utf-8"))
    assert data.bytes_per_token * len(data.validation) == pytest.approx(size_bytes)
    # A uniform guess over 256 bytes, spread over the text, is 8 bits per byte for all of them.
    loss_nats = np.log(256) * size_bytes / len(data.validation)
    assert data.bits_per_byte(loss_nats) == pytest.approx(8)


def test_validation_may_hold_characters_that_training_does_not():
    data = TextData.from_corpus(Corpus("x", "a" * 90 + "b" * 10, ()), context=4)
    assert data.tokenizer.vocab_size == 2


def test_a_cache_gives_the_same_tokens_from_a_map(tmp_path):
    fresh = TextData.from_corpus(CORPUS, context=16)
    for _ in range(2):
        cached = TextData.from_corpus(CORPUS, context=16, cache_folder=tmp_path)
        for part in ("train", "validation"):
            assert isinstance(getattr(cached, part), np.memmap)
            np.testing.assert_array_equal(getattr(cached, part), getattr(fresh, part))
        assert cached.bytes_per_token == fresh.bytes_per_token
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_is_used(tmp_path, monkeypatch):
    TextData.from_corpus(CORPUS, context=16, cache_folder=tmp_path)

    def forbidden(self, text):
        raise AssertionError("encoded again")

    monkeypatch.setattr(CharTokenizer, "encode", forbidden)
    TextData.from_corpus(CORPUS, context=16, cache_folder=tmp_path)


def test_a_cache_keeps_settings_apart(tmp_path):
    for tokenizer in ("char", "byte"):
        for fraction in (0.1, 0.9):
            settings = {"context": 8, "validation_fraction": fraction}
            fresh = TextData.from_corpus(CORPUS, tokenizer, **settings)
            cached = TextData.from_corpus(CORPUS, tokenizer, **settings, cache_folder=tmp_path)
            np.testing.assert_array_equal(cached.train, fresh.train)
            np.testing.assert_array_equal(cached.validation, fresh.validation)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_damaged_cache_is_made_again(tmp_path):
    TextData.from_corpus(CORPUS, context=16, cache_folder=tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-2])
    data = TextData.from_corpus(CORPUS, context=16, cache_folder=tmp_path)
    assert data.tokenizer.decode(data.train) + data.tokenizer.decode(data.validation) == TEXT


def test_an_unwritable_cache_is_done_without(tmp_path):
    blocked = tmp_path / "a file"
    blocked.touch()
    data = TextData.from_corpus(CORPUS, context=16, cache_folder=blocked)
    assert data.tokenizer.decode(data.train) + data.tokenizer.decode(data.validation) == TEXT


def test_samplers_draw_from_the_right_part():
    # Digits to train on, letters to validate on.
    data = TextData.from_corpus(Corpus("x", "0123456789" * 90 + "a" * 100, ()), context=8)
    for kind in ("random", "epoch"):
        inputs, targets = data.sampler(4, seed=0, kind=kind).next_batch()
        assert set(data.tokenizer.decode(inputs.ravel())) <= set("0123456789")
        assert data.tokenizer.decode(targets[0])[:-1] == data.tokenizer.decode(inputs[0])[1:]
    for inputs, targets in data.evaluation_batches(2, 3):
        assert set(data.tokenizer.decode(np.concatenate([inputs, targets]).ravel())) == {"a"}


def test_a_tokenizer_of_a_checkpoint_is_kept(refused):
    tokenizer = CharTokenizer(TEXT + "$")
    assert TextData.from_corpus(CORPUS, tokenizer).tokenizer is tokenizer
    with refused("'$' (U+0024)"):
        TextData.from_corpus(Corpus("x", TEXT + "$", ()), CharTokenizer(TEXT))


def test_a_file_serves_as_a_corpus(tmp_path):
    (tmp_path / "x.txt").write_text(TEXT, encoding="utf-8")
    data = TextData.from_corpus(tmp_path / "x.txt", ByteTokenizer(), context=8)
    assert data.corpus_name == "x.txt"
    assert data.tokenizer.decode(data.train) == split_text(TEXT)[0]


def test_the_default_is_pydoc_by_characters():
    data = TextData.from_corpus()
    assert (data.corpus_name, data.tokenizer.name, data.context) == ("pydoc", "char", 64)
    assert len(data.train) > 300_000


def test_too_little_text_is_refused(refused):
    with refused("block longer than the data", "train part of 'x'", "needs 65", "has 6"):
        TextData.from_corpus(Corpus("x", "little", ()))
    with refused("block longer", "validation part of 'x'", "needs 65", "has 20"):
        TextData.from_corpus(Corpus("x", "little" * 34, ()))
    for fraction in (0, 1, -0.1, 2, float("nan")):
        with refused("validation fraction", str(fraction)):
            TextData.from_corpus(CORPUS, validation_fraction=fraction)
