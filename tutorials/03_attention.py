# %% [markdown]
# # 3. Attention without the T×T matrix
#
# In attention every token looks at every token before it. Written down as in the paper, that makes
# a matrix with a row and a column for each token, and its memory grows with the square of the
# context. In this lesson you compute the same numbers, forward and backward, without ever having
# that matrix.

# %%
# introduces: baremetal.kernels.attention, baremetal.kernels.native.attention
import tracemalloc

import numpy as np
from lesson import agree, check, finish, quote, show, time_s  # tutorials/lesson.py, beside this
from matplotlib.patches import Rectangle

from baremetal.kernels.attention import causal_attention, causal_attention_backward
from baremetal.kernels.native import attention as native
from baremetal.trace import Line, format_bytes, line_figure, table
from baremetal.trace.style import caption, new_figure

rng = np.random.default_rng(3)
F = np.float32

# %% [markdown]
# ## What you will be able to do
#
# - Say how many bytes attention needs for any context, in the plain form and in tiles.
# - Compute a softmax over numbers that arrive piece by piece, and know why the obvious way fails.
# - Write attention in tiles, forward and backward, and prove that it gives the same result.

# %% [markdown]
# ## The idea
#
# Each of $T$ tokens has a *query* (what am I looking for?), a *key* (what do I have to offer?)
# and a *value* (what do I say?), each $D$ numbers. A query is compared with the keys of all
# tokens up to its own; the values are averaged with weights that depend on how well they fit:
#
# $$ s_{ij} = \frac{q_i \cdot k_j}{\sqrt{D}} \quad (j \le i), \qquad
#    w_{ij} = \frac{e^{s_{ij}}}{\sum_{k \le i} e^{s_{ik}}}, \qquad
#    o_i = \sum_{j \le i} w_{ij} v_j $$
#
# That is (causal) attention (Vaswani et al., 2017). The scores $s$ and the weights $w$ are $T
# \times T$ matrices, one for each head, sample and layer, and the backward pass needs the weights
# again. Count for the smallest GPT-2: 12 layers with 12 heads, 8 samples of 1,024 tokens, 4 bytes
# a number.

# %%
heads, layers, samples = 12, 12, 8
for T in (1024, 2048, 8192):
    print(f"T = {T:5}: {format_bytes(4 * T * T * heads * layers * samples):>8} of weights")

# %% [markdown]
# The parameters of that model are half a gigabyte. With ten times the context, everything else that
# depends on it grows tenfold, and this grows a hundredfold.
#
# The way out is to cut the matrix into *tiles*, compute one, use it up, and forget it. A tile that
# lies wholly above the diagonal is not even computed.

# %%
TILES = 8
figure, axes = new_figure(height_in=4.5, width_in=6.5)
for row in range(TILES):
    for column in range(TILES):
        kind = "#0072B2" if column < row else "#56B4E9" if column == row else "#F4F4F4"
        axes.add_patch(Rectangle((column, row), 0.94, 0.94, color=kind))
axes.grid(False)
axes.set(xlim=(0, TILES), ylim=(TILES, 0), aspect="equal")
middles = np.arange(TILES) + 0.47
axes.set_xticks(middles, range(TILES))
axes.set_yticks(middles, range(TILES))
caption(axes, "Which tiles of the scores are computed", "tile of keys", "tile of queries")
show(
    figure,
    "Dark: tiles of which every score is needed. Light: tiles on the diagonal, of which the upper "
    "half is masked. Grey: the future, never computed. Only one tile exists at a time.",
)

# %% [markdown]
# There is one difficulty. To turn a row of scores into weights, the softmax divides by a sum over
# the *whole row*, and the row lies in many tiles. Solving that is the heart of this lesson.

# %% [markdown]
# ## Build it
#
# ### The plain form
#
# One head of one sample first: `q`, `k` and `v` are $T \times D$. The scores are overwritten by
# the weights, to be as sparing as the plain form can be.


# %%
def future(queries, keys):
    """Which (query, key) pairs are hidden: those whose key comes after the query."""
    return np.asarray(keys) > np.asarray(queries)[:, None]


def weights_of(q, k):
    """The T×T matrix of weights."""
    T, D = q.shape
    s = q @ k.T  # (T, T)
    s *= F(1 / D**0.5)
    s[future(range(T), range(T))] = -np.inf
    s -= s.max(axis=1, keepdims=True)
    np.exp(s, out=s)
    s /= s.sum(axis=1, keepdims=True)
    return s


def attention_plain(q, k, v):
    return weights_of(q, k) @ v


q, k, v = rng.standard_normal((3, 6, 4), dtype=F)
print(np.array_str(weights_of(q, k), precision=2, suppress_small=True))

# %% [markdown]
# Each row sums to one, and above the diagonal there is nothing: token 0 can only look at itself.
# How much memory did it take? Python can tell (`tracemalloc`), NumPy's arrays included.


# %%
def peak_bytes(call):
    """The most memory that was in use at once during a call, beyond what was before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def make(T, D=64):
    return rng.standard_normal((3, T, D), dtype=F)


for T in (256, 512, 1024):
    q, k, v = make(T)
    peak = peak_bytes(lambda q=q, k=k, v=v: attention_plain(q, k, v))
    print(f"T = {T:4}: {format_bytes(peak):>8}, {peak / T**2:.2f} bytes for each pair of tokens")

# %% [markdown]
# Twice the context, about four times the memory. Five bytes a pair are four for the float32 and
# one for the mask; the rest is small.
#
# ### The softmax, and why it wants the whole row
#
# One line in `weights_of` looks superfluous: `s -= s.max(...)`. The maximum cancels in the
# quotient, so mathematically it changes nothing. Leave it out, with scores that are a little large:

# %%
s = np.array([1.0, 90.0, 2.0, 89.0], F)
with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(s) / np.exp(s).sum()
shifted = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
print("without the maximum:", naive)
print("with the maximum:   ", shifted)

# %% [markdown]
# $e^{89}$ is more than a float32 can hold; infinity divided by infinity is not a number, and one
# such row spoils the whole model. With the maximum subtracted, the largest exponential is 1, and
# the sum lies between 1 and $T$. So the maximum is no luxury. But you know it only when you have
# seen the whole row.
#
# ### Online: correct yourself as you go
#
# Suppose the scores come in pieces. You have seen some of them, their maximum is $m$, and their
# sum $l = \sum e^{s - m}$ is taken relative to it. Now a piece arrives with a larger score. Then
# the sum was taken relative to the wrong maximum. But that is easily repaired, because
#
# $$ e^{s - m'} = e^{s - m} \cdot e^{m - m'} $$
#
# holds for every term, hence for the sum. One multiplication corrects everything so far:
#
# $$ m' = \max(m, \max s), \qquad l' = l \cdot e^{m - m'} + \sum e^{s - m'} $$
#
# (Milakov and Gimelshein, 2018). Watch it over a row of twelve scores in three pieces:

# %%
row = np.array([1.0, 3.0, 2.0, 0.0, 5.0, 4.0, 1.0, 2.0, 90.0, 3.0, 89.0, 1.0])
m, total = -np.inf, 0.0
rows = []
for piece in np.split(row, 3):
    m_new = max(m, piece.max())
    shrink = np.exp(m - m_new)
    total = total * shrink + np.exp(piece - m_new).sum()
    m = m_new
    rows.append((str(piece), f"{m:g}", f"{shrink:.3g}", f"{total:.5f}"))
print(table(rows, ["piece", "m", "shrink", "sum"]))
print(f"whole row at once: m = {row.max():g}, sum = {np.exp(row - row.max()).sum():.5f}")

# %% [markdown]
# The shrinking factor is never above 1, so nothing can overflow. In the first step it is
# $e^{-\infty} = 0$, which is right: there is nothing yet to correct.
#
# What if you forget it? Then early terms count too much, by a factor of $e^{m' - m}$: no error, no
# NaN, just a wrong answer.

# %%
m, total = -np.inf, 0.0
for piece in np.split(row[:8], 2):  # without the large ones, to see it in readable numbers
    m = max(m, piece.max())
    total += np.exp(piece - m).sum()
print(f"without shrinking {total:.4f}, correct {np.exp(row[:8] - 5.0).sum():.4f}")

# %% [markdown]
# ### The output comes along
#
# The output is a sum with the same weights, so it is corrected by the same factor. Keep it
# undivided, and divide once at the end:
#
# $$ o' = o \cdot e^{m - m'} + \sum_j e^{s_j - m'} v_j, \qquad \text{at the end } o / l $$
#
# Now you have everything for attention in tiles. The state is one maximum, one sum and one row of
# output for each query of the tile; scores exist for one tile only.


# %%
def tile_scores(q, k, queries, keys):
    """The scores of one tile: -inf where the key comes after the query."""
    s = q[queries] @ k[keys].T * F(1 / q.shape[1] ** 0.5)
    if keys.stop > queries.start + 1:  # on the diagonal
        hidden = future(range(queries.start, queries.stop), range(keys.start, keys.stop))
        s[hidden] = -np.inf
    return s


def tiles_of(T, size):
    return [slice(start, min(start + size, T)) for start in range(0, T, size)]


def attention_tiled(q, k, v, size=64):
    """The output, and per query the logarithm of its sum (for the backward pass)."""
    out, lse = np.empty_like(v), np.empty(len(q), q.dtype)
    for queries in tiles_of(len(q), size):
        o = np.zeros_like(out[queries])
        m = np.full(len(o), -np.inf, q.dtype)
        total = np.zeros_like(m)
        for keys in tiles_of(queries.stop, size):  # tiles in the future are never visited
            s = tile_scores(q, k, queries, keys)
            m_new = np.maximum(m, s.max(axis=1))
            shrink = np.exp(m - m_new)
            e = np.exp(s - m_new[:, None])
            total = total * shrink + e.sum(axis=1)
            o = o * shrink[:, None] + e @ v[keys]
            m = m_new
        out[queries] = o / total[:, None]
        lse[queries] = m + np.log(total)
    return out, lse


q, k, v = make(1000)  # not a multiple of the tile, on purpose
out, lse = attention_tiled(q, k, v)
agree("tiles and the whole matrix", out, attention_plain(q, k, v))
print("memory in tiles:", format_bytes(peak_bytes(lambda: attention_tiled(q, k, v))))

# %% [markdown]
# The same numbers, up to rounding, in a tenth of the memory or less; and most of that is the
# output itself.
#
# A subtle point: `m - m_new` would be $-\infty - (-\infty)$, not a number, for a query that has
# seen only hidden keys so far. Here that cannot happen, because every query sees key 0, and key 0
# is in the first tile. With other masks it can; the library therefore begins with the lowest
# *finite* number in place of $-\infty$.

# %% [markdown]
# ### One number to remember
#
# Going backward you need the weights again: $T^2$ numbers that were thrown away. Keeping them is
# what we wanted to avoid. But one number per query is enough to get any of them back. With
# $\text{lse}_i = m_i + \log l_i = \log \sum_j e^{s_{ij}}$ (the *log-sum-exp*),
#
# $$ w_{ij} = \frac{e^{s_{ij}}}{\sum_k e^{s_{ik}}} = e^{s_{ij} - \text{lse}_i} $$
#
# and the score is a product of two vectors that you still have. So compute the tile a second time:
# *recomputation*. It costs FLOPs and saves bytes, and by lesson 2 that is often a good trade.

# %%
queries, keys = slice(640, 704), slice(64, 128)
again = np.exp(tile_scores(q, k, queries, keys) - lse[queries, None])
agree("a tile of weights, from lse alone", again, weights_of(q, k)[queries, keys])

# %% [markdown]
# ### Backward
#
# Let $G$ be the gradient of the loss with respect to the output. From $O = W V$ follow, by the rule
# for products of lesson 1,
#
# $$ dV = W^T G, \qquad dW = G V^T $$
#
# Then through the softmax. If $s_j$ grows, $w_j$ grows at the rate $w_j (1 - w_j)$, and every other
# $w_k$ shrinks at the rate $w_k w_j$, because they share one sum. Add up what each of them does to
# the loss:
#
# $$ ds_j = \sum_k dw_k \frac{\partial w_k}{\partial s_j}
#         = w_j \Big( dw_j - \sum_k w_k \, dw_k \Big) $$
#
# and last through the scores: $dQ = dS \, K / \sqrt{D}$ and $dK = dS^T Q / \sqrt{D}$. In the plain
# form, with all the matrices:


# %%
def backward_plain(q, k, v, grad):
    scale = F(1 / q.shape[1] ** 0.5)
    w = weights_of(q, k)
    dw = grad @ v.T
    ds = w * (dw - (w * dw).sum(axis=1, keepdims=True))
    return ds @ k * scale, ds.T @ q * scale, w.T @ grad


grad = rng.standard_normal(q.shape, dtype=F)
dq, dk, dv = backward_plain(q, k, v, grad)

# %% [markdown]
# Is it right? Ask the loss itself, as in lesson 1: move one number a little, in float64.


# %%
def loss(q, k, v, grad):
    return float((attention_plain(q, k, v) * grad).sum())


small = [a[:20].astype(np.float64) for a in (q, k, v, grad)]
exact = backward_plain(*small)
h = 1e-5
for which, name in enumerate(("dq", "dk", "dv")):
    up, down = [a.copy() for a in small], [a.copy() for a in small]
    up[which][7, 3] += h
    down[which][7, 3] -= h
    slope = (loss(*up) - loss(*down)) / (2 * h)
    agree(f"{name}[7, 3] = {slope:.6f}", exact[which][7, 3], slope)

# %% [markdown]
# ### The sum that seems to need the whole row
#
# In tiles, every term of that can be computed tile by tile, but one: the sum $\sum_k w_k \, dw_k$
# again runs over the whole row. Call it $\delta_i$ and write out what $dw$ is:
#
# $$ \delta_i = \sum_j w_{ij} \, dw_{ij} = \sum_j w_{ij} \sum_d G_{id} V_{jd}
#            = \sum_d G_{id} \sum_j w_{ij} V_{jd} = \sum_d G_{id} O_{id} $$
#
# It is a product of two rows that you have already: $D$ terms in place of $T$, before any tile is
# computed (Dao et al., 2022).

# %%
w = weights_of(q, k)
by_definition = (w * (grad @ v.T)).sum(axis=1)
delta = (grad * out).sum(axis=1)
agree("delta, the long way and the short", delta, by_definition, atol=1e-4)


# %%
def backward_tiled(q, k, v, out, lse, grad, size=64):
    scale = F(1 / q.shape[1] ** 0.5)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = (grad * out).sum(axis=1)
    for queries in tiles_of(len(q), size):
        g = grad[queries]
        for keys in tiles_of(queries.stop, size):
            w = np.exp(tile_scores(q, k, queries, keys) - lse[queries, None])
            ds = w * (g @ v[keys].T - delta[queries, None])
            dv[keys] += w.T @ g
            dk[keys] += ds.T @ q[queries] * scale
            dq[queries] += ds @ k[keys] * scale
    return dq, dk, dv


for name, tiled, plain in zip(
    ("dq", "dk", "dv"), backward_tiled(q, k, v, out, lse, grad), (dq, dk, dv), strict=True
):
    agree(f"{name} in tiles", tiled, plain, atol=1e-4)
plain_peak = peak_bytes(lambda: backward_plain(q, k, v, grad))
tiled_peak = peak_bytes(lambda: backward_tiled(q, k, v, out, lse, grad))
print(f"backward: plain {format_bytes(plain_peak)}, in tiles {format_bytes(tiled_peak)}")

# %% [markdown]
# ### The library's own
#
# It has many heads and samples, so its arrays are $(B, T, H, D)$; and it allows *grouped queries*:
# fewer heads of keys and values than of queries ($K$ instead of $H$), several query heads sharing
# one, which is what large models do to keep less. The NumPy version is the plain form, to be read:

# %%
quote(causal_attention)

# %% [markdown]
# And this is the compiled one. You will recognise the loop over tiles of keys, the masked scores,
# and `shrink`. New is the form of lesson 2 (a range of items, a block of words), that a tile lies
# transposed, so that up to sixteen queries share an instruction, and that its products are BLAS
# calls.

# %%
quote(native.causal_attention_body.function, native._softmax_step)

# %%
B, T, H, K, D = 2, 300, 4, 2, 32
q4 = rng.standard_normal((B, T, H, D), dtype=F)
k4, v4 = rng.standard_normal((2, B, T, K, D), dtype=F)
out4, lse4 = np.empty_like(q4), np.empty((B, H, T), F)
causal_attention.run(q4, k4, v4, out4, lse4, scale=D**-0.5)

for b in range(B):
    for h in range(H):
        shared = h // (H // K)  # the head of keys and values that this head reads
        yours, your_lse = attention_tiled(q4[b, :, h], k4[b, :, shared], v4[b, :, shared])
        np.testing.assert_allclose(out4[b, :, h], yours, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(lse4[b, h], your_lse, rtol=1e-4, atol=1e-5)
agree("the last head, yours and the library's", out4[1, :, 3], yours, atol=1e-5)

# %%
grad4 = rng.standard_normal(q4.shape, dtype=F)
dq4, dk4, dv4 = np.empty_like(q4), np.empty_like(k4), np.empty_like(v4)
causal_attention_backward.run(q4, k4, v4, out4, grad4, lse4, dq4, dk4, dv4, scale=D**-0.5)

dk_yours = np.zeros_like(k4[0, :, 0])
for h in (0, 1):  # two query heads read head 0, so it gathers the gradients of both
    dq_yours, dk_one, _ = backward_tiled(
        q4[0, :, h], k4[0, :, 0], v4[0, :, 0], out4[0, :, h], lse4[0, h], grad4[0, :, h]
    )
    agree(f"dq of head {h}", dq4[0, :, h], dq_yours, atol=1e-4)
    dk_yours += dk_one
agree("dk of their common head", dk4[0, :, 0], dk_yours, atol=1e-4)

# %% [markdown]
# The heart of its backward pass is your two lines, with the mask and one tile at a time:

# %%
quote(native._softmax_gradient)

# %% [markdown]
# Did giving up the matrix cost time? On the contrary. Here is a size like that of a small GPT:

# %%
B, T, H, D = 2, 512, 6, 64
q4, k4, v4 = rng.standard_normal((3, B, T, H, D), dtype=F)
out4, lse4 = np.empty_like(q4), np.empty((B, H, T), F)
arguments = (q4, k4, v4, out4, lse4)
native_s = time_s(lambda: causal_attention.run(*arguments, scale=D**-0.5))
reference_s = time_s(lambda: causal_attention.reference(*arguments, scale=D**-0.5))
cost = causal_attention.cost(*arguments, scale=D**-0.5)
print(f"NumPy, whole matrix: {reference_s * 1e3:6.1f} ms")
print(f"compiled, in tiles:  {native_s * 1e3:6.1f} ms, {cost.flops / native_s / 1e9:.0f} GFLOP/s")

# %% [markdown]
# Typically ten times faster and more. Part of it is compiled code and threads; part is that half
# the matrix is never computed. The rest is lesson 2: the plain form carries its matrix past the
# processor about twelve times (count them in `weights_of`: scaling it reads and writes it, the
# maximum reads it, ...), for the sake of $4D + 10$ FLOPs in each pair that is seen, half of all.

# %%
plain_intensity = (4 * D + 10) / 2 / (12 * 4)
print(f"plain: {plain_intensity:.1f} FLOP per byte, as soon as the matrix outgrows the caches")
print(f"tiles: {cost.intensity:.0f} FLOP per byte")

# %% [markdown]
# Compare them with the ridge of your machine. The tiles move attention from the slope of the roof,
# where memory decides, to the flat.

# %% [markdown]
# ## Predict, then run
#
# Write your own number before you run each cell.
#
# **Checkpoint 1: bytes of the plain form.** What will `peak_bytes` say for `attention_plain` with
# $T = 2048$? (Five bytes a pair; leave out what grows only with $T$.)

# %%
prediction = 5 * 2048**2  # your number here

q, k, v = make(2048)
check(
    "peak memory of the plain form",
    prediction,
    peak_bytes(lambda: attention_plain(q, k, v)),
    "B",
    within=0.1,
    miss="something else of size T×T was alive at the same time: did you change weights_of so that "
    "it makes a new array where it overwrote one?",
)

# %% [markdown]
# **Checkpoint 2: bytes of the tiles.** And for `attention_tiled`, with $T = 2048$, $D = 64$ and
# tiles of 64? The output has $T \cdot D$ numbers and the log-sum-exp $T$; then there is what one
# tile needs: scores, exponentials, rows of output, and what NumPy makes in between. Say, eight
# arrays of $64 \times 64$.

# %%
prediction = 4 * (2048 * 64 + 2048) + 8 * 4 * 64 * 64  # your number here

check(
    "peak memory in tiles",
    prediction,
    peak_bytes(lambda: attention_tiled(q, k, v)),
    "B",
    within=0.15,
    miss="something that grows with T×T is left; or your tiles are so large that they matter.",
)

# %% [markdown]
# **Checkpoint 3: FLOPs.** With $B = 2$ samples, $H = 6$ heads, $T = 512$ and $D = 64$: how many
# pairs of query and key are there, if a query sees itself and what came before? Each costs two
# products of length $D$ (2 FLOP a number) and an exponential (10 FLOP, by the convention of lesson
# 2).

# %%
pairs = 2 * 6 * 512 * 513 // 2
prediction = pairs * (2 * 2 * 64 + 10)  # your number here

check(
    "FLOP of the forward pass",
    prediction,
    cost.flops,
    "FLOP",
    miss="the diagonal belongs to what is seen: T (T + 1) / 2 pairs, not T² / 2",
)

# %% [markdown]
# **Checkpoint 4: what is kept for backward.** Per layer, for $B = 8$ samples, $H = 12$ heads, $T =
# 1024$: how many bytes of weights would the plain form keep, and how many times less is the
# log-sum-exp?

# %%
weights_bytes, times_less = 4 * 8 * 12 * 1024**2, 1024  # your numbers here

q8, k8, v8 = rng.standard_normal((3, 8, 1024, 12, 64), dtype=F)
out8, lse8 = np.empty_like(q8), np.empty((8, 12, 1024), F)
causal_attention.run(q8, k8, v8, out8, lse8, scale=64**-0.5)
check(
    "bytes of the log-sum-exp",
    weights_bytes / times_less,
    lse8.nbytes,
    "B",
    miss="there is one number for each query of each head and sample: T times fewer than pairs",
)
query = 900  # of the last sample and head: are its weights all there?
seen = np.exp(k8[-1, : query + 1, -1] @ q8[-1, query, -1] / 8 - lse8[-1, -1, query])
print(f"weights {format_bytes(weights_bytes)}, log-sum-exp {format_bytes(lse8.nbytes)}")
print(f"the {seen.size} weights of query {query}, from its one number, add up to {seen.sum():.5f}")

# %% [markdown]
# **Checkpoint 5: time.** The backward pass computes five products per tile (the scores again, $dW$,
# $dV$, $dK$ and $dQ$), the forward pass two. How many times longer should it take?

# %%
prediction = 5 / 2  # your number here

grads = [np.empty_like(a) for a in (q4, k4, v4)]
grad4 = rng.standard_normal(q4.shape, dtype=F)


def run_backward():
    causal_attention_backward.run(q4, k4, v4, out4, grad4, lse4, *grads, scale=D**-0.5)


check(
    "backward over forward",
    prediction,
    time_s(run_backward) / time_s(lambda: causal_attention.run(*arguments, scale=D**-0.5)),
    factor=1.8,
    timed=True,
    miss="the exponential is computed once in both, which pulls the ratio below 2.5; with few "
    "heads the threads share the backward pass less evenly, which lifts it. Or the machine was "
    "busy.",
)

# %% [markdown]
# **Checkpoint 6: what tiles do not save.** The context doubles from 1,024 to 2,048. The memory of
# the tiled form doubles. How many times longer does it take? (Tiles save bytes, not FLOPs.)

# %%
prediction = (2048 * 2049) / (1024 * 1025)  # your number here


def forward_time_s(T):
    q, k, v = rng.standard_normal((3, 1, T, 4, 64), dtype=F)
    out, lse = np.empty_like(q), np.empty((1, 4, T), F)
    return time_s(lambda: causal_attention.run(q, k, v, out, lse, scale=64**-0.5))


check(
    "2,048 tokens over 1,024",
    prediction,
    forward_time_s(2048) / forward_time_s(1024),
    factor=1.5,
    timed=True,
    miss="the machine was busy during one of the two. Below: the shorter context pays relatively "
    "more on the diagonal, where half a tile is computed in vain.",
)

# %% [markdown]
# ## Look
#
# The peak memory of one head over the context: the plain form, yours in tiles, and the library's.

# %%
contexts = [128, 256, 512, 1024, 2048, 4096]
plain, tiled, library = [], [], []
for T in contexts:
    q, k, v = make(T)
    q1, k1, v1 = (a.reshape(1, T, 1, 64) for a in (q, k, v))

    def run_library(q1=q1, k1=k1, v1=v1, T=T):
        out, lse = np.empty_like(q1), np.empty((1, 1, T), F)
        causal_attention.run(q1, k1, v1, out, lse, scale=64**-0.5)

    plain.append(peak_bytes(lambda q=q, k=k, v=v: attention_plain(q, k, v)))
    tiled.append(peak_bytes(lambda q=q, k=k, v=v: attention_tiled(q, k, v)))
    library.append(peak_bytes(run_library))

show(
    line_figure(
        [
            Line("plain", contexts, plain, markers=True),
            Line("5 T²", contexts, [5 * T**2 for T in contexts], dashed=True),
            Line("in tiles", contexts, tiled, markers=True),
            Line("the library's", contexts, library, markers=True),
            Line("4 (D + 1) T", contexts, [4 * 65 * T for T in contexts], dashed=True),
        ],
        "Peak memory of one head",
        x_label="context T",
        y_label="bytes",
        log_x=True,
        log_y=True,
    ),
    "On logarithmic axes a power is a straight line, and its exponent is the slope. The plain form "
    "climbs with slope two, a factor of four for each doubling; both tiled forms with slope one. "
    "To the left your tiles (64 queries, 64 keys) are a large part of little.",
)

# %%
for T, p, t in zip(contexts, plain, tiled, strict=True):
    print(f"T = {T:4}: plain {format_bytes(p):>8}, tiles {format_bytes(t):>8}, {p / t:5.1f}x")

# %% [markdown]
# The advantage itself grows with $T$: it is about $5T^2 / (4 \cdot 65 \, T) = T / 52$. The *time*
# of all three still grows with the square, as you just saw. Exercise 3 changes that, at a price.

# %% [markdown]
# ## Exercises
#
# **1.** A model with 32 heads reads 131,072 tokens (128 Ki) at once. How many bytes are the weights
# of one layer in float32, and how many is the log-sum-exp? Does the former fit into the memory of
# a GB300 (288 GB)? If each of its 160 multiprocessors takes 128 queries of one head at a time, is
# there work for all of them?

# %% tags=["answer"]
T, H = 131_072, 32
weights_bytes, lse_bytes = 4 * H * T**2, 4 * H * T
print(f"weights {format_bytes(weights_bytes)}, log-sum-exp {format_bytes(lse_bytes)}")
assert weights_bytes > 7 * 288e9  # it would take eight of them, for one layer
blocks = H * T // 128
print(f"{blocks:,} blocks of queries, {blocks // 160} for each multiprocessor")

# %% [markdown]
# **2.** Two machines each have half of the keys and values. Each computes its half: an output and a
# log-sum-exp for every query. How do you merge the two results into the right one? (You need
# nothing but the two outputs and the two log-sum-exps.) Show it for queries that see all keys.


# %% tags=["answer"]
def part(q, k, v):
    """Attention without a mask: output and log-sum-exp."""
    s = q @ k.T / q.shape[1] ** 0.5
    lse = np.logaddexp.reduce(s, axis=1)
    return np.exp(s - lse[:, None]) @ v, lse


def merge(out_1, lse_1, out_2, lse_2):
    """A part's share of the whole sum is exp(its lse - lse of all)."""
    lse = np.logaddexp(lse_1, lse_2)
    share_1, share_2 = np.exp(lse_1 - lse), np.exp(lse_2 - lse)
    return out_1 * share_1[:, None] + out_2 * share_2[:, None], lse


q, k, v = make(256)
merged, _ = merge(*part(q, k[:100], v[:100]), *part(q, k[100:], v[100:]))
agree("two parts, merged", merged, part(q, k, v)[0])
# The merge is associative, so any number of parts may be merged in any order. Long contexts are
# divided over machines in this way (ring attention), and a single query over the cores of one.

# %% [markdown]
# **3.** With a *sliding window* a query sees only the last $w$ tokens, itself included. Change
# `attention_tiled` so that it visits no tile in vain. How many tiles are visited for $T = 4096$,
# $w = 256$ and tiles of 64, and how does that grow with $T$?


# %% tags=["answer"]
def attention_window(q, k, v, window, size=64):
    out, visited = np.empty_like(v), 0
    for queries in tiles_of(len(q), size):
        o = np.zeros_like(out[queries])
        m = np.full(len(o), np.finfo(q.dtype).min)  # finite: a query may see nothing of a tile
        total = np.zeros_like(m)
        oldest = max(0, queries.start - window + 1)  # what the first query of the tile sees
        for keys in tiles_of(queries.stop, size)[oldest // size :]:
            s = tile_scores(q, k, queries, keys)
            i, j = np.ogrid[queries, keys]
            s[j <= i - window] = -np.inf
            m_new = np.maximum(m, s.max(axis=1))
            shrink = np.exp(m - m_new)
            e = np.exp(s - m_new[:, None])
            total, m = total * shrink + e.sum(axis=1), m_new
            o = o * shrink[:, None] + e @ v[keys]
            visited += 1
        out[queries] = o / total[:, None]
    return out, visited


def attention_window_plain(q, k, v, window):
    i, j = np.ogrid[: len(q), : len(q)]
    s = np.where((j <= i) & (j > i - window), q @ k.T / q.shape[1] ** 0.5, -np.inf)
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) @ v


q, k, v = make(500)
agree("window", attention_window(q, k, v, 100)[0], attention_window_plain(q, k, v, 100))
_, visited = attention_window(*make(4096), 256)
predicted = (1 + 2 + 3 + 4) + (64 - 4) * 5  # five tiles a row, once there are five
check("tiles visited", predicted, visited, miss="the window reaches into w / 64 + 1 tiles")
print(f"without the window: {64 * 65 // 2:,}")
# Linear in T: T / 64 rows of tiles with at most five each.

# %% [markdown]
# ## What the real system does that this does not
#
# The right column is *public*: FlashAttention-4 on Blackwell, and NVIDIA on Blackwell Ultra.
#
# | | here | one GPU of a GB300 |
# |---|---|---|
# | where a tile lives | 8 KiB in the innermost cache | shared memory and tensor memory |
# | products | BLAS calls, one after the other | tensor cores, while other threads do the softmax |
# | what limits it | the products | forward the exponentials, backward the shared memory |
# | exponentials | the polynomial of lesson 2 | special units; part of them by such a polynomial |
# | special units | none | twice as fast on Blackwell Ultra as on Blackwell |
# | rescaling | at every tile | only if the maximum grew by much |
# | rate | measured above | up to 1,613 TFLOP/s in BF16 on a B200, 71 % of its peak |
# | gradients of q | one owner, a fixed order | atomic additions, in an order left to chance |
# | a context too long for one | not supported | parts on several GPUs, merged as in exercise 2 |
#
# ## Sources
#
# - A. Vaswani et al., "Attention Is All You Need", 2017.
# - M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018.
# - M. Rabe, C. Staats, "Self-attention Does Not Need O(n²) Memory", 2021.
# - T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient Exact
#   Attention with IO-Awareness", 2022; T. Dao, "FlashAttention-2", 2023.
# - J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
#   Checkpoints", 2023.
# - H. Liu, M. Zaharia, P. Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite
#   Context", 2023.
# - T. Zadouri et al., "FlashAttention-4: Algorithm and Kernel Pipelining Co-Design for Asymmetric
#   Hardware Scaling", March 2026 (arXiv 2603.05451).
# - NVIDIA, "Inside NVIDIA Blackwell Ultra: The Chip Powering the AI Factory Era", August 2025, and
#   "Making Softmax More Efficient with NVIDIA Blackwell Ultra", February 2026.

# %%
finish()
