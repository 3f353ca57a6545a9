"""A program that saves a checkpoint and dies at a given moment; run by test_crash.py.

    python killed_writer.py FOLDER STEP KEEP MOMENT

MOMENT is a stage of `save_checkpoint`, or "half of NAME": in the middle of writing that file, or
"half deleted": when the first file of the first folder to be deleted is gone.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from baremetal.checkpoint import durable, save, save_checkpoint


def die() -> None:
    """The end of a process that gets no chance to clean up."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def die_at_half_of(name: str) -> None:
    """Let the file `name` break off in the middle of its bytes."""
    write_synced = durable.write_synced

    def broken(path, write):
        def half(file, data):
            file._file.write(data[: len(data) // 2])
            file._file.flush()
            die()

        if path.name == name:
            durable.HashedFile.write = half
        return write_synced(path, write)

    save.write_synced = broken


def die_half_deleted() -> None:
    """Let the deletion of a folder break off after its first file."""

    def rmtree(folder):
        min(Path(folder).iterdir()).unlink()
        die()

    shutil.rmtree = rmtree


def main() -> None:
    folder, step, keep, moment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if moment.startswith("half of "):
        die_at_half_of(moment.removeprefix("half of "))
    if moment == "half deleted":
        die_half_deleted()

    def on_stage(stage: str) -> None:
        if stage == moment:
            die()

    tensors = {"model": {"w": np.full(500, float(step))}, "optimizer": {"m": np.ones(300)}}
    save_checkpoint(
        folder, step, tensors, {"by": "the killed one"}, keep, best=True, on_stage=on_stage
    )


if __name__ == "__main__":
    main()
