# %% [markdown]
# # 4. A GPT that learns real text
#
# You have kernels, gradients and attention. Here they become a language model that reads half a
# megabyte of English and writes some of its own, in about half a minute on one core. You build it
# from operations first; then you meet the library's, give both the same weights, and see the same
# numbers come out.

# %%
# introduces: baremetal.nn, baremetal.optim, baremetal.data, baremetal.train
# introduces: baremetal.set_num_threads
import lzma
import math
import textwrap
import time

import numpy as np
from lesson import agree, check, finish, quote, show  # tutorials/lesson.py, beside this file
from matplotlib.figure import Figure

import baremetal
from baremetal import nn, optim
from baremetal.autograd import Parameter, Tensor, no_grad, ops, profile
from baremetal.data import TextData, load_corpus
from baremetal.trace import Line, line_figure
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer

# One thread is fast enough here, and takes the same time whatever else your machine does. Two are
# faster while nothing else runs, and slower than one as soon as they must wait for each other.
baremetal.set_num_threads(1)

# %% [markdown]
# ## What you will be able to do
#
# - Build a GPT from a dozen operations, and say the shape of every array in it.
# - Predict its parameters, its arithmetic and its first loss before you run it.
# - Train it on real text, and say how good it is in a unit that has nothing to do with the model:
#   bits per byte.

# %% [markdown]
# ## The idea
#
# A language model answers one question: *given the text so far, how probable is each next
# character?* By the product rule that is all one needs to know about a text:
#
# $$ p(\text{text}) = \prod_t p(x_t \mid x_0, \dots, x_{t-1}) $$
#
# Train it by its surprise. If the model gave the character that really came the probability $p$,
# its loss is $-\ln(p)$, in *nats*: 0 if it was certain and right, large if it was certain and
# wrong. The loss of a text is the mean over its characters. One who knows nothing but the
# alphabet of $V$ characters gives each of them $1/V$, and has the loss $\ln(V)$.
#
# The model, with the shape of what flows through it (B texts at a time, T characters each, width
# C, alphabet V):
#
# ```
#    tokens  (B, T)
#      |  look up: a vector for each character, plus one for each place
#    x  (B, T, C)  ------------------.
#      |  norm, attention            |   look around: take from earlier places
#     (+) <--------------------------'
#      |  ------------------.
#      |  norm, MLP         |            think: each place by itself
#     (+) <-----------------'
#      :  more such blocks
#      |  norm, times the same table of vectors
#    logits  (B, T, V)  -> softmax -> probabilities of the next one
# ```
#
# Two choices in it are not obvious. The lines that go round the boxes (*residual* connections):
# every block adds to $x$ instead of replacing it, so that what is known stays known, and the
# gradient has a straight way down. And attention may look only *backwards*. You will see what
# happens without the one and without the other.

# %% [markdown]
# ## Build it
#
# ### Text to numbers
#
# The text is the prose behind Python's `help()`: you have it already, wherever Python is
# installed.

# %%
corpus = load_corpus("pydoc")
alphabet = sorted(set(corpus.text))
number_of = {character: i for i, character in enumerate(alphabet)}

print(f"{len(corpus.text):,} characters, {len(alphabet)} different ones")
print(repr(corpus.text[1000:1070]))
print([number_of[c] for c in corpus.text[1000:1010]])

# %% [markdown]
# That is a tokenizer: a character is a token. A training example is a window of the text, and its
# target is the same window one character further. Every place in the window is a question of its
# own, so one window of 8 characters asks 8 questions at once.

# %%
window = corpus.text[1000:1009]
for t in range(len(window) - 1):
    print(f"{window[: t + 1]!r:>12} -> {window[t + 1]!r}")

# %% [markdown]
# The library does the same and keeps the last tenth of the text apart, for validation: text that
# the model never trains on.

# %%
BATCH, CONTEXT = 16, 64
data = TextData.from_corpus(corpus, "char", context=CONTEXT)
inputs, targets = data.sampler(batch=BATCH, seed=0).next_batch()

assert data.tokenizer.decode(data.train[:200]) == corpus.text[:200]
print("inputs", inputs.shape, "targets", targets.shape)
print(repr(data.tokenizer.decode(inputs[0])))
print(repr(data.tokenizer.decode(targets[0])))

# %% [markdown]
# ### What tables can do
#
# Before a model is praised, ask what a table of counts reaches. One that knows how often each
# character comes; and one that knows how often each character follows each other.

# %%
V = data.tokenizer.vocab_size
follows = np.ones((V, V))  # one for free, so that nothing is impossible
np.add.at(follows, (data.train[:-1], data.train[1:]), 1)

single = follows.sum(axis=0) / follows.sum()  # p(next)
pair = follows / follows.sum(axis=1, keepdims=True)  # p(next | this)
before, after = data.validation[:-1], data.validation[1:]

LOSS_SINGLE = -np.log(single[after]).mean()
LOSS_PAIR = -np.log(pair[before, after]).mean()
print(f"knows the alphabet      {math.log(V):.2f} nats")
print(f"knows frequencies       {LOSS_SINGLE:.2f} nats")
print(f"knows frequent pairs    {LOSS_PAIR:.2f} nats")

# %% [markdown]
# ### The model, from operations
#
# The weights first: a dictionary of arrays, under the names that the library uses. Matrices begin
# as small random numbers, biases as zeros, norms as ones. Write `L` for the number of blocks and
# `H` for the attention heads.

# %%


def new_weights(V, T, C, L, rng):
    """All weights of a GPT by name; matrices are (out, in)."""

    def matrix(*shape, std=0.02):
        return Parameter(rng.normal(0, std, shape).astype(np.float32))

    def norm(name):
        return {
            f"{name}.weight": Parameter(np.ones(C, np.float32)),
            f"{name}.bias": Parameter(np.zeros(C, np.float32)),
        }

    def linear(name, outputs, inputs, std=0.02):
        return {
            f"{name}.weight": matrix(outputs, inputs, std=std),
            f"{name}.bias": Parameter(np.zeros(outputs, np.float32)),
        }

    weights = {
        "token_embedding.weight": matrix(V, C),
        "position_embedding.weight": matrix(T, C),
    }
    into_the_stream = 0.02 / math.sqrt(2 * L)  # 2 L additions: together they should stay small
    for i in range(L):
        weights |= norm(f"blocks.{i}.norm_1")
        weights |= linear(f"blocks.{i}.attention.qkv", 3 * C, C)
        weights |= linear(f"blocks.{i}.attention.out", C, C, into_the_stream)
        weights |= norm(f"blocks.{i}.norm_2")
        weights |= linear(f"blocks.{i}.mlp.up", 4 * C, C)
        weights |= linear(f"blocks.{i}.mlp.down", C, 4 * C, into_the_stream)
    return weights | norm("norm")


# %% [markdown]
# Three of the operations are new, and each is a line of NumPy. An *embedding* is a table with a row
# for each character: to embed a text is to look up its rows. *Layer norm* takes the C numbers of
# one place, subtracts their mean and divides by their standard deviation, so that they are of one
# size whatever came before; then each of the C is stretched and shifted by a weight and a bias of
# its own, which are learnt:
#
# $$ y = w \, \frac{x - \text{mean}(x)}{\sqrt{\text{variance}(x) + 10^{-5}}} + b $$
#
# And *GELU* is what stands between the two matrices of the MLP (C up to 4C, GELU, 4C down to C):
# without anything between them they would be no more than one matrix. It is $x \, \Phi(x)$, where
# $\Phi$ goes from 0 for very negative numbers to 1 for large ones: a ramp with a rounded corner.
# GPT-2 has it in this form:
#
# $$ \text{gelu}(x) = \frac{x}{2} (1 + \tanh u), \qquad
#    u = \sqrt{2 / \pi} \, (x + 0.044715 \, x^3) $$

# %%
rng = np.random.default_rng(3)
table = rng.standard_normal((V, 8), dtype=np.float32)
tokens = np.array([[5, 1, 5]])
x = table[tokens]  # (1, 3, 8)
agree("embedding", x, ops.embedding(Tensor(table), tokens))

w, b = rng.standard_normal((2, 8), dtype=np.float32)
mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
normed = w * (x - mean) / np.sqrt(variance + 1e-5) + b
agree("layer norm", normed, ops.layer_norm(Tensor(x), w, b, eps=1e-5))

u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
agree("GELU", x / 2 * (1 + np.tanh(u)), ops.gelu(Tensor(x), approximate="tanh"))

# %% [markdown]
# Attention, as lesson 3 derived it, here in its plain form with the T x T matrix. Each place
# makes a query, a key and a value; the query asks all keys, and takes from the values in
# proportion to the answers. Several heads do so side by side, each with a slice of the width.

# %%


def linear(w, name, x):
    return ops.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def layer_norm(w, name, x):
    return ops.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def attention(w, name, x, heads, causal=True, look=None):
    B, T, C = x.shape
    packed = linear(w, f"{name}.qkv", x)  # (B, T, 3 C)
    by_head = packed.reshape(B, T, 3, heads, C // heads).transpose(2, 0, 3, 1, 4)
    q, k, v = by_head[0], by_head[1], by_head[2]  # (B, H, T, D) each
    scores = (q @ k.transpose(0, 1, 3, 2)) * (C // heads) ** -0.5  # (B, H, T, T)
    allowed = np.tril(np.ones((T, T), bool)) if causal else np.ones((T, T), bool)
    probabilities = ops.softmax(scores, allowed)
    if look is not None:
        look.append(probabilities.numpy())
    mixed = (probabilities @ v).transpose(0, 2, 1, 3).reshape(B, T, C)
    return linear(w, f"{name}.out", mixed)


rng = np.random.default_rng(0)
tiny = new_weights(V=V, T=5, C=8, L=1, rng=rng)
seen = []
x = Tensor(rng.standard_normal((1, 5, 8)).astype(np.float32))
print("out", attention(tiny, "blocks.0.attention", x, heads=2, look=seen).shape)
print(seen[0][0, 0].round(2))

# %% [markdown]
# Each row says where one place looks; it sums to 1, and everything to the right of the diagonal,
# the future, is zero. Untrained, each place looks almost equally at all that it may see: the
# weights are small, and so all answers are nearly the same. (Below you will see where a trained one
# looks.) The rest is short.

# %%


def logits_by_hand(w, tokens, heads, causal=True, residual=True, look=None):
    """tokens (B, T) -> logits (B, T, V)."""
    places = np.arange(tokens.shape[1])
    x = ops.embedding(w["token_embedding.weight"], tokens)
    x = x + ops.embedding(w["position_embedding.weight"], places)
    layers = sum(name.endswith("norm_1.weight") for name in w)
    for i in range(layers):
        block = f"blocks.{i}"
        normed = layer_norm(w, f"{block}.norm_1", x)
        seen = attention(w, f"{block}.attention", normed, heads, causal, look)
        x = x + seen if residual else seen
        up = linear(w, f"{block}.mlp.up", layer_norm(w, f"{block}.norm_2", x))
        thought = linear(w, f"{block}.mlp.down", ops.gelu(up, approximate="tanh"))
        x = x + thought if residual else thought
    # The table that turned characters into vectors turns vectors into characters: it is "tied".
    return ops.linear(layer_norm(w, "norm", x), w["token_embedding.weight"], None)


def loss_by_hand(w, tokens, targets, heads, causal=True, residual=True):
    """Mean of -ln p(target) over all places, in nats."""
    logits = logits_by_hand(w, tokens, heads, causal, residual)
    return ops.cross_entropy(logits, targets)


C, L, H = 128, 2, 4
weights = new_weights(V, CONTEXT, C, L, np.random.default_rng(1))
print(f"loss before training: {loss_by_hand(weights, inputs, targets, H).item():.3f} nats")

# %% [markdown]
# ### What breaks: replacing instead of adding
#
# Train a small model of two blocks for a moment, once as it stands and once without the two `x +`.
# (`AdamW` is the optimiser; you take it apart below.)

# %%
short = TextData.from_corpus(corpus, "char", context=16)


def train_for_a_moment(weights, **options):
    optimizer = optim.AdamW(list(weights.values()), learning_rate=5e-3)
    sampler = short.sampler(batch=16, seed=0)
    losses = []
    for step in range(1, 301):
        loss = loss_by_hand(weights, *sampler.next_batch(), heads=4, **options)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step in (50, 100, 200, 300):
            print(f"    step {step:3}: loss {np.mean(losses[-20:]):.2f}, a mean of 20 steps")


for residual in (True, False):
    print("adding to x:" if residual else "replacing x:")
    two_blocks = new_weights(V, 16, 64, 2, np.random.default_rng(2))
    train_for_a_moment(two_blocks, residual=residual)

# %% [markdown]
# With the lines the loss goes on falling. Without them it comes to rest about where the table of
# frequencies stands: this model learns how often each character comes, and cannot tell what it has
# just read. The rows of attention that you printed say why. At first a place takes the same from
# everywhere, so that after a block without `x +` only an average of the text is left. Which
# character stood where is all but lost on the way up, and the gradient that could mend it has to
# come down the same way.
#
# ### What breaks: looking ahead
#
# Is the mask worth its trouble? Train a model of one block without it, and look at its loss.

# %%
easy = new_weights(V, 16, 64, 1, np.random.default_rng(2))
train_for_a_moment(easy, causal=False)

text = list(data.tokenizer.encode("The "))
with no_grad():
    for _ in range(60):
        tokens = np.array([text[-16:]])
        text.append(int(logits_by_hand(easy, tokens, 4, causal=False).numpy()[0, -1].argmax()))
print(repr(data.tokenizer.decode(text)))

# %% [markdown]
# A loss far below anything honest, after a second, and nothing worth reading. At every place but
# the last the answer stands right there in the input, one to the right, and the model has learnt
# to copy it. (Only one place in 16 has still to be guessed: that is what is left of the loss.)
# When it writes, there is nothing to the right. **A loss that is too good is a bug until you know
# better.**
#
# ### The library's model
#
# The same model, as modules. This is its attention and its block:

# %%
quote(nn.CausalSelfAttention.forward, nn.Block)

# %% [markdown]
# `causal_attention_packed` is lesson 3's kernel: no T x T matrix, and the queries, keys and
# values are read where the matrix product left them. Give it your weights, and compare loss and
# gradients.

# %%
config = nn.GPTConfig(vocab_size=V, context=CONTEXT, layers=L, heads=H, width=C)
model = nn.GPT(config, rng=np.random.default_rng(0))
model.load_state_dict({name: weight.data for name, weight in weights.items()})

mine = loss_by_hand(weights, inputs, targets, H)
theirs = model.loss(inputs, targets)
mine.backward()
theirs.backward()
agree("loss", mine, theirs)
for name, parameter in model.named_parameters():
    if name.startswith(("token", "blocks.0.attention.qkv")):
        agree(f"gradient of {name}", weights[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)

# %% [markdown]
# ### A step of AdamW
#
# Plain gradient descent takes the same step size for every weight. AdamW keeps two running
# averages for each: of its gradient ($m$) and of the gradient's square ($v$), and steps by
# $m / \sqrt{v}$: as far where gradients are small as where they are large. It also shrinks the
# matrices a little at each step (*weight decay*). By hand, for one weight, and beside it the
# library's:

# %%
parameter = model.blocks[0].mlp.up.weight
p, g = parameter.data.copy(), parameter.grad.numpy().copy()
rate, beta1, beta2, decay, t = 1e-3, 0.9, 0.99, 0.1, 1
m, v = (1 - beta1) * g, (1 - beta2) * g * g  # both averages start at zero
unbiased_m, unbiased_v = m / (1 - beta1**t), v / (1 - beta2**t)
p = p * (1 - rate * decay) - rate * unbiased_m / (np.sqrt(unbiased_v) + 1e-8)

groups = optim.decay_groups(model.parameters(), weight_decay=decay)
optimizer = optim.AdamW(groups, learning_rate=rate, betas=(beta1, beta2))
optimizer.step()
agree("the weights after one step", p, parameter)

# %% [markdown]
# ## Predict, then run
#
# **Checkpoint 1: parameters.** A table of V x C and one of T x C. In each block: two norms
# (weight and bias, C each); C x 3C and C x C in attention, C x 4C and 4C x C in the MLP; a bias
# for each output. One norm at the end. How many numbers is that for V characters, T = 64, C =
# 128, L = 2?

# %%
per_block = 12 * C * C + 13 * C
prediction = V * C + CONTEXT * C + L * per_block + 2 * C  # your number here

check(
    "parameters",
    prediction,
    model.num_parameters(),
    miss="biases of a block: 3C + C + 4C + C, and 4C in its two norms, makes 13C",
)

# %% [markdown]
# **Checkpoint 2: the first loss.** Freshly drawn, the model knows nothing. What is its loss?

# %%
prediction = math.log(V)  # your number here

model = nn.GPT(config, rng=np.random.default_rng(1337))
first_loss = model.loss(inputs, targets).item()
check(
    "first loss",
    prediction,
    first_loss,
    "nats",
    within=0.05,
    miss="far above: the initial weights are too large, and the model is certain of nonsense. Far "
    "below: it sees the answer.",
)

# %% [markdown]
# It is usually a little below, and for a reason: the table is used at both ends, so at first the
# model thinks that the character it has just read comes again. In this text, with its rows of
# spaces and dashes, that is not a bad guess.
#
# **Checkpoint 3: arithmetic.** Lesson 0's 6 N for each token, and for attention, which has no
# weights of its own, 12 x layers x width x context (queries times keys and probabilities times
# values, 2 T C each, forward once and backward twice). `profile` adds up what the kernels really
# do.

# %%
tokens = BATCH * CONTEXT
N = model.num_parameters()
prediction = (6 * N + 12 * L * C * CONTEXT) * tokens  # your number here

with profile() as measured:
    model.loss(inputs, targets).backward()
found = sum(span.arguments["flops"] for span in measured.trace.spans)
check(
    "FLOP of forward and backward",
    prediction,
    found,
    "FLOP",
    within=0.1,
    miss="the rule leaves out norms, softmax and GELU, counts a table look-up as a product, and "
    "counts the half of attention that the mask removes: in a model this small it shows.",
)
print(f"a run of 800 steps: {800 * found:.2g} FLOP")

# %% [markdown]
# ## Look
#
# Now train it: draw a batch, forward, backward, clip, step. The learning rate rises for a while
# (the averages of AdamW are noise at first) and then falls along half a cosine. Clipping shortens
# a gradient that is longer than 1, so that one odd batch cannot throw the model off.
#
# First see what it writes before: draw the next character from its probabilities, append it, ask
# again.

# %%


def write(prompt, count, temperature=0.8, seed=0):
    ids = data.tokenizer.encode(prompt)
    rng = np.random.default_rng(seed)
    drawn = nn.generate(model, ids, count, rng, temperature=temperature)
    return prompt + data.tokenizer.decode(list(drawn))


print(repr(write("The ", 70)))

# %%
train_config = TrainConfig(
    layers=L, heads=H, width=C, context=CONTEXT, batch=BATCH, steps=800, warmup=50
)
groups = optim.decay_groups(model.parameters(), train_config.weight_decay)
betas = (train_config.beta1, train_config.beta2)
optimizer = optim.AdamW(groups, learning_rate=0.0, betas=betas)
sampler = data.sampler(BATCH, train_config.seed)


def train_step(step):
    optimizer.learning_rate = optim.learning_rate(
        step, peak=train_config.learning_rate, steps=train_config.steps, warmup=50
    )
    optimizer.zero_grad()
    loss = model.loss(*sampler.next_batch())
    loss.backward()
    optimizer.clip(1.0, loss)
    optimizer.step()
    return loss.item()


def validation_loss():
    with no_grad():
        batches = data.evaluation_batches(batch=32, n_batches=8)
        return float(np.mean([model.loss(*batch).item() for batch in batches]))


losses, validation = [], [(0, validation_loss())]
start_s = time.perf_counter()
for step in range(train_config.steps):
    losses.append(train_step(step))
    if (step + 1) % 100 == 0:
        validation.append((step + 1, validation_loss()))
        print(f"step {step + 1}: training {losses[-1]:.3f}, validation {validation[-1][1]:.3f}")
took_s = time.perf_counter() - start_s
print(f"{train_config.steps * tokens / took_s:,.0f} characters a second", end=", ")
print(f"{train_config.steps * found / took_s / 1e9:.0f} GFLOP/s; what did lesson 0 measure?")

# %%
steps = np.arange(1, len(losses) + 1)
show(
    line_figure(
        [
            Line("training", steps, losses, smooth=25),
            Line("validation", *zip(*validation, strict=True), markers=True, dashed=True),
        ],
        "A GPT learns English",
        x_label="step",
        y_label="loss in nats per character",
        references={
            "the alphabet": math.log(V),
            "frequencies": LOSS_SINGLE,
            "pairs": LOSS_PAIR,
        },
        y_range=(1.0, 5.0),
    ),
    "Some dozens of steps learn which characters are frequent. Then the curve rests near what a "
    "table of pairs knows, and falls again when attention begins to use what stands further back. "
    "The dotted levels are those of the validation text, which is a little easier than the rest. "
    "In the end both lines fall together: nothing has been learnt by heart yet.",
)

# %% [markdown]
# What did it learn? Let it write again (its long lines are wrapped here).

# %%
for line in write("The ", 500).split("\n"):
    print(textwrap.fill(line, 88))

# %% [markdown]
# A moment ago it wrote noise. Words, endings, sometimes a bracket that closes: it had to find out
# all of that from characters. Sense takes a larger model and more text, and nothing else that is
# new.
#
# And where does it look? The attention of the first block, on a piece of validation text.

# %%
piece = data.validation[2004:2036]
look = []
with no_grad():
    trained = dict(model.named_parameters())
    logits_by_hand(trained, np.asarray(piece, np.int64)[None], H, look=look)

figure = Figure(figsize=(8, 5.3), layout="constrained")
labels = [{"\n": "\\n", " ": "␣"}.get(c, c) for c in data.tokenizer.decode(piece)]
for head, axes in enumerate(figure.subplots(1, 2)):
    image = axes.imshow(look[0][0, head], cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"block 1, head {head + 1}", loc="left")
    axes.set_xticks(range(32), labels, fontsize=7)
    axes.set_yticks(range(32), labels, fontsize=7)
    axes.set_xlabel("looks at")
figure.axes[0].set_ylabel("this character")
figure.colorbar(image, ax=figure.axes, label="share", location="bottom", shrink=0.5, aspect=40)
show(
    figure,
    "Each row is one character and what it takes from (␣ is a space). The upper right is "
    "empty: that is the future. A stripe along the diagonal looks at what came just before; dark "
    "squares far from it look for something in particular, such as the beginning of a word.",
)

# %% [markdown]
# Last, the library's own loop. `baremetal train` runs this `Trainer`, which does what you did,
# and accumulates, evaluates, saves, and stops in order.

# %%
quote(Trainer.train_step)

# %%
trainer = Trainer(train_config, data=data)
agree("its first ten losses", losses[:10], [trainer.train_step().train_loss for _ in range(10)])

# %% [markdown]
# ## Exercises
#
# **1.** GPT-2, the smallest of 2019, has V = 50,257, T = 1,024, C = 768, L = 12. How many
# parameters has it? How long would one GB300, at the 2,450 TFLOP/s of lesson 0, need at least for
# 300 billion tokens of training (by the 6 N rule)?

# %% tags=["answer"]
gpt2 = 50257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
check("GPT-2, small", gpt2, 124_439_808, miss="the tables are V x C and T x C")
days = 6 * gpt2 * 300e9 / 2450e12 / 86400
print(f"at least {days:.1f} days on one GPU (modelled); 40 % of the peak: {days / 0.4:.1f} days")

# %% [markdown]
# **2.** Is the model any good? A loss per character depends on what a character is. Convert your
# last validation loss to bits per byte of text: nats / ln 2 are bits, and `data.bytes_per_token`
# says how many bytes a token stands for. Then compress the validation text with Python's `lzma`
# and compare. What does each see that the other does not?

# %% tags=["answer"]
loss = validation[-1][1]
bits = loss / math.log(2) / data.bytes_per_token
agree("bits per byte", bits, data.bits_per_byte(loss))

text = data.tokenizer.decode(data.validation).encode("utf-8")
packed_bits = 8 * len(lzma.compress(text, preset=9)) / len(text)
print(f"model {bits:.2f} bits per byte, lzma {packed_bits:.2f}, uncompressed 8")
# A model that predicts is a compressor: feed its probabilities to an arithmetic coder, and the
# text takes that many bits. Here the two are close, for different reasons: lzma finds what comes
# again word for word, however far back; the model sees 64 characters, but knows how English goes.
# (Counting the weights, 32 bits each, the model loses: they do not pay for one short text.)

# %% [markdown]
# **3.** A batch that does not fit into memory is cut in two, and the gradients of both halves add
# up. Show that adding the gradients of the halves' *mean* losses gives a gradient that is too
# large, say by how much, and mend it: `model.loss` takes an argument `total`, the number of tokens
# in the whole batch (a plain number), and divides by that.

# %% tags=["answer"]


def gradient(parts, total=None):
    model.zero_grad()
    for part in parts:
        model.loss(*part, total=total).backward()
    return model.blocks[0].mlp.up.weight.grad.numpy().copy()


whole = gradient([(inputs, targets)])
halves = [(inputs[:8], targets[:8]), (inputs[8:], targets[8:])]
ratio = np.linalg.norm(gradient(halves)) / np.linalg.norm(whole)
check("too large by a factor of", 2, ratio, within=1e-3, miss="each mean divides by half the count")
agree("mended", gradient(halves, total=inputs.size), whole, rtol=1e-3)
# AdamW hides the error, because m / sqrt(v) does not change when all gradients double: the loss
# curve looks right, and only a comparison of gradients shows it.

# %% [markdown]
# ## What the real system does that this does not
#
# | | here | a GB300 cluster |
# |---|---|---|
# | parameters | under half a million | hundreds of billions, and more |
# | text | half a megabyte, read about twice | trillions of tokens, most of them once |
# | tokens | characters | pieces of words, some 100,000 different ones |
# | a step | 1,024 tokens, tens of milliseconds | millions of tokens, seconds |
# | numbers | float32 | BF16 and FP8 products, float32 sums and master weights |
# | positions | a learned table | rotary, so that contexts can grow |
# | the loop | this one | this one, cut across thousands of GPUs (lessons 9 to 15) |

# %% [markdown]
# ## Sources
#
# - A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
# - A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2): the
#   shape of the model and the size of its first weights.
# - D. Kingma, J. Ba, "Adam", ICLR 2015; I. Loshchilov, F. Hutter, "Decoupled Weight Decay
#   Regularization", ICLR 2019.
# - J. Ba, J. Kiros, G. Hinton, "Layer Normalization", arXiv 1607.06450, 2016; D. Hendrycks, K.
#   Gimpel, "Gaussian Error Linear Units", 2016; K. He et al., "Deep Residual Learning for Image
#   Recognition", 2015: the lines that go round.
# - C. Shannon, "Prediction and Entropy of Printed English", Bell System Technical Journal 30,
#   1951.
# - J. Kaplan et al., "Scaling Laws for Neural Language Models", arXiv 2001.08361, 2020: 6 N and
#   the term for attention.
# - A. Karpathy, nanoGPT, 2022, <https://github.com/karpathy/nanoGPT>: a small GPT that many have
#   learnt from.
# - NVIDIA, dgxc-benchmarking, README at commit 841f5466, read in November 2026: 2,450 TFLOP/s.

# %%
finish()
