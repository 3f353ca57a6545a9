"""BPE and `tokenizer.json` files, against the library itself and against counting by hand."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data import BPETokenizer, LibraryTokenizer, make_tokenizer, tokenizer_from_json

library = pytest.importorskip("tokenizers")

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PROSE = "the cat sat on the mat, and the other cat sat on the other mat. " * 3
BPE = BPETokenizer.train(PROSE, 270)


def save(tokenizer, path):
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def word_level(words, **options):
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, **options))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    return tokenizer


@given(ANY_TEXT)
def test_bpe_round_trips_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


def test_bpe_merges_the_most_frequent_pair_first():
    """By hand: in `ab ab ab`, (a, b) occurs three times, and then (space, ab) twice."""
    tokenizer = BPETokenizer.train("ab ab ab", 258)
    vocabulary = tokenizer.to_json()["tokenizer"]["model"]["vocab"]
    # The library writes a space as U+0120, as GPT-2's files do.
    assert (vocabulary["ab"], vocabulary["\u0120ab"]) == (256, 257)
    assert tokenizer.encode("ab ab").tolist() == [256, 257]
    assert tokenizer.vocab_size == 258
    assert tokenizer.encode("ab ab").dtype == np.uint16


def test_bpe_training_repeats_itself():
    assert BPETokenizer.train(PROSE, 270).to_json() == BPE.to_json()
    assert BPE.name == "bpe:270"
    assert BPE.vocab_size == 270
    assert len(BPE.encode(PROSE)) < len(PROSE) / 3


def test_bpe_learns_from_the_training_text_only():
    learned = make_tokenizer("bpe:300", "aaaa" * 50 + "zzzz" * 50, "aaaa" * 50)
    vocabulary = learned.to_json()["tokenizer"]["model"]["vocab"]
    assert "aa" in vocabulary
    assert "zz" not in vocabulary
    assert learned.vocab_size < 300  # it ran out of pairs


@pytest.mark.parametrize("text", ["", "the cat", "naïve \U0001f600\n"])
def test_a_file_encodes_as_the_library_does(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(BPE.to_json()["tokenizer"]), encoding="utf-8")
    from_file = make_tokenizer(str(path), "unused")
    oracle = library.Tokenizer.from_file(str(path))
    assert from_file.encode(text).tolist() == oracle.encode(text).ids
    assert from_file.decode(from_file.encode(text)) == text
    assert from_file.name == "tokenizer.json"


def test_a_checkpoint_carries_the_tokenizer(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(BPE.to_json()["tokenizer"]), encoding="utf-8")
    for tokenizer in (BPE, LibraryTokenizer.from_file(path)):
        again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert type(again) is type(tokenizer)
        assert (again.name, again.fingerprint) == (tokenizer.name, tokenizer.fingerprint)
        np.testing.assert_array_equal(again.encode(PROSE), tokenizer.encode(PROSE))


def test_special_tokens_are_read_but_not_added(tmp_path):
    tokenizer = library.Tokenizer.from_str(json.dumps(BPE.to_json()["tokenizer"]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 270)]
    )
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    assert ours.vocab_size == 271
    assert 270 not in ours.encode("the cat")
    assert ours.encode("<|endoftext|>").tolist() == [270]
    assert ours.decode([270]) == "<|endoftext|>"


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
    tokenizer = library.Tokenizer.from_str(json.dumps(BPE.to_json()["tokenizer"]))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    assert ours.decode(ours.encode(PROSE)) == PROSE


def test_ids_with_gaps_count_to_the_last(tmp_path):
    tokenizer = library.Tokenizer(library.models.WordLevel({"a": 0, "b": 70_000}, unk_token="a"))
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    assert ours.vocab_size == 70_001
    assert ours.encode("b").dtype == np.uint32


def test_unknown_characters_are_refused(tmp_path, refused):
    """An [UNK] for the whole word, and the character inside it that is to blame."""
    pieces = word_level(["[UNK]", "a", "##a", "b", "##b"], unk_token="[UNK]")
    ours = LibraryTokenizer.from_file(save(pieces, tmp_path / "pieces.json"))
    assert ours.encode("ab ba").tolist() == [1, 4, 3, 2]
    with refused("'é' (U+00E9)", "position 4", "pieces.json", "'byte'"):
        ours.encode("ab aéb")
    with refused(r"'\udc80'", "position 1"):
        ours.encode("a\udc80")


def test_silently_dropped_characters_are_refused(tmp_path, refused):
    """A BPE without an unknown token passes over what it does not know: the library's own words."""
    tokenizer = library.Tokenizer(library.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    assert tokenizer.encode("ab xb").ids == [2, 1]
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    assert ours.encode("ab  b").tolist() == [2, 1]
    with refused("'x' (U+0078)", "position 3"):
        ours.encode("ab xb")
    with refused("'x' (U+0078)", "position 0"):
        ours.encode("x")


def test_a_unigram_model_names_its_unknown_by_id(tmp_path, refused):
    model = library.models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], 0)
    ours = LibraryTokenizer.from_file(save(library.Tokenizer(model), tmp_path / "t.json"))
    assert ours.encode("ab").tolist() == [1, 2]
    with refused("'x' (U+0078)", "position 1"):
        ours.encode("axb")


def test_what_a_normaliser_drops_is_dropped_on_purpose(tmp_path):
    tokenizer = library.Tokenizer(library.models.BPE({"a": 0, "b": 1}, []))
    tokenizer.normalizer = library.normalizers.Replace("x", "")
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    assert ours.encode("axb").tolist() == [0, 1]


def test_a_byte_level_file_may_call_its_end_of_text_unknown(tmp_path):
    """As GPT-2 does: spelled out between documents, that token is no unknown character."""
    pipeline = json.loads(json.dumps(BPE.to_json()["tokenizer"]))
    pipeline["model"]["vocab"]["<|endoftext|>"] = 270
    pipeline["model"]["unk_token"] = "<|endoftext|>"
    tokenizer = library.Tokenizer.from_str(json.dumps(pipeline))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    ours = LibraryTokenizer.from_file(save(tokenizer, tmp_path / "t.json"))
    text = "the cat<|endoftext|>the mat"
    assert 270 in ours.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_files_that_are_no_tokenizer_are_refused(tmp_path, refused):
    path = tmp_path / "t.json"
    for content, words in (
        ("not json", ("not JSON", "t.json")),
        ('{"the": 0}', ("no entry 'model'", "vocab.json")),
        ("[1]", ("no entry 'model'",)),
        ('{"version": "1.0", "model": {"type": "Novel"}}', ("does not accept", "t.json")),
    ):
        path.write_text(content, encoding="utf-8")
        with refused(*words):
            make_tokenizer(path, "text")


def test_without_the_library_the_extra_is_named(monkeypatch, refused):
    description = BPE.to_json()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with refused("pip install 'baremetal[tokenizers]'"):
        make_tokenizer("bpe:512", "some text")
    with refused("pip install 'baremetal[tokenizers]'"):
        tokenizer_from_json(description)
