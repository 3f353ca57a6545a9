"""`baremetal model list` and `show`: what they print, and what they refuse."""

import json

import pytest

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models import find_model, models, token_flops
from baremetal.cluster.models.flops import FULL
from baremetal.cluster.models.verbs import ListOptions, ShowOptions, run_list, run_show


def test_the_list_has_all(capsys):
    run_list(ListOptions())
    text = capsys.readouterr().out
    assert all(entry.model.name in text for entry in models())
    assert "405.85B" in text
    assert "671.03B" in text  # extra predictors apart
    run_list(ListOptions(json=True))
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [row["name"] for row in rows] == [entry.model.name for entry in models()]
    assert sum(row["hypothetical"] for row in rows) == 3


def test_one_in_full(capsys):
    run_show(ShowOptions("DeepSeekV3", json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 671_026_404_352
    assert sum(found["parameters_by_part"].values()) == found["parameters"] + 11_610_067_968
    assert found["fields"]["experts.count"]["value"] == 256
    assert "deepseek.py" in found["fields"]["experts.count"]["source"]
    forward = found["flops"]["causal"]["forward"]
    assert 3 * sum(forward.values()) == pytest.approx(found["flops"]["causal"]["per_token"] * 4096)
    run_show(ShowOptions("deepseek-v3"))
    text = capsys.readouterr().out
    assert "[1] NVIDIA/NeMo" in text
    assert "682.64B" in text
    assert "2.600e+11" in text


def test_another_length_of_samples(capsys):
    run_show(ShowOptions("llama3-8b", seq=131072, json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["flops"]["full"]["per_token"] == token_flops(find_model("llama3-8b"), 131072, FULL)


def test_a_model_of_ones_own_is_shown(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[model]\nname = "mine"\nlayers = 1\nwidth = 8\nheads = 2\nhidden = 4\n'
        "vocab_size = 10\ncontext = 4\ntied = true\n",
        encoding="utf-8",
    )
    run_show(ShowOptions(str(path)))
    text = capsys.readouterr().out
    assert "mine" in text
    assert "not stated" in text
    assert "tied" in text


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ClusterError, match="unknown model 'llama9'"):
        run_show(ShowOptions("llama9"))
    with pytest.raises(ClusterError, match="--seq -5"):
        run_show(ShowOptions("llama3-8b", seq=-5))
