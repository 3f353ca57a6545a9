"""Every version of every ladder against the kernel's NumPy reference, on sizes that fit nothing."""

from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baremetal.bench.ladders import NAMES, find_ladder
from baremetal.bench.ladders import ladder as ladder_module
from baremetal.bench.ladders.attention import make_heads
from baremetal.bench.ladders.climb import relative_error
from baremetal.bench.ladders.compiling import STRICT
from baremetal.bench.ladders.layer_norm import cancellation
from baremetal.bench.ladders.layer_norm import make_rows as make_norm_rows
from baremetal.bench.ladders.matmul import make_product, packed
from baremetal.bench.ladders.softmax import make_rows
from baremetal.errors import BaremetalError

LADDERS = {name: find_ladder(name) for name in NAMES}


def versions(name):
    """A test for each version of a ladder."""
    numbers = [version.number for version in LADDERS[name].versions]
    return pytest.mark.parametrize("number", numbers)


def assert_right(name, number, problem):
    ladder = LADDERS[name]
    problem = problem.fresh()
    problem.run(ladder.versions[number - 1].function)
    for got, expected in zip(problem.outputs, problem.expected(ladder.kernel), strict=True):
        assert relative_error(got, expected) <= ladder.tolerance


def sizes(largest):
    return st.integers(1, largest)


# Whole tiles, one more, one less; more than one block of rows and of terms.
@versions("matmul")
@example(m=6, n=16, k=4)
@example(m=5, n=15, k=3)
@example(m=13, n=33, k=9)
@example(m=199, n=18, k=259)
@settings(max_examples=12)
@given(m=sizes(40), n=sizes(50), k=sizes(40))
def test_matmul(number, m, n, k):
    if number == 1 and m * n * k > 50_000:
        m, n, k = 13, 33, 9
    assert_right("matmul", number, make_product(m, n, k, np.random.default_rng(m + n + k)))


@versions("softmax")
@example(rows=300, width=257)
@settings(max_examples=12)
@given(rows=sizes(20), width=sizes(100))
def test_softmax(number, rows, width):
    assert_right("softmax", number, make_rows(rows, width, np.random.default_rng(rows + width)))


@versions("layer_norm")
@example(rows=300, width=257)
@settings(max_examples=12)
@given(rows=sizes(20), width=sizes(100))
def test_layer_norm(number, rows, width):
    # Two numbers or one may lie so close together that E[x²] - μ² has no digits: see its own test.
    width = max(width, 8)
    problem = make_norm_rows(rows, width, np.random.default_rng(rows + width))
    assert_right("layer_norm", number, problem)


@versions("attention")
@example(batch=2, positions=97, heads=3, width=20)
@example(batch=1, positions=32, heads=1, width=16)
@example(batch=1, positions=33, heads=2, width=16)
@settings(max_examples=12)
@given(batch=sizes(2), positions=sizes(70), heads=sizes(3), width=sizes(20))
def test_attention(number, batch, positions, heads, width):
    rng = np.random.default_rng(positions + heads + width)
    assert_right("attention", number, make_heads(batch, positions, heads, width, rng))


# ---------------------------------------------------------------- what belongs to a ladder


def test_every_file_of_versions_is_a_ladder_and_is_tested():
    folder = Path(ladder_module.__file__).parent
    helpers = {"__init__", "ladder", "climb", "command", "compiling", "picture", "report", "vector"}
    assert {path.stem for path in folder.glob("*.py")} - helpers == set(NAMES)
    assert all(f"test_{name}" in globals() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_lists_every_version_in_order(name):
    ladder = LADDERS[name]
    text = Path(__import__(f"baremetal.bench.ladders.{name}", fromlist=["x"]).__file__).read_text(
        encoding="utf-8"
    )
    head = text.split('"""')[1]
    places = [head.index(f"    {v.number}  {v.idea}") for v in ladder.versions]
    assert places == sorted(places)
    assert ladder.name == name
    assert len({v.function for v in ladder.versions}) == len(ladder.versions)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_version_is_the_librarys_kernel_and_runs_compiled(name):
    ladder = LADDERS[name]
    problem = ladder.make(16, np.random.default_rng(0)) if name in ("matmul", "attention") else (
        make_rows(3, 16, np.random.default_rng(0)) if name == "softmax"
        else make_norm_rows(3, 16, np.random.default_rng(0))
    )  # fmt: skip
    arguments = (*problem.inputs, *problem.outputs)
    assert ladder.kernel.pack(*arguments, **problem.attributes) is not None
    assert ladder.kernel.name in ladder.versions[-1].function.__code__.co_names


def test_what_does_not_exist_is_refused():
    with pytest.raises(BaremetalError, match="matmul, softmax, layer_norm, attention"):
        find_ladder("matmull")
    with pytest.raises(BaremetalError, match="1 to 8"):
        LADDERS["matmul"].choose([3, 9])
    with pytest.raises(BaremetalError, match="1 to 4096"):
        LADDERS["matmul"].check_size(100_000)
    assert [v.number for v in LADDERS["matmul"].choose([5, 2])] == [2, 5]
    assert LADDERS["matmul"].check_size(0) == LADDERS["matmul"].size


def test_one_pass_variance_cancels_and_two_passes_do_not():
    rows = cancellation(256).rows
    errors = [row["one_pass_error"] for row in rows]
    assert errors[0] < 1e-5  # mean 0: nothing cancels
    assert errors[2] > 1e-3  # mean 100: error about 2^-24 * 100²
    assert errors[3] is None or errors[3] > 0.1
    assert all(row["two_passes_error"] < 1e-3 for row in rows)


@pytest.mark.skipif(
    not llvm.get_host_cpu_features().get("fma"), reason="it looks for x86's multiply-add"
)
def test_the_register_tile_stays_in_registers():
    """No inner loop of version 6 touches the stack: its sums are in registers throughout."""
    dispatcher = numba.njit(**STRICT)(packed.function)  # what comes from the cache has no assembly
    matrix = numba.types.float32[:, ::1]
    dispatcher.compile((matrix, matrix, matrix))
    assembly = next(iter(dispatcher.inspect_asm().values()))
    blocks = [block for block in assembly.split("\n.LBB") if block.count("vfmadd") >= 6]
    assert blocks
    for block in blocks:
        assert "(%rsp)" not in block[block.index("vfmadd") : block.rindex("vfmadd")]
