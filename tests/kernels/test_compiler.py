"""The disk cache: used when nothing changed, not trusted when something did, never needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import types

from baremetal.kernels.native import compiler
from baremetal.kernels.native.abi import Body, Launch, cast, pointer
from baremetal.kernels.native.compiler import COMPILING, compile_or_load

FLOAT32 = np.dtype(np.float32)


def double_body(lo, hi, args):
    """out = 2x. Words: 0-1 x out."""
    x, out = pointer(args, 0), pointer(args, 1)
    for i in range(lo, hi):
        out[i] = x[i] * cast(args, 2)


def doubles_correctly() -> None:
    """Make a body ready from scratch, as a new process would, and use it."""
    x = np.arange(5, dtype=np.float32)
    out = np.zeros_like(x)
    Launch(Body(double_body, reassociate=False), FLOAT32, (x, out), items=5).run()
    np.testing.assert_array_equal(out, 2 * x)


@pytest.fixture
def cache_at(monkeypatch):
    """Moves the cache, and forgets what was known about the old place (before and after)."""

    def move(folder: Path) -> None:
        monkeypatch.setenv("BAREMETAL_CACHE_DIR", str(folder))
        compiler.cache_folder.cache_clear()

    yield move
    monkeypatch.undo()
    compiler.cache_folder.cache_clear()


def counts(action) -> tuple[int, int]:
    """How many bodies `action` compiled and how many it loaded."""
    before = COMPILING.compiled, COMPILING.loaded
    action()
    return COMPILING.compiled - before[0], COMPILING.loaded - before[1]


def test_compiled_once_then_loaded(tmp_path, cache_at):
    cache_at(tmp_path)
    assert counts(doubles_correctly) == (1, 0)
    files = sorted(tmp_path.rglob("*.nb?"))
    assert [file.suffix for file in files] == [".nbc", ".nbi"]
    assert counts(doubles_correctly) == (0, 1)
    assert sorted(tmp_path.rglob("*.nb?")) == files


def test_a_place_that_is_a_file(tmp_path, cache_at):
    place = tmp_path / "not-a-folder"
    place.write_text("in the way", encoding="utf-8")
    for wrong in (place, place / "below"):
        cache_at(wrong)
        assert compiler.cache_folder() is None
        assert counts(doubles_correctly) == (1, 0)
    assert place.read_text(encoding="utf-8") == "in the way"


def test_a_folder_that_refuses_files(tmp_path, cache_at, monkeypatch):
    """Root may write anywhere, so permissions are simulated."""

    def refuse(**_):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(compiler.tempfile, "TemporaryFile", refuse)
    cache_at(tmp_path)
    assert compiler.cache_folder() is None
    assert counts(doubles_correctly) == (1, 0)
    assert not list(tmp_path.rglob("*.nb?"))


def test_no_home_folder(cache_at, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiler, "cache_root", homeless)
    compiler.cache_folder.cache_clear()
    assert compiler.cache_folder() is None
    assert counts(doubles_correctly) == (1, 0)
    compiler.cache_folder.cache_clear()


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x80\x04 cut off"])
def test_damaged_files(tmp_path, cache_at, suffix, damage):
    cache_at(tmp_path)
    doubles_correctly()
    for file in tmp_path.rglob("*" + suffix):
        file.write_bytes(damage)
    assert counts(doubles_correctly) == (1, 0)


def test_truncated_files(tmp_path, cache_at):
    cache_at(tmp_path)
    doubles_correctly()
    for file in tmp_path.rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:-100])
    assert counts(doubles_correctly) == (1, 0)


def test_a_folder_deleted_while_in_use(tmp_path, cache_at):
    cache_at(tmp_path / "cache")
    assert compiler.cache_folder() is not None
    shutil.rmtree(tmp_path / "cache")
    assert counts(doubles_correctly) == (1, 0)


def test_a_full_disk(tmp_path, cache_at, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache_at(tmp_path)
    assert compiler.cache_folder() is not None
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert counts(doubles_correctly) == (1, 0)


def test_the_users_own_numba_cache_stays_where_it_was(tmp_path, cache_at):
    cache_at(tmp_path)
    before = numba.config.CACHE_DIR
    with compiler.cached_in_our_folder() as cache:
        assert cache
        assert before != numba.config.CACHE_DIR
    assert before == numba.config.CACHE_DIR
    with pytest.raises(KeyError), compiler.cached_in_our_folder():
        raise KeyError
    assert before == numba.config.CACHE_DIR


def test_the_key_changes_with_every_source_and_version(tmp_path, monkeypatch):
    kernels = Path(compiler.__file__).parents[1]
    copy = tmp_path / "kernels"
    shutil.copytree(kernels, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compiler, "__file__", str(copy / "native" / "compiler.py"))

    def key() -> str:
        compiler.cache_key.cache_clear()
        return compiler.cache_key()

    try:
        keys = [key()]
        assert key() == keys[0]
        assert len(keys[0]) == 16
        with (copy / "native" / "vmath.py").open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        keys.append(key())
        monkeypatch.setattr(compiler.numba, "__version__", "0.0.0")
        keys.append(key())
        monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
        keys.append(key())
        assert len(set(keys)) == len(keys)
    finally:
        compiler.cache_key.cache_clear()


def test_old_caches_are_thrown_away(tmp_path, cache_at):
    for age in range(8):
        folder = tmp_path / f"kernels-{age}"
        folder.mkdir()
        os.utime(folder, (1000 - age, 1000 - age))
    (tmp_path / "something-else").mkdir()
    cache_at(tmp_path)
    ours = compiler.cache_folder()
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {ours.name, "kernels-0", "kernels-1", "kernels-2", "something-else"}


def test_a_mistake_in_a_kernel_is_shown(tmp_path, cache_at):
    def wrong_body(lo, hi, args):
        return args.no_such_thing

    cache_at(tmp_path)
    with pytest.raises(numba.errors.TypingError, match="no_such_thing"):
        Body(wrong_body, reassociate=False).address(FLOAT32)


def test_trouble_without_a_cache_is_not_hidden(cache_at, tmp_path):
    def make(cache: bool):
        calls.append(cache)
        raise OSError("trouble")

    for place, expected in ((tmp_path, [True, False]), (tmp_path / "file" / "below", [False])):
        calls: list[bool] = []
        (tmp_path / "file").touch()
        cache_at(place)
        with pytest.raises(OSError, match="trouble"):
            compile_or_load(make)
        assert calls == expected


def divide_body(lo, hi, args):
    x, out = pointer(args, 0), pointer(args, 1)
    for i in range(lo, hi):
        out[i] = cast(args, 1) / x[i]


@pytest.mark.parametrize("reassociate", [False, True])
def test_arithmetic_follows_ieee_not_python(reassociate):
    """1/0 is infinite, and the permission to reorder sums does not forbid NaN."""
    x = np.array([0, -0.0, np.inf, np.nan], np.float32)
    out = np.zeros_like(x)
    Launch(Body(divide_body, reassociate), FLOAT32, (x, out), items=4).run()
    np.testing.assert_array_equal(out, np.array([np.inf, -np.inf, 0, np.nan], np.float32))


def test_options_of_compilation(tmp_path, cache_at):
    """No flag may let the compiler assume that NaN or infinity do not occur."""
    (tmp_path / "file").touch()
    cache_at(tmp_path / "file")  # numba cannot show code that it loaded
    signature = types.void(types.int64, types.int64, types.CPointer(types.float32))
    for reassociate in (False, True):
        code = compiler.compile_body(divide_body, signature, reassociate).inspect_llvm()
        assert "fdiv" in code
        assert not any(f"fdiv {flags}" in code for flags in ("fast", "nnan", "ninf"))


NEW_PROCESS = """
import json, sys
import numpy as np
from baremetal.kernels import elementwise, reduction
from baremetal.kernels.native.compiler import COMPILING
from baremetal.kernels.native.pool import POOL
x = np.linspace(-3, 3, 50_000, dtype=np.float32)
out, total = np.empty_like(x), np.empty((), np.float32)
elementwise.silu.run(x, out)
elementwise.multiply.run(out, out, out)
reduction.sum.run(out, total, axis=(0,))
driver = sum(POOL.driver.stats.cache_hits.values())
print(json.dumps([COMPILING.compiled, COMPILING.loaded, driver, float(total)]))
"""


def in_a_new_process(folder: Path, program: str = NEW_PROCESS) -> list:
    environment = {**os.environ, "BAREMETAL_CACHE_DIR": str(folder)}
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, encoding="utf-8", env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return json.loads(finished.stdout)


def test_a_second_process_compiles_nothing_and_a_damaged_cache_harms_nobody(tmp_path):
    compiled, loaded, driver, total = in_a_new_process(tmp_path)
    assert (compiled, loaded, driver) == (4, 0, 0)  # silu, multiply, a sum's pieces and total
    files = sorted(tmp_path.rglob("*.nb?"))
    assert len(files) == 2 * 5  # four bodies and the driver, an index and code for each
    assert in_a_new_process(tmp_path) == [0, 4, 1, total]
    assert sorted(tmp_path.rglob("*.nb?")) == files
    for file in files:
        file.write_bytes(b"garbage")
    assert in_a_new_process(tmp_path)[3] == total


SAME_BITS = """
import json, zlib
import numpy as np
from baremetal.kernels import cross_entropy, softmax
from baremetal.kernels.native.compiler import COMPILING
x = np.random.default_rng(5).standard_normal((64, 103), np.float32)
targets, losses, lse = np.arange(64), np.empty(64, np.float32), np.empty(64, np.float32)
logs, weights = np.empty_like(x), np.empty_like(x)
launches = [
    lambda: cross_entropy.cross_entropy.run(x, targets, losses, lse, ignore_index=-1),
    lambda: softmax.log_softmax.run(x, logs),
    lambda: softmax.softmax.run(x, weights),
]
for launch in launches ORDER:
    launch()
bits = [zlib.crc32(array.tobytes()) for array in (losses, lse, logs, weights)]
print(json.dumps([COMPILING.compiled, bits]))
"""


def test_the_same_bits_compiled_or_loaded_and_in_any_order(tmp_path):
    """What these bodies share, a reordered sum, must not be the copy of whoever came first."""
    compiled, bits = in_a_new_process(tmp_path, SAME_BITS.replace("ORDER", ""))
    assert compiled == 3
    for order in ("", "[::-1]"):
        assert in_a_new_process(tmp_path, SAME_BITS.replace("ORDER", order)) == [0, bits]


@numba.extending.intrinsic
def stay_apart(typing_context):
    """Forbids LLVM to inline the function that calls this; else it may, or may not."""

    def generate(context, builder, signature, values):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@numba.extending.register_jitable
def kept_apart(x):
    stay_apart()
    return x + x


def calling_body(lo, hi, args):
    x = pointer(args, 0)
    x[lo] = kept_apart(x[hi])


def test_a_call_left_over_is_refused(tmp_path, cache_at):
    cache_at(tmp_path)
    for _ in range(2):  # it is not kept on disk, so the next process refuses it too
        with pytest.raises(TypeError, match=r"calling_body calls .*kept_apart.* with @inlined"):
            Body(calling_body, reassociate=False).address(FLOAT32)
