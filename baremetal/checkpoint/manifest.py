"""The manifest: how a checkpoint knows that it is whole.

`manifest.json` lists every file of a checkpoint with its size and SHA-256, and is written last:
a folder without one was never finished. The list must itself be beyond doubt, so it ends with the
SHA-256 of its own text (without that line), and a manifest counts only if it is, byte for byte,
what we would write for its content. One flipped bit anywhere, a changed space included, is found.

This guards against accidents (a truncated copy, a bad disk, an edit by hand), not against an
attacker, who could simply write a new manifest.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baremetal.checkpoint.errors import plain_reason

MANIFEST_NAME = "manifest.json"
FORMAT_NAME = "baremetal-checkpoint"
FORMAT_VERSION = 1

_FILE_NAME = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")  # never a path out of the folder


class RefusedError(Exception):
    """Why a checkpoint is not accepted, as the second half of "checkpoint X ..."."""


@dataclass(frozen=True)
class FileRecord:
    """What one file must be."""

    size_bytes: int
    sha256: str  # 64 hexadecimal digits


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`: the step (count of updates done) and the files by name."""

    step: int
    files: dict[str, FileRecord]

    def to_bytes(self) -> bytes:
        """The text of the file, its own checksum last."""
        body: dict[str, Any] = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "step": self.step,
            "files": {
                name: {"size_bytes": record.size_bytes, "sha256": record.sha256}
                for name, record in sorted(self.files.items())
            },
        }
        body["checksum"] = hashlib.sha256(_text(body)).hexdigest()
        return _text(body)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Manifest":
        """The inverse of `to_bytes`. Raises RefusedError for anything else."""
        try:
            body = json.loads(raw.decode("utf-8"))
            format_name, version = body["format"], body["version"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise RefusedError(f"is damaged: {MANIFEST_NAME} is truncated or altered") from error
        if format_name != FORMAT_NAME or type(version) is not int:
            raise RefusedError(f"is damaged: {MANIFEST_NAME} is not one of a {FORMAT_NAME}")
        if version != FORMAT_VERSION:
            raise RefusedError(
                f"has format version {version}, this baremetal reads version {FORMAT_VERSION}: "
                "load it with the baremetal that wrote it"
            )
        try:
            files = {name: FileRecord(**record) for name, record in body["files"].items()}
            manifest = cls(body["step"], files)
            unchanged = manifest.to_bytes() == raw and all(map(_FILE_NAME.fullmatch, files))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RefusedError(f"is damaged: {MANIFEST_NAME} is altered") from error
        if not unchanged:
            raise RefusedError(f"is damaged: {MANIFEST_NAME} is altered (its own checksum differs)")
        return manifest


def check_folder(folder: Path) -> Manifest:
    """Compare every file of a checkpoint with its manifest; reads all of it once.

    Raises RefusedError naming the file and what differs. Files that the manifest does not list
    are left alone.
    """
    manifest = _read_manifest(folder)
    for name, record in manifest.files.items():
        try:
            _check_file(folder / name, record)
        except FileNotFoundError as error:
            raise RefusedError(f"is damaged: {name} is missing") from error
        except OSError as error:
            raise RefusedError(f"cannot be read: {name}: {plain_reason(error)}") from error
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    try:
        return Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise RefusedError(f"is damaged: {MANIFEST_NAME} is missing") from error
    except OSError as error:
        raise RefusedError(f"cannot be read: {MANIFEST_NAME}: {plain_reason(error)}") from error


def _check_file(path: Path, record: FileRecord) -> None:
    size_bytes = path.stat().st_size  # the cheap question first: most damage is truncation
    if size_bytes != record.size_bytes:
        raise RefusedError(
            f"is damaged: {path.name} has {size_bytes} bytes, the manifest says {record.size_bytes}"
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record.sha256:
        raise RefusedError(
            f"is damaged: {path.name} is altered (SHA-256 {digest[:12]}..., the manifest says "
            f"{record.sha256[:12]}...)"
        )


def _text(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode("ascii")
