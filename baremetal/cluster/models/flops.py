"""Model FLOP: what a training step must compute, and how published tables count it.

A matrix product of (m, k) with (k, n) is 2 m n k FLOP. A token passes each weight matrix once, so

    forward   2 x (active weights in matrices) per token, and for attention
              2 x (key width + value width) x heads x (tokens looked at)
    backward  twice that: one product for the input's gradient, one for the weight's

Embedding rows are looked up, norms and activation functions are not counted. Model FLOP contain
no recomputation; *hardware* FLOP do, and MFU and HFU differ by that.

Under a causal mask a token looks at half of the sequence on the average. Whether the half that
nobody needs is counted is a convention, and tables differ; each is a `Convention` here, checked
row by row (tests/cluster/test_flops.py) against the tables it is named for:

    FULL      the whole s x s. SC21 (arXiv 2104.04473, appendix), Korthikanti (2205.05198), PaLM
              (2204.02311, appendix B), NVIDIA's DGX Cloud recipes for GPT-3, Llama 3, Nemotron-4
              (NVIDIA/dgxc-benchmarking). Two of those numbers count other sizes than the models
              have: Llama 3 405B with 16 heads of keys for 8 (2.17e16 a sample for 2.15e16), and
              Nemotron-4 of release 25.02 with as many as queries (4.35e14 for 3.85e14, 1.01e16 for
              8.62e15; 25.04 and later have the model's own).
    CAUSAL    half of it, windows as they are. Grok-1, Llama 4 and DeepSeek-V3 of the same recipes,
              and all of Megatron-Bridge's performance summary (its flop_utils.py at 0494433b), but
              for GPT-OSS before release 26.06
    SILU_ONLY which is counted there as if it had no windows and two matrices in an expert instead
              of three: the count recognised a gated part by its SiLU, and GPT-OSS has another gate
    NEEDED    CAUSAL and the router, which no table counts (0.3 % of DeepSeek-V3)

An extra predictor is a block, a map and a head more; DeepSeek-V3's rows "w/o MTP" are those of
a description with `extra_predictors=0`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models.description import ModelDescription

Recompute = Literal["none", "selective", "full"]
BACKWARD = 2  # times forward


@dataclass(frozen=True)
class Convention:
    """How model FLOP are counted.

    Attributes:
        name: ``"causal"``.
        causal: only what the mask leaves.
        windows: a windowed layer looks no further than its window.
        router: the map that picks experts counts.
        matrices: of a gated expert.
    """

    name: str
    causal: bool = True
    windows: bool = True
    router: bool = False
    matrices: int = 3


FULL = Convention("full", causal=False, windows=False)
CAUSAL = Convention("causal")
SILU_ONLY = Convention("silu-only", windows=False, matrices=2)
NEEDED = Convention("needed", router=True)
# By name; SILU_ONLY is for one model in one table.
CONVENTIONS = {each.name: each for each in (FULL, CAUSAL, NEEDED)}


@dataclass(frozen=True)
class Flops:
    """FLOP of one forward pass, by part.

    Attributes:
        projections: queries, keys, values, and back to the width.
        attention: the core: scores, and the weighted sum of values.
        feed_forward: of dense layers.
        experts: the chosen ones.
        shared_experts: beside them.
        router: which chooses.
        head: logits.
        predictors: all of the modules that predict further tokens, their heads included.
    """

    projections: float = 0.0
    attention: float = 0.0
    feed_forward: float = 0.0
    experts: float = 0.0
    shared_experts: float = 0.0
    router: float = 0.0
    head: float = 0.0
    predictors: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(vars(self).values())

    @property
    def parts(self) -> Mapping[str, float]:
        """By name, those that are not zero."""
        return {name: value for name, value in vars(self).items() if value}

    def plus(self, other: "Flops") -> "Flops":
        """Both together, part by part."""
        return Flops(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def times(self, factor: float) -> "Flops":
        """Each part so many times."""
        return Flops(**{name: value * factor for name, value in vars(self).items()})


@lru_cache(maxsize=1024)  # a planner asks for the same few, many times
def forward_flops(model: ModelDescription, seq: int = 0, convention: Convention = CAUSAL) -> Flops:
    """Of one sample's forward pass.

    Args:
        model: whose.
        seq: tokens of the sample; 0: the model's context.
        convention: how they are counted.

    Raises:
        ClusterError: fewer than no tokens.
    """
    seq = _tokens(model, seq)
    total = Flops(head=2.0 * seq * model.width * model.vocab_size)
    for layer in range(model.layers):
        total = total.plus(layer_flops(model, layer, seq, convention))
    return total.plus(Flops(predictors=model.extra_predictors * _predictor(model, seq, convention)))


def layer_flops(
    model: ModelDescription, layer: int, seq: int = 0, convention: Convention = CAUSAL
) -> Flops:
    """Of one sample's forward pass through one block, from 0.

    Raises:
        ClusterError: fewer than no tokens.
    """
    seq = _tokens(model, seq)
    key_width, value_width = _head_widths(model)
    looks = looked_at(model, layer, seq, convention)
    attention = 2.0 * seq * looks * model.heads * (key_width + value_width)
    projections = 2.0 * seq * _projection_weights(model)
    parts = Flops(projections=projections, attention=attention)
    if not model.has_experts(layer):
        return parts.plus(Flops(feed_forward=_feed_forward(model, model.hidden, seq)))
    experts = model.experts
    assert experts is not None
    matrices = convention.matrices if model.gated else 2
    routed = 2.0 * seq * matrices * model.width * experts.hidden * experts.active
    shared = _feed_forward(model, experts.shared_hidden, seq)
    router = 2.0 * seq * model.width * experts.count if convention.router else 0.0
    return parts.plus(Flops(experts=routed, shared_experts=shared, router=router))


def looked_at(model: ModelDescription, layer: int, seq: int, convention: Convention) -> float:
    """Tokens that a token looks at, on the average over the sample."""
    if convention.windows and model.has_window(layer) and model.window < seq:
        # The first `window` tokens see 1, 2, ..., the others all of it.
        return model.window - model.window * (model.window - 1) / (2 * seq)
    return seq / 2 if convention.causal else float(seq)


def sample_flops(model: ModelDescription, seq: int = 0, convention: Convention = CAUSAL) -> float:
    """Model FLOP of training on one sample: forward and backward.

    Raises:
        ClusterError: fewer than no tokens.
    """
    return (1 + BACKWARD) * forward_flops(model, seq, convention).total


def token_flops(model: ModelDescription, seq: int = 0, convention: Convention = CAUSAL) -> float:
    """Model FLOP of training on one token of a sample of `seq`.

    Raises:
        ClusterError: fewer than no tokens.
    """
    return sample_flops(model, seq, convention) / _tokens(model, seq)


def hardware_flops(
    model: ModelDescription,
    seq: int = 0,
    recompute: Recompute = "none",
    convention: Convention = CAUSAL,
) -> float:
    """FLOP of training on one sample, with what is computed twice.

    Full recomputation does the forward pass of every block again, selective that of the attention
    core (arXiv 2205.05198, section 5).

    Raises:
        ClusterError: an unknown recomputation, or fewer than no tokens.
    """
    forward = forward_flops(model, seq, convention)
    again = {
        "none": 0.0,
        "selective": forward.attention,
        "full": forward.total - forward.head - forward.predictors,
    }
    if recompute not in again:
        raise ClusterError(f"recompute '{recompute}': expected {', '.join(again)}")
    return (1 + BACKWARD) * forward.total + again[recompute]


def sc21_flops(model: ModelDescription, seq: int = 0) -> float:
    """Hardware FLOP a sample with full recomputation, as SC21's throughputs are derived.

    96 s l h^2 (1 + s / (6 h) + V / (16 l h)), D. Narayanan et al., arXiv 2104.04473, equation 3: of
    a GPT with hidden = 4 h and plain attention, `hardware_flops(..., "full", FULL)` in closed form.

    Raises:
        ClusterError: fewer than no tokens.
    """
    seq, h, layers = _tokens(model, seq), model.width, model.layers
    return 96.0 * seq * layers * h**2 * (1 + seq / (6 * h) + model.vocab_size / (16 * layers * h))


def korthikanti_flops(model: ModelDescription, seq: int = 0) -> tuple[float, float]:
    """Model and hardware FLOP a sample with selective recomputation, as arXiv 2205.05198 has them.

    72 s l h^2 (1 + s / (6 h) + V / (12 l h)), and the same with s / (3 h). The second counts the
    attention core twice over, where recomputing its forward pass adds a third: s / (4.5 h) would be
    right. It is what the paper's HFU are derived by (22B: 43.7 %, exact would be 42.2 %).

    Raises:
        ClusterError: fewer than no tokens.
    """
    seq, h, layers = _tokens(model, seq), model.width, model.layers
    plain = 72.0 * seq * layers * h**2
    head = model.vocab_size / (12 * layers * h)
    return plain * (1 + seq / (6 * h) + head), plain * (1 + seq / (3 * h) + head)


def _tokens(model: ModelDescription, seq: int) -> int:
    if seq < 0:
        raise ClusterError(f"model {model.name}: a sample of {seq} tokens: expected at least 1")
    return seq or model.context


def _head_widths(model: ModelDescription) -> tuple[int, int]:
    """Of a head's query and key, and of its value."""
    if model.latent is None:
        return model.head_width, model.head_width
    return model.latent.plain_width + model.latent.rotary_width, model.latent.value_width


def _projection_weights(model: ModelDescription) -> int:
    key_width, value_width = _head_widths(model)
    out = model.heads * value_width * model.width
    if model.latent is None:
        return model.width * (model.heads + 2 * model.kv_heads) * model.head_width + out
    latent = model.latent
    query = (latent.query_rank or model.width) * model.heads * key_width
    narrow = model.width * (latent.query_rank + latent.kv_rank + latent.rotary_width)
    keys = latent.kv_rank * model.heads * (latent.plain_width + latent.value_width)
    return query + narrow + keys + out


def _feed_forward(model: ModelDescription, hidden: int, seq: int) -> float:
    return 2.0 * seq * (3 if model.gated else 2) * model.width * hidden


def _predictor(model: ModelDescription, seq: int, convention: Convention) -> float:
    """A block as the last one, a map from two joined vectors, and the head once more."""
    block = layer_flops(model, model.layers - 1, seq, convention).total
    return block + 2.0 * seq * model.width * (2 * model.width + model.vocab_size)
