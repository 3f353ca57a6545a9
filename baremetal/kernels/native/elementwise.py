"""Element-wise kernels, compiled."""


def add(a, b, out):
    return None


def multiply(a, b, out):
    return None


def copy(x, out):
    return None


def fill(out, *, value):
    return None
