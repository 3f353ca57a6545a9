"""What a GPU keeps while it trains, by class.

    weights       2 B a parameter (4 with float32 weights)
    gradients     4 B, summed over microbatches in float32
    optimiser     12 B: float32 weights and Adam's two moments; spread over data parallel ranks
                  from ZeRO 1 on, gradients too from 2, weights too from 3
    activations   what forward leaves for backward, for every microbatch in flight
    logits        of the last stage, in float32, and their gradient

Activations of a block, per token, in bytes: for a GPT with f = 4h and scores kept these add up to
the formula of V. Korthikanti et al. (arXiv 2205.05198, table 2), s b h (34 + 5 a s / h):

    norm inputs 2 x 2h, linear inputs 2 x 2h, dropout masks 2 x h     / tp if sp
    q, k, v 2 (a + 2 kv) d, attention's result 2 a d, [scores 5 a s]   / tp
    up's result 2 f (gated 4 f), its activation 2 f                     / tp
"""

from collections.abc import Mapping
from dataclasses import dataclass

from baremetal.cluster.cost.layer import Sizes
from baremetal.cluster.cost.stage import chunk_layers


@dataclass(frozen=True)
class BlockParameters:
    """Parameters of a part on one GPU: those in every replica, and those of experts."""

    dense: float
    experts: float = 0.0


def block_parameters(sizes: Sizes, layer: int) -> BlockParameters:
    """Of one layer, on one of tp (and ep) GPUs."""
    model, plan = sizes.model, sizes.plan
    if model.latent is None:
        attention = (2 * model.heads + 2 * model.kv_heads) * model.head_width * model.width
    else:
        latent = model.latent
        key = latent.plain_width + latent.rotary_width
        query = model.heads * key
        attention = (
            (model.width + query) * latent.query_rank if latent.query_rank else model.width * query
        )
        attention += model.width * (latent.kv_rank + latent.rotary_width)
        attention += latent.kv_rank * model.heads * (latent.plain_width + latent.value_width)
        attention += model.heads * latent.value_width * model.width
    norms = 2 * model.norm_parameters * model.width
    matrices = 3 if model.gated else 2
    if not model.has_experts(layer):
        feed_forward = matrices * model.width * model.hidden
        return BlockParameters((attention + feed_forward) / plan.tp + norms)
    experts = model.experts
    assert experts is not None
    shared = matrices * model.width * experts.shared_hidden / plan.tp
    routed = experts.count * matrices * model.width * experts.hidden / (plan.ep * plan.etp)
    router = model.width * experts.count
    return BlockParameters(attention / plan.tp + shared + router + norms, routed)


def block_activation_bytes(sizes: Sizes, layer: int) -> float:
    """What one layer keeps of one microbatch."""
    model, plan, software = sizes.model, sizes.plan, sizes.software
    split = plan.tp if plan.sp else 1
    if plan.recompute == "full":
        return 2 * sizes.tokens * model.width / (split if software.splits_checkpoints else 1)
    masks = 1 if software.dropout else 0
    whole = (2 * 2 + 2 * 2 + 2 * masks) * model.width / split
    width = model.head_width
    heads = (2 * (model.heads + 2 * model.kv_heads) + 2 * model.heads) * width / plan.tp
    scores = 0.0
    if not software.fused_attention and plan.recompute == "none":
        scores = (4 + masks) * model.heads * sizes.seq / plan.tp
    per_token = whole + heads + scores
    inner = (2 * (2 if model.gated else 1) + 2) * model.hidden / plan.tp
    if model.has_experts(layer):
        experts = model.experts
        assert experts is not None
        wide = (2 * (2 if model.gated else 1) + 2) * experts.hidden
        inner = (
            experts.active * (wide + 4 * model.width) / split
            + wide * (experts.shared_hidden / experts.hidden) / plan.tp
        )
    return sizes.tokens * (per_token + inner)


def memory_bytes(sizes: Sizes, in_flight: list[float]) -> Mapping[str, float]:
    """Of the fullest rank, by class.

    Args:
        sizes: model, plan, software.
        in_flight: microbatches whose activations each rank keeps at most, in units of its whole
            share of layers.
    """
    model, plan = sizes.model, sizes.plan
    chunks = chunk_layers(model.layers, plan)
    fullest: dict[str, float] = {}
    for rank in range(plan.pp):
        held = [chunks[rank + plan.pp * v] for v in range(plan.vp)]
        found = _of_rank(sizes, rank, [layer for part in held for layer in part], in_flight[rank])
        if sum(found.values()) > sum(fullest.values()):
            fullest = found
    return fullest


def _of_rank(sizes: Sizes, rank: int, layers: list[int], in_flight: float) -> dict[str, float]:
    model, plan, software = sizes.model, sizes.plan, sizes.software
    blocks = [block_parameters(sizes, layer) for layer in layers]
    dense = sum(block.dense for block in blocks)
    experts = sum(block.experts for block in blocks)
    table = model.vocab_size * model.width / plan.tp
    first, last = rank == 0, rank == plan.pp - 1
    dense += table * (first + (last and not (model.tied and first)))
    shards, expert_shards = plan.shards, max(plan.replicas_of_experts, 1)

    def spread(size_bytes: float, level: int) -> float:
        if plan.zero < level:
            return size_bytes * (dense + experts)
        return size_bytes * (dense / shards + experts / expert_shards)

    activations = in_flight * sum(block_activation_bytes(sizes, layer) for layer in layers)
    return {
        "weights": spread(software.weight_bytes, 3),
        "gradients": spread(software.gradient_bytes, 2),
        "optimiser": spread(12, 1),
        "activations": activations,
        "logits": sizes.tokens * model.vocab_size / plan.tp * 6 * last,
    }
