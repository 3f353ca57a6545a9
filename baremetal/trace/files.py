"""Write a file whole or not at all.

The bytes go into a neighbour of the target, which then takes its place in one step
(`os.replace` is atomic on POSIX and on Windows when both lie on one file system). Whoever reads
meanwhile finds the old file or the new one, never half of one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from baremetal.errors import BaremetalError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Put `content` at `path`, making its folder; return the path.

    Raises BaremetalError, with the system's reason, if it cannot be written; then whatever was at
    `path` is still there and nothing else is left behind.
    """
    target = Path(path)
    if not target.name:  # "." and "/" are folders
        raise BaremetalError(f"cannot write {target}: it is a folder; name a file in it")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # the new name must not arrive before the bytes do
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)  # still there only if something went wrong
    except OSError as error:
        raise BaremetalError(
            f"cannot write {target}: {error.strerror or error}; choose another place or free "
            "some room"
        ) from error
    return target
