"""The models that the step benchmark trains, from one that fits in a cache to one that does not."""

from dataclasses import dataclass

from baremetal.errors import BaremetalError


@dataclass(frozen=True)
class StepSize:
    """A GPT and a batch for it; AdamW, clipping at 1.0, no dropout, tied embeddings."""

    name: str
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocab_size: int = 65

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.context


SIZES = {
    size.name: size
    for size in (
        StepSize("tiny", layers=1, heads=2, width=32, context=16, batch=4),
        StepSize("small", layers=4, heads=4, width=128, context=64, batch=12),
        StepSize("medium", layers=6, heads=6, width=384, context=256, batch=8),
        StepSize("large", layers=12, heads=12, width=768, context=512, batch=2, vocab_size=4096),
    )
}


def find_size(name: str) -> StepSize:
    """The size of this name.

    Raises:
        BaremetalError: there is none.
    """
    if name not in SIZES:
        raise BaremetalError(f"unknown model '{name}': choose one of {', '.join(SIZES)}")
    return SIZES[name]
