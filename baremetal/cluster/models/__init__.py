"""Full-size models by their sizes, read from `data/`, and what follows from them."""

from baremetal.cluster.models.catalogue import find_model, models
from baremetal.cluster.models.description import Experts, LatentAttention, ModelDescription
from baremetal.cluster.models.flops import Convention, forward_flops, sample_flops, token_flops
from baremetal.cluster.models.parameters import (
    Parameters,
    active_parameters,
    layer_parameters,
    model_parameters,
)

__all__ = [
    "Convention",
    "Experts",
    "LatentAttention",
    "ModelDescription",
    "Parameters",
    "active_parameters",
    "find_model",
    "forward_flops",
    "layer_parameters",
    "model_parameters",
    "models",
    "sample_flops",
    "token_flops",
]
