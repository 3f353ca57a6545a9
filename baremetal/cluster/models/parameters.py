"""How many parameters a model has, by part.

With width h, a heads of width d, g heads of keys and values, hidden f, and m matrices in a
feed-forward part (3 if gated, else 2), a layer holds

    attention      h (a + 2 g) d + a d h
    feed-forward   m h f                     experts: count of them, m h f each, f of an expert
    router         h count

and the whole model an embedding and a head of vocab x h each, or one for both if they are tied.
Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) replaces the first line: h r and
r a (p + q) for the query, h (k + q) and k a (p + v) for keys and values, a v h back, where r and k
are the ranks, p and q a head's width without and with rotary positions, v that of its value.

*Active* are those that a token is multiplied with: of the experts only the chosen ones. Published
figures differ in whether the embedding counts, from which a token only reads a row: DeepSeek-V3's
37B and GPT-OSS's 5.1B leave it out, Qwen3's 3.3B and Mixtral's 12.9B count it.

What few models have and nobody counts is left out: Grok-1's second norms, GPT-OSS's sinks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from baremetal.cluster.models.description import ModelDescription


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        embedding: of tokens; if tied, it is the head as well.
        positions: learned ones.
        attention: its linear maps.
        feed_forward: of dense layers.
        experts: routed ones, all or the active ones.
        shared_experts: what every token passes beside them.
        router: which picks them.
        norms: everywhere.
        head: unless it is tied.
        predictors: all that is in modules which predict further tokens.
    """

    embedding: int = 0
    positions: int = 0
    attention: int = 0
    feed_forward: int = 0
    experts: int = 0
    shared_experts: int = 0
    router: int = 0
    norms: int = 0
    head: int = 0
    predictors: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, part.name) for part in fields(self))

    def plus(self, other: "Parameters") -> "Parameters":
        """Both together, part by part."""
        return Parameters(
            **{p.name: getattr(self, p.name) + getattr(other, p.name) for p in fields(self)}
        )


def model_parameters(model: ModelDescription) -> Parameters:
    """Of the whole model, extra predictors included."""
    table = model.vocab_size * model.width
    ends = Parameters(
        embedding=table,
        positions=model.learned_positions * model.width,
        norms=_norm(model),
        head=0 if model.tied else table,
        predictors=model.extra_predictors * predictor_parameters(model).total,
    )
    return _sum((ends, *(layer_parameters(model, layer) for layer in range(model.layers))))


def active_parameters(model: ModelDescription, embedding: bool = True) -> Parameters:
    """Of the whole model, what a token is multiplied with; no predictors, which only train it.

    Args:
        model: whose.
        embedding: count the embedding and the positions as well, of which a token reads a row. A
            tied embedding counts in any case: it is the head.
    """
    every = replace(model_parameters(model), predictors=0)
    if model.experts is not None:
        # Exact: each of a layer's experts has the same size.
        active = every.experts * model.experts.active // model.experts.count
        every = replace(every, experts=active)
    if embedding:
        return every
    return replace(every, positions=0, embedding=every.embedding if model.tied else 0)


def layer_parameters(model: ModelDescription, layer: int) -> Parameters:
    """Of one block, from 0."""
    return _block(model, model.has_experts(layer))


def predictor_parameters(model: ModelDescription) -> Parameters:
    """Of one module that predicts a further token (DeepSeek-V3, arXiv 2412.19437, section 2.2).

    A block as the last one, before it a map from two joined vectors to one, three norms. Embedding
    and head are the model's own.
    """
    block = layer_parameters(model, model.layers - 1)
    joined = 2 * model.width * model.width
    return block.plus(Parameters(feed_forward=joined, norms=3 * _norm(model)))


def _block(model: ModelDescription, sparse: bool) -> Parameters:
    parts = Parameters(attention=_attention(model), norms=_block_norms(model))
    if not sparse:
        return replace(parts, feed_forward=_feed_forward(model, model.hidden))
    experts = model.experts
    assert experts is not None
    shared = _feed_forward(model, experts.shared_hidden) if experts.shared_hidden else 0
    return replace(
        parts,
        experts=experts.count * _feed_forward(model, experts.hidden),
        shared_experts=shared,
        router=experts.count * (model.width + model.bias),
    )


def _attention(model: ModelDescription) -> int:
    heads, width = model.heads, model.width
    if model.latent is None:
        inner = (heads + 2 * model.kv_heads) * model.head_width
        out = heads * model.head_width * width
        biases = inner + width if model.bias else 0
        return width * inner + out + biases
    latent = model.latent
    key_width = latent.plain_width + latent.rotary_width
    from_width = latent.query_rank or width
    query = from_width * heads * key_width + width * latent.query_rank
    narrow = width * (latent.kv_rank + latent.rotary_width)
    keys = latent.kv_rank * heads * (latent.plain_width + latent.value_width)
    return query + narrow + keys + heads * latent.value_width * width


def _feed_forward(model: ModelDescription, hidden: int) -> int:
    into = 2 if model.gated else 1
    biases = into * hidden + model.width if model.bias else 0
    return (into + 1) * model.width * hidden + biases


def _block_norms(model: ModelDescription) -> int:
    norms = _norm(model) * (1 if model.parallel_block else 2)
    if model.query_key_norm:
        norms += 2 * model.head_width
    if model.latent is not None:
        norms += model.latent.query_rank + model.latent.kv_rank
    return norms


def _norm(model: ModelDescription) -> int:
    return model.norm_parameters * model.width


def _sum(parts: Iterable[Parameters]) -> Parameters:
    total = Parameters()
    for part in parts:
        total = total.plus(part)
    return total
