"""A run small enough to repeat many times: a second of text, a model of a few thousand numbers."""

from pathlib import Path

import pytest

from baremetal.train.config import TrainConfig

TEXT = "".join(f"the {n} quick brown foxes jump over {n % 7} lazy dogs.\n" for n in range(120))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "foxes.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def tiny(corpus: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=str(corpus),
        layers=1,
        heads=2,
        width=16,
        context=16,
        batch=4,
        steps=8,
        warmup=2,
        eval_every=4,
        eval_batches=2,
        checkpoint_every=3,
        sample_tokens=5,
        out=str(tmp_path / "runs"),
    )
