"""Files that survive: a killed process, a full disk, a power cut.

A file system promises very little. Bytes handed to `write` sit in memory for seconds; a file can
be on the disk while its name is not, and the other way round. Two calls make the difference:

    fsync    "return when this is on the disk"     (bytes of a file, or the names in a folder)
    rename   all or nothing, as seen by any reader (also after `kill -9` in the middle)

so whatever must never be seen half-written is made in five moves:

    write under a name nobody reads -> fsync its files -> fsync its folder
        -> rename to the real name -> fsync the folder above

A process killed anywhere before the rename leaves rubbish under the name nobody reads, and the
old data untouched. Leaving out the first fsync is the classic mistake: after a power cut the new
name is there and points to zeros. (Pillai et al., "All File Systems Are Not Created Equal",
OSDI 2014, found it in most of the eleven programs they looked at.)

The checksum is summed while the bytes pass on their way to the disk: reading a large file a
second time only to sum it would cost as much as writing it.
"""

import contextlib
import errno
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

Bytes = bytes | memoryview

# What fsync of a folder answers where the system has no such thing (Windows cannot open a
# folder at all; some network file systems refuse the call). Any other error is a real one.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EISDIR)


class HashedFile:
    """A binary file open for writing that counts and sums what passes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Bytes) -> None:
        """Write all of `data` (bytes, or a C-contiguous memoryview of bytes)."""
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)

    def sha256(self) -> str:
        """The checksum of everything written so far, as 64 hexadecimal digits."""
        return self._sha256.hexdigest()


def write_synced(path: Path, write: Callable[[HashedFile], None]) -> HashedFile:
    """Make the file `path`, let `write` fill it, and return when its bytes are on the disk.

    The returned object holds the size and the checksum; the file itself is closed.
    Raises OSError as the system gives it (disk full, no permission, ...).
    """
    with open(path, "wb") as file:
        hashed = HashedFile(file)
        write(hashed)
        file.flush()
        _sync(file.fileno())
    return hashed


def write_atomically(path: Path, write: Callable[[HashedFile], None]) -> HashedFile:
    """Like `write_synced`, but `path` is either the old file or the whole new one, never between.

    Raises OSError; the temporary file is removed, the old file is untouched.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        hashed = write_synced(temporary, write)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
    return hashed


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to the disk, where the operating system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """fsync that reaches the platter: on macOS plain fsync stops at the drive's own cache."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network and FUSE volumes know only the plain call
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
