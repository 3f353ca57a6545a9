"""What each rank of a pipeline holds: its chunks of layers, and its share of their parameters.

Which stages a rank holds is the schedule's business: neighbours on a line, every p-th when stages
go round, the r-th from both ends in a V, the same ones twice in DualPipe. A *place* is a stage's
position along its path; chunk and times belong to places, so a mirrored copy has those of the
original.

On one GPU of a stage, tensor parallelism leaves 1 / tp of the linear maps, but norms and routers
whole; expert parallelism leaves 1 / (ep x etp) of the experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from baremetal.cluster.cost.layer import Sizes
from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models import Parameters, layer_parameters
from baremetal.cluster.models.parameters import predictor_parameters
from baremetal.cluster.plan import Plan
from baremetal.schedules import Schedule


@dataclass(frozen=True)
class Share:
    """Parameters on one GPU: those that all data parallel ranks have, and those of its experts."""

    dense: float
    experts: float

    @property
    def total(self) -> float:
        """Both."""
        return self.dense + self.experts


@dataclass(frozen=True)
class Held:
    """What a rank holds.

    Attributes:
        places: of its stages along their paths; a mirrored copy counts by itself.
        layers: of all of them.
        has_embedding, has_head: whether one is the first, or the last.
    """

    places: tuple[int, ...]
    layers: tuple[int, ...]
    has_embedding: bool
    has_head: bool


def held_by_rank(sizes: Sizes, schedule: Schedule) -> list[Held]:
    """What every rank holds.

    Raises:
        ClusterError: layers that do not divide.
    """
    chunks = chunk_layers(sizes.model.layers, sizes.plan)
    place_of = {stage: i for path in schedule.paths for i, stage in enumerate(path)}
    found = []
    for rank in range(len(schedule.ranks)):
        places = [place_of[stage] for stage, r in enumerate(schedule.rank_of) if r == rank]
        layers = tuple(layer for place in places for layer in chunks[place])
        found.append(Held(tuple(places), layers, 0 in places, len(chunks) - 1 in places))
    return found


def share_of(sizes: Sizes, held: Held) -> Share:
    """The parameters of what a rank holds, on one of its GPUs."""
    model, tp = sizes.model, sizes.plan.tp
    parts = [_layer_share(sizes, layer_parameters(model, layer)) for layer in held.layers]
    table = model.vocab_size * model.width / tp
    own_head = held.has_head and not (model.tied and held.has_embedding)
    tables = table * (held.has_embedding + own_head)
    if held.has_head:
        predictor = _layer_share(sizes, predictor_parameters(model))
        parts += [predictor] * model.extra_predictors
    return Share(sum(p.dense for p in parts) + tables, sum(p.experts for p in parts))


def _layer_share(sizes: Sizes, parameters: Parameters) -> Share:
    plan = sizes.plan
    split = parameters.attention + parameters.feed_forward + parameters.shared_experts
    dense = split / plan.tp + parameters.norms + parameters.router
    return Share(dense, parameters.experts / (plan.ep * plan.etp))


def chunk_layers(layers: int, plan: Plan) -> list[range]:
    """Which layers each chunk holds, in the order of the model.

    Raises:
        ClusterError: they do not divide, and the plan does not say how.
    """
    chunks = plan.pp * plan.vp
    counts = list(plan.layers) or _even(layers, plan)
    if len(counts) == plan.pp and plan.vp > 1:
        counts = [count // plan.vp for _ in range(plan.vp) for count in counts]
    if sum(counts) != layers or len(counts) != chunks:
        raise ClusterError(
            f"plan: layers={':'.join(map(str, plan.layers))} are {sum(counts)} in {len(counts)} "
            f"chunks; expected {layers} in pp = {plan.pp} stages or pp x vp = {chunks} chunks"
        )
    return _ranges(counts)


def _even(layers: int, plan: Plan) -> list[int]:
    """As even as can be; the ends, which hold embedding and head, get the smaller share.

    They may hold nothing else: Llama 3 405B has 126 layers in 128 chunks.
    """
    chunks = plan.pp * plan.vp
    if layers < chunks - 2:
        raise ClusterError(
            f"plan: {layers} layers in pp x vp = {plan.pp} x {plan.vp} chunks: give fewer"
        )
    counts = [layers // chunks] * chunks
    inner_first = [*range(1, chunks - 1), 0, chunks - 1] if chunks > 2 else [*range(chunks)]
    for chunk in inner_first[: layers % chunks]:
        counts[chunk] += 1
    return counts


def _ranges(counts: Sequence[int]) -> list[range]:
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
