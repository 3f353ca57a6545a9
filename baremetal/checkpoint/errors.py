"""What can go wrong with files of weights, each as one clear line.

`CheckpointError` adds one thing to a message: where the last good checkpoint lies, so that a
caller can offer it (or a script can go on from it) without parsing the text.
"""

import errno
from pathlib import Path

from baremetal.errors import BaremetalError


class SafetensorsError(BaremetalError):
    """A `.safetensors` file that cannot be read or written, or is not one."""


class CheckpointError(BaremetalError):
    """A checkpoint that cannot be saved or must not be loaded.

    Attributes:
        last_good: the newest other checkpoint beside it whose checksums hold, or None.
    """

    def __init__(self, message: str, last_good: Path | None = None) -> None:
        super().__init__(message)
        self.last_good = last_good


def plain_reason(error: OSError) -> str:
    """The operating system's refusal in words, without the path (the caller names it)."""
    if is_disk_full(error):
        return "no space left on the disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    return (error.strerror or str(error)).lower()


def is_disk_full(error: OSError) -> bool:
    """True for a full disk and for a used-up quota, which feel the same to the user."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
