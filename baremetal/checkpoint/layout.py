"""Where checkpoints lie, and which name means what.

    runs/first/                        a run folder
      checkpoints/                     the checkpoints folder
        step-00001000/                 a checkpoint: 1000 updates are in it
          model.safetensors            one file per group of tensors
          optimizer.safetensors
          state.json                   everything that is not a tensor
          manifest.json                sizes and checksums; written last
        step-00002000/
        best                           one line: the name of the best checkpoint; its path will
                                       do for that checkpoint's
        .tmp-...                       being written or deleted: nobody reads it
        .old-step-00002000/            the former checkpoint of a step that is being saved again

Everything here only looks, and changes nothing, so that it is safe beside a running training.
"Last" means the highest step. A run that resumes from an earlier checkpoint is another run, and
should write to another folder.
"""

import os
import re
from pathlib import Path

from baremetal.checkpoint.errors import CheckpointError, plain_reason
from baremetal.checkpoint.manifest import MANIFEST_NAME

CHECKPOINTS_FOLDER = "checkpoints"
BEST_NAME = "best"
ASIDE_PREFIX = ".old-"

_STEP_NAME = re.compile(r"(?:\.old-)?step-(\d{8,})")


def step_name(step: int) -> str:
    """The folder's name: eight digits, so that names sort as numbers up to 99,999,999."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name, or None for any other name."""
    match = _STEP_NAME.fullmatch(path.name)
    step = int(match[1]) if match else -1
    canonical = step >= 0 and path.name.removeprefix(ASIDE_PREFIX) == step_name(step)
    return step if canonical else None


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a run or checkpoints folder, lowest step first (not verified).

    Empty where there is none, also where the folder does not exist. A checkpoint counts as the
    list of one. Raises CheckpointError where the folder cannot be listed.
    """
    folder = Path(folder)
    if is_checkpoint(folder):
        return [folder]
    found = _steps_in(folder) or _steps_in(folder / CHECKPOINTS_FOLDER)
    return [found[step] for step in sorted(found)]


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint with the highest step, or None. Not verified: loading does that, loudly."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def best_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint that was marked best (see `mark_best`), or None."""
    checkpoints = list_checkpoints(folder)
    best_name = _best_name(checkpoints[0].parent) if checkpoints else None
    for checkpoint in checkpoints:
        if checkpoint.name.removeprefix(ASIDE_PREFIX) == best_name:
            return checkpoint
    return None


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` means: itself, or the last one of a run or checkpoints folder.

    The path of the marker, `.../checkpoints/best`, means the checkpoint that it names.
    Raises CheckpointError where there is none.
    """
    if not str(path).strip():  # Path("") would be the folder we are in
        raise CheckpointError("the path of the checkpoint is empty: give a run or a checkpoint")
    path = Path(path)
    if path.name == BEST_NAME and not os.path.isdir(path):
        return _marked_best(path)
    if not os.path.isdir(path):  # Path.is_dir raises where a parent is forbidden
        raise CheckpointError(
            f"{path} {_what_it_is(path)}: expected a run folder, a folder of checkpoints or a "
            "checkpoint"
        )
    found = latest_checkpoint(path)
    if found is None:
        raise CheckpointError(
            f"no checkpoints in {path}: expected folders such as {step_name(1000)} there or in "
            f"{path / CHECKPOINTS_FOLDER}"
        )
    return found


def _what_it_is(path: Path) -> str:
    """What is found instead of a folder."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be opened ({plain_reason(error)})"
    return "is a file"


def _marked_best(marker: Path) -> Path:
    best = best_checkpoint(marker.parent)
    if best is None:
        raise CheckpointError(
            f"{marker}: no checkpoint in {marker.parent} is marked as the best: name one of them, "
            "or the run for its last one"
        )
    return best


def entries(folder: Path) -> list[Path]:
    """What is in `folder`, by name; nothing if it does not exist. Raises CheckpointError."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"cannot list {folder}: {plain_reason(error)}") from error


def _steps_in(folder: Path) -> dict[int, Path]:
    found = {}
    # ".old-step-..." sorts before "step-...", so it counts only where the real one is missing:
    # a writer was killed between setting the former one aside and putting the new one in place.
    for entry in entries(folder):
        step = step_of(entry)
        if step is not None and entry.is_dir():
            found[step] = entry
    return found


def is_checkpoint(path: Path) -> bool:
    """True for a folder that is meant to be a checkpoint, whole or damaged."""
    # By its name, so that one that lost its manifest is still called a damaged checkpoint; or by
    # its manifest, so that a checkpoint may be copied elsewhere under any name.
    named = step_of(path) is not None or os.path.exists(path / MANIFEST_NAME)
    return named and os.path.isdir(path)


def _best_name(folder: Path) -> str | None:
    try:
        return (folder / BEST_NAME).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
