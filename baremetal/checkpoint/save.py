"""Saving a checkpoint so that there is a good one at every moment.

The order is the whole trick. Each line may be the last thing this process does:

    1  clean up what a killed writer left behind
    2  write model, optimizer and state into a folder nobody reads (.tmp-...), each synced
    3  write the manifest, synced: the folder is whole
    4  rename the folder to step-00001000: now it exists, and before it did not
    5  move the `best` marker, if asked to
    6  delete what is older than the last K: rename to .tmp-... first, then delete, so that a
       half-deleted checkpoint is never mistaken for a damaged one

Saving the same step twice (a run that is stopped right after it saved) replaces it: a folder
cannot be renamed over a full one, so the former one is first set aside as `.old-step-...`, where
readers still find it as long as the new one is not there.

One writer per folder: a second one would clean away the first one's unfinished work.

Why not write in place and keep a backup? Because then there is a moment with two half-good
checkpoints: the counter-example is a kill after the first of three files was overwritten, when
the new weights stand beside the old optimizer, each file valid and the pair wrong.
"""

import contextlib
import operator
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from baremetal.checkpoint import strict_json
from baremetal.checkpoint.durable import HashedFile, sync_folder, write_atomically, write_synced
from baremetal.checkpoint.errors import CheckpointError, is_disk_full, plain_reason
from baremetal.checkpoint.layout import (
    ASIDE_PREFIX,
    BEST_NAME,
    best_checkpoint,
    entries,
    is_checkpoint,
    list_checkpoints,
    step_name,
    step_of,
)
from baremetal.checkpoint.load import STATE_NAME, TENSORS_SUFFIX, last_good
from baremetal.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest
from baremetal.checkpoint.safetensors_io import stream_safetensors

Groups = Mapping[str, Mapping[str, np.ndarray]]
Stage = Callable[[str], None]

PRUNED_PREFIX = ".tmp-pruned-"
_LEFTOVER = re.compile(r"\.tmp-(pruned-)?step-\d{8,}(-\d+)?|\.tmp-best-\d+")
_GROUP_NAME = re.compile(r"[a-z][a-z0-9_]*")


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    tensors: Groups,
    state: Mapping[str, Any],
    keep: int | None = 3,
    *,
    best: bool = False,
    on_stage: Stage | None = None,
) -> Path:
    """Write one checkpoint, all or nothing, and delete those older than the last `keep`.

    The same content gives the same bytes: no time or host is written.

    Args:
        folder: where the `step-...` folders lie; made if missing. One writer at a time.
        step: count of updates done, 0 or more.
        tensors: group -> name -> array of any shape and dtype (see `safetensors_io`); a group
            such as "model" becomes `model.safetensors`.
        state: everything else: config, sampler position, seed, tokenizer, best loss. Any JSON,
            also tuples, NaN, infinities and small arrays (see `strict_json`).
        keep: how many of the highest steps stay (the one just saved and the best one stay in any
            case); None keeps all.
        best: also mark this one as the best.
        on_stage: called with the name of each stage once it is done; for tests and progress.

    Returns:
        The new checkpoint's folder.

    Raises:
        CheckpointError: something that cannot be stored (before anything is written), a full
            disk, no permission. Earlier checkpoints are untouched; `last_good` names the newest.
    """
    folder = Path(folder)
    if is_checkpoint(folder):
        raise CheckpointError(f"{folder} is itself a checkpoint: give the folder above it")
    step = _checked_step(step)
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise CheckpointError(f"keep={keep!r}: expected a whole number of 1 or more, or None")
    files = _planned_files(step, tensors, state)
    stage = on_stage or (lambda name: None)
    try:
        final = _write_and_publish(folder, step, files, stage)
    except OSError as error:
        raise _explained(error, folder, step, tensors) from error
    if best:
        mark_best(final)
        stage("marked best")
    if keep is not None:
        _prune(folder, keep, final, stage)
    return final


def mark_best(checkpoint: str | os.PathLike[str]) -> None:
    """Point the `best` marker at this checkpoint: it is then never pruned.

    Raises CheckpointError if it is not a checkpoint or the marker cannot be written.
    """
    checkpoint = Path(checkpoint)
    step = step_of(checkpoint)
    if step is None or not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is not a checkpoint: expected .../{step_name(1000)}")
    line = (step_name(step) + "\n").encode("ascii")
    try:
        write_atomically(checkpoint.parent / BEST_NAME, lambda file: file.write(line))
    except OSError as error:
        raise CheckpointError(
            f"cannot mark {checkpoint} as best: {plain_reason(error)}", checkpoint
        ) from error


def clean_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what a killed writer left in a checkpoints folder; done at the start of each save.

    A checkpoint that was set aside and not replaced goes back to its name. Returns what was
    found. Only for the folder's one writer.
    """
    folder = Path(folder)
    found = []
    for entry in entries(folder):
        if entry.name.startswith(ASIDE_PREFIX) and step_of(entry) is not None:
            found.append(entry)
            if (real := folder / entry.name.removeprefix(ASIDE_PREFIX)).exists():
                _discard(entry)
            else:
                os.replace(entry, real)
        elif _LEFTOVER.fullmatch(entry.name):
            found.append(entry)
            _discard(entry)
    return found


# --- step by step ----------------------------------------------------------------------------


def _write_and_publish(
    folder: Path, step: int, files: dict[str, Callable[[HashedFile], None]], stage: Stage
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(folder)
    stage("cleaned")
    temporary = folder / f".tmp-{step_name(step)}-{os.getpid()}"
    final = folder / step_name(step)
    try:
        _write_folder(temporary, step, files, stage)
        _publish(temporary, final, stage)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _write_folder(
    temporary: Path, step: int, files: dict[str, Callable[[HashedFile], None]], stage: Stage
) -> None:
    temporary.mkdir()
    stage("made the folder")
    records = {}
    for name, write in files.items():
        written = write_synced(temporary / name, write)
        records[name] = FileRecord(written.size_bytes, written.sha256())
        stage(f"wrote {name}")
    manifest = Manifest(step, records).to_bytes()
    write_synced(temporary / MANIFEST_NAME, lambda file: file.write(manifest))
    stage(f"wrote {MANIFEST_NAME}")
    sync_folder(temporary)


def _publish(temporary: Path, final: Path, stage: Stage) -> None:
    aside = final.with_name(ASIDE_PREFIX + final.name)
    replacing = final.exists()
    try:
        if replacing:
            os.replace(final, aside)
            stage("set the former one aside")
        os.replace(temporary, final)
    except BaseException:
        if replacing and not final.exists():
            os.replace(aside, final)
        raise
    stage("renamed")
    sync_folder(final.parent)
    if replacing:
        _discard(aside)
        stage("deleted the former one")


def _prune(folder: Path, keep: int, just_saved: Path, stage: Stage) -> None:
    checkpoints = list_checkpoints(folder)
    spared = {*checkpoints[-keep:], just_saved, best_checkpoint(folder)}
    for checkpoint in checkpoints:
        if checkpoint in spared:
            continue
        condemned = folder / (PRUNED_PREFIX + checkpoint.name)
        try:
            os.replace(checkpoint, condemned)
        except OSError as error:  # e.g. Windows, while another program reads it
            _warn_kept(checkpoint, error)
            continue
        stage(f"condemned {checkpoint.name}")
        _discard(condemned)
        stage(f"deleted {checkpoint.name}")


def _discard(path: Path) -> None:
    """Delete a file or folder; a failure must not fail the save that has already succeeded."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        _warn_kept(path, error)


def _warn_kept(path: Path, error: OSError) -> None:
    warnings.warn(f"could not delete {path}: {plain_reason(error)}", RuntimeWarning, stacklevel=2)


# --- before and after ------------------------------------------------------------------------


def _checked_step(step: Any) -> int:
    try:
        number = -1 if isinstance(step, bool) else operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise CheckpointError(f"step={step!r}: expected a whole number of 0 or more")
    return number


def _planned_files(
    step: int, tensors: Groups, state: Mapping[str, Any]
) -> dict[str, Callable[[HashedFile], None]]:
    """File name -> the function that writes it. Refuses here whatever could not be stored."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"state is {type(state).__name__}, expected a dict")
    files: dict[str, Callable[[HashedFile], None]] = {}
    for group, arrays in tensors.items():
        if not (isinstance(group, str) and _GROUP_NAME.fullmatch(group)):
            raise CheckpointError(
                f"tensors has a group {group!r}: expected a name of small letters, digits and _"
            )
        if not isinstance(arrays, Mapping):
            raise CheckpointError(
                f"tensors[{group!r}] is {type(arrays).__name__}, expected a dict of arrays"
            )
        files[group + TENSORS_SUFFIX] = stream_safetensors(arrays)
    document = strict_json.dumps({"step": step, "state": dict(state)}, name="")
    files[STATE_NAME] = lambda file: file.write(document)
    return files


def _explained(error: OSError, folder: Path, step: int, tensors: Groups) -> CheckpointError:
    good = last_good(folder)
    advice = "check the folder's owner and permissions, or choose another folder"
    if is_disk_full(error):
        size_bytes = sum(a.nbytes for arrays in tensors.values() for a in arrays.values())
        advice = f"it needs {size_bytes / 1e6:.1f} MB{_free_text(folder)}: free some space"
    kept = f"the last good one is {good}" if good else "there is no earlier one"
    return CheckpointError(
        f"cannot save checkpoint {step_name(step)} in {folder}: {plain_reason(error)}; {advice}; "
        f"{kept}",
        good,
    )


def _free_text(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return f", {shutil.disk_usage(folder).free / 1e6:.1f} MB are free"
    return ""
