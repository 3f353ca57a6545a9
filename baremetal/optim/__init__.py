"""Optimisers and learning-rate schedules."""

from baremetal.optim.adamw import AdamW
from baremetal.optim.arena import ParameterArena
from baremetal.optim.loss_scale import LossScale
from baremetal.optim.muon import Muon
from baremetal.optim.optimizer import Group, Optimizer, decay_groups
from baremetal.optim.rates import learning_rate
from baremetal.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdamW",
    "Group",
    "LossScale",
    "Muon",
    "Optimizer",
    "ParameterArena",
    "decay_groups",
    "learning_rate",
]
