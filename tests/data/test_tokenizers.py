"""Characters and bytes: text goes in and comes out; what cannot, is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data import (
    ByteTokenizer,
    CharTokenizer,
    bits_per_byte,
    bytes_per_token,
    make_tokenizer,
    tokenizer_from_json,
)
from baremetal.errors import BaremetalError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.text(st.characters(), min_size=1))
def test_characters_round_trip(text):
    """Lone surrogates too: a vocabulary is whatever it was shown."""
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == [sorted(set(text)).index(character) for character in text]


@given(ANY_TEXT)
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text


@given(st.text("abc", min_size=1), st.text("abcd\U0001f600"))
def test_unknown_characters_are_refused_and_only_they(seen, text):
    tokenizer = CharTokenizer(seen)
    unknown = [place for place, character in enumerate(text) if character not in seen]
    if not unknown:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        return
    with pytest.raises(BaremetalError, match=f"at position {unknown[0]} ") as caught:
        tokenizer.encode(text)
    assert f"'{text[unknown[0]]}'" in str(caught.value)


def test_an_unknown_character_is_named(refused):
    tokenizer = CharTokenizer("hello world")
    with refused("'é' (U+00E9)", "position 1", "8 characters", "'byte'"):
        tokenizer.encode("héllo")
    # Beyond the table, which ends after 'w' (U+0077); one whole table on from a known one, too.
    for character in ("x", "y", chr(ord("w") + ord("w") + 2), "\U0010ffff"):
        with refused(f"(U+{ord(character):04X})", "position 0"):
            tokenizer.encode(character)
    with refused(r"'\n' (U+000A)"):
        tokenizer.encode("hello\n")
    with refused(r"'\udc80' (U+DC80)"):
        tokenizer.encode("hello \udc80")
    with refused(r"'\udc80' (U+DC80)", "position 6"):
        ByteTokenizer().encode("hello \udc80")


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab"), ByteTokenizer()])
def test_foreign_ids_are_refused(tokenizer, refused):
    with refused("token id 256 at position 2", f"vocabulary of {tokenizer.vocab_size}"):
        tokenizer.decode([0, 1, 256])
    with refused("token id -1 at position 0"):
        tokenizer.decode(np.array([-1]))
    with refused("shape (1, 2)"):
        tokenizer.decode([[0, 1]])
    with refused("float64"):
        tokenizer.decode([0.5])


@pytest.mark.parametrize("tokenizer", [CharTokenizer("ab"), ByteTokenizer()])
def test_nothing_encodes_to_nothing(tokenizer):
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""


def test_half_a_character_decodes_to_the_replacement_character():
    ids = ByteTokenizer().encode("aé")
    assert ByteTokenizer().decode(ids[:-1]) == "a\ufffd"


def test_ids_are_stored_in_the_narrowest_safe_integer():
    narrow = CharTokenizer("".join(map(chr, range(0xD800))))
    wide = CharTokenizer("".join(map(chr, range((1 << 16) + 1))))
    assert narrow.encode("a").dtype == np.uint16
    assert wide.encode("\U00010000").dtype == np.uint32
    assert wide.encode("\U00010000").tolist() == [1 << 16]


@pytest.mark.parametrize("tokenizer", [CharTokenizer("héllo\n\U0001f600"), ByteTokenizer()])
def test_a_checkpoint_carries_the_tokenizer(tokenizer):
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(again.encode("hllo"), tokenizer.encode("hllo"))


def test_fingerprints_tell_tokenizers_apart():
    one, same, other = CharTokenizer("ab"), CharTokenizer("bab"), CharTokenizer("abc")
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint, ByteTokenizer().fingerprint}) == 3


def test_bits_per_byte_of_a_uniform_guess():
    """Guessing uniformly among 256 bytes costs 8 bits per byte, whatever the text."""
    text = "Ein schöner Tag"
    ids = ByteTokenizer().encode(text)
    assert bytes_per_token(text, ids) == 1.0
    assert bits_per_byte(np.log(256), bytes_per_token(text, ids)) == pytest.approx(8)
    # As characters, 15 tokens stand for 16 bytes.
    characters = CharTokenizer(text).encode(text)
    assert bytes_per_token(text, characters) == 16 / 15
    assert bits_per_byte(np.log(2), 2.0) == pytest.approx(0.5)


def test_the_menu():
    assert make_tokenizer("char", "cab").to_json() == {"kind": "char", "characters": "abc"}
    assert make_tokenizer("byte", "cab").to_json() == {"kind": "byte"}


def test_the_menu_refuses(tmp_path, refused):
    for choice, words in (
        ("bytes", ("'bytes'", "did you mean 'byte'?")),
        ("words", ("'words'", "bpe:512")),
        ("bpe", ("how many", "bpe:512")),
        ("bpe:many", ("how many", "bpe:512")),
        ("bpe:-3", ("how many",)),
        ("bpe:256", ("256", "no room")),
        (tmp_path / "missing.json", ("no tokenizer file", "missing.json")),
        ("", ("unknown tokenizer ''",)),
    ):
        with refused(*words):
            make_tokenizer(choice, "some text")
    with refused("character vocabulary", "none"):
        CharTokenizer("")
    with refused("empty text"):
        bytes_per_token("", np.zeros(0, dtype=np.uint16))


def test_damaged_descriptions_are_refused(refused):
    for damaged in (None, [], {}, {"kind": "words"}):
        with refused("of kind", "char, byte, bpe, library"):
            tokenizer_from_json(damaged)
    for damaged in ({"kind": "char"}, {"kind": "char", "characters": None}, {"kind": "bpe"}):
        with refused("is damaged", damaged["kind"]):
            tokenizer_from_json(damaged)
