"""Rotary embedding, compiled."""


def rotary(x, cos, sin, out, *, rotated, inverse):
    return None
