"""A piece of memory that several processes see: a segment, by name.

The operating system keeps a segment like a file without a disk: one process creates it under a
name, others open that name, and each maps it into its own address space. What one writes, the
others can read, without a system call and without a copy.

Python has `multiprocessing.shared_memory`. We go one step below it, for four reasons:

- Before Python 3.13, a process that merely *opens* a segment tells its resource tracker about it,
  and the tracker removes the segment when that process ends, under the feet of everybody else.
- The room for segments is limited (`/dev/shm` of a container may hold 64 MB), but a segment that
  is too large can be created all the same: whoever first writes to a page that does not fit is
  killed by a bus error. We ask for the pages when we create it, and refuse in one line.
- On macOS a name has at most 31 characters, the leading slash included.
- On Windows a segment cannot be removed; it goes when the last process that has it open goes.

A segment lives until `unlink`, or until the machine restarts, whatever happens to the process that
made it. Who removes it after a `kill -9` is the business of `leftovers.py`.
"""

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from baremetal.comm.errors import CommError

try:
    import _posixshmem  # CPython's own door to shm_open and shm_unlink
except ImportError:  # Windows
    _posixshmem = None

LONGEST_NAME = 30  # on macOS, without the leading slash
ROOM = "/dev/shm"  # where Linux keeps segments


class SharedMemory:
    """A segment, mapped into this process.

    Attributes:
        name: under which other processes can open it.
        size_bytes: as asked for; what is mapped may be more.
        bytes: (size_bytes,) uint8, the memory itself. It stays mapped as long as this object or
            an array made from it is alive.
    """

    def __init__(self, name: str, size_bytes: int, mapped: mmap.mmap) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.bytes = np.frombuffer(mapped, np.uint8, count=size_bytes)

    @classmethod
    def create(cls, name: str, size_bytes: int) -> "SharedMemory":
        """A new segment, filled with zeros, whose memory is really there.

        Args:
            name: at most 30 characters, no slash.
            size_bytes: at least 1.

        Raises:
            CommError: the name is too long or taken, or there is not enough room.
        """
        _check(name, size_bytes)
        if _posixshmem is None:
            return cls._map_on_windows(name, size_bytes, new=True)
        with _speaking(name, size_bytes):
            _check_room(name, size_bytes)
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            handle = _posixshmem.shm_open(f"/{name}", flags, mode=0o600)
            try:
                os.ftruncate(handle, size_bytes)
                if sys.platform == "linux":
                    os.posix_fallocate(
                        handle, 0, size_bytes
                    )  # an error here, not a bus error later
                return cls(name, size_bytes, _mapped(handle, size_bytes))
            except BaseException:
                unlink(name)
                raise
            finally:
                os.close(handle)

    @classmethod
    def attach(cls, name: str, size_bytes: int) -> "SharedMemory":
        """The segment that another process has created under this name.

        Raises:
            CommError: there is none, or it is smaller than `size_bytes`.
        """
        _check(name, size_bytes)
        if _posixshmem is None:
            return cls._map_on_windows(name, size_bytes, new=False)
        with _speaking(name, size_bytes):
            handle = _posixshmem.shm_open(f"/{name}", os.O_RDWR, mode=0o600)
            try:
                there = os.fstat(handle).st_size
                if there < size_bytes:
                    raise CommError(
                        f"shared memory {name} has {there} bytes, and {size_bytes} were expected: "
                        "it belongs to another plan"
                    )
                return cls(name, size_bytes, _mapped(handle, size_bytes))
            finally:
                os.close(handle)

    @classmethod
    def _map_on_windows(cls, name: str, size_bytes: int, new: bool) -> "SharedMemory":
        mapped = mmap.mmap(-1, size_bytes, tagname=name)  # type: ignore[call-arg, unused-ignore]
        return cls(name, size_bytes, mapped)

    def unlink(self) -> None:
        """Remove the name. The memory goes when the last process unmaps it."""
        unlink(self.name)


def unlink(name: str) -> bool:
    """Remove the segment of this name; says whether there was one to remove."""
    if _posixshmem is None:
        return False
    try:
        _posixshmem.shm_unlink(f"/{name}")
    except FileNotFoundError:
        return False
    return True


def _mapped(handle: int, size_bytes: int) -> mmap.mmap:
    """The segment in our address space, all pages at once: one by one costs much more."""
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # Linux has it
    return mmap.mmap(handle, size_bytes, flags=flags)


def _check(name: str, size_bytes: int) -> None:
    if not name or "/" in name or len(name) > LONGEST_NAME:
        raise CommError(
            f"shared memory cannot be called {name!r}: a name has 1 to {LONGEST_NAME} characters "
            "and no slash"
        )
    if size_bytes < 1:
        raise CommError(f"shared memory {name} of {size_bytes} bytes: it needs at least one")


def _check_room(name: str, size_bytes: int) -> None:
    """Before anything is created: is there room in `/dev/shm`?"""
    if sys.platform != "linux" or not os.path.isdir(ROOM):
        return
    state = os.statvfs(ROOM)
    free_bytes = state.f_bavail * state.f_frsize
    if free_bytes < size_bytes:
        raise _no_room(name, size_bytes, f"{ROOM} has room for {free_bytes} bytes")


def _no_room(name: str, size_bytes: int, reason: str) -> CommError:
    return CommError(
        f"shared memory {name} needs {size_bytes} bytes, but {reason}: fewer slots, smaller "
        f"microbatches, or more room (docker run --shm-size)"
    )


@contextmanager
def _speaking(name: str, size_bytes: int) -> Iterator[None]:
    """What the operating system refuses, as one line."""
    try:
        yield
    except FileExistsError:
        raise CommError(f"shared memory {name} exists already: a run's names are its own") from None
    except FileNotFoundError:
        raise CommError(f"there is no shared memory {name}: the run that made it is over") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.ENOMEM):
            raise _no_room(name, size_bytes, "there is less") from None
        raise CommError(f"shared memory {name} of {size_bytes} bytes: {error.strerror}") from None
