"""Checkpoints on disk: safetensors and JSON, atomic, checksummed, never pickle.

`save` and `load` are the two ways in; `layout` says which folder means what, `manifest` how a
checkpoint knows that it is whole, `durable` what a disk promises, `strict_json` how state is
written, `safetensors_io` how arrays are (plain `.safetensors` files too).
"""

from baremetal.checkpoint.errors import CheckpointError, SafetensorsError
from baremetal.checkpoint.layout import (
    CHECKPOINTS_FOLDER,
    best_checkpoint,
    find_checkpoint,
    latest_checkpoint,
    list_checkpoints,
)
from baremetal.checkpoint.load import Checkpoint, load_checkpoint, verify
from baremetal.checkpoint.manifest import Manifest
from baremetal.checkpoint.safetensors_io import (
    SafetensorsFile,
    read_safetensors,
    write_safetensors,
)
from baremetal.checkpoint.save import clean_leftovers, mark_best, save_checkpoint

__all__ = [
    "CHECKPOINTS_FOLDER",
    "Checkpoint",
    "CheckpointError",
    "Manifest",
    "SafetensorsError",
    "SafetensorsFile",
    "best_checkpoint",
    "clean_leftovers",
    "find_checkpoint",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "mark_best",
    "read_safetensors",
    "save_checkpoint",
    "verify",
    "write_safetensors",
]
