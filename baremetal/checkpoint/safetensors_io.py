"""The safetensors format, read and written in one page.

A `.safetensors` file is a table of contents and then raw numbers, nothing that could run:

    8 bytes        N, the length of the header: unsigned, little-endian
    N bytes        the header: JSON, padded with spaces to a multiple of 8
                   {"__metadata__": {"any": "text"},
                    "h.0.attn.weight": {"dtype": "F32", "shape": [768, 2304],
                                        "data_offsets": [0, 7077888]}, ...}
    the rest       the arrays: little-endian, C order, offsets counted from here, no holes

That is the whole of it (https://github.com/huggingface/safetensors, "Format"), so we write it
ourselves instead of calling the library. The reasons are measured ones: the library's NumPy face
cannot read bfloat16 or float8 (0.8.0: KeyError 'BF16'); 0.8.0 stores a Fortran-ordered array as
silently shuffled numbers (its issue 825); and its disk errors come from Rust, past our checksum
and our messages. In the tests the library is the oracle: it reads what we write, and we read what
it writes.

Memory: writing streams each array from where it lies (a non-contiguous one is copied, one at a
time). Reading is lazy: `SafetensorsFile` reads the header, then one array per look-up.

Types. Everything that the format names keeps its name. `ml_dtypes` has some that the format does
not name (int4, float4_e2m1fn, float8_e3m4, ...); they are stored as the unsigned integers of
their bits (U8, one element per byte, as ml_dtypes holds them) with a note in the metadata,
`"baremetal.dtype.<tensor>": "int4"`, so that our reader restores them and any other reader sees
plain bytes. Byte order is the file's business: a big-endian array keeps its values and comes back
in the machine's own order.
"""

import contextlib
import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from baremetal.checkpoint.durable import write_atomically
from baremetal.checkpoint.errors import SafetensorsError, plain_reason

# dtype name (NumPy's or ml_dtypes') -> the format's name.
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
DTYPE_NAMES = {code: name for name, code in CODES.items()}

# ml_dtypes types without a name in the format; each element takes one byte in memory.
STORED_AS_BITS = (
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int4",
    "uint4",
    "int2",
    "uint2",
    "int1",
    "uint1",
)
DTYPE_NOTE = "baremetal.dtype."  # prefix of the metadata keys that say what those bits are

MAX_HEADER_BYTES = 100_000_000  # the library's own limit: a larger length is not a header
CHUNK_BYTES = 1 << 22  # 4 MiB: still in cache when the checksum has read it and the disk wants it

# What people hand over instead, by its first bytes.
_OTHER_KINDS = (
    (
        b"PK\x03\x04",
        "a zip archive, as PyTorch writes (.pt, .bin); it holds pickle, which can run code when "
        "opened, so it is not read here: convert it with safetensors.torch.save_file",
    ),
    (
        b"\x80",
        "a Python pickle; opening one can run code, so it is not read here: convert it with "
        "safetensors.torch.save_file",
    ),
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: run `git lfs pull`"),
    (b"<", "a web page or XML, not weights: check the download"),
    (b"\x93NUMPY", "a NumPy .npy file: load it with numpy.load"),
    (b"GGUF", "a GGUF file: look for the .safetensors form of the same model"),
)


class Writable(Protocol):
    """Anything that takes bytes: a file, or a file that also sums a checksum."""

    def write(self, data: memoryview, /) -> Any: ...


@dataclass(frozen=True)
class TensorInfo:
    """One line of the table of contents: what an array is and where it lies."""

    dtype_name: str  # NumPy's or ml_dtypes' name; the format's own where we know no such type
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    size_bytes: int


# --- writing ---------------------------------------------------------------------------------


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write `tensors` (name -> array of any shape) to one `.safetensors` file, atomically.

    Two calls with the same content give the same bytes, whatever the order of the dict. Arrays
    that share memory (tied weights) are written once per name.

    Args:
        metadata: text to text, kept in the header. (Hugging Face's loaders want
            `{"format": "pt"}` there.)

    Raises:
        SafetensorsError: a name or dtype that the format cannot hold, a full disk, no permission.
            An existing file of that name is then untouched.
    """
    path = Path(path)
    stream = stream_safetensors(tensors, metadata)
    try:
        write_atomically(path, stream)
    except OSError as error:
        raise SafetensorsError(f"cannot write {path}: {plain_reason(error)}") from error
    return path


def stream_safetensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Callable[[Writable], None]:
    """Check everything, build the header, and return the function that writes it all to a file.

    Whatever a caller can get wrong is refused here, before a byte is on the disk.
    """
    for name, array in tensors.items():
        _check_tensor(name, array)
    # Widest elements first, then by name: every array starts at a multiple of its element size
    # (so that others may map the file), and the bytes do not depend on the order of the dict.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header = _header_bytes(ordered, metadata)

    def write(file: Writable) -> None:
        file.write(memoryview(struct.pack("<Q", len(header)) + header))
        for _, array in ordered:
            _write_array(file, array)

    return write


def _check_tensor(name: object, array: object) -> None:
    if not isinstance(name, str):
        raise SafetensorsError(f"tensor name {name!r} is {type(name).__name__}; names are text")
    if name == "__metadata__":
        raise SafetensorsError(
            "'__metadata__' is reserved by the safetensors format: use another name"
        )
    if not isinstance(array, np.ndarray | np.generic):
        raise SafetensorsError(
            f"tensor {name!r} is {type(array).__name__}, expected a NumPy array: "
            "pass the array itself, e.g. tensor.numpy()"
        )
    if array.dtype.name not in CODES and array.dtype.name not in STORED_AS_BITS:
        raise SafetensorsError(
            f"tensor {name!r} has dtype {array.dtype}, which a safetensors file cannot hold: "
            "cast it first (complex128: store .real and .imag)"
        )


def _header_bytes(
    ordered: list[tuple[str, np.ndarray]], metadata: Mapping[str, str] | None
) -> bytes:
    notes = _checked_metadata(metadata)
    contents: dict[str, Any] = {}
    offset = 0
    for name, array in ordered:
        dtype_name = array.dtype.name
        if dtype_name in STORED_AS_BITS:
            notes[DTYPE_NOTE + name] = dtype_name
        contents[name] = {
            "dtype": CODES.get(dtype_name, "U8"),
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    if notes:
        contents = {"__metadata__": dict(sorted(notes.items())), **contents}
    try:
        text = json.dumps(contents, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise SafetensorsError(
            f"a tensor name or metadata is not valid Unicode text: {error.object!r}"[:300]
        ) from error
    if len(text) > MAX_HEADER_BYTES:
        raise SafetensorsError(
            f"the header (names and metadata) takes {len(text)} bytes, the format allows "
            f"{MAX_HEADER_BYTES}: shorten the metadata"
        )
    return text + b" " * (-len(text) % 8)  # the arrays then start at a multiple of 8


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    for key, value in (metadata or {}).items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise SafetensorsError(
                f"metadata {key!r}: {value!r} must be text to text: wrap it in str() or json.dumps"
            )
        if key.startswith(DTYPE_NOTE):
            raise SafetensorsError(f"metadata key {key!r}: names in {DTYPE_NOTE}* are reserved")
    return dict(metadata or {})


def _write_array(file: Writable, array: np.ndarray) -> None:
    # The header says C order, whatever the strides are here; this copies only when it must.
    array = np.asarray(array, order="C")
    if _is_big_endian(array.dtype):
        array = array.byteswap()
    raw = array.reshape(-1).view(np.uint8)  # (nbytes,), no copy
    for start in range(0, raw.size, CHUNK_BYTES):
        file.write(raw[start : start + CHUNK_BYTES].data)


def _is_big_endian(dtype: np.dtype) -> bool:
    native_big = sys.byteorder == "big" and dtype.byteorder == "="
    return dtype.itemsize > 1 and (dtype.byteorder == ">" or native_big)


# --- reading ---------------------------------------------------------------------------------


def read_safetensors(
    path: str | os.PathLike[str], names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` file (or only `names`), as fresh writable arrays.

    Raises SafetensorsError as `SafetensorsFile` does, and for a name that is not in the file.
    """
    file = SafetensorsFile(path)
    wanted = list(file) if names is None else list(names)
    for name in wanted:
        if name not in file:
            raise SafetensorsError(f"{file.path} holds no tensor {name!r}")
    return {name: file[name] for name in wanted}


class SafetensorsFile(Mapping[str, np.ndarray]):
    """A `.safetensors` file as a read-only dict: the header is read now, each array when asked for.

    No file stays open between look-ups, so the file can be replaced or deleted, on Windows too.

    Attributes:
        path: the file.
        metadata: the text notes of the header, without our own dtype notes.
        tensors: name -> TensorInfo, in the order of the data.

    Raises:
        SafetensorsError: the file is missing, unreadable, truncated, or of another kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                raw, size_bytes = _read_header(self.path, file)
        except OSError as error:
            raise SafetensorsError(f"cannot read {self.path}: {plain_reason(error)}") from error
        header = _parse_json(self.path, raw)
        notes = _read_metadata(self.path, header.pop("__metadata__", {}))
        self.metadata = {k: v for k, v in notes.items() if not k.startswith(DTYPE_NOTE)}
        self.tensors = _contents(self.path, header, notes, 8 + len(raw), size_bytes)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array from the disk: fresh, writable, in C order."""
        info = self.tensors[name]
        dtype = _dtype_called(self.path, name, info.dtype_name)
        try:
            array = np.empty(info.shape, dtype)
        except (ValueError, OverflowError) as error:  # e.g. 65 axes, or (0, 2**62)
            raise SafetensorsError(
                f"{self.path}: tensor {name!r} of shape {info.shape} is more than NumPy can hold"
            ) from error
        try:
            with open(self.path, "rb") as file:
                file.seek(info.start)
                count = file.readinto(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise SafetensorsError(f"cannot read {self.path}: {plain_reason(error)}") from error
        if count != info.size_bytes:
            raise SafetensorsError(f"{self.path} is truncated: tensor {name!r} ends too early")
        return array.byteswap(inplace=True) if _is_big_endian(dtype) else array

    def __contains__(self, name: object) -> bool:
        return name in self.tensors  # the inherited one would read the array to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _read_header(path: Path, file: BinaryIO) -> tuple[bytes, int]:
    """The header's bytes and the size of the file, or the reason why this is no such file."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(24)
    if not start:
        raise SafetensorsError(f"{path} is empty: expected a .safetensors file")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and len(start) > 8 and length <= MAX_HEADER_BYTES:
        if length > size_bytes - 8:
            raise SafetensorsError(
                f"{path} is truncated: its header needs {length} bytes and the file ends after "
                f"{size_bytes - 8}: fetch it again"
            )
        file.seek(8)
        return file.read(length), size_bytes
    for magic, what in _OTHER_KINDS:
        if start.startswith(magic):
            raise SafetensorsError(f"{path} is not a safetensors file: it looks like {what}")
    raise SafetensorsError(
        f"{path} is not a safetensors file: expected 8 bytes of length and then a JSON header"
    )


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(
            f"{path} is damaged: its header is not valid JSON ({error})"
        ) from error
    if not isinstance(header, dict):
        raise SafetensorsError(f"{path} is damaged: its header is not a JSON object")
    return header


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which a name stands twice could be read in two ways: refuse it."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _read_metadata(path: Path, notes: Any) -> dict[str, str]:
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise SafetensorsError(f"{path} is damaged: its metadata is not text to text")
    return notes


def _contents(
    path: Path, header: dict[str, Any], notes: dict[str, str], data_start: int, size_bytes: int
) -> dict[str, TensorInfo]:
    """The table of contents; the arrays must fill the rest of the file without hole or overlap."""
    infos = {name: _tensor_info(path, name, entry, notes) for name, entry in header.items()}
    infos = dict(sorted(infos.items(), key=lambda kv: (kv[1].start, kv[1].size_bytes)))
    end = 0
    for name, info in infos.items():
        if info.start != end:
            raise SafetensorsError(
                f"{path} is damaged: tensor {name!r} starts at byte {info.start} of the data, "
                f"expected {end}"
            )
        end += info.size_bytes
    missing = end - (size_bytes - data_start)
    if missing > 0:
        raise SafetensorsError(
            f"{path} is truncated: {missing} of {end} bytes of data are missing: fetch it again"
        )
    if missing < 0:
        raise SafetensorsError(f"{path} is damaged: {-missing} bytes too many at its end")
    return {
        name: TensorInfo(info.dtype_name, info.shape, data_start + info.start, info.size_bytes)
        for name, info in infos.items()
    }


def _tensor_info(path: Path, name: str, entry: Any, notes: dict[str, str]) -> TensorInfo:
    """One entry of the header, checked; `start` still counts from the first byte of data."""
    entry = entry if isinstance(entry, dict) else {}
    code, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    sound = isinstance(code, str) and _are_counts(shape) and _are_counts(offsets)
    if not (sound and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise SafetensorsError(f"{path} is damaged: tensor {name!r} has an unreadable entry")
    start, size_bytes = offsets[0], offsets[1] - offsets[0]
    dtype_name = DTYPE_NAMES.get(code, code)
    if dtype_name in CODES:
        expected = math.prod(shape) * _itemsize(code)
        if size_bytes != expected:
            raise SafetensorsError(
                f"{path} is damaged: tensor {name!r} ({code}, shape {tuple(shape)}) takes "
                f"{expected} bytes, its entry says {size_bytes}"
            )
    noted = notes.get(DTYPE_NOTE + name)
    if noted is not None and dtype_name == "uint8":
        dtype_name = noted
    return TensorInfo(dtype_name, tuple(shape), start, size_bytes)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _itemsize(code: str) -> int:
    """Bytes per element, read off the format's name: F32 -> 4, F8_E4M3 -> 1, BOOL -> 1."""
    if code == "BOOL":
        return 1
    digits = code.split("_")[0].lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return int(digits) // 8


def _dtype_called(path: Path, name: str, dtype_name: str) -> np.dtype:
    """The dtype of that name. Only names we know: the file must not choose what is looked up."""
    if dtype_name in CODES or dtype_name in STORED_AS_BITS:
        with contextlib.suppress(TypeError):  # a name that NumPy does not know
            return np.dtype(dtype_name)
        import ml_dtypes  # the rarer types only: not on the path of `import baremetal`

        if hasattr(ml_dtypes, dtype_name):
            return np.dtype(getattr(ml_dtypes, dtype_name))
    raise SafetensorsError(
        f"{path}: tensor {name!r} has dtype {dtype_name}, which is not known here: expected one "
        f"of {', '.join(CODES.values())} (or update ml_dtypes)"
    )
