"""Full-size models by their sizes, read from `data/`, and what follows from them."""

from baremetal.cluster.models.catalogue import find_model
from baremetal.cluster.models.description import Experts, LatentAttention, ModelDescription

__all__ = ["Experts", "LatentAttention", "ModelDescription", "find_model"]
