"""Tokens on disk: one file, mapped into memory, that knows when it is damaged.

    byte 0        8          16                16 + H            (next multiple of 64)
    | BMTOKENS   | H: uint64 | JSON, H bytes   | zeros           | tokens, little-endian |

The JSON says what follows: `dtype`, `count`, the `sha256` of the tokens, the fingerprint of their
`tokenizer` and the `text_bytes` they stand for. The length of the file follows from it, so a file
that was cut short, or grew, is found out by its length; one that was altered, by its checksum.

Reading maps the file (`np.memmap`): the operating system brings in the pages that a batch touches
and drops them when memory is short, so a corpus may be larger than memory, and processes that read
the same file share one copy of it.

Writing goes to a temporary file beside the target, which then takes its name in one step
(`os.replace`): whoever looks sees the old file or the new one, never half of one.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from baremetal.data.wording import first_line, shown
from baremetal.errors import BaremetalError

MAGIC = b"BMTOKENS"
PREFIX_SIZE_BYTES = 16
ALIGNMENT_BYTES = 64  # a cache line, and enough for any dtype
LARGEST_HEADER_BYTES = 1 << 20  # a longer one is damage, not JSON
DTYPES = ("uint16", "uint32")


@dataclass(frozen=True)
class TokenHeader:
    """What a token file says about itself.

    Attributes:
        dtype: `uint16` or `uint32`, stored little-endian.
        count: number of tokens.
        sha256: of the token bytes, hexadecimal.
        tokenizer: fingerprint of the tokenizer that made them; empty when not known.
        text_bytes: size of the text in UTF-8, in bytes; 0 when not known.
    """

    dtype: str
    count: int
    sha256: str
    tokenizer: str = ""
    text_bytes: int = 0

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype on disk, little-endian on every machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    def encoded(self) -> bytes:
        """Everything before the tokens: magic, length, JSON, padding."""
        text = json.dumps(asdict(self)).encode("ascii")
        head = MAGIC + len(text).to_bytes(8, "little") + text
        return head.ljust(_aligned(len(head)), b"\0")


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def write_tokens(
    path: str | Path, ids: NDArray[Any], *, tokenizer: str = "", text_bytes: int = 0
) -> TokenHeader:
    """Write `ids`, shape (tokens,), to `path` in one atomic step.

    Args:
        path: the file; its folder is made if it is missing.
        ids: integers from 0 to 2^32 - 1, stored as uint16 if they all fit and are not wider.
        tokenizer: `Tokenizer.fingerprint` of whoever made them.
        text_bytes: size of the text they stand for, in bytes of UTF-8.

    Raises:
        BaremetalError: no tokens, not token ids, no permission, or no room on the disk.
    """
    path = Path(path)
    stored = _storable(ids)
    header = TokenHeader(
        dtype=stored.dtype.newbyteorder("=").name,
        count=len(stored),
        sha256=hashlib.sha256(stored.data).hexdigest(),
        tokenizer=tokenizer,
        text_bytes=text_bytes,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_atomically(path, [header.encoded(), stored.data])
    except OSError as error:
        raise BaremetalError(
            f"cannot write tokens to {shown(path)}: {error.strerror or first_line(error)}; check "
            "the folder's permissions and the room on the disk"
        ) from error
    return header


def _storable(ids: NDArray[Any]) -> NDArray[Any]:
    """`ids` as contiguous little-endian uint16 or uint32."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise BaremetalError(
            f"cannot store tokens of shape {ids.shape} and dtype {ids.dtype}: expected integers of "
            "shape (tokens,), at least one"
        )
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < 0 or largest >= 1 << 32:
        raise BaremetalError(
            f"cannot store tokens from {smallest} to {largest}: ids lie between 0 and 2^32 - 1"
        )
    # A narrow vocabulary of uint32 stays uint32: its tokenizer chose so.
    wide = largest >= 1 << 16 or ids.dtype == np.uint32
    return np.ascontiguousarray(ids, dtype="<u4" if wide else "<u2")


def _replace_atomically(path: Path, parts: list[bytes | memoryview]) -> None:
    # The process id keeps two processes that fill the same cache out of each other's way.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            # Without it a power cut may leave the new name on pages that were never written.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_token_header(path: str | Path) -> TokenHeader:
    """The header of a token file; checks it and the length of the file, not the checksum.

    Raises:
        BaremetalError: not a token file, or its length is not what the header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header, begins = _parse_header(path, file)
        actual_bytes = path.stat().st_size
    except OSError as error:
        raise BaremetalError(
            f"cannot read tokens from {shown(path)}: {error.strerror or first_line(error)}"
        ) from error
    expected_bytes = begins + header.count * header.stored_dtype.itemsize
    if actual_bytes != expected_bytes:
        raise BaremetalError(
            f"token file {shown(path)} is damaged: {actual_bytes:,} B long, its header says "
            f"{expected_bytes:,} B; delete it and make it again"
        )
    return header


def _parse_header(path: Path, file: BinaryIO) -> tuple[TokenHeader, int]:
    """The header and the offset at which the tokens begin, in bytes."""
    prefix = file.read(PREFIX_SIZE_BYTES)
    if prefix[: len(MAGIC)] != MAGIC:
        raise BaremetalError(
            f"{shown(path)} is not a token file, it does not begin with {MAGIC.decode()}: "
            "give a file that write_tokens wrote"
        )
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    try:
        if length > LARGEST_HEADER_BYTES:
            raise ValueError(f"it claims {length:,} B")
        header = TokenHeader(**json.loads(file.read(length)))
        if header.dtype not in DTYPES or type(header.count) is not int or header.count < 1:
            raise ValueError(f"dtype {header.dtype}, count {header.count}")
    except (ValueError, TypeError) as error:
        raise BaremetalError(
            f"token file {shown(path)} has a damaged header ({first_line(error)}): "
            "delete it and make it again"
        ) from None
    return header, _aligned(PREFIX_SIZE_BYTES + length)


def open_tokens(
    path: str | Path, *, tokenizer: str = "", verify: bool = True
) -> np.memmap[Any, Any]:
    """Map a token file, read-only, as an array of shape (tokens,).

    Args:
        path: a file that `write_tokens` wrote.
        tokenizer: the fingerprint that the tokens must have been made with; empty: any.
        verify: compare the checksum, which reads the whole file once.

    Raises:
        BaremetalError: truncated, altered, or made by another tokenizer; the file is named.
    """
    path = Path(path)
    header = read_token_header(path)
    if tokenizer and header.tokenizer != tokenizer:
        raise BaremetalError(
            f"token file {shown(path)} was made by tokenizer {shown(header.tokenizer)}, expected "
            f"{shown(tokenizer)}: make it again with this tokenizer"
        )
    dtype = header.stored_dtype
    begins = path.stat().st_size - header.count * dtype.itemsize
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=begins, shape=(header.count,))
    if verify and hashlib.sha256(tokens.data).hexdigest() != header.sha256:
        raise BaremetalError(
            f"token file {shown(path)} was altered, its checksum does not fit: "
            "delete it and make it again"
        )
    return tokens
