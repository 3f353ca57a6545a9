"""What a GPU keeps while it trains, by class.

    weights       2 B a parameter
    gradients     4 B, summed over microbatches in float32
    optimiser     12 B: float32 weights and Adam's two moments; spread over data parallel ranks
                  from ZeRO 1 on, gradients too from 2, weights too from 3
    activations   what forward leaves for backward, for every microbatch in flight
    logits        of the rank with the head, in float32, and their gradient

Activations of a block, per token, in bytes: for a GPT with f = 4h and scores kept these add up to
the formula of V. Korthikanti et al. (arXiv 2205.05198, table 2), s b h (34 + 5 a s / h):

    norm inputs 2 x 2h, linear inputs 2 x 2h, dropout masks 2 x h     / tp if sp
    q, k, v 2 (a + 2 kv) d, attention's result 2 a d, [scores 5 a s]   / tp
    up's result 2 f (gated 4 f), its activation 2 f                     / tp

Not modelled: fragmentation, buffers of exchanges, the compressed queries and keys of latent
attention (their full heads are counted).
"""

from collections.abc import Mapping, Sequence

from baremetal.cluster.cost.held import Held, share_of
from baremetal.cluster.cost.layer import Sizes

OPTIMISER_BYTES = 12  # float32: weight, first and second moment
LOGIT_BYTES = 6  # float32, and a gradient of 2 B


def memory_bytes(
    sizes: Sizes, held: Sequence[Held], in_flight: Sequence[float]
) -> Mapping[str, float]:
    """Of the fullest rank, by class.

    Args:
        sizes: model, plan, software.
        held: by every rank.
        in_flight: microbatches whose activations each rank keeps at most, in units of its whole
            share of layers.
    """
    ranks = (_of_rank(sizes, *each) for each in zip(held, in_flight, strict=True))
    return max(ranks, key=lambda found: sum(found.values()))


def _of_rank(sizes: Sizes, held: Held, in_flight: float) -> dict[str, float]:
    model, plan, software = sizes.model, sizes.plan, sizes.software
    share = share_of(sizes, held)

    def spread(size_bytes: float, level: int) -> float:
        """Of all parameters; spread over data parallel ranks from this level of ZeRO on."""
        if plan.zero < level:
            return size_bytes * share.total
        return size_bytes * (share.dense / plan.shards + share.experts / plan.replicas_of_experts)

    kept = sum(block_activation_bytes(sizes, layer) for layer in held.layers)
    return {
        "weights": spread(software.weight_bytes, 3),
        "gradients": spread(software.gradient_bytes, 2),
        "optimiser": spread(OPTIMISER_BYTES, 1),
        "activations": in_flight * kept,
        "logits": held.has_head * sizes.tokens * model.vocab_size / plan.tp * LOGIT_BYTES,
    }


def block_activation_bytes(sizes: Sizes, layer: int) -> float:
    """What one layer keeps of one microbatch."""
    model, plan, software = sizes.model, sizes.plan, sizes.software
    if plan.recompute == "full":
        split = sizes.split if software.splits_checkpoints else 1
        return 2 * sizes.tokens * model.width / split
    masks = 1 if software.dropout else 0
    whole = (2 * 2 + 2 * 2 + 2 * masks) * model.width / sizes.split
    heads = 2 * (2 * model.heads + 2 * model.kv_heads) * model.head_width / plan.tp
    scores = 0.0
    if not software.fused_attention and plan.recompute == "none":
        scores = (4 + masks) * model.heads * sizes.seq / plan.tp
    return sizes.tokens * (whole + heads + scores + _feed_forward_bytes(sizes, layer))


def _feed_forward_bytes(sizes: Sizes, layer: int) -> float:
    """Per token: up's result and its activation, of a dense layer or of the token's experts."""
    model, tp = sizes.model, sizes.plan.tp
    per_hidden = 2 * (2 if model.gated else 1) + 2
    if not model.has_experts(layer):
        return per_hidden * model.hidden / tp
    experts = model.experts
    assert experts is not None
    # Each copy of a token comes with its input, and leaves a result to be added up.
    sent = experts.active * (per_hidden * experts.hidden + 4 * model.width) / sizes.split
    return sent + per_hidden * experts.shared_hidden / tp
