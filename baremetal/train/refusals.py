"""What the operating system refuses, said with what the path was for.

"No space left on device" alone does not tell whether the weights are safe or only a picture is
missing, so whoever touches the disk says what it is doing:

    with doing(f"write the sample {path}"):
        path.write_text(...)
"""

import contextlib
from collections.abc import Iterator

from baremetal.checkpoint.errors import is_disk_full, plain_reason
from baremetal.errors import BaremetalError


@contextlib.contextmanager
def doing(what: str, afterwards: str = "") -> Iterator[None]:
    """Turn an OSError inside into one line: "cannot WHAT: the reason; what to do; AFTERWARDS".

    Raises:
        BaremetalError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        advice = "free some space" if is_disk_full(error) else "check the path and its permissions"
        advice += afterwards and f"; {afterwards}"
        raise BaremetalError(f"cannot {what}: {plain_reason(error)}; {advice}") from error


@contextlib.contextmanager
def naming(role: str) -> Iterator[None]:
    """Put before a refusal what the path in it was for: an option, or a file of the run.

    Raises:
        BaremetalError: "ROLE: " and what the one inside said.
    """
    try:
        yield
    except BaremetalError as error:
        raise BaremetalError(f"{role}: {error}") from error
