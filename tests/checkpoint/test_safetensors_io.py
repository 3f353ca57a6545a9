"""The safetensors format against the library that defines it, and against every kind of damage."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from baremetal.checkpoint import (
    SafetensorsError,
    SafetensorsFile,
    durable,
    read_safetensors,
    safetensors_io,
    write_safetensors,
)
from baremetal.errors import BaremetalError

NAMED = [np.dtype(n) for n in safetensors_io.CODES if not n.startswith(("bfloat", "float8"))]
NAMED += [np.dtype(getattr(ml_dtypes, n)) for n in safetensors_io.CODES if hasattr(ml_dtypes, n)]
AS_BITS = [
    np.dtype(getattr(ml_dtypes, n)) for n in safetensors_io.STORED_AS_BITS if hasattr(ml_dtypes, n)
]


def library_knows(dtype: np.dtype) -> bool:
    """Older releases of the library know fewer types than the format has today."""
    header = {
        "w": {"dtype": safetensors_io.CODES[dtype.name], "shape": [0], "data_offsets": [0, 0]}
    }
    try:
        safetensors.deserialize(file_of(header, b""))
    except safetensors.SafetensorError:
        return False
    return True


def file_of(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


KNOWN_TO_THE_LIBRARY = [dtype for dtype in NAMED if library_knows(dtype)]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal dtype, shape and bits: unlike ==, it tells -0.0 from 0.0 and compares NaN payloads."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[np.dtype]) -> np.ndarray:
    """Random bits of any dtype, 0 to 3 axes (some of length 0), in any memory layout."""
    dtype = draw(st.sampled_from(dtypes))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    if dtype == np.bool_:
        raw = raw & 1
    array = raw.view(dtype).reshape(shape)
    for axis in range(array.ndim):
        if draw(st.booleans()):
            array = np.flip(array, axis)
    return array.transpose(draw(st.permutations(range(array.ndim))))


tensor_dicts = st.dictionaries(
    st.text(max_size=8).filter(lambda n: n != "__metadata__"), arrays(NAMED + AS_BITS), max_size=5
)
metadata_dicts = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


@given(tensors=tensor_dicts, metadata=metadata_dicts)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("io") / "a.safetensors"
    write_safetensors(path, tensors, metadata)
    file = SafetensorsFile(path)
    assert file.metadata == metadata
    assert set(file) == set(tensors)
    assert len(file) == len(tensors)
    for name, array in read_safetensors(path).items():
        assert same_bits(array, tensors[name])
        assert array.flags.writeable
        assert array.flags.c_contiguous


@given(array=arrays(KNOWN_TO_THE_LIBRARY), metadata=metadata_dicts)
def test_the_library_reads_what_we_write(array, metadata, tmp_path_factory):
    path = tmp_path_factory.mktemp("io") / "a.safetensors"
    write_safetensors(path, {"w": array, "other": np.arange(3)}, metadata)
    entries = dict(safetensors.deserialize(path.read_bytes()))
    assert entries["w"]["dtype"] == safetensors_io.CODES[array.dtype.name]
    assert tuple(entries["w"]["shape"]) == array.shape
    assert bytes(entries["w"]["data"]) == array.tobytes()
    with safetensors.safe_open(path, "np") as file:
        assert (file.metadata() or {}) == metadata


@pytest.mark.parametrize("dtype", [d for d in KNOWN_TO_THE_LIBRARY if d.isbuiltin == 1])
def test_we_read_what_the_library_writes(tmp_path, dtype):
    tensors = {
        "matrix": np.arange(6).reshape(2, 3).astype(dtype),
        "scalar": np.array(1, dtype),
        "empty": np.empty((0, 4), dtype),
    }
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    assert SafetensorsFile(path).metadata == {"format": "pt"}
    for name, array in read_safetensors(path).items():
        assert same_bits(array, tensors[name])


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        np.asfortranarray,
        lambda a: a[::2],
        lambda a: a[:, 1:3],
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[0], (4, 6)),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
    ],
)
def test_non_contiguous_views_keep_their_values(tmp_path, view):
    array = view(np.arange(24.0).reshape(4, 6))
    assert not array.flags.c_contiguous
    path = write_safetensors(tmp_path / "a.safetensors", {"w": array})
    assert np.array_equal(read_safetensors(path)["w"], array)
    # The library agrees, so it is the file that is right and not only our own reading of it.
    assert np.array_equal(safetensors.numpy.load_file(path)["w"], array)


def test_big_endian_arrays_keep_their_values_in_native_order(tmp_path):
    array = np.array([1.5, -2.0, 3e300], ">f8")
    path = write_safetensors(tmp_path / "a.safetensors", {"w": array})
    assert same_bits(read_safetensors(path)["w"], array.astype("=f8"))


def test_bytes_do_not_depend_on_the_order_of_the_dict(tmp_path):
    tensors = {"b": np.ones(3, np.float32), "a": np.zeros(2), "c": np.array(True)}
    one = write_safetensors(tmp_path / "1", tensors, {"x": "1", "y": "2"})
    two = write_safetensors(tmp_path / "2", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert one.read_bytes() == two.read_bytes()


def test_every_array_is_aligned_to_its_element(tmp_path):
    tensors = {f"{d.name}{n}": np.zeros(n, d) for d in NAMED for n in (0, 1, 3)}
    file = SafetensorsFile(write_safetensors(tmp_path / "a", tensors))
    for name, info in file.tensors.items():
        assert info.start % tensors[name].dtype.itemsize == 0


def test_arrays_larger_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_io, "CHUNK_BYTES", 7)
    array = np.arange(100, dtype=np.int32)
    path = write_safetensors(tmp_path / "a", {"w": array})
    assert same_bits(read_safetensors(path)["w"], array)


def test_looking_a_name_up_reads_only_that_array(tmp_path, monkeypatch):
    path = write_safetensors(tmp_path / "a", {"w": np.ones(4), "v": np.zeros(4)})
    file = SafetensorsFile(path)
    monkeypatch.setattr(np, "empty", None)  # whoever reads an array must allocate it
    assert "w" in file
    assert "u" not in file
    assert list(file) == ["v", "w"]
    assert file.tensors["w"].shape == (4,)
    assert file.tensors["w"].dtype_name == "float64"


def test_only_some_names(tmp_path):
    path = write_safetensors(tmp_path / "a", {"w": np.ones(4), "v": np.zeros(4)})
    assert list(read_safetensors(path, ["w"])) == ["w"]
    with pytest.raises(SafetensorsError, match="holds no tensor 'u'"):
        read_safetensors(path, ["u"])


# --- what cannot be written ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({1: np.ones(1)}, None, "names are text"),
        ({"__metadata__": np.ones(1)}, None, "reserved"),
        ({"w": [1.0]}, None, "'w' is list, expected a NumPy array"),
        ({"w": np.array([None])}, None, "dtype object"),
        ({"w": np.array(["a"])}, None, "dtype <U1"),
        ({"w": np.ones(1, np.complex128)}, None, "complex128.*store .real and .imag"),
        ({"w": np.zeros(1, [("a", "f4")])}, None, "cannot hold"),
        ({"w": np.zeros(1, "M8[s]")}, None, "datetime64"),
        ({"\ud800": np.ones(1)}, None, "not valid Unicode"),
        ({}, {"a": 1}, "text to text"),
        ({}, {"baremetal.dtype.w": "int4"}, "reserved"),
    ],
)
def test_unwritable_content_is_refused_before_anything_is_written(
    tmp_path, tensors, metadata, message
):
    with pytest.raises(SafetensorsError, match=message) as caught:
        write_safetensors(tmp_path / "a", tensors, metadata)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_header_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_io, "MAX_HEADER_BYTES", 100)
    with pytest.raises(SafetensorsError, match="the format allows 100"):
        write_safetensors(tmp_path / "a", {"w": np.ones(1)}, {"a": "b" * 100})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_safetensors(tmp_path / "a", {"w": np.ones(4)})

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.HashedFile, "write", full)
    with pytest.raises(SafetensorsError, match="no space left on the disk"):
        write_safetensors(path, {"w": np.zeros(4)})
    assert np.array_equal(read_safetensors(path)["w"], np.ones(4))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# --- what cannot be read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 40, "PyTorch.*pickle"),
        (b"\x80\x04\x95" + b"\0" * 40, "Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "numpy.load"),
        (b"GGUF\x03\0\0\0" + b"\0" * 20, "GGUF"),
        (b"Once upon a time there was", "not a safetensors file"),
    ],
)
def test_other_kinds_of_file_are_recognised(tmp_path, content, message):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(SafetensorsError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(SafetensorsError, match="no such file"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(SafetensorsError, match="cannot read"):
        read_safetensors(tmp_path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "size_bytes", "message"),
    [
        ({"w": entry()}, 7, "truncated: 1 of 8 bytes"),
        ({"w": entry()}, 9, "1 bytes too many"),
        ({"w": entry(shape=[3])}, 8, "takes 12 bytes, its entry says 8"),
        ({"w": entry(offsets=[1, 9])}, 9, "starts at byte 1 of the data, expected 0"),
        ({"w": entry(), "v": entry()}, 8, "starts at byte 0 of the data, expected 8"),
        ({"w": entry(offsets=[8, 0])}, 8, "unreadable entry"),
        ({"w": entry(offsets=[0])}, 8, "unreadable entry"),
        ({"w": entry(shape=[-2])}, 8, "unreadable entry"),
        ({"w": entry(shape=[True, 2])}, 8, "unreadable entry"),
        ({"w": entry(shape=[2.0])}, 8, "unreadable entry"),
        ({"w": entry(dtype=4)}, 8, "unreadable entry"),
        ({"w": 3}, 8, "unreadable entry"),
        ({"__metadata__": {"a": 1}}, 0, "metadata is not text"),
        ({"__metadata__": "a"}, 0, "metadata is not text"),
        (b'{"w":{}, "w":{}}', 0, "stands twice"),
        (b"{'w'}", 0, "not valid JSON"),
        (b'{"\xff":1}', 0, "not valid JSON"),
        (b'{"w":' + b"[" * 200_000, 0, "not valid JSON"),
        ({"w": entry("F4", offsets=[0, 1])}, 1, "dtype F4, which is not known"),
        ({"w": entry(shape=[0, 2**62], offsets=[0, 0])}, 0, "more than NumPy can hold"),
        ({"w": entry(shape=[1] * 99, offsets=[0, 4])}, 4, "more than NumPy can hold"),
        (
            {"__metadata__": {"baremetal.dtype.w": "finfo"}, "w": entry("U8", [1], [0, 1])},
            1,
            "dtype finfo, which is not known",
        ),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, size_bytes, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(header, b"\0" * size_bytes))
    with pytest.raises(SafetensorsError, match=message):
        read_safetensors(path)


def test_every_truncation_is_detected(tmp_path):
    path = write_safetensors(
        tmp_path / "a", {"w": np.ones(4), "v": np.zeros((2, 2), np.int8)}, {"format": "pt"}
    )
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SafetensorsError):
            read_safetensors(path)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = write_safetensors(tmp_path / "a", {"w": np.ones(4)})
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorsError, match="truncated"):
        file["w"]


@given(data=st.data())
def test_random_damage_never_escapes_as_another_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("io") / "a"
    write_safetensors(path, {"w": np.ones(2), "v": np.zeros((2, 2), ml_dtypes.int4)}, {"a": "b"})
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        ours = read_safetensors(path)
    except BaremetalError:
        return
    # What we accept, the library accepts too, with the same numbers.
    theirs = dict(safetensors.deserialize(bytes(damaged)))
    assert {name: a.tobytes() for name, a in ours.items()} == {
        name: bytes(entry["data"]) for name, entry in theirs.items()
    }
