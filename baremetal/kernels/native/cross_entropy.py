"""Softmax and cross-entropy, compiled."""


def cross_entropy(logits, targets, losses, lse, *, ignore_index):
    return None


def cross_entropy_backward(logits, targets, lse, grad, out, *, ignore_index):
    return None
