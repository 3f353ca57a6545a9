"""Dropout, compiled."""


def dropout(x, state, out, *, p, layer):
    return None
