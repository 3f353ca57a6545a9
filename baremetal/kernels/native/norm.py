"""LayerNorm and RMSNorm, compiled."""


def layer_norm(x, weight, bias, out, mean, rstd, *, eps):
    return None


def layer_norm_backward_input(x, weight, grad, mean, rstd, out):
    return None


def layer_norm_backward_weight(x, grad, mean, rstd, grad_weight, grad_bias):
    return None


def rms_norm(x, weight, out, rstd, *, eps):
    return None


def rms_norm_backward_input(x, weight, grad, rstd, out):
    return None


def rms_norm_backward_weight(x, grad, rstd, grad_weight):
    return None
