"""Saving, listing, pruning and loading, and the errors of an unwilling disk."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from baremetal.checkpoint import (
    CheckpointError,
    best_checkpoint,
    clean_leftovers,
    durable,
    find_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    mark_best,
    save,
    save_checkpoint,
    verify,
)
from baremetal.errors import BaremetalError

TENSORS = {
    "model": {
        "w": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "tokens": np.array([3, -1], np.int64),
        "mask": np.array([[True], [False]]),
        "scale": np.array(2.5),
        "nothing": np.empty((0, 5), np.float64),
        "half": np.array([1.5, np.nan], ml_dtypes.bfloat16),
        "quarter": np.array([1.5, -0.25], ml_dtypes.float8_e4m3fn),
        "nibble": np.array([-8, 7], ml_dtypes.int4),
    },
    "optimizer": {"m.w": np.zeros((4, 3), np.float32), "step": np.array(7)},
}
STATE = {"config": {"betas": (0.9, 0.95)}, "best": float("inf"), "sampler": 123, "text": "né €"}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_everything_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, 1000, TENSORS, STATE)
    assert path == tmp_path / "step-00001000"
    files = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert names(path) == files
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state, loaded.path) == (1000, STATE, path)
    assert set(loaded.tensors) == set(TENSORS)
    for group, arrays in TENSORS.items():
        assert set(loaded.tensors[group]) == set(arrays)
        for name, array in arrays.items():
            back = loaded.tensors[group][name]
            assert (back.dtype, back.shape, back.tobytes()) == (
                array.dtype,
                array.shape,
                array.tobytes(),
            )
    assert verify(path).step == 1000
    assert set(verify(path).files) == set(files) - {"manifest.json"}


@given(
    step=st.integers(0, 10**10),
    model=st.dictionaries(
        st.text(max_size=5),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
            hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
        ),
        max_size=3,
    ),
    state=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(), max_size=3),
)
def test_round_trip(tmp_path_factory, step, model, state):
    path = save_checkpoint(tmp_path_factory.mktemp("ckpt"), step, {"model": model}, state)
    loaded = load_checkpoint(path.parent)
    assert (loaded.step, loaded.state) == (step, state)
    assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in loaded.tensors["model"].items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in model.items()
    }


def test_the_same_content_gives_the_same_bytes(tmp_path):
    one = save_checkpoint(tmp_path / "a", 5, TENSORS, STATE)
    two = save_checkpoint(tmp_path / "b", 5, TENSORS, STATE)
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_every_file_is_safetensors_or_json_to_other_readers_too(tmp_path):
    path = save_checkpoint(tmp_path, 5, TENSORS, STATE)
    for file in path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        else:
            stored = {name for name, _ in safetensors.deserialize(file.read_bytes())}
            assert stored == set(TENSORS[file.stem])


def test_only_one_group(tmp_path):
    path = save_checkpoint(tmp_path, 5, TENSORS, STATE)
    assert set(load_checkpoint(path, groups=["model"]).tensors) == {"model"}
    with pytest.raises(CheckpointError, match="'ema', it holds model, optimizer"):
        load_checkpoint(path, groups=["ema"])
    (path / "optimizer.safetensors").unlink()  # all of it is verified all the same
    with pytest.raises(CheckpointError, match="missing"):
        load_checkpoint(path, groups=["model"])


# --- which folder means what -----------------------------------------------------------------


def test_a_path_may_be_run_checkpoints_or_checkpoint(tmp_path):
    run = tmp_path / "runs" / "first"
    folder = run / "checkpoints"
    for step in (5, 20):
        save_checkpoint(folder, step, {}, {"at": step})
    last = folder / "step-00000020"
    for path in (run, folder, last, str(run)):
        assert find_checkpoint(path) == last
        assert latest_checkpoint(path) == last
        assert load_checkpoint(path).state == {"at": 20}
    assert list_checkpoints(run) == list_checkpoints(folder) == [folder / "step-00000005", last]


def test_nothing_there(tmp_path):
    assert list_checkpoints(tmp_path / "none") == []
    assert latest_checkpoint(tmp_path) is None
    assert best_checkpoint(tmp_path) is None
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path, message in [
        (tmp_path / "none", "does not exist"),
        (file, "is a file"),
        (tmp_path, "no checkpoints in"),
    ]:
        with pytest.raises(BaremetalError, match=message):
            load_checkpoint(path)


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    others = [
        "notes.txt",
        "step-1",
        "step-0000000a",
        "step-000000001",
        ".tmp-mine",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    others.append("step-00000004")  # the name of a checkpoint, but a file
    (tmp_path / others[-1]).write_text("a file", encoding="utf-8")
    for step in (5, 6):
        save_checkpoint(tmp_path, step, {}, {}, keep=1)
    assert names(tmp_path) == sorted([*others, "step-00000006"])


def test_order_is_by_number_not_by_text(tmp_path):
    for step in (5, 100_000_000, 99_999_999):
        save_checkpoint(tmp_path, step, {}, {}, keep=None)
    assert [load_checkpoint(p).step for p in list_checkpoints(tmp_path)] == [
        5,
        99_999_999,
        100_000_000,
    ]


# --- the last K ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3, None])
def test_the_last_k_are_kept(tmp_path, keep):
    for step in range(6):
        save_checkpoint(tmp_path, step, {}, {}, keep=keep)
        first = 0 if keep is None else max(0, step + 1 - keep)
        assert names(tmp_path) == [f"step-{s:08d}" for s in range(first, step + 1)]


def test_the_best_one_is_never_pruned(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, step, {}, {}, keep=2, best=step == 1)
    assert names(tmp_path) == ["best", "step-00000001", "step-00000003", "step-00000004"]
    assert best_checkpoint(tmp_path) == tmp_path / "step-00000001"
    assert (tmp_path / "best").read_text(encoding="utf-8") == "step-00000001\n"
    mark_best(tmp_path / "step-00000004")
    save_checkpoint(tmp_path, 5, {}, {}, keep=1)
    assert names(tmp_path) == ["best", "step-00000004", "step-00000005"]


def test_mark_best_wants_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        mark_best(tmp_path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        mark_best(tmp_path / "step-00000001")


def test_the_one_just_saved_is_never_pruned(tmp_path):
    for step in (10, 20, 5):  # resumed from an early checkpoint into the same folder
        save_checkpoint(tmp_path, step, {}, {}, keep=1)
    assert "step-00000005" in names(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 1, {}, {"try": 0})
    stages = []
    save_checkpoint(tmp_path, 1, {}, {"try": 1}, on_stage=stages.append)
    assert load_checkpoint(tmp_path).state == {"try": 1}
    assert names(tmp_path) == ["step-00000001"]
    assert "set the former one aside" in stages


# --- what a killed writer leaves -------------------------------------------------------------


def test_leftovers_are_cleaned_by_the_next_save(tmp_path):
    for name in (".tmp-step-00000003-77", ".tmp-pruned-step-00000001", ".old-step-00000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-best-77").write_bytes(b"")
    save_checkpoint(tmp_path, 2, {}, {})  # its own aside folder goes: first back, then replaced
    assert names(tmp_path) == ["step-00000002"]
    assert clean_leftovers(tmp_path) == []


def test_a_checkpoint_that_was_set_aside_is_still_found_and_put_back(tmp_path):
    path = save_checkpoint(tmp_path, 2, {}, {"at": 2})
    aside = path.rename(tmp_path / ".old-step-00000002")
    (tmp_path / "best").write_text("step-00000002\n", encoding="utf-8")
    assert latest_checkpoint(tmp_path) == best_checkpoint(tmp_path) == aside
    assert load_checkpoint(tmp_path).state == {"at": 2}
    assert clean_leftovers(tmp_path) == [aside]
    assert load_checkpoint(path).state == {"at": 2}


# --- bad arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "step=-1"),
        ({"step": True}, "step=True"),
        ({"step": 1.0}, "step=1.0"),
        ({"keep": 0}, "keep=0"),
        ({"keep": True}, "keep=True"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"state": [1]}, "state is list"),
        ({"state": {"a": object()}}, r"state\['a'\] is object"),
        ({"tensors": {"../model": {}}}, "group '../model'"),
        ({"tensors": {"Model": {}}}, "small letters"),
        ({"tensors": {"model": [1]}}, r"tensors\['model'\] is list"),
        ({"tensors": {"model": {"w": [1.0]}}}, "expected a NumPy array"),
        ({"tensors": {"model": {"w": np.array([None])}}}, "dtype object"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    arguments = {"step": 1, "tensors": {}, "state": {}, "keep": 3} | changes
    with pytest.raises(BaremetalError, match=message) as caught:
        save_checkpoint(tmp_path / "new", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_numpy_steps_are_steps(tmp_path):
    assert load_checkpoint(save_checkpoint(tmp_path, np.int64(3), {}, {})).step == 3


def test_saving_into_a_checkpoint_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, {}, {})
    with pytest.raises(CheckpointError, match="is itself a checkpoint"):
        save_checkpoint(path, 2, {}, {})


# --- an unwilling disk -----------------------------------------------------------------------


def fail(code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture
def previous(tmp_path):
    """A folder with one good checkpoint, which no failure may touch."""
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 1, TENSORS, STATE)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    yield folder
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert names(folder) == ["step-00000001"]


REASONS = [
    (errno.ENOSPC, r"no space left on the disk; it needs 0\.0 MB, \d+\.\d MB are free"),
    (errno.EACCES, "permission denied; check the folder's owner"),
    (errno.EROFS, "read-only file system"),
    (errno.EIO, "i/o error|input/output error"),
]


@pytest.mark.parametrize(("code", "message"), REASONS)
@pytest.mark.parametrize("bytes_before", [0, 100, 700, 1400])
def test_a_write_that_fails(previous, monkeypatch, code, message, bytes_before):
    written = 0
    honest = durable.HashedFile.write

    def write(self, data):
        nonlocal written
        written += len(data)
        if written > bytes_before:
            honest(self, data[: len(data) // 2])  # half of it arrives
            fail(code)()
        honest(self, data)

    monkeypatch.setattr(durable.HashedFile, "write", write)
    check_refused(previous, message)
    assert written > bytes_before


@pytest.mark.parametrize(("module", "call"), [(os, "mkdir"), (durable, "_sync"), (os, "replace")])
@pytest.mark.parametrize(("code", "message"), REASONS)
def test_a_system_call_that_fails(previous, monkeypatch, module, call, code, message):
    monkeypatch.setattr(module, call, fail(code))
    check_refused(previous, message)


def check_refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        save_checkpoint(folder, 2, TENSORS, STATE)
    good = folder / "step-00000001"
    assert caught.value.last_good == good
    assert str(good) in str(caught.value)
    assert "step-00000002" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_replacement_of_the_same_step_puts_the_former_one_back(previous, monkeypatch):
    honest, calls = os.replace, []

    def replace(source, target):
        calls.append(Path(target).name)
        if len(calls) == 2:
            fail(errno.EIO)()
        honest(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(CheckpointError, match="step-00000001"):
        save_checkpoint(previous, 1, {}, {"other": 1})
    assert calls == [".old-step-00000001", "step-00000001", "step-00000001"]


def test_ctrl_c_in_the_middle_leaves_nothing(previous):
    def interrupt(name):
        if name == "wrote state.json":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(previous, 2, TENSORS, STATE, on_stage=interrupt)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=r"cannot save checkpoint.*no earlier one"):
            save_checkpoint(folder, 1, {}, {})


def test_a_marker_that_cannot_be_written(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, 1, {}, {})
    monkeypatch.setattr(save, "write_atomically", fail(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=r"cannot mark .* as best: no space left") as caught:
        save_checkpoint(tmp_path, 2, {}, {}, best=True)
    assert caught.value.last_good == tmp_path / "step-00000002"  # it was saved all the same
    assert load_checkpoint(tmp_path).step == 2
    assert path.exists()


def test_an_old_one_that_cannot_be_deleted_is_a_warning(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {}, {})
    monkeypatch.setattr(shutil, "rmtree", fail(errno.EACCES))
    with pytest.warns(RuntimeWarning, match="could not delete .*: permission denied"):
        save_checkpoint(tmp_path, 2, {}, {}, keep=1)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).step == 2
    save_checkpoint(tmp_path, 3, {}, {}, keep=1)  # and the next save gets rid of it
    assert names(tmp_path) == ["step-00000003"]


def test_a_folder_that_cannot_be_listed_or_read(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, 1, {}, {})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fail(errno.EACCES))
        with pytest.raises(CheckpointError, match=r"cannot list .*: permission denied"):
            list_checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail(errno.EACCES))
        with pytest.raises(CheckpointError, match=r"cannot be read: manifest\.json: permission"):
            load_checkpoint(path)


def test_a_system_without_folder_sync(tmp_path, monkeypatch):
    honest = os.open

    def no_folders(path, flags, *rest, **named):
        if Path(path).is_dir():
            fail(errno.EACCES)()  # what Windows says
        return honest(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", no_folders)
    assert load_checkpoint(save_checkpoint(tmp_path, 1, {}, {})).step == 1


def test_files_and_folders_are_synced_before_they_get_their_name(tmp_path, monkeypatch):
    """The order that a power cut needs: a kill cannot show it, so the calls are watched."""
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync"))
    monkeypatch.setattr(durable, "_sync", lambda descriptor: events.append("sync"))
    monkeypatch.setattr(save, "sync_folder", lambda folder: events.append(Path(folder).name))
    honest = os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append(f"-> {Path(b).name}"), honest(a, b))
    )
    save_checkpoint(tmp_path, 1, {"model": {}}, {})
    temporary = f".tmp-step-00000001-{os.getpid()}"
    assert events == ["sync"] * 3 + [temporary, "-> step-00000001", tmp_path.name]


def test_nothing_stays_open(tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, STATE)
    load_checkpoint(path)
    with contextlib.suppress(FileNotFoundError):  # where the system has /proc
        targets = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert not [t for t in targets if str(tmp_path) in t]
