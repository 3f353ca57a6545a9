"""Segments: stages of a real model, several microbatches in flight, and the bits of eager sums."""

import sys
import tracemalloc
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from baremetal import CPU, BaremetalError, Device, Parameter, Tensor, ops
from baremetal.capture import CaptureError, arena_figure, capture_segments
from baremetal.kernels.cost import ZERO
from baremetal.nn import GPT, GPTConfig, Linear, Llama, LlamaConfig
from baremetal.optim import AdamW

VOCAB, CONTEXT, WIDTH, BATCH = 11, 8, 16, 3
CONFIG = GPTConfig(vocab_size=VOCAB, context=CONTEXT, layers=2, heads=4, width=WIDTH, tied=False)
F, I, W = "forward", "input_gradient", "weight_gradient"


class First:
    """Embeddings and the first block: tokens (B, T) -> (B, T, C)."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        for module in (self.model.token_embedding, self.model.position_embedding):
            yield from module.parameters()
        yield from self.model.blocks[0].parameters()

    def forward(self, tokens):
        model = self.model
        x = model.token_embedding(tokens) + model.position_embedding(np.arange(CONTEXT))
        self.y = model.blocks[0](model.dropout(x))
        return self.y

    def input_gradient(self, dy):
        self.owed = self.y.backward(dy, defer_weights=True)

    def weight_gradient(self):
        self.owed.pay()


class Last(First):
    """The second block, the norm, the head and the loss: (B, T, C) and targets -> a scalar."""

    def __init__(self, model, total):
        self.model, self.total = model, total

    def parameters(self):
        for module in (self.model.blocks[1], self.model.norm, self.model.head):
            yield from module.parameters()

    def forward(self, x, targets):
        self.x = Tensor(x, requires_grad=True)
        logits = self.model.head(self.model.norm(self.model.blocks[1](self.x)))
        self.y = ops.cross_entropy(logits, targets, total=self.total)
        return self.y

    def input_gradient(self):
        self.owed = self.y.backward(defer_weights=True)
        return self.x.grad


def captured(stage, slots, **inputs):
    functions = {F: stage.forward, I: stage.input_gradient, W: stage.weight_gradient}
    return capture_segments(functions, inputs=inputs, parameters=stage.parameters(), slots=slots)


ACTIVATION = np.zeros((BATCH, CONTEXT, WIDTH), np.float32)
TOKENS = np.zeros((BATCH, CONTEXT), np.int64)


def make_model(dropout=0.0):
    config = GPTConfig(**{**CONFIG.__dict__, "dropout": dropout})
    return GPT(config, rng=np.random.default_rng(0), dropout_seed=3)


def make_pipeline(slots=(4, 4), dropout=0.0):
    """A model, its optimiser, the count of tokens, and the two captured stages."""
    model = make_model(dropout)
    optimizer = AdamW([*model.parameters()], learning_rate=0.01)
    total = np.zeros(1)
    first = captured(First(model), slots[0], forward=(TOKENS,), input_gradient=(ACTIVATION,))
    last = captured(Last(model, total), slots[1], forward=(ACTIVATION, TOKENS))
    return model, optimizer, total, (first, last)


def microbatches(count, seed=1):
    windows = np.random.default_rng(seed).integers(0, VOCAB, (count, BATCH, CONTEXT + 1))
    return [(w[:, :-1].copy(), w[:, 1:].copy()) for w in windows]


ORDERS = {
    "one after the other": ("F0 I0 W0 F1 I1 W1 F2 I2 W2 F3 I3 W3",) * 2,
    "all forwards first": ("F0 F1 F2 F3 I0 W0 I1 W1 I2 W2 I3 W3",) * 2,
    "1F1B": ("F0 F1 I0 W0 F2 I1 W1 F3 I2 W2 I3 W3", "F0 I0 W0 F1 I1 W1 F2 I2 W2 F3 I3 W3"),
    "zero bubble": ("F0 F1 F2 I0 W0 I1 F3 I2 I3 W1 W2 W3", "F0 I0 F1 I1 F2 W0 I2 W1 F3 I3 W2 W3"),
}


def actions(order, count):
    """ "F0 I0 W0 F1" -> [(F, 0), (I, 0), (W, 0)], for `count` microbatches."""
    names = {"F": F, "I": I, "W": W}
    parsed = [(names[word[0]], int(word[1:])) for word in order.split()]
    return [action for action in parsed if action[1] < count]


def run_pipeline(stages, orders, batches, before_forward):
    """Both stages at once, each in its order, waiting for what it needs; returns the losses."""
    first, last = stages
    ys, dxs, losses = {}, {}, {}
    slot_of = {first: {}, last: {}}

    def run_first(name, m):
        if name == F:
            before_forward(m)
            slot = slot_of[first][m] = first.free_slots[0]
            ys[m] = first[F].run(slot, batches[m][0]).data.copy()
        elif name == I:
            assert first[I].run(slot_of[first][m], dxs[m]) is None
        else:
            first[W].run(slot_of[first][m])

    def run_last(name, m):
        if name == F:
            before_forward(m)
            slot = slot_of[last][m] = last.free_slots[-1]
            # As a link would: received where it is expected, so that nothing is copied.
            x, _ = last[F].inputs(slot)
            x[...] = ys[m]
            losses[m] = last[F].run(slot, x, batches[m][1]).item()
        elif name == I:
            dxs[m] = last[I].run(slot_of[last][m]).data.copy()
        else:
            last[W].run(slot_of[last][m])

    waiting = [deque(actions(order, len(batches))) for order in orders]
    while any(waiting):
        before = sum(map(len, waiting))
        if waiting[0] and (waiting[0][0][0] != I or waiting[0][0][1] in dxs):
            run_first(*waiting[0].popleft())
        if waiting[1] and (waiting[1][0][0] != F or waiting[1][0][1] in ys):
            run_last(*waiting[1].popleft())
        assert sum(map(len, waiting)) < before, "the orders wait for each other"
    return [losses[m] for m in range(len(batches))]


def gradients(model):
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_gradients_are_those_of_eager_accumulation(order, count):
    most = count if order == "all forwards first" else min(count, 3)
    model, optimizer, total, stages = make_pipeline((most, most))
    eager = make_model()
    eager_optimizer = AdamW([*eager.parameters()], learning_rate=0.01)
    for step in range(2):
        batches = microbatches(count, seed=step)
        batches[0][1][0, : step + 2] = -100  # ignored
        total[0] = sum((targets != -100).sum() for _, targets in batches)
        eager_optimizer.zero_grad()
        eager_losses = []
        for inputs, targets in batches:
            loss = eager.loss(inputs, targets, total=total)
            loss.backward()
            eager_losses.append(loss.item())
        optimizer.zero_grad()
        losses = run_pipeline(stages, ORDERS[order], batches, lambda m: None)
        assert losses == eager_losses
        assert_equal_bits(gradients(model), gradients(eager))
        for each in (optimizer, eager_optimizer):
            each.clip(0.5)
            each.step()
        assert optimizer.gradient_norm == eager_optimizer.gradient_norm
        assert_equal_bits(model.state_dict(), eager.state_dict())


@pytest.mark.parametrize("kind", ["tied GPT", "Llama"])
@pytest.mark.parametrize("split", [True, False])
def test_whole_models_as_one_stage(kind, split):
    """A tied head adds twice to one gradient; grouped queries; backward in two halves or in one."""
    sizes = {"vocab_size": VOCAB, "context": CONTEXT, "layers": 2, "heads": 4, "width": WIDTH}
    total = np.full(1, 3.0 * BATCH * CONTEXT)

    def make():
        rng = np.random.default_rng(0)
        if kind == "Llama":
            return Llama(LlamaConfig(**sizes, kv_heads=2), rng=rng)
        return GPT(GPTConfig(**sizes), rng=rng)

    model, eager = make(), make()
    held = []

    def forward(tokens, targets):
        held[:] = [model.loss(tokens, targets, total=total)]
        return held[0]

    functions = {F: forward}
    if split:
        functions[I] = lambda: held.append(held[0].backward(defer_weights=True))
        functions[W] = lambda: held[1].pay()
    else:
        functions["backward"] = lambda: held[0].backward()
    stage = capture_segments(
        functions, inputs={F: (TOKENS, TOKENS)}, parameters=model.parameters(), slots=3
    )
    held.clear()
    batches = microbatches(3)
    for inputs, targets in batches:
        eager.loss(inputs, targets, total=total).backward()
    for slot, batch in enumerate(batches):
        stage[F].run(slot, *batch)
    for segment in [*stage][1:]:
        for slot in range(3):
            segment.run(slot)
    assert_equal_bits(gradients(model), gradients(eager))


def test_long_sums_are_added_as_eager_execution_adds_them():
    """Over 1,024 rows a first gradient is summed in two halves, one that is added in one go."""
    x = np.random.default_rng(2).standard_normal((2, 1024, 16), np.float32)
    layers = [Linear(16, 16, rng=np.random.default_rng(0)) for _ in range(2)]
    held = []

    def forward(part):
        held[:] = [(layers[0](Tensor(part)) * Tensor(part)).sum()]

    stage = capture_segments(
        {F: forward, "backward": lambda: held[0].backward()},
        inputs={F: (x[0],)}, parameters=layers[0].parameters(), slots=2,
    )  # fmt: skip
    for part in range(2):
        (layers[1](Tensor(x[part])) * Tensor(x[part])).sum().backward()
        stage[F].run(part, x[part])
        stage["backward"].run(part)
        a, b = (layer.weight.grad.numpy() for layer in layers)
        assert a.tobytes() == b.tobytes()


def test_each_microbatch_meets_its_own_dropout():
    """The state is written before each forward; the backward finds the copy in its slot."""
    model, _, total, stages = make_pipeline((3, 3), dropout=0.5)
    eager = make_model(dropout=0.5)
    batches = microbatches(3)
    total[0] = 3 * BATCH * CONTEXT
    for step in range(2):
        eager.zero_grad()
        for m, (inputs, targets) in enumerate(batches):
            eager.dropout_state.set(step, first_sample=m * BATCH)
            eager.loss(inputs, targets, total=total).backward()
        model.zero_grad()
        run_pipeline(
            stages, ORDERS["zero bubble"], batches,
            lambda m, step=step: model.dropout_state.set(step, first_sample=m * BATCH),
        )  # fmt: skip
        assert_equal_bits(gradients(model), gradients(eager))


def test_capturing_leaves_no_trace():
    """The recording runs everything once; a gradient that was there is there again."""
    model = make_model()
    total = np.full(1, 24.0)
    (inputs, targets), *_ = microbatches(1)
    model.loss(inputs, targets, total=total).backward()
    before, state = gradients(model), model.dropout_state.buffer.copy()
    captured(Last(model, total), 1, forward=(ACTIVATION, targets))
    assert_equal_bits(before, gradients(model))
    np.testing.assert_array_equal(state, model.dropout_state.buffer)


@pytest.mark.parametrize("times", [1, 2])
def test_accumulation_goes_on_from_what_was_there(times):
    """However often a parameter is given: a tied one belongs to two modules."""
    w = Parameter(np.array([2.0, 3.0], np.float32))
    w.grad = np.array([10.0, 20.0], np.float32)
    stage = capture_segments(
        {"all": lambda x: (Tensor(x) * w).sum().backward()},
        inputs={"all": (np.ones(2, np.float32),)}, parameters=[w] * times, slots=1,
    )  # fmt: skip
    stage["all"].run(0, np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(w.grad.numpy(), [11, 22])
    for begin in (w.zero_grad, stage.zero_grad):
        begin()
        assert w.grad is None
        stage["all"].run(0, np.array([1.0, 2.0], np.float32))
        np.testing.assert_array_equal(w.grad.numpy(), [1, 2])
    w.grad = np.array([5.0, 6.0], np.float32)  # goes into the same memory
    stage["all"].run(0, np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(w.grad.numpy(), [6, 8])


def test_results_keep_their_form():
    def forward(x):
        y = Tensor(x) * 2.0
        return {"y": y, "parts": (y.sum(), y.data)}

    stage = capture_segments({F: forward}, inputs={F: (np.ones(3, np.float32),)}, slots=2)
    stage[F].run(0, np.full(3, 5.0, np.float32))
    found = stage[F].run(1, np.full(3, 7.0, np.float32))
    assert found["y"].tolist() == [14.0] * 3
    assert found["parts"][0].item() == 42.0
    assert found["parts"][1] is not found["y"].data
    assert found["parts"][1].tolist() == [14.0] * 3
    assert stage[F].outputs(0)["y"].tolist() == [10.0] * 3
    assert stage[F].outputs(1) is found


def test_the_references_run_too():
    device = Device(kernels="reference")
    stage = capture_segments(
        {F: lambda x: ops.softmax(x * 2.0)},
        inputs={F: (Tensor(np.ones((2, 3), np.float32), device=device),)},
        slots=2, device=device,
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    np.testing.assert_allclose(stage[F].run(1, x).numpy(), ops.softmax(Tensor(x * 2)).numpy(), 1e-6)
    replays = [one.replay for one in stage[F]._bound]
    assert all(packed is None for each in replays for _, packed in each.bound_launches())


# ---------------------------------------------------------------- cost, memory, work


def test_costs_are_those_of_the_eager_launches():
    """Of a first microbatch, and of one that adds."""
    model = make_model()
    total = np.full(1, 24.0)
    stage = captured(Last(model, total), 2, forward=(ACTIVATION, TOKENS))
    eager = Last(model, total)
    calls = {
        F: lambda: eager.forward(ACTIVATION, TOKENS),
        I: eager.input_gradient,
        W: eager.weight_gradient,
    }
    for plan_name in ("first_plan", "plan"):
        for name, call in calls.items():
            costs = []

            def listen(run, kernel, arrays, attributes, costs=costs):
                run()
                costs.append(kernel.cost(*arrays, **attributes))

            with CPU.listen(listen):
                call()
            plan = getattr(stage[name], plan_name)
            assert plan.cost == sum(costs, ZERO)
            assert plan.cost.flops > 0
            assert len(plan.launches) == len(costs)
    for segment in stage:
        assert segment.cost == segment.plan.cost
    assert stage.cost == sum((segment.cost for segment in stage), ZERO)


def test_slots_are_apart_and_scratch_is_shared():
    _, _, _, (first, _) = make_pipeline((4, 1))
    memory = first.memory
    assert memory.slots == 4
    assert memory.total_bytes == memory.scratch_bytes + 4 * memory.slot_bytes
    assert 0 < memory.scratch_bound_bytes <= memory.scratch_bytes
    assert 0 < memory.slot_bound_bytes <= memory.slot_bytes
    assert memory.slot_bytes <= 1.05 * memory.slot_bound_bytes
    inside = set()
    for segment in first:
        for slot in range(4):
            plan = segment._bound[slot].replay.plan
            for buffer in plan.transient:
                start, stop = plan.offsets[buffer], plan.offsets[buffer] + buffer.size_bytes
                if start >= memory.scratch_bytes:
                    base = memory.scratch_bytes + slot * memory.slot_bytes
                    assert base <= start <= stop <= base + memory.slot_bytes
                    inside.add(slot)
                else:
                    assert stop <= memory.scratch_bytes
                    assert start == segment.plan.offsets[buffer]
    assert inside == {0, 1, 2, 3}
    assert "4 slots of" in memory.text()
    assert first[F].text().startswith(f"forward: {len(first[F].plan.launches)} launches, ")
    assert len(first[F].text().splitlines()) == len(first[F].plan.launches) + 2
    assert all(segment.text() in first.text() for segment in first)


def test_the_picture_of_a_slot_shows_every_buffer():
    _, _, _, (first, _) = make_pipeline((2, 1))
    for plan in (first.plan, first[F].plan, first[W].first_plan):
        (axes,) = arena_figure(plan, "a slot").axes
        boxes = [path for collection in axes.collections for path in collection.get_paths()]
        assert len(boxes) == len(plan.transient) > 0
        assert max(plan.alive_bytes()) == plan.memory.bound_bytes <= plan.memory.planned_bytes


def test_what_ends_in_its_segment_is_scratch():
    """x -> a -> b -> y: a and b die in the forward; the result y takes the place of the input x."""
    n = 64  # 256 bytes each

    def forward(x):
        a = Tensor(x) + 1.0
        b = a * 2.0
        del a
        return b * 3.0

    stage = capture_segments({F: forward}, inputs={F: (np.ones(n, np.float32),)}, slots=5)
    assert (stage.memory.slot_bytes, stage.memory.scratch_bytes) == (256, 512)
    assert stage.memory.total_bytes == 512 + 5 * 256


def test_a_run_is_one_call_and_allocates_nothing(monkeypatch):
    """Python functions that are entered: a handful, whatever the launches; no kernel, no memory."""
    _, _, _, (first, last) = make_pipeline((2, 2))
    x, targets = microbatches(1)[0]
    y = first[F].run(0, x).data
    last[F].run(0, y, targets)
    last[I].run(0)
    last[W].run(0)

    def refuse(*_, **__):
        raise AssertionError("a run must not come back to the device")

    monkeypatch.setattr(Device, "launch", refuse)
    monkeypatch.setattr(Device, "empty", refuse)
    runs = [(last[F], (y, targets)), (last[I], ()), (last[W], ())]
    for segment, inputs in runs:
        entered = []
        sys.setprofile(lambda frame, event, _, e=entered: e.append(frame) if event == "call" else 0)
        try:
            segment.run(1, *inputs)
        finally:
            sys.setprofile(None)
        names = [frame.f_code.co_filename.rpartition("baremetal")[2] for frame in entered]
        assert not any("kernels" in name and "pool" not in name for name in names)
        assert sum("pool" in name for name in names) <= 2
    tracemalloc.start()
    try:
        for segment, inputs in runs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            segment.run(1, *inputs)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < ACTIVATION.nbytes  # less than any activation
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- refusals


def test_results_stay_until_the_next_microbatch_begins():
    """A link may still be sending them while later segments run in the slot."""
    _, _, total, (first, last) = make_pipeline((1, 1))
    total[0] = 24
    tokens, targets = microbatches(1)[0]
    y = first[F].run(0, tokens)
    sent = y.data.copy()
    loss = last[F].run(0, sent, targets)
    value, dx = loss.item(), last[I].run(0)
    received = dx.data.copy()
    first[I].run(0, received)
    for stage in (first, last):
        stage[W].run(0)
    np.testing.assert_array_equal(y.data, sent)
    np.testing.assert_array_equal(dx.data, received)
    assert loss.item() == value
    for stage in (first, last):
        results = [x for x in stage.plan.transient if x.last == len(stage.plan.launches) - 1]
        assert len(results) >= 1


def test_what_is_used_last_where_the_next_segment_begins_is_in_the_slot():
    """The forward's last launch writes it, the first of the backward reads it, and nobody later."""
    held = []

    def forward(x):
        held[:] = [Tensor(x) * 2.0]

    stage = capture_segments(
        {F: forward, "backward": lambda: held[0] + 1.0}, inputs={F: (np.zeros(5, np.float32),)},
        slots=2,
    )  # fmt: skip
    for slot in range(2):
        stage[F].run(slot, np.full(5, slot, np.float32))
    for slot in range(2):
        np.testing.assert_array_equal(stage["backward"].run(slot).numpy(), [2 * slot + 1] * 5)


def test_all_slots_share_one_workspace():
    _, _, _, stages = make_pipeline((2, 2))
    for stage in stages:
        bound = [one for segment in stage for one in segment._bound]
        workspaces = {id(one._workspace) for each in bound for one in (each.replay, each.first)}
        assert workspaces == {id(stage._workspace)}


def test_plans_whose_slots_meet_are_refused():
    _, _, _, (first, _) = make_pipeline((2, 1))
    plan = first[I]._bound[1].replay.plan
    sound = first._plans
    sound._verify_apart(plan, 1)
    with pytest.raises(CaptureError, match=r"buffer \d+ .* of slot 0 lies at \d+, outside"):
        sound._verify_apart(plan, 0)
    scratch = next(b for b in plan.transient if b not in sound.in_slot)
    with pytest.raises(CaptureError, match=rf"buffer {scratch.number} .* that all slots share"):
        sound._verify_apart(replace(plan, entering=[scratch]), 1)
    moved = dict.fromkeys(plan.transient, 0)
    with pytest.raises(CaptureError, match=r"buffer \d+ .* of slot 1 lies at \d+, outside"):
        sound.at(replace(first[I].plan, offsets=moved), 1)  # whoever binds it asks


@pytest.mark.parametrize("bad", [VOCAB, -1])
def test_a_token_outside_the_vocabulary_runs_nothing(bad):
    _, _, total, (first, last) = make_pipeline((1, 1))
    total[0] = 24
    (tokens, targets), (wrong, _) = microbatches(2)
    wrong[0, 0] = bad
    with pytest.raises(BaremetalError, match=f"{bad} is not in 0..10"):
        first[F].run(0, wrong)
    y = first[F].run(0, tokens).data
    with pytest.raises(BaremetalError, match=f"{bad} is not in 0..10"):
        last[F].run(0, y, wrong)
    last[F].run(0, y, targets)
