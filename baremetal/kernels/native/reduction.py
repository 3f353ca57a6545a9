"""Reductions, compiled."""


def sum(x, out, *, axis):
    return None


def mean(x, out, *, axis):
    return None


def max(x, out, *, axis):
    return None


def argmax(x, out, *, axis):
    return None


def logsumexp(x, out, *, axis):
    return None


def variance(x, out, *, axis, ddof=0):
    return None
