"""Loading a checkpoint: trust nothing, then read it.

Every file is compared with the manifest before a number of it is used. What does not match is
refused; falling back to an older checkpoint without a word would silently undo hours of training,
so the last good one is only offered, in the message and as `CheckpointError.last_good`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import strict_json
from baremetal.checkpoint.errors import CheckpointError
from baremetal.checkpoint.layout import entries, find_checkpoint, step_of
from baremetal.checkpoint.manifest import Manifest, RefusedError, check_folder
from baremetal.checkpoint.safetensors_io import read_safetensors

STATE_NAME = "state.json"
TENSORS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A training state, as it was saved.

    Attributes:
        step: count of updates done.
        tensors: group ("model", "optimizer") -> name -> array; dtypes and shapes as saved.
        state: the dict that was saved beside them.
        path: the folder it came from.
    """

    step: int
    tensors: dict[str, dict[str, np.ndarray]]
    state: dict[str, Any]
    path: Path


def load_checkpoint(
    path: str | os.PathLike[str], groups: Iterable[str] | None = None
) -> Checkpoint:
    """Verify and read a checkpoint.

    Args:
        path: a checkpoint, or a folder of checkpoints or run folder, which mean their last one.
        groups: read only these groups of tensors (sampling needs no optimizer); all by default.

    Raises:
        CheckpointError: none there, damaged, of an unknown format version, or without a group
            that was asked for. `last_good` then holds the newest other one that is whole.
    """
    folder = find_checkpoint(path)
    manifest = _verified(folder)
    stored = [n.removesuffix(TENSORS_SUFFIX) for n in manifest.files if n.endswith(TENSORS_SUFFIX)]
    wanted = stored if groups is None else list(groups)
    for group in wanted:
        if group not in stored:
            raise CheckpointError(
                f"checkpoint {folder} holds no tensors called {group!r}, it holds "
                f"{', '.join(stored) or 'none'}"
            )
    tensors = {group: read_safetensors(folder / (group + TENSORS_SUFFIX)) for group in wanted}
    document = strict_json.loads((folder / STATE_NAME).read_bytes())
    return Checkpoint(manifest.step, tensors, document["state"], folder)


def verify(path: str | os.PathLike[str]) -> Manifest:
    """Check sizes and checksums of a checkpoint (or of a folder's last one); reads it all once.

    Returns its manifest: the step, and each file's size and SHA-256.
    Raises CheckpointError as `load_checkpoint` does.
    """
    return _verified(find_checkpoint(path))


def last_good(folder: Path) -> Path | None:
    """The checkpoint in `folder` with the highest step whose checksums hold, or None."""
    candidates = [entry for entry in entries(folder) if step_of(entry) is not None]
    for candidate in sorted(candidates, key=lambda c: step_of(c) or 0, reverse=True):
        try:
            _check(candidate)
        except RefusedError:
            continue
        return candidate
    return None


def _verified(folder: Path) -> Manifest:
    try:
        return _check(folder)
    except RefusedError as refusal:
        good = last_good(folder.parent)
        offer = f"the last good one is {good}" if good else "no other one beside it is whole"
        raise CheckpointError(f"checkpoint {folder} {refusal}; {offer}", good) from refusal


def _check(folder: Path) -> Manifest:
    manifest = check_folder(folder)
    step = step_of(folder)
    if step is not None and step != manifest.step:  # a copy under the wrong name would be "last"
        raise RefusedError(f"is renamed: its manifest says step {manifest.step}")
    if STATE_NAME not in manifest.files:
        raise RefusedError(f"is damaged: its manifest lists no {STATE_NAME}")
    return manifest
