"""What the stages of a model cost that is far too large to be built here.

Costs are known from shapes alone (`kernels/cost.py`), so no arithmetic would be needed; but the
shapes come out of a model, and a block of GPT-3 has 7 GB of weights. Instead, a family of models is
built that shrink towards nothing: for head width t

    width(t) = heads x t       context, hidden width, vocabulary: straight lines in t

and the full-size model is the member whose t is its own head width. Every launch costs a polynomial
of these sizes, so a whole stage costs a polynomial of t, of degree 3: (tokens) x (width)^2 and
(tokens)^2 x (width) are its highest terms. A cubic that is known at four points is known
everywhere. A fifth point is measured to be sure, exactly, in integers; a kernel whose cost were no
polynomial would be found out there.

Layers need no such trick: a stage of n blocks costs one of a single block and n - 1 blocks more (in
memory, but for how well the buffers of many blocks are packed: some tenths of a percent). The
family keeps its results in its plans; those that leave their rank lie in a link's slot instead
(`stage_plan.py`), and are taken off. (Of a gradient that is too much by what had filled a gap.)

What it is not: a measurement of that model. It is what *these* kernels would do for it, each array
moved once; storage of 2 bytes counts half of the bytes that float32 moves.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

from baremetal.data.track import Track, untracked
from baremetal.kernels.cost import Cost
from baremetal.nn import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from baremetal.pipeline.costs import summed
from baremetal.pipeline.errors import PipelineError
from baremetal.pipeline.partition import Part, parts_of_stages
from baremetal.pipeline.stage import Stage
from baremetal.pipeline.stage_plan import CapturedStage, leaving, splits_backward
from baremetal.schedules import Kind, Schedule

POINTS = (1, 2, 3, 4, 5)  # one more than a cubic needs


@dataclass(frozen=True)
class FullSize:
    """The sizes of a model, and of a microbatch.

    Attributes:
        kind: of architecture.
        layers, heads, kv_heads, width, hidden: of its blocks; hidden counts for llama only.
        vocab_size: tokens.
        context: of a sample.
        samples: of a microbatch.
        source: where the sizes are from.
    """

    kind: Literal["gpt", "llama"]
    layers: int
    heads: int
    kv_heads: int
    width: int
    hidden: int
    vocab_size: int
    context: int
    samples: int = 1
    source: str = ""

    @property
    def head_width(self) -> int:
        """t of the family."""
        return self.width // self.heads

    @property
    def activation_bytes(self) -> int:
        """What passes between two stages for a microbatch, in float32, B."""
        return 4 * self.samples * self.context * self.width

    @property
    def small_head_widths(self) -> list[int]:
        """Those to be built; even ones where rotary positions turn pairs."""
        step = 2 if self.kind == "llama" else 1
        return [step * point for point in POINTS]

    def shrunken(self, head_width: int, layers: int) -> "FullSize":
        """The member of the family with this head width."""
        return replace(
            self,
            layers=layers,
            width=self.heads * head_width,
            hidden=self._along(self.hidden, head_width),
            vocab_size=self._along(self.vocab_size, head_width),
            context=self._along(self.context, head_width),
        )

    def _along(self, size: int, head_width: int) -> int:
        """A size on its straight line: itself at the full head width, little at a small one."""
        slope = size // self.head_width
        return size - slope * (self.head_width - head_width)

    def build(self) -> LanguageModel:
        """The model, with some values or other."""
        rng = np.random.default_rng(0)
        sizes: dict[str, Any] = {
            "vocab_size": self.vocab_size, "context": self.context, "layers": self.layers,
            "heads": self.heads, "width": self.width,
        }  # fmt: skip
        if self.kind == "gpt":
            return GPT(GPTConfig(**sizes), rng=rng)
        return Llama(LlamaConfig(**sizes, kv_heads=self.kv_heads, hidden=self.hidden), rng=rng)


GPT_3 = FullSize(
    "gpt", 96, 96, 96, 12288, 0, 50257, 2048,
    source="T. Brown et al., arXiv 2005.14165, table 2.1",
)  # fmt: skip
LLAMA_70B = FullSize(
    "llama", 80, 64, 8, 8192, 28672, 128256, 8192,
    source="The Llama 3 Herd of Models, arXiv 2407.21783, table 3",
)  # fmt: skip
LLAMA_405B = FullSize(
    "llama", 126, 128, 8, 16384, 53248, 128256, 8192,
    source="The Llama 3 Herd of Models, arXiv 2407.21783, table 3",
)  # fmt: skip
FULL_SIZES = {"gpt-3": GPT_3, "llama-70b": LLAMA_70B, "llama-405b": LLAMA_405B}


class StageCost(NamedTuple):
    """What a stage does and keeps for a microbatch.

    Attributes:
        launches: FLOP and bytes of every launch of each kind of action.
        slot_bytes: kept from F to W, in float32.
        parameters: how many.
    """

    launches: Mapping[Kind, Sequence[Cost]]
    slot_bytes: int
    parameters: int

    @classmethod
    def of(cls, stage: CapturedStage) -> "StageCost":
        """Of a stage that is there."""
        parameters = sum(parameter.size for _, parameter in stage.stage.named_parameters())
        return cls(stage.launch_costs, stage.segments.memory.slot_bytes, parameters)

    def numbers(self) -> list[int]:
        """All of it in a row."""
        every = itertools.chain.from_iterable(self.launches.values())
        flat = [n for cost in every for n in (cost.flops, cost.size_bytes)]
        return [*flat, self.slot_bytes, self.parameters]

    def like(self, numbers: Sequence[int]) -> "StageCost":
        """One with other numbers."""
        *flat, slot_bytes, parameters = numbers
        pairs = zip(flat[::2], flat[1::2], strict=True)
        launches = {
            kind: [Cost(*next(pairs)) for _ in costs] for kind, costs in self.launches.items()
        }
        return StageCost(launches, slot_bytes, parameters)

    def plus(self, blocks: int, block: "StageCost") -> "StageCost":
        """With so many blocks more."""
        launches = {
            kind: [*costs, *blocks * list(block.launches[kind])]
            for kind, costs in self.launches.items()
        }
        return StageCost(
            launches,
            self.slot_bytes + blocks * block.slot_bytes,
            self.parameters + blocks * block.parameters,
        )

    def without(self, part: "StageCost") -> "StageCost":
        """What it has more than a part of it.

        Raises:
            PipelineError: that is no part: it has launches that are none of ours.
        """
        launches: dict[Kind, list[Cost]] = {}
        for kind, costs in self.launches.items():
            more, less = Counter(costs), Counter(part.launches[kind])
            if not less <= more:
                raise PipelineError(
                    f"{kind.name} of two blocks launches less than that of one: what a block costs "
                    "cannot be told from their difference"
                )
            launches[kind] = [*(more - less).elements()]
        return StageCost(
            launches, self.slot_bytes - part.slot_bytes, self.parameters - part.parameters
        )

    def stored(self, value_bytes: int, chips: int) -> "StageCost":
        """With values of so many bytes instead of float32's 4, and spread evenly over chips.

        What these chips say to each other (tensor parallelism's collectives) is not counted.
        """
        share = Fraction(value_bytes, 4 * chips)
        launches = {
            kind: [Cost(cost.flops // chips, int(cost.size_bytes * share)) for cost in costs]
            for kind, costs in self.launches.items()
        }
        return StageCost(launches, int(self.slot_bytes * share), self.parameters // chips)

    @property
    def actions(self) -> Mapping[Kind, Cost]:
        """FLOP and bytes of each kind of action."""
        return summed(self.launches)

    @property
    def work(self) -> list[Kind]:
        """The actions that make up a microbatch: F and B, or F, I and W if backward is split."""
        left_out = Kind.B if Kind.I in self.launches else None
        return [kind for kind in self.launches if kind is not left_out]

    @property
    def flops(self) -> int:
        """Of forward and backward."""
        return self.actions[Kind.F].flops + self.actions[Kind.B].flops


def full_size_stages(
    full: FullSize, schedule: Schedule, track: Track = untracked
) -> tuple[list[Part], list[StageCost]]:
    """The stages of a full-size model, balanced by FLOP, and what each costs.

    Args:
        full: its sizes.
        schedule: whose stages.
        track: shows how far the family has been measured.

    Raises:
        PipelineError: fewer than two stages on a path, more than blocks, or a cost that is no
            polynomial.
    """
    if len(schedule.paths[0]) < 2:
        raise PipelineError("a full-size model on one stage: give at least two")
    is_split = [splits_backward(schedule, stage) for stage in range(schedule.stages)]
    grown = {split: _grown(full, split, track) for split in sorted(set(is_split))}
    first, middle, last, _ = grown[is_split[0]]
    inner = [float(middle.flops)] * (full.layers - 2)
    parts = parts_of_stages(schedule, [float(first.flops), *inner, float(last.flops)])
    found = []
    for stage, (part, split) in enumerate(zip(parts, is_split, strict=True)):
        first, middle, last, block = grown[split]
        base = first if part.is_first else last if part.is_last else middle
        cost = base.plus(part.stop - part.start - 1, block)
        sent_bytes = sum(leaving(schedule, stage)) * full.activation_bytes
        found.append(cost._replace(slot_bytes=cost.slot_bytes - sent_bytes))
    return parts, found


def _grown(full: FullSize, split: bool, track: Track) -> list[StageCost]:
    """Of the full size: first, middle and last stage of one block each, and a further block."""
    at = full.small_head_widths
    measured = [_measured(full, head_width, split) for head_width in track(at, "smaller models")]
    grown = []
    for family in zip(*measured, strict=True):
        rows = zip(*(member.numbers() for member in family), strict=True)
        grown.append(family[0].like([extrapolated(at, row, full.head_width) for row in rows]))
    first, middle, last, two = grown
    return [first, middle, last, two.without(middle)]


def _measured(full: FullSize, head_width: int, split: bool) -> list[StageCost]:
    """Of a member of the family that is small enough to be built: stages of one block, the first, a
    middle and the last one; and one of two blocks in the middle."""
    small = full.shrunken(head_width, layers=4)
    model, shape = small.build(), (small.samples, small.context)

    def cost(start: int, stop: int) -> StageCost:
        stage = Stage(model, Part(start, stop, small.layers))
        return StageCost.of(CapturedStage(stage, shape, slots=1, split=split))

    return [cost(0, 1), cost(1, 2), cost(3, 4), cost(1, 3)]


def extrapolated(at: Sequence[int], values: Sequence[int], wanted: int) -> int:
    """The value at `wanted` of the polynomial through all points but the last, which confirms it.

    J.-L. Lagrange's formula, in exact fractions.

    Raises:
        PipelineError: the last point does not lie on it.
    """
    if _through(at[:-1], values[:-1], at[-1]) != values[-1]:
        raise PipelineError(
            f"costs {list(values)} at head widths {list(at)} are not those of a cubic: choose a "
            "context that is a multiple of 16 times the head width, or of a power of two near it"
        )
    return int(_through(at[:-1], values[:-1], wanted))


def _through(at: Sequence[int], values: Sequence[int], wanted: int) -> Fraction:
    total = Fraction(0)
    for i, (x, value) in enumerate(zip(at, values, strict=True)):
        term = Fraction(value)
        for j, other in enumerate(at):
            if j != i:
                term *= Fraction(wanted - other, x - other)
        total += term
    return total
