"""The central promise: whatever the cut and the order, the gradients of the uncut model."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import (
    assert_close,
    gradients,
    in_one_piece,
    make_batch,
    make_pipeline,
    make_stages,
    maker,
    summed_gradients,
)

from baremetal.schedules import Action, Kind, Schedule
from baremetal.schedules.registry import SCHEDULES, make_schedule


def random_schedule(rng, ranks, chunks, microbatches, mirrored, split):
    """Any order that respects who needs whose result, with stages on any ranks.

    At each turn a random action that may run is done and noted in its rank's list. Every schedule
    there is, each of its own stages, is one that this could have drawn.
    """
    length = ranks * chunks
    paths = [tuple(range(length))]
    placed = rng.permutation(np.repeat(np.arange(ranks), chunks))
    rank_of = [*placed]
    if mirrored:
        paths.append(tuple(range(length, 2 * length)))
        rank_of += [*placed[::-1]]
    each = -(-microbatches // len(paths))
    lists = [[] for _ in range(ranks)]
    ready = [Action(Kind.F, paths[m // each][0], m) for m in range(microbatches)]
    while ready:
        action = ready.pop(rng.integers(len(ready)))
        kind, stage, m = action
        lists[rank_of[stage]].append(action)
        path = paths[m // each]
        at = path.index(stage)
        back = Kind.I if split == "always" or (split == "sometimes" and m % 2) else Kind.B
        if kind is Kind.F:
            ready.append(Action(Kind.F, path[at + 1], m) if at + 1 < length else
                         Action(back, stage, m))  # fmt: skip
        elif kind is not Kind.W:
            if at:
                ready.append(Action(back, path[at - 1], m))
            if kind is Kind.I:
                ready.append(Action(Kind.W, stage, m))
    return Schedule("random", microbatches, tuple(map(tuple, lists)), tuple(paths))


@st.composite
def cases(draw, most_ranks=8, most_microbatches=16):
    ranks = draw(st.integers(1, most_ranks))
    chunks = draw(st.integers(1, 4))
    mirrored = draw(st.booleans()) and ranks > 1
    microbatches = draw(st.integers(2 if mirrored else 1, most_microbatches))
    split = draw(st.sampled_from(["always", "sometimes", "never"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    schedule = random_schedule(rng, ranks, chunks, microbatches, mirrored, split)
    layers = ranks * chunks + draw(st.integers(0, 2))
    return schedule, layers, rng


MODELS = {
    "gpt": {"tied": False},
    "gpt, tied, dropout": {"dropout": 0.3},
    "gpt, embeddings frozen": {"freeze": ("embedding",), "tied": False},
    "gpt, tied and dropout, something frozen": {
        "freeze": ("blocks.0", "position", "norm_2"), "dropout": 0.3
    },
    "llama": {"kind": "llama"},
    "llama, tied, head norm frozen": {"kind": "llama", "tied": True, "freeze": ("blocks.1.mlp",)},
    "experts": {"kind": "moe"},
}  # fmt: skip


def check(make, schedule, costs, captured):
    batch = make_batch(schedule.microbatches, step=3)
    expected, expected_loss = in_one_piece(make, batch)
    stages = make_stages(make, schedule, costs)
    loss = make_pipeline(stages, schedule, captured).step(batch)
    assert abs(loss - expected_loss) <= 1e-12 * abs(expected_loss)
    assert_close(summed_gradients(stages), gradients(expected))


@settings(max_examples=6)
@given(case=cases(), model=st.sampled_from([*MODELS]))
def test_any_order_of_any_cut(case, model):
    schedule, layers, rng = case
    costs = [*rng.uniform(0.1, 1.0, layers)]
    check(maker(layers=layers, **MODELS[model]), schedule, costs, captured=False)


@settings(max_examples=6)
@given(
    case=cases(most_ranks=3, most_microbatches=6),
    model=st.sampled_from([name for name in MODELS if name != "experts"]),
)
def test_any_order_of_any_cut_captured(case, model):
    schedule, layers, rng = case
    costs = [*rng.uniform(0.1, 1.0, layers)]
    check(maker(layers=layers, **MODELS[model]), schedule, costs, captured=True)


# ---------------------------------------------------------------- the schedules that have a name


def domain(name):
    """All sizes (ranks, microbatches, chunks) up to 8, 16 and 4 for which there is a schedule."""
    sizes = itertools.product(range(1, 9), range(1, 17), range(1, 5))
    return [each for each in sizes if SCHEDULES[name].refusal(*each) is None]


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=3)
@given(data=st.data())
def test_every_schedule(name, data):
    """Drawn from all of its domain, with a model of uneven stages."""
    schedule = make_schedule(name, *data.draw(st.sampled_from(domain(name))))
    model = data.draw(st.sampled_from([*MODELS]))
    layers = len(schedule.paths[0]) + data.draw(st.integers(0, 2))
    costs = data.draw(st.lists(st.integers(1, 9), min_size=layers, max_size=layers))
    check(maker(layers=layers, **MODELS[model]), schedule, costs, captured=False)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_captured(name):
    """The smallest that has two ranks or more, tied and with dropout."""
    schedule = make_schedule(name, *min(size for size in domain(name) if size[0] > 1))
    layers = len(schedule.paths[0])
    model = MODELS["gpt, tied and dropout, something frozen"]
    check(maker(layers=layers, **model), schedule, [1.0] * layers, captured=True)
