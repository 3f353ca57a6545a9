"""Whether operations are written on the tape: `no_grad`, local to the thread of execution."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

# A context variable, not a global: threads and async tasks each have their own.
_RECORDING: ContextVar[bool] = ContextVar("baremetal_recording", default=True)


def grad_enabled() -> bool:
    """True where operations on tensors that require gradients are put on the tape."""
    return _RECORDING.get()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Inside, nothing is put on the tape: for evaluation, sampling and parameter updates."""
    token = _RECORDING.set(False)
    try:
        yield
    finally:
        _RECORDING.reset(token)
