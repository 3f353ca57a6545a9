"""Fused kernels: the bits of their stages run one after the other, in any number of pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.kernels import (
    activation,
    cross_entropy,
    dropout,
    elementwise,
    matmul,
    norm,
    reduction,
)
from baremetal.kernels.cost import moved
from baremetal.kernels.fused import Fused, Scratch, Stage
from baremetal.kernels.native import fused as native
from baremetal.kernels.walk import (
    LARGEST_TILE_BYTES,
    TILE_BYTES,
    Walk,
    is_contiguous,
    tiling_of,
    walk_of,
)

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 1e30]
EPS = {"eps": 1e-5}
ROWS_SUMMED = {"axis": (0,)}

# name: stages (kernel, names of its arrays, attributes) and which of the names are scratches
RECIPES = {
    "add_layer_norm": (
        [
            (elementwise.add, "a b y", {}),
            (norm.layer_norm, "y weight bias out mean rstd", EPS),
        ],
        "",
    ),
    "add_rms_norm": (
        [(elementwise.add, "a b y", {}), (norm.rms_norm, "y weight out rstd", EPS)],
        "y",
    ),
    "dropout_add_layer_norm": (
        [
            (dropout.dropout, "a state dropped", {"p": 0.4, "layer": 2}),
            (elementwise.add, "b dropped y", {}),
            (norm.layer_norm, "y weight - out mean rstd", EPS),
        ],
        "dropped",
    ),
    "layer_norm_backward_add_sum": (
        [
            (norm.layer_norm_backward_input, "a weight b rows rows2 out", {}),
            (elementwise.add, "c out out", {}),
            (norm.layer_norm_backward_weight, "a b rows rows2 dw db", {}),
            (reduction.sum, "out sums", ROWS_SUMMED),
        ],
        "",
    ),
    "rms_norm_backward_add": (
        [
            (norm.rms_norm_backward_input, "a weight b rows2 y", {}),
            (elementwise.add, "c y out", {}),
            (norm.rms_norm_backward_weight, "a b rows2 dw", {}),
        ],
        "",
    ),
    "multiply_layer_norm_backward": (  # whole bands of a gradient that is made a tile at a time
        [
            (elementwise.multiply, "b c y", {}),
            (norm.layer_norm_backward_input, "a weight y rows rows2 out", {}),
            (norm.layer_norm_backward_weight, "a y rows rows2 dw db", {}),
        ],
        "y",
    ),
    "gelu_tanh_backward_sum": (
        [
            (elementwise.gelu_tanh_backward, "a b y", {}),
            (reduction.sum, "y sums", ROWS_SUMMED),
        ],
        "",
    ),
    "chain": (
        [
            (elementwise.multiply, "a weight y", {}),
            (elementwise.gelu, "y z", {}),
            (elementwise.add, "z y y", {}),
            (elementwise.subtract, "y b out", {}),
        ],
        "y z",
    ),
}
NEEDS_BANDS = {name for name in RECIPES if "backward" in name}
VECTORS, PER_ROW = {"weight", "bias", "dw", "db", "sums"}, {"mean", "rstd", "rows", "rows2"}


def fused_of(name, arrays):
    """The kernel of a recipe, and its arrays in their order."""
    stages, scratches = RECIPES[name]
    inner = scratches.split()
    used = [word for _, words, _ in stages for word in words.split() if word != "-"]
    order = [word for word in dict.fromkeys(used) if word not in inner]
    places = {word: number for number, word in enumerate([*order, *inner])}
    return Fused(
        name,
        [
            Stage(kernel, tuple(places.get(word) for word in words.split()), attributes)
            for kernel, words, attributes in stages
        ],
        range(len(places)),
        [Scratch(arrays[word].shape, arrays[word].dtype) for word in inner],
    ), [arrays[word] for word in order]


def make_arrays(rows, width, dtype, seed, special):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        values = rng.standard_normal(shape) * 2
        if special:
            values[rng.random(shape) < 0.02] = rng.choice(SPECIAL)
        with np.errstate(over="ignore"):
            return values.astype(dtype)

    matrices = {name: draw(rows, width) for name in "abc"}
    matrices |= {name: np.full((rows, width), -7, dtype) for name in ("y", "z", "out", "dropped")}
    vectors = {name: draw(width) for name in VECTORS}
    per_row = {name: np.abs(draw(rows)) + dtype(0.5) for name in PER_ROW}
    return matrices | vectors | per_row | {"state": np.array([1, 2, 3]), "-": None}


def run_stages(name, arrays, how="run"):
    for kernel, words, attributes in RECIPES[name][0]:
        getattr(kernel, how)(*(arrays[word] for word in words.split()), **attributes)


def bits(arrays, but=()):
    return {k: v.tobytes() for k, v in arrays.items() if v is not None and k not in but}


@st.composite
def sizes(draw, name):
    """Rows and width with odd remainders everywhere; dropout wants samples of 256 elements."""
    rows = draw(st.sampled_from([512, 513, 575, 640, 1000]))
    if name not in NEEDS_BANDS:
        rows = draw(st.sampled_from([1, 2, 7, 64, 129, rows]))
    width = draw(st.sampled_from([16, 17, 33, 96]))
    return rows, 256 if name == "dropout_add_layer_norm" else width


@pytest.mark.parametrize("name", RECIPES)
@given(data=st.data())
def test_the_bits_are_those_of_the_stages(name, data, run_in_pieces):
    rows, width = data.draw(sizes(name))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    seed, special = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.booleans())
    arrays = make_arrays(rows, width, dtype, seed, special)
    inner = RECIPES[name][1].split()
    expected = {k: None if v is None else v.copy() for k, v in arrays.items()}
    run_stages(name, expected)
    for pieces in (0, 1, 2, 7):
        mine = {k: None if v is None else v.copy() for k, v in arrays.items()}
        kernel, given_arrays = fused_of(name, mine)
        launches = kernel.pack(*given_arrays)
        assert launches[0].body is native.stages_body
        if pieces:
            run_in_pieces(launches, pieces)
        else:
            kernel.run(*given_arrays)
        assert bits(mine, inner) == bits(expected, inner)
        assert all(mine[word].tobytes() == arrays[word].tobytes() for word in inner)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("trouble", ["tiling", "_are_told", "BLOCK"])
def test_what_does_not_fit_a_tile_is_launched_stage_by_stage(name, trouble, monkeypatch):
    """Too many words, a body that is not told where a scratch lies: other ways, the same bits."""
    width = 256 if "dropout" in name else 33
    arrays = make_arrays(520, width, np.float32, 3, False)
    expected = {k: None if v is None else v.copy() for k, v in arrays.items()}
    run_stages(name, expected)
    kernel, given_arrays = fused_of(name, arrays)
    if trouble == "tiling":
        monkeypatch.setattr(kernel, "tiling", lambda whole: None)
    else:
        monkeypatch.setattr(native, trouble, 20 if trouble == "BLOCK" else lambda *_: False)
    launches = kernel.pack(*given_arrays)
    assert all(launch.body is not native.stages_body for launch in launches)
    kernel.run(*given_arrays)
    inner = RECIPES[name][1].split()
    assert bits(arrays, inner) == bits(expected, inner)


@pytest.mark.parametrize("name", RECIPES)
def test_the_reference_is_that_of_the_stages(name):
    width = 256 if "dropout" in name else 33
    arrays = make_arrays(520, width, np.float64, 3, False)
    compiled = {k: None if v is None else v.copy() for k, v in arrays.items()}
    kernel, given_arrays = fused_of(name, compiled)
    kernel.run(*given_arrays)
    kernel, given_arrays = fused_of(name, arrays)
    kernel.reference(*given_arrays)
    for word in RECIPES[name][1].split():
        assert (arrays[word] == -7).all()
    for key, array in arrays.items():
        if array is not None:
            np.testing.assert_allclose(compiled[key], array, rtol=1e-9, atol=1e-11, err_msg=key)


def test_what_it_costs_is_what_goes_in_and_comes_out_once():
    arrays = make_arrays(512, 32, np.float32, 0, False)
    x, vector, row = (arrays[name].nbytes for name in ("a", "weight", "rows"))
    traffic = {
        "add_layer_norm": 4 * x + 2 * vector + 2 * row,
        "add_rms_norm": 3 * x + vector + row,
        "layer_norm_backward_add_sum": 4 * x + 4 * vector + 2 * row,
        "gelu_tanh_backward_sum": 3 * x + vector,
        "chain": 3 * x + vector,
    }
    for name, size_bytes in traffic.items():
        kernel, given_arrays = fused_of(name, arrays)
        assert kernel.cost(*given_arrays).size_bytes == size_bytes
        separate = [
            kernel.cost(*(arrays[word] for word in words.split()), **attributes)
            for kernel, words, attributes in RECIPES[name][0]
        ]
        assert kernel.cost(*given_arrays).flops == sum(one.flops for one in separate)
        assert size_bytes < sum(one.size_bytes for one in separate)


def test_what_is_read_before_it_is_written_goes_in_and_out():
    kernel = Fused(
        "twice",
        [Stage(elementwise.add, (0, 1, 0), {}), Stage(elementwise.multiply, (0, 1, 0), {})],
        range(2),
    )
    x = np.ones((8, 8), np.float32)
    assert kernel.cost(x, x.copy()).size_bytes == moved(x, x, x)


def test_names_and_writes():
    arrays = make_arrays(512, 32, np.float32, 0, False)
    kernel, given_arrays = fused_of("layer_norm_backward_add_sum", arrays)
    names = kernel.operand_names(len(given_arrays))
    assert names == ("x", "weight", "grad", "mean", "rstd", "out", "a", "grad_weight", "grad_bias",
                     "out_2")  # fmt: skip
    written = kernel.written(names)
    assert written == ["out", "grad_weight", "grad_bias", "out_2"]


# ---------------------------------------------------------------- what can be a stage


def test_what_does_not_walk_step_by_step_is_no_stage():
    x, out = np.ones((600, 32), np.float32), np.ones((600, 32), np.float32)
    assert walk_of(elementwise.add, (x, x, out), {}) == Walk(x.size, (True, True, True))
    assert walk_of(elementwise.add, (x, x[0], out), {}) == Walk(x.size, (True, False, True))
    assert walk_of(elementwise.add, (x, x, out[:, ::-1]), {}) is None
    assert walk_of(elementwise.add, (x.astype(int),) * 3, {}) is None
    assert walk_of(elementwise.add, (x.astype(np.float64), x, out), {}) is None
    assert walk_of(elementwise.copy, (x, out), {}) is None
    assert walk_of(matmul.matmul, (x, x, out), {}) is None
    sums = np.ones(32, np.float32)
    assert walk_of(reduction.sum, (x, sums), ROWS_SUMMED) == Walk(600, (True, False), 128)
    assert walk_of(reduction.sum, (x[:100], sums), ROWS_SUMMED) is None
    assert walk_of(reduction.sum, (x, np.ones(600, np.float32)), {"axis": (1,)}) is None
    state = np.zeros(3, np.int64)
    assert walk_of(dropout.dropout, (x, state, out), {"p": 0.1, "layer": 0}) is None
    folded = x.reshape(4, 150, 32)[:, :128]
    assert walk_of(dropout.dropout, (folded, state, folded), {"p": 0.1, "layer": 0}) is None
    whole = np.ones((4, 128, 32), np.float32)
    assert walk_of(dropout.dropout, (whole, state, whole), {}) == Walk(64, (True, False, True))
    wide, narrow = np.ones((600, 64), np.float32), np.ones((600, 64), np.float32)[:, :32]
    assert walk_of(activation.swiglu, (wide, out), {}) == Walk(600, (True, True))
    assert walk_of(activation.swiglu, (wide, narrow), {}) is None
    rows, targets = np.ones(600, np.float32), np.zeros(600, np.int64)
    assert walk_of(cross_entropy.cross_entropy, (x, targets, rows, rows), {}) == Walk(
        600, (True,) * 4
    )

    assert walk_of(norm.rms_norm, (x, sums, out, rows[:300]), EPS) is None
    cube = np.ones((4, 600, 32), np.float32)  # over its middle axis: no whole rows
    assert walk_of(reduction.sum, (cube, np.ones((4, 32), np.float32)), {"axis": (1,)}) is None


def test_an_axis_of_one_may_have_any_stride():
    x = np.ones((8, 1, 32), np.float32)
    strange = np.lib.stride_tricks.as_strided(x, x.shape, (128, 7, 4))
    assert is_contiguous(strange)
    assert not is_contiguous(x[::2])
    assert not is_contiguous(np.lib.stride_tricks.as_strided(x, x.shape, (124, 7, 4)))


@given(st.data())
def test_a_tile_is_a_number_of_items_of_every_stage(data):
    rows = data.draw(st.integers(1, 3000))
    per_row = data.draw(st.lists(st.sampled_from([1, 3, 32, 256]), min_size=1, max_size=4))
    band = data.draw(st.sampled_from([0, 64, 128]))
    walks = [Walk(rows * n, (True,)) for n in per_row]
    if band:
        walks.append(Walk(rows, (True,), band, band == 64))
    size_bytes = 4 * rows * data.draw(st.sampled_from([1, 100, 10_000]))
    tiling = tiling_of(walks, size_bytes)
    if tiling is None:
        assert band == 64
        assert size_bytes * 64 // rows > 1024 * 1024
        return
    assert all(walk.items % tiling.units == 0 for walk in walks)
    assert tiling.item % tiling.tile == 0
    rows_in_unit = rows / tiling.units
    if band:
        assert tiling.item * rows_in_unit % band == 0
    if band == 64:
        assert tiling.tile * rows_in_unit % band == 0
    else:
        assert tiling.tile == 1 or tiling.tile * size_bytes <= TILE_BYTES * tiling.units


def test_steps_that_do_not_fit_together():
    assert tiling_of([Walk(300, (True,)), Walk(900, (True,), 128)], 1) is None  # 3 rows a unit


def test_bands_of_several_sums_end_together():
    walks = [Walk(2400, (True,), 96), Walk(2400, (True,), 64)]
    assert tiling_of(walks, 1).item == 192
    rows = Walk(2400, (True,), 64, whole_bands=True)
    assert tiling_of([walks[0], rows], 1)[1:] == (64, 192)


def test_a_band_too_large_for_the_cache_is_no_tile():
    rows = Walk(6400, (True,), 64, whole_bands=True)
    assert tiling_of([rows], 100 * LARGEST_TILE_BYTES).tile == 64  # just fits
    assert tiling_of([rows], 101 * LARGEST_TILE_BYTES) is None


def test_there_are_tiles_for_many_threads_however_small_they_are():
    assert tiling_of([Walk(3200, (True,))], 100) == (3200, 100, 100)
    assert tiling_of([Walk(3, (True,))], 100) == (3, 1, 1)
