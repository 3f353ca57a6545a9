"""How operations run here and now: on the tape or off it, and inside which run of a checkpoint.

Both are local to the thread of execution.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baremetal.autograd.rehearsal import Recomputation, Rehearsal

# Context variables, not globals: threads and async tasks each have their own.
_RECORDING: ContextVar[bool] = ContextVar("baremetal_recording", default=True)
_RUN: "ContextVar[Rehearsal | Recomputation | None]" = ContextVar("baremetal_run", default=None)


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


def current_run() -> "Rehearsal | Recomputation | None":
    """The run of a checkpointed function that we are inside of (`recompute.py`), or None."""
    return _RUN.get()


@contextlib.contextmanager
def inside(run: "Rehearsal | Recomputation") -> Iterator[None]:
    """While open, every operation is performed by this run of a checkpointed function, recording.

    (Recording, for a backward that recomputes may have been called under `no_grad`.)
    """
    tokens = _RUN.set(run), _RECORDING.set(True)
    try:
        yield
    finally:
        _RUN.reset(tokens[0])
        _RECORDING.reset(tokens[1])


def note_reading() -> None:
    """Called where Python reads a value: a checkpoint's recomputation must then compute it."""
    run = _RUN.get()
    if run is not None:
        run.note_reading()
