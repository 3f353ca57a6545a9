"""Drawing tokens: the distribution by hand, frequencies, and text against the full forward."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from baremetal.autograd import no_grad
from baremetal.nn import choose_token, generate
from baremetal.nn.generate import next_token_distribution

# Exact probabilities 1/2, 1/4, 1/8, 1/8 at temperature 1, out of order.
LOGITS = np.log(np.array([1 / 8, 1 / 2, 1 / 8, 1 / 4]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {1: 1 / 2, 3: 1 / 4, 0: 1 / 8, 2: 1 / 8}),
        ({"temperature": 0.0}, {1: 1.0}),
        # p^(1/T): squares of 4:2:1:1 at T = 1/2, square roots at T = 2.
        ({"temperature": 0.5}, {1: 16 / 22, 3: 4 / 22, 0: 1 / 22, 2: 1 / 22}),
        ({"temperature": 1e-300}, {1: 1.0, 3: 0.0, 0: 0.0, 2: 0.0}),
        ({"temperature": math.inf}, {0: 1 / 4, 1: 1 / 4, 2: 1 / 4, 3: 1 / 4}),
        ({"top_k": 1}, {1: 1.0}),
        ({"top_k": 2}, {1: 2 / 3, 3: 1 / 3}),
        ({"top_k": 3}, {1: 4 / 7, 3: 2 / 7, 0: 1 / 7}),  # of equals the lower number stays
        ({"top_k": 99}, {1: 1 / 2, 3: 1 / 4, 0: 1 / 8, 2: 1 / 8}),
        ({"top_p": 1e-9}, {1: 1.0}),
        ({"top_p": 0.49}, {1: 1.0}),
        ({"top_p": 0.51}, {1: 2 / 3, 3: 1 / 3}),
        ({"top_p": 0.8}, {1: 4 / 7, 3: 2 / 7, 0: 1 / 7}),
        # Temperature, then top-k, then top-p of what is left: 16:4:1 of which 16/21 < 0.8 < 20/21.
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.8}, {1: 4 / 5, 3: 1 / 5}),
    ],
)
def test_the_distribution_is_the_one_computed_by_hand(options, expected):
    tokens, probabilities = next_token_distribution(LOGITS, **options)
    assert dict(zip(tokens.tolist(), probabilities, strict=True)) == pytest.approx(expected)


@given(
    arrays(np.float64, st.integers(1, 12), elements=st.floats(-30, 30)),
    st.floats(0.05, 5),
    st.integers(0, 13),
    st.floats(0.01, 1),
)
def test_what_is_kept_is_likeliest_enough_and_no_more(logits, temperature, top_k, top_p):
    tokens, kept = next_token_distribution(
        logits, temperature=temperature, top_k=top_k, top_p=top_p
    )
    assert kept.sum() == pytest.approx(1.0)
    assert (np.diff(kept) <= 0).all()
    full = np.exp((logits - logits.max()) / temperature)
    full /= full.sum()
    assert full[tokens].min() >= np.delete(full, tokens).max(initial=0.0)
    np.testing.assert_allclose(kept, full[tokens] / full[tokens].sum(), rtol=1e-9)
    if top_k:
        assert len(tokens) <= top_k
    pool = np.sort(full)[::-1][: top_k or None]
    pool = pool / pool.sum()
    assert pool[: len(tokens) - 1].sum() < top_p + 1e-9  # without the last it was not enough
    assert pool[: len(tokens)].sum() >= top_p - 1e-9


def test_of_many_equals_the_lowest_numbers_stay():
    logits = np.tile([0.0, 1.0, 0.5], 200)
    tokens, probabilities = next_token_distribution(logits, top_k=40)
    assert tokens.tolist() == list(range(1, 120, 3))
    np.testing.assert_allclose(probabilities, 1 / 40)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    rng = np.random.default_rng(0)
    draws = 4000
    counts = np.bincount([choose_token(LOGITS, rng) for _ in range(draws)], minlength=4)
    for count, p in zip(counts, np.exp(LOGITS), strict=True):
        assert abs(count - draws * p) < 5 * math.sqrt(draws * p * (1 - p))


def test_excluded_tokens_are_never_drawn():
    logits = np.array([-np.inf, 0.0, -np.inf], np.float32)
    tokens, probabilities = next_token_distribution(logits)
    assert probabilities[tokens != 1].sum() == 0
    assert choose_token(logits, np.random.default_rng(0)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, ("temperature -1.0",)),
        ({"temperature": math.nan}, ("temperature nan",)),
        ({"top_k": -1}, ("top-k -1",)),
        ({"top_p": 0.0}, ("top-p 0.0",)),
        ({"top_p": 1.5}, ("top-p 1.5",)),
    ],
)
def test_impossible_options_are_refused_before_the_first_token(tiny, options, words, refused):
    with refused(*words):
        choose_token(LOGITS, np.random.default_rng(0), **options)
    with refused(*words):
        generate(tiny("gpt"), np.array([1]), 3, np.random.default_rng(0), **options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_distribution_are_refused(bad, temperature, refused):
    with refused("NaN or infinity", "weights"):
        choose_token(np.array([0.0, bad]), np.random.default_rng(0), temperature=temperature)
    with refused("NaN or infinity"):
        choose_token(np.array([-np.inf, -np.inf]), np.random.default_rng(0))


@pytest.mark.parametrize("prompt", [np.array([], np.int64), np.array([[1, 2]])])
def test_prompts_that_are_no_sequence_are_refused(tiny, prompt, refused):
    with refused("prompt", str(prompt.shape)):
        generate(tiny("gpt"), prompt, 1, np.random.default_rng(0))


# ------------------------------------------------------------ whole texts


def slowly(model, prompt, count, rng, **options):
    """The same text without a cache: every token from a full forward over what it may see."""
    context, text = model.config.context, list(prompt)
    seen = min(len(text), context)
    model.eval()
    for _ in range(count):
        if seen > context:
            seen = context // 2
        with no_grad():
            logits = model(np.array([text[-seen:]])).numpy()[0, -1]
        text.append(choose_token(logits, rng, **options))
        seen += 1
    return text[len(prompt) :]


@pytest.mark.parametrize("kind", ["gpt", "llama", "grok"])
@pytest.mark.parametrize("length", [1, 5, 8, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_that_of_the_full_forward_past_the_end_of_the_context(
    tiny, spread, kind, length, temperature
):
    model = spread(tiny(kind))
    prompt = np.arange(length) % 11
    options = {"temperature": temperature, "top_k": 5, "top_p": 0.95}
    fast = list(generate(model, prompt, 20, np.random.default_rng(7), **options))
    assert fast == slowly(model, prompt, 20, np.random.default_rng(7), **options)
    assert len(fast) == 20
    assert set(fast) <= set(range(11))


def test_a_context_of_one_is_enough(tiny):
    model = tiny("gpt", context=1)
    assert len(list(generate(model, np.array([1, 2]), 4, np.random.default_rng(0)))) == 4


def test_the_same_seed_gives_the_same_text(tiny, spread):
    model = spread(tiny("gpt"))
    texts = [
        list(generate(model, np.array([1]), 12, np.random.default_rng(seed))) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_model_goes_back_to_its_mode(tiny):
    model = tiny("gpt", dropout=0.5)
    tokens = generate(model, np.array([1]), 5, np.random.default_rng(0))
    assert model.training  # nothing was asked for yet
    next(tokens)
    assert not model.training
    tokens.close()
    assert model.training
    list(generate(model.eval(), np.array([1]), 1, np.random.default_rng(0)))
    assert not model.training


def test_nothing_is_recorded(tiny):
    model = tiny("gpt")
    list(generate(model, np.array([1]), 2, np.random.default_rng(0)))
    assert not any(p.has_gradient for p in model.parameters())


def test_unknown_tokens_are_refused(tiny, refused):
    with refused("11", "0..10"):
        list(generate(tiny("gpt"), np.array([11]), 1, np.random.default_rng(0)))
