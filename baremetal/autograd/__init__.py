"""Tensors that can be differentiated through, and the device their arithmetic runs on."""

from baremetal.autograd import ops
from baremetal.autograd.backward import Owed, backward
from baremetal.autograd.device import CPU, Device
from baremetal.autograd.draw import draw
from baremetal.autograd.errors import AutogradError
from baremetal.autograd.gradcheck import gradcheck
from baremetal.autograd.mode import grad_enabled, no_grad
from baremetal.autograd.op import op, registry
from baremetal.autograd.profile import profile
from baremetal.autograd.recompute import checkpoint
from baremetal.autograd.tensor import Parameter, Tensor

__all__ = [
    "CPU",
    "AutogradError",
    "Device",
    "Owed",
    "Parameter",
    "Tensor",
    "backward",
    "checkpoint",
    "draw",
    "grad_enabled",
    "gradcheck",
    "no_grad",
    "op",
    "ops",
    "profile",
    "registry",
]
