"""Token files: what was written is read, and no damaged file is."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data import open_tokens, read_token_header, write_tokens
from baremetal.errors import BaremetalError


@pytest.fixture
def file(tmp_path):
    """A file of the tokens 0 to 999, by the tokenizer `abc`."""
    path = tmp_path / "x.tokens"
    write_tokens(path, np.arange(1000, dtype=np.uint16), tokenizer="abc", text_bytes=1500)
    return path


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1), st.sampled_from(["u4", "i8", "u8"]))
def test_tokens_round_trip(tmp_path_factory, ids, dtype):
    path = tmp_path_factory.mktemp("tokens") / "x.tokens"
    write_tokens(path, np.array(ids, dtype=dtype))
    tokens = open_tokens(path)
    assert tokens.tolist() == ids
    assert tokens.dtype == (np.uint32 if dtype == "u4" or max(ids) >= 1 << 16 else np.uint16)


def test_the_header_describes_the_file(file):
    raw = np.arange(1000, dtype="<u2").tobytes()
    header = read_token_header(file)
    assert (header.dtype, header.count) == ("uint16", 1000)
    assert header.sha256 == hashlib.sha256(raw).hexdigest()
    assert (header.tokenizer, header.text_bytes) == ("abc", 1500)
    assert file.read_bytes()[-2000:] == raw
    assert (file.stat().st_size - 2000) % 64 == 0


def test_tokens_are_mapped_read_only(file):
    tokens = open_tokens(file, tokenizer="abc")
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


@pytest.mark.parametrize("lost", [1, 2, 1000, 1999])
def test_a_truncated_file_is_refused(file, refused, lost):
    os.truncate(file, file.stat().st_size - lost)
    with refused("x.tokens", "damaged", "delete it"):
        open_tokens(file, verify=False)


def test_no_cut_of_a_file_is_accepted(file):
    raw = file.read_bytes()
    for kept in range(0, len(raw), 7):
        file.write_bytes(raw[:kept])
        with pytest.raises(BaremetalError, match=r"x\.tokens"):
            open_tokens(file, verify=False)


def test_a_grown_file_is_refused(file, refused):
    file.write_bytes(file.read_bytes() + b"\0")
    with refused("x.tokens", "damaged"):
        open_tokens(file)


def test_an_altered_token_is_refused(file, refused):
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with refused("x.tokens", "altered", "checksum"):
        open_tokens(file)


def test_a_damaged_header_is_refused(file, refused):
    raw = file.read_bytes()
    for damaged, word in (
        (b"NOTOKENS" + raw[8:], "not a token file"),
        (raw[:8] + b"\xff" * 8 + raw[16:], "header"),
        (raw.replace(b'"count": 1000', b'"count": 1e3 '), "header"),
        (raw.replace(b'"uint16"', b' "int16"'), "header"),
        (raw.replace(b'"dtype"', b'"types"'), "header"),
        (raw.replace(b'{"', b"{{"), "header"),
    ):
        assert damaged != raw
        file.write_bytes(damaged)
        with refused("x.tokens", word):
            open_tokens(file)


def test_tokens_of_another_tokenizer_are_refused(file, refused):
    with refused("x.tokens", "'abc'", "'other'"):
        open_tokens(file, tokenizer="other")


def test_what_is_no_token_is_not_written(tmp_path, refused):
    path = tmp_path / "x.tokens"
    for ids, word in (
        (np.zeros(0, dtype=np.uint16), "(0,)"),
        (np.zeros((2, 2), dtype=np.uint16), "(2, 2)"),
        (np.zeros(2), "float64"),
        (np.array([0, -1]), "from -1"),
        (np.array([1 << 32]), "4294967296"),
    ):
        with refused(word):
            write_tokens(path, ids)
    assert not list(tmp_path.iterdir())


def test_unreadable_and_unwritable_places_are_refused(tmp_path, file, refused):
    with refused("missing.tokens", "cannot read"):
        open_tokens(tmp_path / "missing.tokens")
    with refused("cannot write"):
        write_tokens(file / "below a file", np.arange(3))


def test_a_failed_write_leaves_the_old_file(file, refused, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("x.tokens", "No space left on device"):
        write_tokens(file, np.arange(5))
    assert open_tokens(file).tolist() == list(range(1000))
    assert [path.name for path in file.parent.iterdir()] == ["x.tokens"]


def test_a_killed_writer_leaves_the_old_file(file):
    """A process that dies just before the new file takes the name."""
    code = (
        "import os, sys, numpy as np\n"
        "os.replace = lambda *names: os._exit(9)\n"
        "from baremetal.data import write_tokens\n"
        "write_tokens(sys.argv[1], np.arange(5))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert done.returncode == 9
    assert open_tokens(file).tolist() == list(range(1000))
