"""Runs in one picture: losses of different tokenizers are comparable per byte only."""

import dataclasses
import json

import pytest

from baremetal.trace import curves
from baremetal.train.run_folder import RunFolder
from baremetal.train.runs import draw_runs


@pytest.fixture
def drawn(monkeypatch):
    """What was asked to be drawn: lines and label of the axis."""
    seen = {}

    def line_plot(lines, path, **options):
        seen.update(options, lines=[list(line.y) for line in lines])
        return path

    monkeypatch.setattr(curves, "line_plot", line_plot)
    return seen


def finished(config, name, **changes):
    run = RunFolder.create(dataclasses.replace(config, name=name, **changes))
    row = {"step": 1, "train_loss": 9.0, "val_loss": 2.0, "bits_per_byte": 3.0, "time_s": 1.0}
    run.log(row | {"val_loss": None, "bits_per_byte": None})
    run.log(row | {"step": 2})
    return run


@pytest.mark.parametrize(
    ("changes", "unit", "loss"),
    [
        ({}, "nats per token", 2.0),
        ({"tokenizer": "byte"}, "bits per byte", 3.0),
        ({"data": "another.txt"}, "bits per byte", 3.0),  # other characters: another tokenizer
    ],
)
def test_the_axis_suits_the_tokenizers(tiny, drawn, changes, unit, loss):
    runs = [finished(tiny, "one"), finished(tiny, "two", **changes)]
    draw_runs(runs, "x.png")
    assert drawn["y_label"] == f"loss ({unit})"
    assert drawn["lines"] == [[loss], [loss]]


def test_one_byte_tokenizer_for_two_texts_is_one_tokenizer(tiny, drawn):
    runs = [
        finished(tiny, "one", tokenizer="byte"),
        finished(tiny, "two", tokenizer="byte", data="another.txt"),
    ]
    draw_runs(runs, "x.png")
    assert drawn["y_label"] == "loss (nats per token)"


def test_an_unreadable_configuration_is_not_taken_for_the_same(tiny, drawn):
    runs = [finished(tiny, "one"), finished(tiny, "two")]
    runs[1].config.write_text(json.dumps({}), encoding="utf-8")
    draw_runs(runs, "x.png")
    assert drawn["y_label"] == "loss (bits per byte)"
