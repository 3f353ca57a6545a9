"""The operations, by family. Each file holds forwards with their gradient rules beneath."""

from baremetal.autograd.ops.activation import gelu, relu, sigmoid, silu, swiglu, tanh
from baremetal.autograd.ops.attention import causal_attention, causal_attention_packed
from baremetal.autograd.ops.dropout import dropout
from baremetal.autograd.ops.elementwise import (
    absolute,
    add,
    cast,
    clone,
    cos,
    divide,
    equal,
    erf,
    exp,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    sin,
    sqrt,
    square,
    subtract,
    where,
)
from baremetal.autograd.ops.embedding import embedding, scatter_rows
from baremetal.autograd.ops.index import index
from baremetal.autograd.ops.loss import cross_entropy
from baremetal.autograd.ops.matmul import linear, matmul
from baremetal.autograd.ops.norm import layer_norm, rms_norm
from baremetal.autograd.ops.reduction import argmax, logsumexp, max, mean, sum, variance
from baremetal.autograd.ops.rotary import rotary
from baremetal.autograd.ops.shape import broadcast_to, concatenate, pad, reshape, transpose
from baremetal.autograd.ops.softmax import log_softmax, softmax
from baremetal.autograd.ops.stored_linear import stored_linear

__all__ = [
    "absolute",
    "add",
    "argmax",
    "broadcast_to",
    "cast",
    "causal_attention",
    "causal_attention_packed",
    "clone",
    "concatenate",
    "cos",
    "cross_entropy",
    "divide",
    "dropout",
    "embedding",
    "equal",
    "erf",
    "exp",
    "gelu",
    "greater",
    "greater_equal",
    "index",
    "layer_norm",
    "less",
    "less_equal",
    "linear",
    "log",
    "log_softmax",
    "logsumexp",
    "matmul",
    "max",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "pad",
    "power",
    "relu",
    "reshape",
    "rms_norm",
    "rotary",
    "scatter_rows",
    "sigmoid",
    "silu",
    "sin",
    "softmax",
    "sqrt",
    "square",
    "stored_linear",
    "subtract",
    "sum",
    "swiglu",
    "tanh",
    "transpose",
    "variance",
    "where",
]
