"""The work of one block for one microbatch: forward, and what backward makes of it.

A block on one of `tp` GPUs, T = mbs x seq / cp tokens, width h, values of 2 B:

    part        forward                                    I (input gradient)     W
    norm        stream over T h / (tp if sp)               the same, twice        -
    gather      all_gather T h over tp (sp)                reduce_scatter         all_gather again
    qkv         (T, h) x (h, (a + 2 kv) d / tp)            dy W^T                 x^T dy
    attention   (s, d) x (d, s), softmax, x (s, d)         five products for two  -
    out         (T, a d / tp) x (a d / tp, h)              dy W^T                 x^T dy
    scatter     reduce_scatter (sp) or all_reduce T h      all_gather (sp)        -
    up, down    the same with f / tp                       dy W^T                 x^T dy

Megatron's sequence parallelism (V. Korthikanti et al., arXiv 2205.05198, section 4.2.2) splits the
all-reduce into two halves that move the same bytes, and gathers the input once more for W.
"""

from dataclasses import dataclass, replace

from baremetal.cluster.cost.software import Software
from baremetal.cluster.cost.work import Exchange, Product, Stream, Work
from baremetal.cluster.models import ModelDescription
from baremetal.cluster.plan import Plan

VALUE_BYTES = 2


@dataclass(frozen=True)
class Actions:
    """The work of each action: F, I and W."""

    forward: tuple[Work, ...]
    input_gradient: tuple[Work, ...]
    weight_gradient: tuple[Work, ...]

    def plus(self, other: "Actions") -> "Actions":
        """Both, one after the other."""
        return Actions(
            self.forward + other.forward,
            other.input_gradient + self.input_gradient,
            other.weight_gradient + self.weight_gradient,
        )


@dataclass(frozen=True)
class Sizes:
    """What all parts of a block share.

    Attributes:
        model, plan, software, precision: as given.
        seq: tokens of a sample.
        tokens: of a microbatch on this GPU, T.
        split: into how many parts sequence parallelism splits them.
        split_tokens: of those, in one part.
    """

    model: ModelDescription
    plan: Plan
    software: Software
    precision: str
    seq: int

    @property
    def tokens(self) -> float:
        return self.plan.mbs * self.seq / self.plan.cp

    @property
    def split(self) -> int:
        return self.plan.tp if self.plan.sp else 1

    @property
    def split_tokens(self) -> float:
        return self.tokens / self.split

    @property
    def tokens_bytes(self) -> float:
        """Of all tokens' activations between blocks."""
        return self.tokens * self.model.width * VALUE_BYTES

    @property
    def product_bytes(self) -> float:
        """Of a value that a product reads."""
        return {"fp8": 1, "mxfp8": 1, "nvfp4": 0.5625}.get(self.precision, 2)


def block_actions(sizes: Sizes, layer: int) -> Actions:
    """The work of one layer."""
    sparse = sizes.model.has_experts(layer)
    attention = attention_actions(sizes, layer)
    feed_forward = expert_actions(sizes) if sparse else dense_actions(sizes, sizes.model.hidden)
    return attention.plus(feed_forward)


def attention_actions(sizes: Sizes, layer: int) -> Actions:
    """Norm, queries, keys and values, attention, the map back, and the residual sum."""
    model, plan = sizes.model, sizes.plan
    heads, kv = model.heads / plan.tp, max(model.kv_heads / plan.tp, 1)
    width: float = model.head_width
    value_width = width
    if model.latent is None:
        inner = linear(sizes, "qkv", model.width, (heads + 2 * kv) * width)
    else:
        inner, width, value_width = latent_projections(sizes, heads)
    core = attention_core(sizes, layer, heads, kv, width, value_width)
    out = linear(sizes, "out", heads * value_width, model.width)
    return _between(sizes, inner.plus(core).plus(out))


def latent_projections(sizes: Sizes, heads: float) -> tuple[Actions, float, float]:
    """The maps of latent attention, and how wide its keys and values are."""
    model, latent = sizes.model, sizes.model.latent
    assert latent is not None
    key_width = latent.plain_width + latent.rotary_width
    narrow = latent.kv_rank + latent.rotary_width
    if latent.query_rank:
        query = linear(sizes, "query down", model.width, latent.query_rank).plus(
            linear(sizes, "query up", latent.query_rank, heads * key_width)
        )
    else:
        query = linear(sizes, "query", model.width, heads * key_width)
    keys = linear(sizes, "kv down", model.width, narrow).plus(
        linear(sizes, "kv up", latent.kv_rank, heads * (latent.plain_width + latent.value_width))
    )
    return query.plus(keys), key_width, latent.value_width


def attention_core(
    sizes: Sizes, layer: int, heads: float, kv: float, width: float, value_width: float
) -> Actions:
    """Scores, softmax, weighted sum: in one kernel, or in several through memory."""
    model, plan = sizes.model, sizes.plan
    rows = sizes.seq / plan.cp
    looks = sizes.seq
    causal = sizes.software.causal_attention
    if model.has_window(layer) and model.window < sizes.seq:
        looks, causal = model.window, False
    batch = plan.mbs * heads
    turned = Stream("rotary", 4 * sizes.tokens * (heads + kv) * width * VALUE_BYTES / 2)
    if not sizes.software.fused_attention:
        return _unfused_core(sizes, batch, rows, looks, width)
    # Two products of (rows, width) x (width, looks): counted as one of twice the depth.
    forward = Product(
        "attention", rows, looks, width + value_width, batch, "bf16", "attention", causal
    )
    backward = Product(
        "attention", rows, looks, 2.5 * (width + value_width), batch, "bf16",
        "attention_backward", causal,
    )  # fmt: skip
    gather: tuple[Exchange, ...] = ()
    if plan.cp > 1:
        size = plan.mbs * sizes.seq * kv * (width + value_width) * VALUE_BYTES
        gather = (Exchange("keys and values", "all_gather", size, "cp"),)
    scatter = tuple(replace(each, collective="reduce_scatter") for each in gather)
    again = (forward,) if plan.recompute == "selective" and sizes.software.recomputes_core else ()
    return Actions(
        (turned, *gather, forward),
        (*again, *gather, backward, *scatter, turned),
        (),
    )


def _unfused_core(sizes: Sizes, batch: float, rows: float, looks: float, width: float) -> Actions:
    """Before FlashAttention: the scores go through memory, between two batches of products."""
    scores = batch * rows * looks
    query_key = Product("scores", rows, looks, width, batch)
    weighted = Product("weighted sum", rows, width, looks, batch)
    # Softmax with mask and scale in one kernel (read 2 B, write 2 B), then dropout (2 + 2, mask 1).
    middle = Stream("softmax", scores * (4 + 5), 2)
    forward: tuple[Work, ...] = (query_key, middle, weighted)
    again = forward if sizes.plan.recompute == "selective" else ()
    middle_back = Stream("softmax", scores * (5 + 6), 2)
    backward = (
        Product("scores", rows, width, looks, 2 * batch),
        Product("weighted sum", rows, looks, width, batch),
        Product("weighted sum", rows, width, looks, batch),
        middle_back,
    )
    return Actions(forward, (*again, *backward), ())


def dense_actions(sizes: Sizes, hidden: float) -> Actions:
    """The feed-forward part of a dense layer."""
    model, tp = sizes.model, sizes.plan.tp
    return _between(sizes, _feed_forward(sizes, hidden / tp, model.gated))


def _feed_forward(sizes: Sizes, hidden: float, gated: bool) -> Actions:
    model = sizes.model
    up = linear(sizes, "up", model.width, (2 if gated else 1) * hidden)
    moved = sizes.tokens * hidden * VALUE_BYTES
    streams = (Stream("activation", (3 if gated else 2) * moved),)
    back = (Stream("activation", (5 if gated else 3) * moved),)
    down = linear(sizes, "down", hidden, model.width)
    return up.plus(Actions(streams, back, ())).plus(down)


def expert_actions(sizes: Sizes) -> Actions:
    """The feed-forward part of a sparse layer: route, send, compute, send back, add up."""
    model, plan = sizes.model, sizes.plan
    experts = model.experts
    assert experts is not None
    router = linear(sizes, "router", model.width, experts.count, tokens=sizes.split_tokens)
    # With expert parallelism each rank's tokens are split over tp as well (sequence parallel).
    here = sizes.split_tokens if plan.ep > 1 or plan.sp else sizes.tokens
    sent = here * experts.active * plan.etp
    size = here * experts.active * model.width * VALUE_BYTES
    moves = Stream("permute", 4 * size, 2)
    exchange: tuple[Work, ...] = ()
    if plan.ep * plan.etp > 1:
        exchange = (Exchange("tokens to experts", "all_to_all", size, "ep"),)
    local = max(experts.count / plan.ep, 1)
    up_width = (2 if model.gated else 1) * experts.hidden / plan.etp
    up = _grouped(sizes, "expert up", sent, model.width, up_width, local)
    down = _grouped(sizes, "expert down", sent, experts.hidden / plan.etp, model.width, local)
    moved = sent * experts.hidden / plan.etp * VALUE_BYTES
    activation = Actions((Stream("activation", 3 * moved),), (Stream("activation", 5 * moved),), ())
    through = Actions((moves, *exchange), (*exchange, moves), ())
    routed = router.plus(through).plus(up).plus(activation).plus(down).plus(through)
    if experts.shared_hidden:
        routed = routed.plus(_feed_forward(sizes, experts.shared_hidden / plan.tp, model.gated))
    return _between(sizes, routed, gathers=experts.shared_hidden > 0)


def linear(
    sizes: Sizes, name: str, inputs: float, outputs: float, tokens: float | None = None
) -> Actions:
    """A linear map: y = x W, dx = dy W^T, dW = x^T dy."""
    rows = sizes.tokens if tokens is None else tokens
    precision, size = sizes.precision, sizes.product_bytes
    cast = _casts(sizes, rows, inputs, outputs)
    return Actions(
        (*cast[:1], Product(name, rows, outputs, inputs, 1, precision, value_bytes=size)),
        (*cast[1:], Product(name, rows, inputs, outputs, 1, precision, value_bytes=size)),
        (Product(name, inputs, outputs, rows, 1, precision, value_bytes=size),),
    )


def _grouped(
    sizes: Sizes, name: str, rows: float, inputs: float, outputs: float, groups: float
) -> Actions:
    each = rows / groups
    cast = _casts(sizes, rows, inputs, outputs)

    def product(m: float, n: float, k: float) -> Product:
        return Product(
            name, m, n, k, groups, sizes.precision, "grouped", value_bytes=sizes.product_bytes
        )

    return Actions(
        (*cast[:1], product(each, outputs, inputs)),
        (*cast[1:], product(each, inputs, outputs)),
        (product(inputs, outputs, each),),
    )


def _casts(sizes: Sizes, rows: float, inputs: float, outputs: float) -> tuple[Stream, ...]:
    """Fewer bits: x is cast forward, dy backward, each read once and written twice (W's order)."""
    if sizes.product_bytes == 2:
        return ()
    written = VALUE_BYTES + 2 * sizes.product_bytes
    return (
        Stream("cast", rows * inputs * written),
        Stream("cast", rows * outputs * written),
    )


def _between(sizes: Sizes, inner: Actions, gathers: bool = True) -> Actions:
    """A part with its norm before, its residual sum behind, and what tensor parallelism sends."""
    moved = sizes.split_tokens * sizes.model.width * VALUE_BYTES
    norm, norm_back = Stream("norm", 2 * moved), Stream("norm", 4 * moved)
    residual = Stream("residual", 3 * moved)
    edge = Actions((norm,), (norm_back,), ())
    end = Actions((residual,), (residual,), ())
    if sizes.plan.tp == 1 or not gathers:
        return edge.plus(inner).plus(end)
    return edge.plus(_gathered(sizes)).plus(inner).plus(_scattered(sizes)).plus(end)


def _gathered(sizes: Sizes) -> Actions:
    size = sizes.tokens_bytes
    if not sizes.plan.sp:
        return Actions((), (Exchange("gradient", "all_reduce", size, "tp"),), ())
    gather = Exchange("activations", "all_gather", size, "tp")
    return Actions((gather,), (Exchange("gradient", "reduce_scatter", size, "tp"),), (gather,))


def _scattered(sizes: Sizes) -> Actions:
    size = sizes.tokens_bytes
    if not sizes.plan.sp:
        return Actions((Exchange("activations", "all_reduce", size, "tp"),), (), ())
    scatter = Exchange("activations", "reduce_scatter", size, "tp")
    return Actions((scatter,), (Exchange("gradient", "all_gather", size, "tp"),), ())


def embedding_actions(sizes: Sizes) -> Actions:
    """Rows of the embedding: read and written."""
    moved = sizes.split_tokens * sizes.model.width * VALUE_BYTES
    return Actions((Stream("embedding", 2 * moved),), (), (Stream("embedding", 3 * moved),))


def head_actions(sizes: Sizes) -> Actions:
    """The last norm, the logits and their loss; in bf16 whatever the blocks are in."""
    model, plan = sizes.model, sizes.plan
    plain = replace(sizes, precision="bf16")
    logits = linear(plain, "head", model.width, model.vocab_size / plan.tp)
    values = sizes.tokens * model.vocab_size / plan.tp
    # float32 logits: written, read for the maximum, the sum and the gradient.
    loss = Actions((Stream("loss", values * 10, 3),), (Stream("loss", values * 6),), ())
    return _between(plain, logits.plus(loss))


def predictor_actions(sizes: Sizes) -> Actions:
    """A module that predicts a further token: two vectors joined, a block, the head once more.

    DeepSeek-V3, arXiv 2412.19437, section 2.2.
    """
    model = sizes.model
    joined = linear(sizes, "join", 2 * model.width, model.width / sizes.plan.tp)
    block = block_actions(sizes, model.layers - 1)
    return joined.plus(block).plus(head_actions(sizes))
