"""Optimisers, compiled."""


def square_sum(x, partial, out):
    return None


def clip_factor(square_sum, loss, scalars, *, max_norm):
    return None


def adamw(parameter, grad, m, v, scalars, *, beta1, beta2, eps, weight_decay):
    return None


def sgd_momentum(parameter, grad, momentum, scalars, *, momentum_factor, weight_decay, nesterov):
    return None
