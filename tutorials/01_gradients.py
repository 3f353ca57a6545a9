# %% [markdown]
# # 1. A scalar's gradient, then a tensor's
#
# Training is one question asked over and over: if this weight were a little larger, how would the
# loss change? In this lesson you build the machine that answers it, for one number and then for
# arrays, and put the library's beside it.

# %%
# introduces: baremetal.autograd
import math
import textwrap

import numpy as np
from lesson import agree, check, finish, quote, show  # tutorials/lesson.py, beside this file
from matplotlib.ticker import LogFormatterMathtext

from baremetal.autograd import AutogradError, Parameter, Tensor, draw, gradcheck, ops
from baremetal.autograd.ops.broadcasting import sum_to_shape
from baremetal.trace import Line, line_figure

rng = np.random.default_rng(1)

# %% [markdown]
# ## What you will be able to do
#
# - Write an engine that differentiates any program of numbers, in some thirty lines, and extend
#   it to arrays with broadcasting.
# - Tell a wrong gradient from a right one, without trusting anybody's formula.
# - Read the library's rules, which are the same idea with memory and speed in mind.

# %% [markdown]
# ## The idea
#
# The derivative $dL/dx$ is the answer to "if $x$ grows by a little, by how many times that little
# does $L$ grow?" You can simply try it:
#
# $$ \frac{dL}{dx} \approx \frac{L(x + h) - L(x - h)}{2h} $$
#
# That is correct and hopeless. It runs the whole model twice for *each* weight; a model with a
# billion weights would run two billion times to take one step.
#
# The way out: the program that computes $L$ consists of small operations, and each knows its own
# slope. If $y = a \cdot b$, then $a$ counts $b$ times in $y$. So begin at the end, where
# $dL/dL = 1$, and walk backwards; every operation hands to each of its inputs
#
# $$ \frac{dL}{da} \leftarrow \frac{dL}{da} + \frac{dL}{dy} \cdot \frac{\partial y}{\partial a} $$
#
# ```
#    a = 2  --.
#              (*)--- u = -6 --.
#    b = -3 --'                 (+)--- v = 0.5 ---(tanh)--- L
#    c = 6.5 ------------------'
#
#    forward:   compute, and remember the slopes          -------->
#    backward:  multiply slopes, add where paths meet     <--------
# ```
#
# One walk gives the slope of $L$ with respect to *everything*, for about twice the arithmetic of
# the forward (lesson 0 counted it). This is reverse-mode differentiation, or backpropagation.
#
# Two things in it are easy to get wrong. The addition, `+=`: a value used twice has two paths to
# the loss, and both count. And the order: a value may hand on its gradient only after all its
# uses have reported. The first you will break below; the third exercise tries to do without the
# second.

# %% [markdown]
# ## Build it
#
# ### A number that remembers
#
# First the slow way, for something to compare with.

# %%


def nudged(function, numbers, index, h=1e-6):
    """d function / d numbers[index], by trying."""
    up, down = list(numbers), list(numbers)
    up[index] += h
    down[index] -= h
    return (function(*up) - function(*down)) / (2 * h)


def example(a, b, c):
    return math.tanh(a * b + c)


at = (2.0, -3.0, 6.5)
print([round(nudged(example, at, i), 6) for i in range(3)])

# %% [markdown]
# Now a number that remembers what it was made from, and with what slopes.

# %%


class Value:
    """A number, its gradient, and pairs (what it was made from, the slope towards that)."""

    def __init__(self, data, made_from=()):
        self.data = data
        self.grad = 0.0
        self.made_from = made_from

    def __add__(self, other):
        other = as_value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        other = as_value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))

    def tanh(self):
        t = math.tanh(self.data)
        return Value(t, ((self, 1 - t * t),))


def as_value(x):
    return x if isinstance(x, Value) else Value(x)


a, b, c = Value(2.0), Value(-3.0), Value(6.5)
loss = (a * b + c).tanh()
print(loss.data, [slope for _, slope in loss.made_from])

# %% [markdown]
# The walk back needs an order in which every value comes after all its uses. Going down to the
# leaves first and noting each value on the way up gives the reverse of it.

# %%


def in_order(value, seen=None):
    """Everything `value` was made from, and itself last; each once, after what made it."""
    seen = {} if seen is None else seen  # a dict, for it keeps the order in which things enter
    for parent, _ in value.made_from:
        if parent not in seen:
            in_order(parent, seen)
    seen[value] = True
    return seen


def backward(loss):
    loss.grad = 1.0
    for value in reversed(in_order(loss)):
        for parent, slope in value.made_from:
            parent.grad += slope * value.grad


backward(loss)
print([round(v.grad, 6) for v in (a, b, c)])

# %% [markdown]
# The same three numbers as by nudging, from one walk. That is the whole engine. Let it learn
# something that no straight line can: *exclusive or*, with four hidden neurons.

# %%
POINTS = [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 0)]


def neuron(inputs, weights, bias):
    total = bias
    for x, w in zip(inputs, weights, strict=True):
        total = total + w * x
    return total


def xor_loss(hidden, out):
    """The sum of squared errors. hidden: four of (weights, bias); out: (weights, bias)."""
    total = None
    for point, target in POINTS:
        inner = [neuron(point, *h).tanh() for h in hidden]
        error = neuron(inner, *out) + (-target)
        squared = error * error
        total = squared if total is None else total + squared
    return total


def new_neuron(inputs):
    return [Value(rng.standard_normal()) for _ in range(inputs)], Value(0.0)


hidden, out = [new_neuron(2) for _ in range(4)], new_neuron(4)
parameters = [v for weights, bias in [*hidden, out] for v in [*weights, bias]]

for step in range(301):
    loss = xor_loss(hidden, out)
    for p in parameters:
        p.grad = 0.0
    backward(loss)
    for p in parameters:
        p.data -= 0.1 * p.grad
    if step % 100 == 0:
        print(f"step {step:3}: loss {loss.data:.4f}")

# %% [markdown]
# ### What breaks: overwriting instead of adding
#
# The `+=` looks like a detail. Take it away, and see for $y = x \cdot x + x$ at $x = 3$, whose
# slope is $2x + 1 = 7$.

# %%


def careless_backward(loss):
    loss.grad = 1.0
    for value in reversed(in_order(loss)):
        for parent, slope in value.made_from:
            parent.grad = slope * value.grad  # wrong: forgets the other uses


x = Value(3.0)
careless_backward(x * x + x)
print("overwriting:", x.grad)

x = Value(3.0)
backward(x * x + x)
print("adding:     ", x.grad)

# %% [markdown]
# It is the same reason for which you set gradients to zero between steps: adding is the rule, so
# somebody must say when a new sum begins.
#
# ### From numbers to arrays
#
# One Python object per number is slow (lesson 0 told you what a call costs). Let one object hold
# an array. But what is its slope? If $y = \tanh(x)$ for an array of $n$ numbers, each $y$ could
# depend on each $x$: the slopes are an $n \times n$ matrix, the Jacobian. Nobody stores that. All
# that the walk ever needs is the Jacobian's *product* with the gradient that arrives, and for
# that each operation can have a function: the **vector-Jacobian product**. For tanh it is one
# line: `gradient * (1 - y * y)`.
#
# For a matrix product $Y = A B$ with the gradient $G = dL/dY$:
#
# $$ \frac{dL}{dA} = G B^{T} \qquad \frac{dL}{dB} = A^{T} G $$
#
# You need not remember this. $dL/dA$ has the shape of $A$, and there is only one product of $G$
# and $B$ that has it.

# %%


class Array:
    """An array, its gradient, and pairs (made from, function from my gradient to its)."""

    def __init__(self, data, made_from=()):
        self.data = np.asarray(data, dtype=np.float64)
        self.grad = np.zeros_like(self.data)
        self.made_from = made_from

    def __add__(self, other):
        return Array(
            self.data + other.data,
            (
                (self, lambda g: fitted(g, self.data.shape)),
                (other, lambda g: fitted(g, other.data.shape)),
            ),
        )

    def __mul__(self, other):
        return Array(
            self.data * other.data,
            (
                (self, lambda g: fitted(g * other.data, self.data.shape)),
                (other, lambda g: fitted(g * self.data, other.data.shape)),
            ),
        )

    def __matmul__(self, other):
        return Array(
            self.data @ other.data,
            ((self, lambda g: g @ other.data.T), (other, lambda g: self.data.T @ g)),
        )

    def tanh(self):
        t = np.tanh(self.data)
        return Array(t, ((self, lambda g: g * (1 - t * t)),))

    def sum(self):
        return Array(self.data.sum(), ((self, lambda g: np.broadcast_to(g, self.data.shape)),))


def fitted(gradient, shape):
    return gradient  # for now


def backward_arrays(loss):
    loss.grad = np.ones_like(loss.data)
    for value in reversed(in_order(loss)):
        for parent, to_parent in value.made_from:
            parent.grad = parent.grad + to_parent(value.grad)


w = Array([[0.1, 0.2], [0.3, 0.4]])
backward_arrays((w @ w).tanh().sum())
print(w.grad)

# %% [markdown]
# ### What breaks: broadcasting
#
# What is `fitted` for? NumPy repeats a small array to fit a large one: a bias of shape (1,) is
# added to each of 8 rows. So one number has 8 uses, and its gradient must be the *sum* of what
# arrives from all 8. Now it is not summed. Does anything complain? Fit 8 examples whose targets
# are pure noise, so that there is little to learn.

# %%
inputs = Array(rng.standard_normal((8, 3)))
targets = rng.standard_normal((8, 1))


def fit_noise(steps=300):
    weight, bias = Array(np.zeros((3, 1))), Array(np.zeros(1))
    for _ in range(steps):
        error = inputs @ weight + bias + Array(-targets)
        loss = (error * error).sum()
        for parameter in (weight, bias):
            parameter.grad = np.zeros_like(parameter.data)
        backward_arrays(loss)
        for parameter in (weight, bias):
            parameter.data = parameter.data - 0.02 * parameter.grad
    return weight, bias, float(loss.data)


weight, bias, loss_without = fit_noise()
print(f"loss {loss_without:.6f} on noise; the bias, of shape (1,) once, is now {bias.data.shape}")
try:
    print(np.zeros((5, 3)) @ weight.data + bias.data)
except ValueError as error:
    print("five new examples:", error)

# %% [markdown]
# Nothing complained, and the loss is wonderful. The gradient had 8 rows, so the update gave the
# bias 8 rows: one private bias for each example, which learnt the noise by heart. It shows only
# when other data come. A wrong gradient seldom crashes; it makes training a little better or a
# little worse.
#
# The rule: *where the forward repeats, the backward sums.*

# %%


def fitted(gradient, shape):
    """Sum over the axes along which an array of this shape was repeated."""
    leading = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(leading)))  # axes it did not have at all
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[i] != 1)
    return gradient.sum(axis=stretched, keepdims=True)


weight, bias, loss_with = fit_noise()
print(f"loss {loss_with:.6f} on noise; the bias has shape {bias.data.shape}")
print("five new examples:", (np.zeros((5, 3)) @ weight.data + bias.data).shape)

# %% [markdown]
# ### The library's own
#
# Here is how the library says the same. Each operation stands over its rules, one for each input
# (`vjp`: vector-Jacobian product). `ctx.save` keeps what the rules will need; `ctx.launch` runs a
# kernel. Compare `multiply` with your `__mul__`, and `sum_to_shape` with your `fitted`.

# %%
quote(ops.multiply, sum_to_shape)

# %% [markdown]
# What it does that yours does not: it keeps an array only if some gradient will need it, adds
# gradients up in memory that it knows nobody else reads, checks that nobody changed a saved value
# in the meantime, and can compute the gradients of the weights later than the others (lesson 11
# lives on that).
#
# Do both agree? A small network, forward and backward, in both. (A `Parameter` is a tensor that
# is to be trained.)

# %%
x = rng.standard_normal((16, 5))
numbers = {
    "w1": rng.standard_normal((5, 8)),
    "b1": rng.standard_normal(8),
    "w2": rng.standard_normal((8, 2)),
    "b2": rng.standard_normal((1, 2)),
}


def network(x, w1, b1, w2, b2):
    y = (x @ w1 + b1).tanh() @ w2 + b2
    return (y * y).sum()


mine = {name: Array(value) for name, value in numbers.items()}
backward_arrays(network(Array(x), **mine))

theirs = {name: Parameter(value, name=name) for name, value in numbers.items()}
loss = network(Tensor(x, name="x"), **theirs)
tape = draw(loss)  # a drawing of what was recorded, for later
loss.backward()

for name in numbers:
    agree(f"dL/d{name} {numbers[name].shape}", mine[name].grad, theirs[name].grad, rtol=1e-9)

# %% [markdown]
# ### Trust nobody: gradcheck
#
# Two engines by one author may share one error. The definition of the derivative shares nothing:
# `gradcheck` nudges every element of every input and compares. It calculates in float64, and
# weights the outputs at random, so that errors cannot cancel.

# %%
print(gradcheck(network, [x, *numbers.values()]))

# %% [markdown]
# And this is what a wrong gradient looks like. `detach` takes a value off the tape: in
# `x * x.detach()` the second `x` counts as a constant, so backward finds half the slope.

# %%


def forgetful_square(x):
    return x * x.detach()


try:
    gradcheck(forgetful_square, [np.array([1.0, 2.0, 3.0])])
except AutogradError as error:
    print(textwrap.fill(str(error), 88))

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: a slope by hand.** $L = \tanh(a b + c) + a$ at $a = 0.5$, $b = 2$, $c = -0.25$.
# There are two ways from $a$ to $L$. What is $dL/da$?

# %%
prediction = 2 * (1 - math.tanh(0.5 * 2 - 0.25) ** 2) + 1  # your number here

a = Tensor(np.array(0.5), requires_grad=True)
((a * 2.0 - 0.25).tanh() + a).backward()
check("dL/da", prediction, a.grad.item(), miss="both paths count: b (1 - tanh²) and 1, added")

# %% [markdown]
# **Checkpoint 2: how many operations?** One evaluation of `xor_loss`: 4 points; 4 hidden neurons
# with 2 inputs, then one with 4 inputs; an error, a square, and the sum. Each `+`, `*` and tanh
# makes one `Value`. How many are on the tape?

# %%
per_hidden = 2 + 2 + 1  # multiply, add, tanh
per_point = 4 * per_hidden + (4 + 4) + 1 + 1  # hidden, output neuron, error, square
prediction = 4 * per_point + 3  # your number here; three additions join four squares

loss = xor_loss(hidden, out)
found = sum(len(value.made_from) > 0 for value in in_order(loss))
check("operations on the tape", prediction, found, miss="count one neuron on paper first")

# %% [markdown]
# With arrays the same loss takes 8 operations, for 4 points or for 4 million.
#
# **Checkpoint 3: the Jacobian that nobody stores.** An array of 8 x 16 numbers in float64 goes
# through tanh. How many bytes would the Jacobian take? Build it once, small as it is, one row at a
# time, and see how much of it is zero.

# %%
prediction_bytes = (8 * 16) ** 2 * 8  # your number here

jacobian = np.empty((128, 128))
for i in range(128):
    x = Tensor(np.linspace(-1, 1, 128).reshape(8, 16), requires_grad=True)
    one_output = np.zeros((8, 16))
    one_output.flat[i] = 1.0
    x.tanh().backward(one_output)  # the vector-Jacobian product with a unit vector: one row
    jacobian[i] = x.grad.numpy().ravel()

check("the Jacobian", prediction_bytes, jacobian.nbytes, "B", miss="a square matrix: 128 x 128")
print(f"{np.mean(jacobian == 0):.1%} of it is zero; the saved array y is {x.tanh().data.nbytes} B")

# %% [markdown]
# For the activations of one layer of a real model, say 8,192 x 16,384 numbers, the same sum gives
# more than $10^{17}$ bytes in float64. Nobody could even write it down; the product with it is one
# pass.

# %% [markdown]
# ## Look
#
# First the tape of the network above, as the library recorded it. Forward went from top to
# bottom, backward went up.

# %%
show(
    tape,
    "Each row is an operation, and how many bytes it keeps for its rules. Parameters stand beside "
    "the operation that reads them. The sum is above: what two rows share is in memory once.",
)

# %% [markdown]
# Check the sum at the top with pencil: `x` is kept for the gradient of `w1` (16 x 5 numbers of 8
# bytes), the output of tanh (16 x 8), and `y` (16 x 2): 640 + 1,024 + 256 = 1,920 bytes. The rows
# add up to more, because tanh and the product after it both need the output of tanh: it stands in
# two rows and lies in memory once. The additions keep nothing. Saved values are what fills a
# GPU's memory in training; lesson 6 is about them.
#
# Then the judge itself. How small should the nudge $h$ be? The error of central differences for
# $\sin$ is $h^2/6$ at most: smaller is better. But $L(x+h) - L(x-h)$ is the difference of two
# nearly equal numbers, of which only some sixteen digits are kept: that error grows like
# $10^{-16}/h$.

# %%
points = rng.uniform(-3, 3, 1000)
steps = np.logspace(-12, 0, 49)
error64 = [
    np.max(np.abs((np.sin(points + h) - np.sin(points - h)) / (2 * h) - np.cos(points)))
    for h in steps
]
single = points.astype(np.float32)
error32 = []
for h in np.float32(steps):
    slope = (np.sin(single + h) - np.sin(single - h)) / (2 * h)
    error32.append(np.max(np.abs(slope - np.cos(single))))

figure = line_figure(
    [
        Line("float64", steps, error64),
        Line("float32", steps, error32),
        Line("h² / 6", steps, steps**2 / 6, dashed=True),
        Line("rounding, 1e-16 / h", steps, 1e-16 / steps, dashed=True),
    ],
    "The error of central differences",
    x_label="step h",
    y_label="largest error of the slope of sin",
    log_x=True,
    log_y=True,
    y_range=(1e-13, 1e2),
)
for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
    axis.set_major_formatter(LogFormatterMathtext())  # powers of ten: these have no unit
show(
    figure,
    "Two errors, one falling and one rising: the best h lies where they meet, near 1e-5 in "
    "float64. In float32 even the best h leaves four or five digits, too coarse to judge a rule "
    "by. That is why gradcheck converts to float64.",
)

# %% [markdown]
# ## Exercises
#
# **1.** Give `Value` an exponential: what is its slope? Check it against `nudged` at 0.7.

# %% tags=["answer"]


def exp(x):
    y = math.exp(x.data)
    return Value(y, ((x, y),))  # the slope of exp is exp itself


x = Value(0.7)
backward(exp(x * 2.0))
by_trying = nudged(lambda v: math.exp(2 * v), [0.7], 0)
check("slope of exp(2x)", by_trying, x.grad, within=1e-8, miss="did you use y, or x, as the slope?")

# %% [markdown]
# **2.** Give `Array` a mean over the last axis that keeps it: shape (n, m) to (n, 1). Where the
# forward averages, what does the backward do? Check it against the library.

# %% tags=["answer"]


def mean_last(x):
    n = x.data.shape[-1]
    # Each input counts 1/n in its row's mean: spread the gradient, divided by n.
    return Array(
        x.data.mean(axis=-1, keepdims=True),
        ((x, lambda g: np.broadcast_to(g / n, x.data.shape)),),
    )


data = rng.standard_normal((4, 6))
x = Array(data)
centred = x + mean_last(x) * Array(-1.0)
backward_arrays((centred * centred * centred).sum())

t = Tensor(data, requires_grad=True)
d = t - t.mean(axis=-1, keepdims=True)
(d * d * d).sum().backward()
agree("gradient through the mean", x.grad, t.grad, rtol=1e-9)

# %% [markdown]
# **3.** Why an order at all? One could also push gradients down every path from the loss: from
# each value to its parents, from each of these to theirs, and so on. It gives the right numbers.
# Take $x \to x + x$, twenty times over, and predict how many visits each way needs, before you
# try it with 16.

# %% tags=["answer"]


def backward_by_paths(value, gradient):
    """Correct, and hopeless: walks every path by itself. Returns how many visits it made."""
    value.grad += gradient
    return 1 + sum(backward_by_paths(parent, slope * gradient) for parent, slope in value.made_from)


def doubled(times):
    start = value = Value(1.0)
    for _ in range(times):
        value = value + value
    return start, value


start, end = doubled(16)
# Every doubling doubles the paths: 1 + 2 + 4 + ... + 2^16 visits.
check("visits by paths", 2**17 - 1, backward_by_paths(end, 1.0), miss="sum the powers of two")
check("the slope by paths", 2**16, start.grad, miss="sixteen doublings")

start, end = doubled(16)
check("visits in order", 17, len(in_order(end)), miss="each value once")
backward(end)
check("the slope in order", 2**16, start.grad, miss="the same as by paths")
# With twenty: 2,097,151 visits against 21. A transformer's residual stream is such a chain.

# %% [markdown]
# ## What the real system does that this does not
#
# | | here | a GB300 cluster |
# |---|---|---|
# | the tape | recorded anew at each step, in Python | traced once, compiled, replayed |
# | numbers | float64, to check; float32, to train | BF16 and below, with scales; sums in float32 |
# | saved values | all kept | many thrown away and computed again (lesson 6) |
# | where it is | one memory | layers on different GPUs: the gradient is sent (lessons 8 to 11) |
# | weight gradients | with the others | when there is nothing else to do (lesson 11) |
# | trust | gradcheck | the loss curve, and small tests beforehand |

# %% [markdown]
# ## Sources
#
# - R. Wengert, "A simple automatic derivative evaluation program", CACM 7(8), 1964; S.
#   Linnainmaa, master's thesis, Helsinki, 1970: the backward walk.
# - D. Rumelhart, G. Hinton, R. Williams, "Learning representations by back-propagating errors",
#   Nature 323, 1986.
# - A. Griewank, A. Walther, "Evaluating Derivatives", 2nd edition, SIAM 2008: the cost of it.
# - A. Baydin et al., "Automatic differentiation in machine learning: a survey", JMLR 18, 2018.
# - A. Karpathy, micrograd, <https://github.com/karpathy/micrograd>, 2020: the model of the first
#   half.

# %%
finish()
