"""The configuration: round trip through TOML, and every mistake named in one line."""

import dataclasses

import pytest

from baremetal.errors import BaremetalError
from baremetal.train.config import TrainConfig, config_from_mapping, field_notes, read_config


def test_toml_round_trip(tmp_path):
    config = TrainConfig(data='a "quoted"\\path\n', learning_rate=3e-4, model="llama", steps=7)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert read_config(path) == config


def test_every_field_is_documented():
    assert set(field_notes()) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert all(note.strip() for note in field_notes().values())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layer": 4}, ["layer", "did you mean 'layers'"]),
        ({"layers": "four"}, ["layers", "str", "int"]),
        ({"layers": True}, ["layers", "bool"]),
        ({"model": "gtp"}, ["model", "gpt, llama, moe"]),
        ({"heads": 3}, ["128", "3 heads", "129"]),
        ({"steps": -1}, ["--steps -1", "0 or more"]),
        ({"batch": 0}, ["--batch 0", "at least 1"]),
        ({"final_rate": 2.0}, ["--final-rate", "from 0 to 1"]),
        ({"clip": float("inf")}, ["--clip inf", "finite"]),
        ({"learning_rate": 1e39}, ["--learning-rate", "up to"]),
        ({"dropout": 1.0}, ["--dropout", "from 0 up to 1"]),
        ({"precision": "fp4"}, ["precision = 'fp4'", "nvfp4"]),
        ({"loss_scale": "high"}, ["--loss-scale high", "'dynamic'"]),
        ({"loss_scale": "0"}, ["--loss-scale 0", "above 0"]),
        ({"loss_scale": "inf"}, ["--loss-scale inf", "above 0"]),
        ({"native": True, "eager": True}, ["--native and --eager"]),
        ({"model": "moe", "native": True}, ["--native --model moe", "routes in Python"]),
        ({"model": "moe", "precision": "fp8"}, ["--precision fp8", "mixture of experts"]),
    ],
)
def test_mistakes_are_named(values, words):
    with pytest.raises(BaremetalError) as caught:
        config_from_mapping(values, "test.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_fp16_has_a_dynamic_loss_scale_of_its_own():
    for options, scale in (
        ({}, 1.0),
        ({"precision": "fp16"}, None),
        ({"precision": "fp16", "loss_scale": "1024"}, 1024.0),
        ({"precision": "fp8", "loss_scale": "dynamic"}, None),
    ):
        assert TrainConfig(**options).fixed_loss_scale == scale


def test_a_whole_number_serves_as_a_float():
    assert config_from_mapping({"clip": 1}, "x").clip == 1.0


@pytest.mark.parametrize("content", [b"layers = ", b"\xff\xfe"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(BaremetalError, match=r"bad\.toml"):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BaremetalError, match="cannot read"):
        read_config(tmp_path / "none.toml")


def test_configurations_of_before_pipelines_are_read():
    """The learning rate's way down was called `schedule`, as pipelines call who works when."""
    assert config_from_mapping({"schedule": "linear"}, "x").decay == "linear"
