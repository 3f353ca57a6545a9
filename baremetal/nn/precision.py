"""Mixed precision: which matrices of a model are kept in how many bits.

A recipe says for every linear layer inside the blocks how its three matrices are stored: the input
x, the weight W and the gradient g of its output. Everything else stays in float32: embeddings,
norms, attention's scores, the residual stream, the output matrix and the loss, and the *master
weights* that the optimiser updates. (A weight of 1 in bfloat16 cannot grow by 0.001: the next
number is 1.0078. So the narrow copy is made from the float32 one whenever a layer needs it, and the
small updates add up unrounded.)

    bf16        all three in bfloat16, no scales: float32's range, 8 significant bits
    fp16        all three in float16: 11 bits, but gradients below 3e-8 become 0, so the loss has
                to be scaled (`optim/loss_scale.py`). P. Micikevicius et al., "Mixed Precision
                Training", 2017, arXiv:1710.03740
    fp8         x and W in e4m3, g in e5m2, a scale per matrix. P. Micikevicius et al., "FP8
                Formats for Deep Learning", 2022, arXiv:2209.05433
    fp8-block   e4m3 throughout; scales per 1 x 128 of x and g, per 128 x 128 of W. DeepSeek-AI,
                "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437
    nvfp4       e2m1 in blocks of 16 with e4m3 scales (W: 16 x 16); the first and the last block of
                the model in bf16. NVIDIA, "Pretraining Large Language Models with NVFP4", 2025,
                arXiv:2509.25149

What these reports do and we do not. They scale along the axis that each product sums over, and make
second copies for the weight gradient; NVIDIA rotates that one's operands (a random Hadamard
transform) and rounds gradients at random; DeepSeek adds up in float32 every 128 products, since
Hopper's tensor cores keep fewer bits. They keep the stream between layers in bfloat16. NVIDIA
leaves about a sixth of the linear layers in bf16; of our few blocks the two ends are more.

The CPU gains no speed from any of it: the numbers are read back into float32 and multiplied there,
and the rounding comes on top. What it shows is what training makes of few bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from baremetal.autograd.storage import LinearStorage, Storage
from baremetal.errors import BaremetalError
from baremetal.nn.experts import Experts
from baremetal.nn.layers import Linear
from baremetal.nn.module import Module


@dataclass(frozen=True)
class Precision:
    """A recipe.

    Attributes:
        name: what the command line calls it.
        inside: for the linear layers inside the blocks.
        at_the_ends: for those of the first and the last block, if another.
        needs_loss_scale: gradients would underflow without one.
    """

    name: str
    inside: LinearStorage
    at_the_ends: LinearStorage | None = None
    needs_loss_scale: bool = False

    def storage_of(self, block: int, blocks: int) -> LinearStorage:
        """What the linear layers of one of the blocks get."""
        is_end = block in (0, blocks - 1)
        return self.at_the_ends if is_end and self.at_the_ends is not None else self.inside


def _all(storage: Storage) -> LinearStorage:
    return LinearStorage(storage, storage, storage)


_BF16 = _all(Storage("bfloat16"))
_E4M3 = Storage("float8_e4m3fn", "tensor")
_ROWS = Storage("float8_e4m3fn", "block", (1, 128))
_SIXTEENS = Storage("float4_e2m1fn", "two-level", (1, 16))

PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", LinearStorage()),
        Precision("bf16", _BF16),
        Precision("fp16", _all(Storage("float16")), needs_loss_scale=True),
        Precision("fp8", LinearStorage(_E4M3, _E4M3, Storage("float8_e5m2", "tensor"))),
        Precision(
            "fp8-block",
            LinearStorage(_ROWS, Storage("float8_e4m3fn", "block", (128, 128)), _ROWS),
        ),
        Precision(
            "nvfp4",
            LinearStorage(_SIXTEENS, Storage("float4_e2m1fn", "two-level", (16, 16)), _SIXTEENS),
            at_the_ends=_BF16,
        ),
    )
}


def find_precision(name: str) -> Precision:
    """The recipe of this name.

    Raises:
        BaremetalError: there is none.
    """
    if name not in PRECISIONS:
        raise BaremetalError(f"unknown precision '{name}': choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def use_precision(model: Module, precision: Precision | str) -> None:
    """From now on the linear layers of the model's blocks store their matrices by this recipe.

    The parameters stay as they are. May be called again, with another recipe or "float32".

    Raises:
        BaremetalError: an unknown recipe, a model without `blocks`, or one whose blocks hold
            experts: their batched products have no narrow storage.
    """
    recipe = find_precision(precision) if isinstance(precision, str) else precision
    narrow = recipe.inside.is_narrow
    # All of them before the first is changed: a refusal leaves the model as it was.
    for layer, block, blocks in list(_layers_of(model, narrow)):
        layer.storage = recipe.storage_of(block, blocks) if narrow else None


def _layers_of(model: Module, narrow: bool) -> Iterator[tuple[Linear, int, int]]:
    """The linear layers inside the blocks: the layer, its block's number, how many blocks."""
    blocks = getattr(model, "blocks", None)
    if not blocks:
        raise BaremetalError(
            f"{type(model).__name__} has no blocks, to whose linear layers a precision applies: "
            "set Linear.storage of the layers yourself"
        )
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            if narrow and isinstance(module, Experts):
                raise BaremetalError(
                    f"blocks.{number}.{name} holds experts, whose products have no narrow storage "
                    "here: train a mixture of experts in float32"
                )
            if isinstance(module, Linear):
                yield module, number, len(blocks)
