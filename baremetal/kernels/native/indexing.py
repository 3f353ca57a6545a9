"""Gathering, scattering and moving blocks, compiled."""


def gather_rows(table, indices, out):
    return None


def scatter_add_rows(grad, indices, out):
    return None


def concatenate(*parts_and_out, axis):
    return None


def pad(x, out, *, widths, value):
    return None


def transpose(x, out, *, axes):
    return None
