"""Level 2: the whole step as one compiled function."""

import re
import sys
import tracemalloc

import numpy as np
import pytest

from baremetal import Tensor, ops
from baremetal.capture import CaptureError, capture
from baremetal.kernels.native.abi import address_of, body
from baremetal.kernels.native.compiler import COMPILING
from baremetal.kernels.native.generated import load_generated
from baremetal.kernels.native.pool import PARALLEL_FROM
from baremetal.kernels.native.program import compile_program
from baremetal.nn import GPT, GPTConfig, Llama, LlamaConfig
from baremetal.optim import SGD, AdamW, Muon, decay_groups

SIZES = {"vocab_size": 11, "context": 8, "heads": 4, "width": 16}
STEPS = 5


def make_model(kind, layers, **changes):
    rng = np.random.default_rng(0)
    if kind == "llama":
        return Llama(LlamaConfig(**SIZES, layers=layers, kv_heads=2), rng=rng)
    return GPT(GPTConfig(**SIZES, layers=layers, **changes), rng=rng, dropout_seed=3)


def make_optimizer(name, model):
    parameters = [*model.parameters()]
    if name == "sgd":
        return SGD(parameters, learning_rate=0.1, momentum=0.9)
    if name == "muon":
        matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
        others = [p for p in parameters if not any(p is m for m in matrices)]
        return Muon(matrices, decay_groups(others, 0.1), learning_rate=0.01)
    return AdamW(decay_groups(parameters, 0.1), learning_rate=0.01)


def make_step(model, optimizer, parts, total):
    def step(inputs, targets):
        optimizer.zero_grad()
        losses = []
        for part in range(parts):
            losses.append(model.loss(inputs[part], targets[part], total=total))
            losses[-1].backward()
        optimizer.clip(0.5, losses[-1])
        optimizer.step()
        return losses

    return step


def run(step, optimizer, model, parts, total):
    """Some steps, each with tokens, a rate and a count of its own: their losses."""
    rng = np.random.default_rng(1)
    losses = []
    for number in range(STEPS):
        tokens = rng.integers(0, SIZES["vocab_size"], (parts, 3, SIZES["context"] + 1))
        inputs, targets = tokens[..., :-1].copy(), tokens[..., 1:].copy()
        optimizer.learning_rate = 0.01 / (number + 1)
        total[0] = 20 * parts + number
        if hasattr(model, "dropout_state"):
            model.dropout_state.set(step=number)
        losses += [loss.item() for loss in step(inputs, targets)]
    return losses


def trained(level, kind, optimizer_name, parts, layers=2, **changes):
    """Losses, weights and the step after some steps at this level; "eager" is no capture."""
    model = make_model(kind, layers, **changes)
    optimizer = make_optimizer(optimizer_name, model)
    total = np.zeros(1)
    step = make_step(model, optimizer, parts, total)
    if level != "eager":
        step = capture(step, level=level, named=optimizer.named_memory)
    losses = run(step, optimizer, model, parts, total)
    return losses, model.state_dict(), step


@pytest.mark.parametrize(
    ("kind", "optimizer_name", "parts", "changes"),
    [("gpt", "adamw", 3, {"dropout": 0.2}), ("llama", "muon", 1, {}), ("gpt", "sgd", 1, {})],
)
def test_calling_the_same_bodies_gives_the_same_bits(kind, optimizer_name, parts, changes):
    eager_losses, eager, _ = trained("eager", kind, optimizer_name, parts, **changes)
    losses, native, _ = trained("native-exact", kind, optimizer_name, parts, **changes)
    assert losses == eager_losses
    for name, array in eager.items():
        np.testing.assert_array_equal(native[name], array, err_msg=name)


@pytest.fixture(scope="module")
def inlined():
    return trained("native", "gpt", "adamw", 1)


def test_inlined_kernels_differ_by_the_order_of_their_sums(inlined):
    """Sums of known length are unrolled: float32 rounding, 6e-8 a sum, over a few hundred sums."""
    eager_losses, eager, _ = trained("eager", "gpt", "adamw", 1)
    losses, native, _ = inlined
    np.testing.assert_allclose(losses, eager_losses, rtol=2e-5)
    for name, array in eager.items():
        # AdamW divides by the gradient's own size: where that is tiny, rounding is amplified.
        np.testing.assert_allclose(native[name], array, rtol=0, atol=2e-4, err_msg=name)


def test_the_step_makes_no_python_call_and_allocates_nothing(inlined):
    captured = inlined[2]
    program = captured._native
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append((event, frame.f_code.co_name)))
    try:
        program.run()
    finally:
        sys.setprofile(None)
    # numba announces the compiled step like a call of Python's; within it there is nothing.
    assert [name for event, name in calls if event == "call"] == ["run", "step"]
    assert sum(event == "c_call" for event, _ in calls) <= 3  # the lock, the end of profiling
    tracemalloc.start()
    try:
        program.run()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        program.run()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # Room for the tuple of arguments. The step's own buffers have 50 kB.
    assert peak < 1024
    assert captured.plan.memory.total_bytes > 50_000


def test_the_text_knows_the_plan_and_no_address(inlined):
    captured = inlined[2]
    again = trained("native-exact", "gpt", "adamw", 1)[2]
    other = trained("native-exact", "gpt", "adamw", 1)[2]
    assert again.source == other.source  # in other memory
    numbers = {int(number) for number in re.findall(r"\d{6,}", captured.source)}
    program = captured._native
    assert numbers.isdisjoint([program._arena, *program._fixed.tolist()])
    assert "blocks.1.mlp.up.weight.grad" in captured.source
    assert address_of(captured._replay.arena) == program._arena


def test_blocks_share_one_function():
    two = trained("native-exact", "gpt", "adamw", 1)[2].source
    four = trained("native-exact", "gpt", "adamw", 1, layers=4)[2].source
    assert two.count("@part") == four.count("@part") >= 2
    assert two.count("run(") == four.count("run(")
    assert len(re.findall(r"^    blocks_forward\(", four, re.MULTILINE)) == 4


def test_another_plan_is_another_program_and_the_same_one_is_loaded():
    """Equal but for one size, so that a cache that looked at names alone would mix them up."""

    def doubled(x):
        return ops.sum(Tensor(x) * 2.0)

    results, sources = [], []
    for size in (7, 9):
        captured = capture(doubled, level="native")
        captured(np.ones(size, np.float32))
        results.append(captured(np.full(size, 3.0, np.float32)).item())
        sources.append(captured.source)
    assert results == [42.0, 54.0]
    assert sources[0] != sources[1]
    loaded = COMPILING.loaded
    compile_program(load_generated(sources[0], "step").step)
    assert COMPILING.loaded == loaded + 1


def test_large_launches_are_divided_and_small_ones_are_not():
    def doubled(x):
        return Tensor(x) * 2.0

    texts = {}
    for size in (PARALLEL_FROM - 1, PARALLEL_FROM):
        captured = capture(doubled, level="native")
        captured(np.ones(size, np.float32))
        x = np.arange(size, dtype=np.float32)
        np.testing.assert_array_equal(captured(x).data, 2 * x)
        texts[size] = captured.source
    assert "threads, words_f32(" in texts[PARALLEL_FROM]
    assert "threads, words_f32(" not in texts[PARALLEL_FROM - 1]


def test_another_body_of_the_same_name_is_not_taken_for_it():
    """A test or a user may name a body as the library does: once one of tests did."""

    @body
    def multiply_body(lo, hi, args):
        """Does nothing at all."""

    assert multiply_body.name == "multiply_body"
    captured = capture(lambda x: Tensor(x) * 5.0, level="native")
    captured(np.ones(11, np.float32))
    np.testing.assert_array_equal(captured(np.full(11, 2, np.float32)).data, np.full(11, 10))


def test_a_kernel_without_a_compiled_version_is_refused_by_name():
    captured = capture(lambda x: ops.sum(Tensor(x)), level="native")
    with pytest.raises(CaptureError, match=r"'sum' of .* runs in NumPy; capture it with level="):
        captured(np.arange(6))


def test_a_plan_can_be_read_as_a_program_at_any_level():
    captured = capture(lambda x: Tensor(x) * 2.0)
    with pytest.raises(CaptureError, match="no plan yet"):
        _ = captured.source
    captured(np.ones(3, np.float32))
    native = capture(lambda x: Tensor(x) * 2.0, level="native")
    native(np.ones(3, np.float32))
    assert captured.source == native.source
    assert "multiply_body(0, 3, words_f32((input_0, " in captured.source


def test_an_unknown_level_is_refused():
    with pytest.raises(CaptureError, match="choose one of replay, native"):
        capture(len, level="fast")
