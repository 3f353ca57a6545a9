"""Generated source: one file for each text, machine code kept, and no disk needed."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from baremetal.kernels.native import compiler
from baremetal.kernels.native.abi import Launch
from baremetal.kernels.native.compiler import COMPILING
from baremetal.kernels.native.generated import load_generated

FLOAT32 = np.dtype(np.float32)

SOURCE = '''"""Times {factor}."""

from baremetal.kernels.native.abi import body, cast, pointer


@body
def times_body(lo, hi, args):
    x, out = pointer(args, 0), pointer(args, 1)
    for i in range(lo, hi):
        out[i] = x[i] * cast(args, {factor})


def fail():
    raise KeyError("here")
'''


@pytest.fixture
def cache_at(monkeypatch):
    """Moves the cache, and forgets what was loaded from the old place (before and after)."""

    def forget() -> None:
        compiler.cache_folder.cache_clear()
        load_generated.cache_clear()

    def move(folder: Path) -> None:
        monkeypatch.setenv("BAREMETAL_CACHE_DIR", str(folder))
        forget()

    yield move
    monkeypatch.undo()
    forget()


def result_of(factor: int) -> list[float]:
    body = load_generated(SOURCE.format(factor=factor), "times").times_body
    x = np.arange(4, dtype=np.float32)
    out = np.zeros_like(x)
    Launch(body, FLOAT32, (x, out), items=4).run()
    return out.tolist()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("generated/*"))


def test_one_text_is_one_file_and_another_text_another(tmp_path, cache_at):
    cache_at(tmp_path)
    assert result_of(2) == [0, 2, 4, 6]
    (first,) = files(tmp_path)
    assert first.read_text(encoding="utf-8") == SOURCE.format(factor=2)
    assert first.name.startswith("times_")
    assert result_of(2) == [0, 2, 4, 6]
    assert files(tmp_path) == [first]
    assert result_of(3) == [0, 3, 6, 9]
    assert len(files(tmp_path)) == 2
    assert load_generated(SOURCE.format(factor=2), "times") is load_generated(
        SOURCE.format(factor=2), "times"
    )


NEW_PROCESS = f"""
import json
import numpy as np
from baremetal.kernels.native.abi import Launch
from baremetal.kernels.native.compiler import COMPILING
from baremetal.kernels.native.generated import load_generated
out = np.zeros(3, np.float32)
body = load_generated({SOURCE.format(factor=5)!r}, "times").times_body
Launch(body, out.dtype, (np.ones(3, np.float32), out), items=3).run()
print(json.dumps([COMPILING.compiled, COMPILING.loaded, out.tolist()]))
"""


def test_a_second_process_loads_the_machine_code(tmp_path):
    def run() -> list:
        environment = {**os.environ, "BAREMETAL_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", NEW_PROCESS],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    assert run() == [1, 0, [5, 5, 5]]
    assert run() == [0, 1, [5, 5, 5]]


@pytest.mark.parametrize("damage", ["", SOURCE.format(factor=7)])
def test_a_damaged_file_cannot_run(tmp_path, cache_at, damage):
    cache_at(tmp_path)
    result_of(2)
    (file,) = files(tmp_path)
    file.write_text(damage, encoding="utf-8")
    load_generated.cache_clear()
    assert result_of(2) == [0, 2, 4, 6]
    assert file.read_text(encoding="utf-8") == SOURCE.format(factor=2)


def test_without_a_folder_it_lives_in_memory(tmp_path, cache_at):
    (tmp_path / "file").touch()
    cache_at(tmp_path / "file")
    before = COMPILING.compiled
    assert result_of(2) == [0, 2, 4, 6]
    assert COMPILING.compiled == before + 1
    assert not files(tmp_path)


def test_a_disk_that_fills_up(tmp_path, cache_at, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache_at(tmp_path)
    monkeypatch.setattr("os.replace", full)
    assert result_of(2) == [0, 2, 4, 6]
    assert not files(tmp_path)  # no half of a file is left either


def test_a_traceback_shows_the_line(tmp_path, cache_at):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file"):
        cache_at(place)
        with pytest.raises(KeyError) as caught:
            load_generated(SOURCE.format(factor=2), "times").fail()
        assert 'raise KeyError("here")' in "".join(traceback.format_exception(caught.value))


def test_a_stem_is_a_word():
    with pytest.raises(ValueError, match="give an identifier"):
        load_generated("", "../elsewhere")
