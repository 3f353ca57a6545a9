"""Samplers: pure functions of (seed, number), so that any position can be reached again."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.data import EpochSampler, RandomSampler, evaluation_batches, make_sampler

KINDS = [RandomSampler, EpochSampler]
# Ids that differ from their positions, and say by themselves where they stand.
TOKENS = (np.arange(1000) * 7 + 3).astype(np.uint16)


def places(batch):
    """The positions of a batch's tokens in TOKENS, (inputs, targets)."""
    return tuple((array - 3) // 7 for array in batch)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_inputs_shifted_by_one(kind):
    sampler = kind(TOKENS, batch=5, context=8, seed=1)
    for _ in range(60):
        inputs, targets = batch = sampler.next_batch()
        assert inputs.shape == targets.shape == (5, 8)
        assert inputs.dtype == targets.dtype == np.int64
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        at, after = places(batch)
        np.testing.assert_array_equal(after, at + 1)
        np.testing.assert_array_equal(np.diff(at, axis=1), 1)


@pytest.mark.parametrize("kind", KINDS)
@given(taken=st.integers(0, 300), batch=st.integers(1, 9), seed=st.integers(0, (1 << 64) - 1))
def test_resume_from_any_position(kind, taken, batch, seed):
    steady = kind(TOKENS, batch, 8, seed)
    for _ in range(taken):
        steady.next_batch()
    saved = json.loads(json.dumps(steady.state_dict()))
    resumed = kind(TOKENS, batch, 8, seed)
    resumed.load_state_dict(saved)
    for number in range(taken, taken + 3):
        expected = steady.next_batch()
        np.testing.assert_array_equal(resumed.next_batch(), expected)
        # Neither history nor position matters to a batch that is asked for by number.
        np.testing.assert_array_equal(kind(TOKENS, batch, 8, seed).batch_at(number), expected)


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(0, 1000), parts=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_microbatches_are_the_parts_of_the_batch(kind, number, parts):
    whole = kind(TOKENS, 12, 8, 5).batch_at(number)
    micro = kind(TOKENS, 12 // parts, 8, 5)
    pieces = [micro.batch_at(number * parts + m) for m in range(parts)]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([p[side] for p in pieces]), whole[side])


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_batches_differ(kind):
    first = kind(TOKENS, 8, 8, 0).starts(0, 100)
    assert not np.array_equal(first, kind(TOKENS, 8, 8, 1).starts(0, 100))
    assert not np.array_equal(first, kind(TOKENS, 8, 8, 0).starts(100, 100))


def test_the_sequence_is_fixed_for_ever():
    """Golden starts: another NumPy, another system, the same samples, or old runs cannot resume."""
    random = RandomSampler(TOKENS, 4, 8, 1234).starts(0, 6)
    epoch = EpochSampler(TOKENS, 4, 8, 1234).starts(0, 6)
    assert random.tolist() == [813, 417, 572, 402, 731, 22]
    assert epoch.tolist() == [712, 528, 728, 520, 640, 824]


def test_random_windows_reach_every_start():
    """50 starts, 5,000 draws: each about 100 times; 60 to 140 is four standard deviations."""
    counts = np.bincount(RandomSampler(np.arange(58), 1, 8, 0).starts(0, 5000))
    assert len(counts) == 50
    assert counts.min() > 60
    assert counts.max() < 140


@given(
    length=st.integers(9, 200),
    batch=st.integers(1, 40),
    seed=st.integers(0, 99),
    start=st.booleans(),
)
def test_an_epoch_is_every_window_once(length, batch, seed, start):
    sampler = EpochSampler(np.arange(length), batch, 8, seed)
    windows = sampler.windows
    assert windows == (length - 1) // 8
    for epoch in (0, 1, 7):
        starts = sampler.starts(epoch * windows, windows)
        assert sorted(starts.tolist()) == list(range(0, windows * 8, 8))
    # Batches that straddle epochs hold the same sequence.
    drawn = [sampler.batch_at(n)[0][:, 0] for n in range(-(-2 * windows // batch))]
    np.testing.assert_array_equal(
        np.concatenate(drawn)[: 2 * windows], sampler.starts(0, 2 * windows)
    )


def test_epochs_are_shuffled_anew():
    sampler = EpochSampler(np.arange(8001), 1, 8, 0)
    first, second = sampler.starts(0, 1000), sampler.starts(1000, 1000)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.sort(first))


@pytest.mark.parametrize("kind", KINDS)
def test_given_buffers_are_filled(kind, refused):
    sampler, other = (kind(TOKENS, 5, 8, 1) for _ in range(2))
    out = np.full((2, 5, 8), -1)
    inputs, targets = sampler.next_batch((out[0], out[1]))
    assert inputs.base is out
    assert targets.base is out
    np.testing.assert_array_equal(out, other.next_batch())
    with refused("inputs", "(5, 7)", "(5, 8)"):
        sampler.next_batch((out[0, :, :7], out[1]))
    with refused("targets", "float32", "int64"):
        sampler.next_batch((out[0], out[1].astype(np.float32)))


def test_a_refused_buffer_does_not_move_the_sampler(refused):
    sampler = RandomSampler(TOKENS, 5, 8, 1)
    with refused("buffer"):
        sampler.next_batch((np.zeros((1, 1)), np.zeros((1, 1))))
    assert sampler.samples_seen == 0


@pytest.mark.parametrize("kind", KINDS)
def test_data_shorter_than_a_block_is_refused(kind, refused):
    assert kind(np.arange(9), 2, 8, 0).next_batch()[1].tolist() == [list(range(1, 9))] * 2
    with refused("block longer than the data", "needs 9 tokens", "has 8"):
        kind(np.arange(8), 2, 8, 0)
    with refused("block longer than the data", "needs 9 tokens", "has 8"):
        evaluation_batches(np.arange(8), 2, 8)


def test_senseless_sizes_are_refused(refused):
    for batch, context in ((0, 8), (2, 0), (-1, 8)):
        with refused(f"batch {batch} and context {context}"):
            RandomSampler(TOKENS, batch, context, 0)
    for seed in (-1, 1 << 64):
        with refused(f"seed {seed}"):
            RandomSampler(TOKENS, 2, 8, seed)
    with refused("unknown sampler 'radnom'", "did you mean 'random'?"):
        make_sampler("radnom", TOKENS, 2, 8, 0)
    with refused("0 evaluation batches"):
        evaluation_batches(TOKENS, 2, 8, 0)


def test_a_position_of_another_sampler_is_refused(refused):
    sampler = RandomSampler(TOKENS, 2, 8, 0)
    state = sampler.state_dict()
    for key, value in (("kind", "epoch"), ("seed", 1), ("context", 9), ("tokens", 999)):
        with refused(key, str(value)):
            sampler.load_state_dict(state | {key: value})
    for value in (-1, 1.5, None, True):
        with refused(str(value), "damaged"):
            sampler.load_state_dict(state | {"samples_seen": value})
    del state["seed"]
    with refused("'seed'", "damaged"):
        sampler.load_state_dict(state)
    assert sampler.samples_seen == 0


def test_make_sampler_knows_both():
    assert isinstance(make_sampler("random", TOKENS, 2, 8, 0), RandomSampler)
    assert isinstance(make_sampler("epoch", TOKENS, 2, 8, 0), EpochSampler)


@given(length=st.integers(9, 400), batch=st.integers(1, 7))
def test_full_evaluation_covers_every_target(length, batch):
    batches = list(evaluation_batches(np.arange(length), batch, 8))
    assert {inputs.shape for inputs, _ in batches} == {(batch, 8)}
    covered = np.unique([targets for _, targets in batches])
    np.testing.assert_array_equal(covered, np.arange(1, length))
    for inputs, targets in batches:
        np.testing.assert_array_equal(targets, inputs + 1)


@given(windows=st.integers(2, 30), extra=st.integers(0, 100))
def test_few_evaluation_windows_are_spread_evenly(windows, extra):
    tokens = np.arange(windows * 8 + 1 + extra)
    starts = np.concatenate(
        [inputs[:, 0] for inputs, _ in evaluation_batches(tokens, 1, 8, n_batches=windows)]
    )
    assert starts[0] == 0
    assert starts[-1] == len(tokens) - 9
    gaps = np.diff(starts)
    assert gaps.min() >= 8  # no overlap when there is room
    assert gaps.max() - gaps.min() <= 1


def test_evaluation_repeats_itself_and_fills_buffers():
    out = (np.empty((3, 8), np.int64), np.empty((3, 8), np.int64))
    fresh = [(x.copy(), y.copy()) for x, y in evaluation_batches(TOKENS, 3, 8, 4)]
    filled = [(x.copy(), y.copy()) for x, y in evaluation_batches(TOKENS, 3, 8, 4, out)]
    np.testing.assert_array_equal(fresh, filled)
    assert len(fresh) == 4
