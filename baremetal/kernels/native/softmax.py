"""Softmax, compiled."""


def softmax(x, out):
    return None


def softmax_backward(y, grad, out):
    return None


def log_softmax(x, out):
    return None


def log_softmax_backward(y, grad, out):
    return None


def masked_softmax(x, mask, out):
    return None
