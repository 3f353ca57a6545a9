"""Reductions, compiled."""


def sum(x, out, *, axis):
    return None
