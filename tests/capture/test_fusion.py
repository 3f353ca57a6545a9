"""Fusion: the same bits in fewer launches, whatever the step; each fusion can be switched off."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal import CPU
from baremetal.capture import CaptureError, capture
from baremetal.capture.fusion import FUSIONS, draft, fuse_recording, fusion_table
from baremetal.capture.plan import make_plan
from baremetal.capture.recording import record
from baremetal.capture.replay import Replay
from baremetal.capture.undo import Undo
from baremetal.kernels import dropout, elementwise, norm, reduction
from baremetal.kernels.fused import Fused
from baremetal.kernels.native import fused as native_fused
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.optim import AdamW, decay_groups

SIZES = {"vocab_size": 11, "context": 32, "layers": 2, "heads": 2, "width": 32}
BATCH = 17  # 544 rows: not a multiple of any band


def training(kind, parts=1, **changes):
    """A model and one step of training it: (parts, B, T) tokens each."""
    rng = np.random.default_rng(0)
    if kind == "llama":
        model = Llama(LlamaConfig(**SIZES, kv_heads=1), rng=rng)
    else:
        model = GPT(GPTConfig(**SIZES, **changes), rng=rng, dropout_seed=3)
    optimizer = AdamW(decay_groups([*model.parameters()], 0.1), learning_rate=0.01)
    total = np.array([float(parts * BATCH * SIZES["context"])])

    def step(inputs, targets):
        optimizer.zero_grad()
        losses = []
        for part in range(parts):
            if kind == "dropout":
                model.dropout_state.begin_microbatch(part * BATCH)
            loss = model.loss(inputs[part], targets[part], total=total)
            loss.backward()
            losses.append(loss.detach())
        optimizer.clip(0.5, losses[-1])
        optimizer.step()
        return losses

    return model, step


def batches(parts=1, count=4):
    rng = np.random.default_rng(1)
    windows = rng.integers(0, SIZES["vocab_size"], (count, parts, BATCH, SIZES["context"] + 1))
    windows[0, 0, 0, :5] = 3
    return [(w[..., :-1].copy(), w[..., 1:].copy()) for w in windows]


def curve(kind, parts, how, **changes):
    """Losses and final weights of a few steps; `how` makes a step of a function."""
    model, step = training(kind, parts, **changes)
    step = how(step)
    losses = []
    for number, (inputs, targets) in enumerate(batches(parts)):
        targets[0, 0, :number] = -100
        if changes:
            model.dropout_state.set(step=number)
        losses += [loss.item() for loss in step(inputs, targets)]
    return losses, {name: array.tobytes() for name, array in model.state_dict().items()}, step


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("kind", "changes"), [("gpt", {}), ("gpt", {"dropout": 0.3}), ("llama", {})]
)
def test_a_fused_step_has_the_bits_of_the_eager_one(kind, changes, parts):
    losses, weights, _ = curve(kind, parts, lambda step: step, **changes)
    fused_losses, fused_weights, captured = curve(kind, parts, capture, **changes)
    assert losses == fused_losses
    assert weights == fused_weights
    fused = [one.kernel for one in captured.plan.launches if isinstance(one.kernel, Fused)]
    assert len(fused) >= 8
    # Replays ran compiled code: every fused launch could be packed.
    assert all(packed is not None for _, packed in captured._replay.bound_launches())


def test_stages_that_are_launched_one_by_one_in_a_plan_keep_the_bits(monkeypatch):
    """Where the words of all have no room; scratch memory they need all at once."""
    losses, weights, _ = curve("gpt", 1, lambda step: step)
    monkeypatch.setattr(native_fused, "BLOCK", 20)
    fused_losses, fused_weights, captured = curve("gpt", 1, capture)
    assert losses == fused_losses
    assert weights == fused_weights
    assert "stages_body" not in captured.source


@pytest.mark.parametrize("name", [*FUSIONS, "native-exact"])
def test_each_fusion_alone_keeps_the_bits(name):
    losses, weights, _ = curve("gpt", 1, lambda step: step, dropout=0.3)

    def how(step):
        if name == "native-exact":
            return capture(step, level="native-exact")
        return capture(step, fuse=(name,))

    fused_losses, fused_weights, captured = curve("gpt", 1, how, dropout=0.3)
    assert losses == fused_losses
    assert weights == fused_weights
    if name == "native-exact":
        assert re.search(
            r"run\(STAGES_F32, \d+, threads, words_f32\(\(\w+_stages,", captured.source
        )
    else:
        assert [saving.fusion for saving in captured.plan.savings] == [name]
        assert captured.plan.savings[0].launches > 0


def test_what_is_saved_is_counted_and_shown():
    plans = []
    for fuse in (False, True):
        _, step = training("gpt")
        captured = capture(step, fuse=fuse)
        captured(*batches()[0])
        plans.append(captured.plan)
    plain, fused = plans
    launches = sum(saving.launches for saving in fused.savings)
    size_bytes = sum(saving.size_bytes for saving in fused.savings)
    assert len(plain.launches) - len(fused.launches) == launches > 15
    assert plain.cost.size_bytes - fused.cost.size_bytes == size_bytes > 0
    assert plain.cost.flops == fused.cost.flops
    assert not plain.savings
    text = fused.text()
    for name in ("add_layer_norm", "layer_norm_backward_add_sum", "gelu_tanh_backward_sum",
                 "cross_entropy_and_backward"):  # fmt: skip
        assert re.search(rf" {name} ", text), text
    assert "residual_norm: " in text
    assert "loss_head: 1 launches and" in text
    assert fused.memory.planned_bytes <= 1.05 * fused.memory.bound_bytes
    assert fused.memory.bound_bytes <= plain.memory.bound_bytes


@pytest.mark.parametrize("policy", ["selective", "block"])
def test_what_is_computed_again_is_not_kept_after_all(policy):
    """A recomputed norm reads the forward's sum; joined with it, it would run in the forward."""
    results = []
    for fuse in (False, True):
        model, step = training("gpt")
        model.recompute = policy
        captured = capture(step, fuse=fuse)
        losses = [captured(*batch)[0].item() for batch in batches()]
        results.append((losses, captured.plan.memory.bound_bytes, len(captured.plan.launches)))
    (losses, plain_bytes, launches), (fused_losses, fused_bytes, fused_launches) = results
    assert losses == fused_losses
    assert fused_bytes <= plain_bytes
    assert fused_launches < launches


def test_the_traffic_is_what_the_essays_say():
    """Passes over (rows, width), and beside them vectors and numbers for each row."""
    _, step = training("gpt")
    captured = capture(step)
    captured(*batches()[0])
    pass_bytes = 4 * BATCH * SIZES["context"] * SIZES["width"]
    costs = {one.kernel.name: one.cost.size_bytes for one in captured.plan.launches}
    assert costs["add_layer_norm"] // pass_bytes == 4
    assert costs["layer_norm_backward_add_sum"] // pass_bytes == 4
    assert costs["gelu_tanh_backward_sum"] // (4 * pass_bytes) == 3
    logit_bytes = pass_bytes // SIZES["width"] * SIZES["vocab_size"]
    assert costs["cross_entropy_and_backward"] // logit_bytes == 2


def test_dropout_before_a_residual_sum_never_reaches_memory():
    _, step = training("gpt", dropout=0.3)
    captured = capture(step)
    captured(*batches()[0])
    joined = [one for one in captured.plan.launches if one.kernel.name == "dropout_add_layer_norm"]
    assert len(joined) == 2 * SIZES["layers"]
    assert all(len(one.kernel.scratches) == 1 for one in joined)


def test_what_each_bought_can_be_measured():
    _, step = training("llama")
    captured = capture(step, fuse=("loss_head", "residual_norm"))
    captured(*batches()[0])
    rows = captured.compare_fusions(rounds=1)
    assert [row.fusion for row in rows] == ["residual_norm", "loss_head", "all"]
    assert [row.launches for row in rows] == [rows[2].launches - 1, 1, rows[0].launches + 1]
    assert all(row.with_s > 0 and row.without_s > 0 and row.size_bytes > 0 for row in rows)
    assert len(fusion_table(rows).splitlines()) == 4


def test_an_unknown_fusion_is_refused():
    with pytest.raises(
        CaptureError, match=r"no fusion is called 'norms': choose all, none, or among resid"
    ):
        capture(lambda x: x, fuse=("norms",))


def test_names_may_stand_in_one_string():
    for fuse, expected in (("chains", ("chains",)), ("all", tuple(FUSIONS)), ("none", ()),
                           ("chains,loss_head", ("loss_head", "chains"))):  # fmt: skip
        assert capture(lambda x: x, fuse=fuse).fusions == expected


# ---------------------------------------------------------------- any program at all

ROWS, WIDTH = 512, 32
UNARY = [elementwise.negative, elementwise.square, elementwise.gelu_tanh, elementwise.relu]
BINARY = [elementwise.add, elementwise.multiply, elementwise.subtract, elementwise.silu_backward]


class Program:
    """A list of launches over a few matrices, vectors and per-row numbers, drawn at random."""

    def __repr__(self):
        return f"Program({self.steps}, kept={self.kept}, fresh={self.fresh})"

    def __init__(self, draw):
        self.matrices, self.vectors = 5, 4
        matrix = st.integers(0, self.matrices - 1)
        vector = st.integers(0, self.vectors - 1)
        self.steps = draw(
            st.lists(
                st.one_of(
                    st.tuples(st.just("unary"), st.integers(0, 3), matrix, matrix),
                    st.tuples(st.just("binary"), st.integers(0, 3), matrix, matrix, matrix),
                    st.tuples(st.just("broadcast"), vector, matrix, matrix),
                    st.tuples(st.just("dropout"), matrix, matrix),
                    st.tuples(st.just("norm"), matrix, vector, matrix),
                    st.tuples(st.just("norm_back"), matrix, vector, matrix, matrix),
                    st.tuples(st.just("norm_weights"), matrix, matrix, vector, vector),
                    st.tuples(st.just("sum"), matrix, vector),
                    st.tuples(st.just("swap"), matrix, matrix),
                ),
                min_size=2,
                max_size=10,
            )
        )
        self.kept = draw(st.sets(matrix))
        self.fresh = draw(st.sets(st.integers(0, 9)))  # steps that write new memory

    def __call__(self, x):
        """Run on the device; returns what is kept."""
        matrices = [self.new(x) for _ in range(self.matrices)]
        for number, matrix in enumerate(matrices):
            CPU.launch(elementwise.add, x, np.float32(number) * np.ones(1, np.float32), matrix)
        vectors = [np.linspace(1, 2, WIDTH, dtype=np.float32) for _ in range(self.vectors)]
        mean, rstd = CPU.empty((ROWS,)), CPU.empty((ROWS,))
        CPU.launch(norm.layer_norm, x, vectors[0], None, self.new(x), mean, rstd, eps=1e-5)
        for number, (kind, *choices) in enumerate(self.steps):
            self.do(kind, choices, matrices, vectors, (mean, rstd), number in self.fresh)
        return [matrices[i] for i in sorted(self.kept)], vectors, mean, rstd

    def new(self, x):
        return CPU.empty(x.shape, x.dtype)

    def do(self, kind, choices, matrices, vectors, per_row, is_fresh):
        """One step of the program. What may not be in place is left out where it would be."""
        if kind in ("unary", "binary"):
            inputs = [matrices[i] for i in choices[1:-1]]
            if is_fresh:  # these read before they write
                matrices[choices[-1]] = self.new(matrices[choices[-1]])
            kernel = (UNARY if kind == "unary" else BINARY)[choices[0]]
            CPU.launch(kernel, *inputs, matrices[choices[-1]])
        elif kind == "swap":
            matrices[choices[0]], matrices[choices[1]] = (matrices[i] for i in reversed(choices))
        else:
            getattr(self, kind)(choices, matrices, vectors, per_row)

    def broadcast(self, choices, matrices, vectors, per_row):
        vector, a, out = choices
        CPU.launch(elementwise.multiply, matrices[a], vectors[vector], matrices[out])

    def dropout(self, choices, matrices, vectors, per_row):
        a, out = (matrices[i].reshape(4, ROWS // 4, WIDTH) for i in choices)
        CPU.launch(dropout.dropout, a, np.array([1, 2, 3]), out, p=0.5, layer=1)

    def norm(self, choices, matrices, vectors, per_row):
        x, vector, out = choices
        if x != out:
            args = (matrices[x], vectors[vector], None, matrices[out], *per_row)
            CPU.launch(norm.layer_norm, *args, eps=1e-5)

    def norm_back(self, choices, matrices, vectors, per_row):
        x, vector, grad, out = choices
        if out not in (x, grad):
            args = (matrices[x], vectors[vector], matrices[grad], *per_row, matrices[out])
            CPU.launch(norm.layer_norm_backward_input, *args)

    def norm_weights(self, choices, matrices, vectors, per_row):
        x, grad, weight, bias = choices
        if weight != bias:
            args = (matrices[x], matrices[grad], *per_row, vectors[weight], vectors[bias])
            CPU.launch(norm.layer_norm_backward_weight, *args)

    def sum(self, choices, matrices, vectors, per_row):
        CPU.launch(reduction.sum, matrices[choices[0]], vectors[choices[1]], axis=(0,))


@pytest.mark.parametrize("part", [slice(128, None), slice(None, 384), slice(None)], ids=str)
def test_what_is_stepped_through_from_another_row_stays_apart(part):
    """Step i of the second would read what a later step of the first writes."""

    def program(x):
        y = CPU.empty(x.shape, x.dtype)
        CPU.launch(elementwise.multiply, x, x, y)
        out = CPU.empty(x[part].shape, x.dtype)
        CPU.launch(elementwise.negative, y[part], out)
        return out

    captured = capture(program)
    captured(np.ones((ROWS, WIDTH), np.float32))
    x = np.random.default_rng(5).standard_normal((ROWS, WIDTH), np.float32)
    np.testing.assert_array_equal(captured(x), -(x * x)[part])
    assert len(captured.plan.launches) == (1 if part == slice(None) else 2)


@st.composite
def programs(draw):
    return Program(draw)


def everything(returned):
    matrices, vectors, *per_row = returned
    return [array.tobytes() for array in itertools.chain(matrices, vectors, per_row)]


@given(programs())
def test_any_program_keeps_its_bits(program):
    """Random launches, in place and not, over memory that they share in every way."""
    smallest = draft.SHARED_FROM_BYTES
    draft.SHARED_FROM_BYTES = 0
    try:
        x = np.random.default_rng(5).standard_normal((ROWS, WIDTH), np.float32)
        with np.errstate(all="ignore"):
            returned, recording = record(program, (x,), CPU, Undo())
        recording.find_kept()
        results = []
        for names in ((), tuple(FUSIONS), ("chains",)):
            plan = make_plan(*fuse_recording(recording, names))
            for mine in returned[0]:
                mine[...] = np.nan
            for mine in returned[1]:
                mine[...] = np.linspace(1, 2, WIDTH, dtype=np.float32)
            Replay(plan).run()
            results.append(everything(returned))
        assert results[0] == results[1]
        assert results[0] == results[2]
    finally:
        draft.SHARED_FROM_BYTES = smallest
