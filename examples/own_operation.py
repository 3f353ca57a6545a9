"""Write an operation of your own, with its gradient, and check it.

    python examples/own_operation.py

An operation is a forward and, per input, a rule for its gradient. This one is computed by NumPy;
CONTRIBUTING.md tells how to give it compiled kernels.
"""

import numpy as np

import baremetal as bm
from baremetal.autograd import op


@op
def softplus(ctx, x):
    """log(1 + exp(x)): a ReLU with its corner rounded off."""
    ctx.save(x)
    return np.logaddexp(x, 0)


@softplus.vjp("x")
def _(ctx, grad):
    (x,) = ctx.saved
    return grad / (1 + np.exp(-x))


def main() -> None:
    x = bm.Tensor([-2.0, 0.0, 2.0], requires_grad=True)
    y = softplus(x).sum()
    y.backward()
    print("y     =", y.item())
    print("dy/dx =", x.grad)
    rng = np.random.default_rng(0)
    bm.gradcheck(softplus, [rng.standard_normal((2, 3))], rng=rng)
    print("the rule agrees with central differences on every element")
    print(bm.draw(y).text)


if __name__ == "__main__":
    main()
