"""What to say of a replay that stopped half-way.

A replay cannot be undone: to be able to, it would have to copy the weights in every step. So it
says how far it came, and what that means. Whoever wrote nothing outside the step's own memory has
done no harm; after the first launch that writes a gradient, gradients are half done (the next step
begins them anew); after the first that updates a weight, the weights are those of no step at all.
The plan does not know which array is which, but it knows every launch that may have written one.
"""

from collections.abc import Sequence

from baremetal.capture.errors import CaptureError
from baremetal.capture.recording import RecordedLaunch


def stopped(
    launches: Sequence[RecordedLaunch], first: int, end: int, error: BaseException
) -> CaptureError:
    """The error for a replay in which launches `first` to `end - 1` may or may not have run.

    One launch is a NumPy reference, which may have stopped anywhere. Several are native and run in
    one go, so that what came between (Ctrl-C) came before or after all of them.
    """
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return CaptureError(f"{_where(launches, first, end)} ({what}). {_harm(launches[:end])}")


def _where(launches: Sequence[RecordedLaunch], first: int, end: int) -> str:
    number = len(launches)
    if end == first + 1:
        name = launches[first].kernel.name
        return f"the captured step stopped at launch {first} of {number}, '{name}'"
    return (
        f"the captured step stopped before or after the launches {first} to {end - 1} of {number}, "
        "which run in one go"
    )


def _harm(launches: Sequence[RecordedLaunch]) -> str:
    """What these launches may have changed outside the step's own memory."""
    written = [
        (number, launch.kernel.name, array)
        for number, launch in enumerate(launches)
        for array in launch.written_outside()
    ]
    if not written:
        return (
            "It had changed nothing outside its own memory: parameters are as before the step, "
            "which can be called again"
        )
    number, name, array = written[-1]
    return (
        f"Up to there {len(written)} writes had gone to arrays outside it, or were about to (the "
        f"last: launch {number}, '{name}', into {array.shape} {array.dtype}): parameters may be "
        "half updated, and this cannot be undone; load the last checkpoint"
    )
