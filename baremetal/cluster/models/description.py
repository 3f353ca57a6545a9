"""A model by its sizes: enough to know its parameters, FLOP and bytes, without building it.

A decoder-only transformer is a stack of blocks, each attention and then a feed-forward part:

    width h    heads a of width d, kv_heads of keys and values    hidden f of the feed-forward part

What differs between the published ones is told by a few switches: whether the feed-forward part is
gated (three matrices, SwiGLU) or not (two), whether it is split into experts of which a router
picks some for each token, whether keys and values are compressed (`LatentAttention`), whether some
layers look only at a window. Everything else, counts and costs, is computed from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from baremetal.cluster.errors import ClusterError


@dataclass(frozen=True)
class Experts:
    """The feed-forward part of a mixture-of-experts layer.

    Attributes:
        count: routed experts of a layer.
        active: of them, for each token.
        hidden: of one routed expert.
        shared_hidden: of what every token passes besides; 0: nothing.
        every: one layer in so many has experts, the last of each such group.
        dense_layers: so many at the front have none.
    """

    count: int
    active: int
    hidden: int
    shared_hidden: int = 0
    every: int = 1
    dense_layers: int = 0


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention: keys and values come out of a narrow vector per token.

    DeepSeek-V2, arXiv 2405.04434, section 2.1.

    Attributes:
        query_rank: of the compressed query; 0: queries are not compressed.
        kv_rank: of the vector from which keys and values of all heads are made.
        plain_width: of a head's query and key without rotary positions.
        rotary_width: of the part with them, whose key all heads share.
        value_width: of a head's value.
    """

    query_rank: int
    kv_rank: int
    plain_width: int
    rotary_width: int
    value_width: int


@dataclass(frozen=True)
class ModelDescription:
    """The sizes of a model.

    Attributes:
        name: ``"llama3-405b"``.
        layers, width, heads, kv_heads, head_width: as above.
        hidden: of a dense layer's feed-forward part.
        vocab_size: tokens, as the embedding has rows.
        context: tokens of a sample in training, unless a plan says otherwise.
        gated: three matrices in the feed-forward part instead of two.
        tied: the head uses the embedding's weights.
        bias: the linear maps of a block have biases.
        learned_positions: how many positions have an embedding of their own; 0: none.
        norm_parameters: vectors of `width` in a norm: 2 (layer norm), 1 (RMS norm).
        parallel_block: attention and feed-forward part read the same norm's output (PaLM).
        query_key_norm: heads' queries and keys are normed (Qwen3).
        experts: of its sparse layers; None: all are dense.
        latent: None: plain attention.
        window: how far back a windowed layer looks; 0: every layer looks at everything.
        window_every: of so many layers, all but the last look only at the window.
        extra_predictors: modules of one block that predict a further token each (DeepSeek-V3).
        hypothetical: nobody has published these sizes: they are chosen, and the source says how.
        sources: by field, where its number is from.

    Raises:
        ClusterError: a number is out of range, or they do not go together.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocab_size: int
    context: int
    gated: bool = True
    tied: bool = False
    bias: bool = False
    learned_positions: int = 0
    norm_parameters: int = 1
    parallel_block: bool = False
    query_key_norm: bool = False
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window: int = 0
    window_every: int = 2
    extra_predictors: int = 0
    hypothetical: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "head_width", "vocab_size", "context"):
            self._check(name, 1)
        for name in ("hidden", "learned_positions", "window", "extra_predictors"):
            self._check(name, 0)
        if self.heads % self.kv_heads:
            raise ClusterError(
                f"model {self.name}: {self.heads} heads share {self.kv_heads} keys and values: "
                "expected a divisor"
            )
        if self.experts is not None and not self.experts.every:
            raise ClusterError(f"model {self.name}: experts in every 0th layer: expected 1 or more")
        if self.experts is not None and not 1 <= self.experts.active <= self.experts.count:
            raise ClusterError(
                f"model {self.name}: {self.experts.active} active of {self.experts.count} experts: "
                "expected at least 1 and at most all"
            )
        if not self.hidden and (self.experts is None or self.dense_layers):
            raise ClusterError(f"model {self.name}: hidden = 0, but it has dense layers")

    def _check(self, name: str, at_least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < at_least:
            raise ClusterError(
                f"model {self.name}: {name} = {value!r}; expected an integer of at least {at_least}"
            )

    def has_experts(self, layer: int) -> bool:
        """Whether this layer, from 0, is a sparse one."""
        experts = self.experts
        if experts is None or layer < experts.dense_layers:
            return False
        return (layer - experts.dense_layers) % experts.every == experts.every - 1

    def has_window(self, layer: int) -> bool:
        """Whether this layer, from 0, looks only at the window."""
        return self.window > 0 and layer % self.window_every != self.window_every - 1

    @property
    def sparse_layers(self) -> int:
        """Layers with experts."""
        return sum(self.has_experts(layer) for layer in range(self.layers))

    @property
    def dense_layers(self) -> int:
        """Layers without."""
        return self.layers - self.sparse_layers
