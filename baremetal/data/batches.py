"""Batches: which windows of the text the model sees, and in which order.

A sample is a window of `context` + 1 tokens; the input is all but the last of them, the target
all but the first, so every position learns to guess its successor:

    tokens    h e l l o
    inputs    h e l l
    targets   e l l o

The samples of a run are numbered 0, 1, 2, ... and where sample g starts is a pure function of
(seed, g). That is all there is to the state of a sampler: one number, the next g. Three
things follow:

- to resume is to set that number, bit for bit, from any position;
- batch number k is samples k*batch to (k+1)*batch - 1, so step s of M microbatches takes batches
  s*M to s*M + M - 1: one batch of 12 and two microbatches of 6 are the same twelve samples, and
  gradient accumulation can equal the large batch;
- workers that share a step can each fetch their own part, and need not talk about it.

The randomness is Philox, a generator that is itself a function from a counter to random bits
(Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): to reach sample one million, it
does not draw the million before. We use its raw 64-bit words, whose sequence NumPy keeps from
version to version; what `Generator.integers` makes of them may change (NEP 19).

Two orders:

- `RandomSampler`: every window start is equally likely, each time anew. Some tokens come more
  often than others; there is no epoch. This is what nanoGPT does.
- `EpochSampler`: the text is cut into windows that do not overlap, and an epoch is a shuffle of all
  of them: no window comes again before all others have come. A batch may hold the end of one
  epoch and the beginning of the next, so no window is dropped and no batch is short.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baremetal.data.wording import did_you_mean, shown
from baremetal.errors import BaremetalError

Batch = tuple[NDArray[Any], NDArray[Any]]

# Second word of the Philox key: another use of the same seed draws from another sequence.
RANDOM_STREAM = int.from_bytes(b"windows ", "little")
EPOCH_STREAM = int.from_bytes(b"shuffle ", "little")
WORDS_PER_COUNT = 4  # one count of Philox4x64 gives four 64-bit words


class Sampler(ABC):
    """An endless sequence of batches, each a function of its number.

    Args:
        tokens: shape (tokens,), any integer dtype, in memory or mapped.
        batch: samples per batch.
        context: tokens per sample.
        seed: 0 to 2^64 - 1.

    Raises:
        BaremetalError: fewer tokens than context + 1, or a size or seed that makes no sense.
    """

    kind: str

    def __init__(self, tokens: NDArray[Any], batch: int, context: int, seed: int) -> None:
        check_sizes(tokens, batch, context)
        if not 0 <= seed < 1 << 64:
            raise BaremetalError(f"seed {seed} is out of range: give 0 to 2^64 - 1")
        # A plain array over the same memory: indexing a memmap makes a memmap object each time.
        self._tokens = np.asarray(tokens)
        self.batch = batch
        self.context = context
        self.seed = seed
        self.samples_seen = 0

    @abstractmethod
    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """Where samples `first` to `first + count - 1` start, shape (count,)."""

    def batch_at(self, number: int, out: Batch | None = None) -> Batch:
        """Batch `number` (from 0), wherever the sampler stands; see `next_batch`."""
        return take_windows(
            self._tokens, self.starts(number * self.batch, self.batch), self.context, out
        )

    def next_batch(self, out: Batch | None = None) -> Batch:
        """The next batch, and move on.

        Args:
            out: (inputs, targets), each (batch, context) int64, to fill instead of making new ones.

        Returns:
            (inputs, targets), each (batch, context) int64.
        """
        starts = self.starts(self.samples_seen, self.batch)
        filled = take_windows(self._tokens, starts, self.context, out)
        self.samples_seen += self.batch
        return filled

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in; plain JSON."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "samples_seen": self.samples_seen,
            "context": self.context,
            "tokens": len(self._tokens),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. The batch size may have changed; nothing else may.

        Raises:
            BaremetalError: the position belongs to another sampler, or the state is damaged.
        """
        own = self.state_dict()
        for key in own:
            if key not in state:
                raise BaremetalError(
                    f"the saved sampler state has no {shown(key)}: the checkpoint is damaged"
                )
            if key != "samples_seen" and state[key] != own[key]:
                raise BaremetalError(
                    f"the saved position is for a sampler with {key} {state[key]}, this one has "
                    f"{key} {own[key]}: resume with the same data and settings"
                )
        if type(state["samples_seen"]) is not int or state["samples_seen"] < 0:
            raise BaremetalError(
                f"the saved sampler position {state['samples_seen']} is no count of samples: "
                "the checkpoint is damaged"
            )
        self.samples_seen = state["samples_seen"]


class RandomSampler(Sampler):
    """Windows that start anywhere, drawn with replacement."""

    kind = "random"

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        # Sample g owns word g of the sequence: begin at the count that holds it, drop the rest.
        begin, skip = divmod(first, WORDS_PER_COUNT)
        generator = np.random.Philox(key=_key(self.seed, RANDOM_STREAM), counter=begin)
        words = generator.random_raw(skip + count)[skip:]
        # The remainder favours low starts by one part in 2^64 / starts: nothing.
        return (words % np.uint64(len(self._tokens) - self.context)).astype(np.int64)


class EpochSampler(Sampler):
    """Windows that do not overlap, each once per epoch, in a new order every epoch."""

    kind = "epoch"

    def __init__(self, tokens: NDArray[Any], batch: int, context: int, seed: int) -> None:
        super().__init__(tokens, batch, context, seed)
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._order_epoch = -1

    @property
    def windows(self) -> int:
        """Windows per epoch; fewer than `context` tokens at the end of the text belong to none."""
        return (len(self._tokens) - 1) // self.context

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        samples = np.arange(first, first + count, dtype=np.int64)
        epochs, places = np.divmod(samples, self.windows)
        chosen = np.empty(count, dtype=np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            inside = epochs == epoch
            chosen[inside] = self._shuffled(epoch)[places[inside]]
        return chosen * self.context

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """The windows in the order of this epoch, shape (windows,); the last one is kept."""
        if epoch != self._order_epoch:
            key = _key(self.seed, EPOCH_STREAM)
            # The epoch goes into the highest word of the counter, so that epochs share no words.
            generator = np.random.Philox(key=key, counter=[0, 0, 0, epoch])
            # To sort random numbers is to shuffle; a stable sort leaves ties no choice either.
            self._order = np.argsort(generator.random_raw(self.windows), kind="stable")
            self._order_epoch = epoch
        return self._order


def _key(seed: int, stream: int) -> NDArray[np.uint64]:
    return np.array([seed, stream], dtype=np.uint64)


def make_sampler(
    kind: str, tokens: NDArray[Any], batch: int, context: int, seed: int
) -> RandomSampler | EpochSampler:
    """A sampler by its name, `random` or `epoch`."""
    if kind == RandomSampler.kind:
        return RandomSampler(tokens, batch, context, seed)
    if kind == EpochSampler.kind:
        return EpochSampler(tokens, batch, context, seed)
    hint = did_you_mean(kind, (RandomSampler.kind, EpochSampler.kind))
    raise BaremetalError(f"unknown sampler {shown(kind)}: {hint}give random or epoch")


def evaluation_batches(
    tokens: NDArray[Any],
    batch: int,
    context: int,
    n_batches: int | None = None,
    out: Batch | None = None,
) -> Iterator[Batch]:
    """The same batches each time, spread evenly from the first token to the last.

    Args:
        tokens: shape (tokens,).
        batch: samples per batch; every batch is full, so a fixed buffer serves.
        context: tokens per sample.
        n_batches: how many; None for as many as it takes to cover every token. Where the windows
            do not fit side by side, neighbours overlap a little.
        out: (inputs, targets) to fill with every batch, each (batch, context) int64.

    Raises:
        BaremetalError: fewer tokens than context + 1, or a size that makes no sense.
    """
    check_sizes(tokens, batch, context)
    if n_batches is None:
        windows = -(-(len(tokens) - 1) // context)
        n_batches = -(-windows // batch)
    if n_batches < 1:
        raise BaremetalError(f"{n_batches} evaluation batches: give at least 1")
    return _evaluate_at(np.asarray(tokens), batch, context, n_batches, out)


def _evaluate_at(
    tokens: NDArray[Any], batch: int, context: int, n_batches: int, out: Batch | None
) -> Iterator[Batch]:
    # A function of its own: a generator checks nothing before its first batch is asked for.
    windows = n_batches * batch
    last_start = len(tokens) - context - 1
    # From 0 to last_start in even steps; if windows * context == len - 1, steps of `context`.
    starts = np.arange(windows, dtype=np.int64) * last_start // max(windows - 1, 1)
    for some in starts.reshape(n_batches, batch):
        yield take_windows(tokens, some, context, out)


def take_windows(
    tokens: NDArray[Any], starts: NDArray[np.int64], context: int, out: Batch | None = None
) -> Batch:
    """The windows that begin at `starts`, shape (batch,), as (inputs, targets).

    Args:
        out: filled and returned when given; each (batch, context), int64.

    Raises:
        BaremetalError: `out` has another shape or dtype.
    """
    shape = (len(starts), context)
    inputs, targets = out if out is not None else (np.empty(shape, np.int64) for _ in range(2))
    for name, array in (("inputs", inputs), ("targets", targets)):
        if array.shape != shape or array.dtype != np.int64:
            raise BaremetalError(
                f"the buffer for {name} has shape {array.shape} and dtype {array.dtype}, this "
                f"batch has {shape} and int64: make a buffer of that shape"
            )
    # (batch, 1) + (context + 1,) -> (batch, context + 1): one gather, two views of it.
    windows = tokens[starts[:, None] + np.arange(context + 1)]
    inputs[...] = windows[:, :-1]
    targets[...] = windows[:, 1:]
    return inputs, targets


def check_sizes(tokens: NDArray[Any], batch: int, context: int, what: str = "the data") -> None:
    """Raise a `BaremetalError` with the numbers unless windows of `context` + 1 fit in `tokens`."""
    if batch < 1 or context < 1:
        raise BaremetalError(f"batch {batch} and context {context}: give at least 1 for both")
    if len(tokens) < context + 1:
        raise BaremetalError(
            f"block longer than the data: a context of {context:,} needs {context + 1:,} tokens, "
            f"{what} has {len(tokens):,}; give more text or a smaller context"
        )
