"""A checkpoint with one wrong byte anywhere is refused, by name, and the last good one offered."""

import json
import shutil

import numpy as np
import pytest

from baremetal.checkpoint import (
    CheckpointError,
    Manifest,
    load_checkpoint,
    save_checkpoint,
    verify,
)
from baremetal.checkpoint.manifest import RefusedError

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints; the tests damage the second."""
    tensors = {"model": {"w": np.arange(6.0)}, "optimizer": {"m": np.ones(2, np.float32)}}
    save_checkpoint(tmp_path, 1, tensors, {"loss": 2.5})
    return save_checkpoint(tmp_path, 2, tensors, {"loss": 1.5, "nan": float("nan")})


@pytest.mark.parametrize("name", FILES[:-1])  # the manifest: bit by bit, below
def test_every_flipped_byte_is_detected(saved, name):
    path = saved / name
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(RefusedError):
            check(saved)
    path.write_bytes(whole)
    verify(saved)


def check(folder):
    """verify() without its search for the last good one, which would double the work here."""
    from baremetal.checkpoint.load import _check

    return _check(folder)


@pytest.mark.parametrize("name", FILES[:-1])
def test_every_truncation_and_addition_is_detected(saved, name):
    path = saved / name
    whole = path.read_bytes()
    for content in [whole[:length] for length in range(len(whole))] + [whole + b"\n", whole * 2]:
        path.write_bytes(content)
        with pytest.raises(RefusedError):
            check(saved)


def test_every_flipped_bit_and_truncation_of_the_manifest_is_detected(saved):
    whole = (saved / "manifest.json").read_bytes()
    assert Manifest.from_bytes(whole).to_bytes() == whole
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            with pytest.raises(RefusedError):
                Manifest.from_bytes(bytes(damaged))
        with pytest.raises(RefusedError):
            Manifest.from_bytes(whole[:position])
    with pytest.raises(RefusedError):
        Manifest.from_bytes(whole + b"\n")


@pytest.mark.parametrize("name", FILES)
def test_the_message_names_checkpoint_file_and_difference(saved, name):
    path = saved / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved.parent)
    message, good = str(caught.value), saved.with_name("step-00000001")
    assert str(saved) in message
    assert name in message
    assert f"the last good one is {good}" in message
    assert "\n" not in message
    assert caught.value.last_good == good
    assert load_checkpoint(good).step == 1


def test_truncation_says_both_sizes(saved):
    path = saved / "model.safetensors"
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(
        CheckpointError, match=f"has {size_bytes - 3} bytes, the manifest says {size_bytes}"
    ):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(saved)


def test_no_good_one_left(saved):
    shutil.rmtree(saved.with_name("step-00000001"))
    (saved / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no other one beside it is whole") as caught:
        load_checkpoint(saved)
    assert caught.value.last_good is None


def test_the_last_good_one_has_the_highest_step(saved):
    newest = save_checkpoint(saved.parent, 3, {}, {})
    (newest / "state.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved.parent)
    assert caught.value.last_good == saved


def test_the_last_good_one_is_itself_verified(saved):
    newest = save_checkpoint(saved.parent, 3, {}, {})
    (newest / "state.json").unlink()
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(newest)
    assert caught.value.last_good == saved.with_name("step-00000001")


def rewrite_manifest(folder, **changes):
    """A manifest that is sound in itself but says something else (its checksum made anew)."""
    import hashlib

    body = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    body.pop("checksum")
    body |= changes
    text = json.dumps(body, indent=1) + "\n"
    body["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_bytes((json.dumps(body, indent=1) + "\n").encode())


def test_unknown_format_version(saved):
    rewrite_manifest(saved, version=2)
    with pytest.raises(CheckpointError, match="format version 2, this baremetal reads version 1"):
        load_checkpoint(saved)


def test_rewritten_manifests(saved):
    rewrite_manifest(saved)
    load_checkpoint(saved)  # the helper writes manifests that count
    rewrite_manifest(saved, step=7)
    with pytest.raises(CheckpointError, match="is renamed: its manifest says step 7"):
        load_checkpoint(saved)
    rewrite_manifest(saved, step=2, format="other")
    with pytest.raises(CheckpointError, match="not one of a baremetal-checkpoint"):
        load_checkpoint(saved)
    rewrite_manifest(saved, format="baremetal-checkpoint", extra=1)
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "files", [{}, {"../../x.json": {"size_bytes": 0, "sha256": ""}}, [], {"state.json": 3}, None]
)
def test_manifests_with_impossible_files(saved, files):
    rewrite_manifest(saved, files=files)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_a_manifest_never_leads_out_of_the_folder(saved):
    files = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))["files"]
    (saved / "state.json").rename(saved.parent / "state.json")
    files["../state.json"] = files["state.json"]
    rewrite_manifest(saved, files=dict(sorted(files.items())))
    (saved / "state.json").write_bytes((saved.parent / "state.json").read_bytes())
    with pytest.raises(CheckpointError, match="altered"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b'"a"', b"[" * 200_000, b"\xff"])
def test_manifests_that_are_something_else(saved, content):
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json is truncated or altered"):
        load_checkpoint(saved)


def test_a_renamed_checkpoint_is_not_taken_for_a_later_one(saved):
    saved.rename(saved.with_name("step-00000009"))
    with pytest.raises(CheckpointError, match="its manifest says step 2"):
        load_checkpoint(saved.parent)


def test_a_copy_under_another_name_loads(saved, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere") / "my favourite"
    shutil.copytree(saved, copy)
    (copy / "notes.txt").write_text("a file that the manifest does not list", encoding="utf-8")
    assert load_checkpoint(copy).step == 2
