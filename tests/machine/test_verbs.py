"""`baremetal machine`: the list, one description, and this computer measured, as a person asks."""

import json

import pytest

from baremetal.cli import main
from baremetal.machine import find_chip
from baremetal.machine.catalogue import KINDS, entries


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys, *arguments: str) -> str:
    assert main(["machine", *arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments: str) -> str:
    assert main(["machine", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("baremetal: ")
    assert err.count("\n") == 1
    return err


def test_the_list_has_all(capsys):
    text = printed(capsys, "list")
    for kind in KINDS:
        assert all(entry.thing.name in text for entry in entries(kind))
    only = json.loads(printed(capsys, "list", "--kind", "link", "--json"))["descriptions"]
    assert [found["name"] for found in only] == [entry.thing.name for entry in entries("link")]


def test_a_description_is_shown_with_its_sources(capsys):
    text = printed(capsys, "show", "GB300")
    assert "14.7 PFLOP/s" in text
    assert "dgxc-benchmarking" in text
    document = json.loads(printed(capsys, "show", "gb300", "--json"))
    assert document["fields"]["memory_rate"] == {
        "text": "8 TB/s", "value": 8 * 10**12, "unit": "B/s",
        "source": "NVIDIA developer blog, Inside NVIDIA Blackwell Ultra, 2025",
    }  # fmt: skip


def test_a_link_without_limits_says_so(capsys):
    assert "unlimited" in printed(capsys, "show", "ideal")


def test_this_computer_is_measured_into_a_file_that_is_a_chip(capsys, here):
    document = json.loads(printed(capsys, "measure", "--seconds", "0.01", "--json"))
    assert document["file"] == "this.toml"
    found = find_chip("./this.toml")
    assert found.name == "this computer"
    assert found.flops.keys() == {"fp64", "fp32"}
    assert all("measured on" in found.sources[f"flops.{name}"] for name in found.flops)
    assert found.time_ps(10**9, 0, "float32") > found.launch_overhead_ps > 0
    assert found.memory_bytes > 2**28
    assert [path.name for path in here.iterdir()] == ["this.toml"]
    assert "this computer" in printed(capsys, "show", "this.toml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--kind", "chop"], ["unknown kind 'chop'", "chip"]),
        (["show", "gb301"], ["unknown name 'gb301'", "'gb300'"]),
        (["show", "800g", "--kind", "chip"], ["unknown chip '800g'"]),
        (["show", "missing.toml"], ["missing.toml", "No such file"]),
        (["measure", "--seconds", "0"], ["--seconds 0"]),
        (["measure", "--seconds", "nan"], ["--seconds nan"]),
        (["measure", "--out", "this.txt"], ["--out 'this.txt'", ".toml"]),
        (["describe"], ["unknown verb of machine 'describe'", "list, show, measure"]),
        (["show"], ["name"]),
    ],
)
def test_what_is_wrong_is_one_line(capsys, arguments, words):
    message = refusal(capsys, *arguments)
    assert all(word.casefold() in message.casefold() for word in words), message


def test_help_is_given(capsys):
    assert "measure" in printed(capsys)
