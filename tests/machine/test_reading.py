"""A description of one's own: read with its sources, and refused with file and field."""

from fractions import Fraction
from pathlib import Path

import pytest

from baremetal.machine import find_chip, find_fabric, find_link, find_node, find_rack
from baremetal.machine.catalogue import find_any

LINK = """\
[link]
name = "mine"
bandwidth = { value = "10 Gb/s", source = "card" }
latency = { value = "20 us", source = "my own measurement" }
overhead = "1 us"
jitter = "3 us"
loss = "0.1 %"
retransmit_timeout = "1 ms"
fails_after = 1000

[sources]
card = "what is printed on the card"
"""
CHIP = """\
[chip]
name = "mine"
memory = "16 GB"
memory_rate = "50 GB/s"
efficiency = "80 %"
memory_efficiency = 0.9

[chip.flops]
fp32 = "1 TFLOP/s"
"""
NODE = """\
[node]
name = "box"
chip = "mine"
chips = 2
scale_up = "pcie5"
network = "mine"
network_cards = 1
processors = 1
"""
RACK = """\
[rack]
name = "shelf"
node = "box"
nodes = 3
domain = 2
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "my.toml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_every_field_of_a_link_is_read(write):
    found = find_link(write(LINK))
    assert found.bandwidth_bps == 10**10
    assert (found.latency_ps, found.overhead_ps, found.jitter_ps) == (20 * 10**6, 10**6, 3 * 10**6)
    assert (found.loss, found.retransmit_timeout_ps) == (Fraction(1, 1000), 10**9)
    assert found.fails_after == 1000


def test_a_source_is_a_word_that_is_explained_or_a_sentence_or_not_stated(write):
    sources = find_link(write(LINK)).sources
    assert sources["bandwidth"] == "what is printed on the card"
    assert sources["latency"] == "my own measurement"
    assert sources["overhead"] == "not stated"
    address = find_link(write(LINK.replace('"card"', '"example.org/card"'))).sources
    assert address["bandwidth"] == "example.org/card"


def test_a_chip_of_ones_own_computes(write):
    found = find_chip(write(CHIP))
    assert found.usable_memory_bytes == found.memory_bytes == 16 * 10**9
    assert found.time_ps(8 * 10**11, 0, "float32") == 10**12  # a second at 80 % of 1 TFLOP/s


def test_a_node_without_limits_of_its_network_says_so(write):
    unlimited = NODE.replace("mine", "own") + LINK.replace("10 Gb/s", "unlimited").replace(
        "mine", "own"
    )
    found = find_node(write(CHIP.replace("mine", "own") + unlimited))
    assert found.network.bandwidth_bps is None
    assert found.network_bps is None


def test_one_file_describes_a_whole_machine(write):
    path = write(LINK.partition("[sources]")[0].replace('"card"', '"a card"') + CHIP + NODE + RACK)
    rack = find_rack(path)
    assert rack.chips == 6
    assert rack.node.chip.flops == {"fp32": 10**12}  # its own "mine", a chip
    assert rack.node.network.latency_ps == 20 * 10**6  # its own "mine", a link
    assert rack.node.scale_up == find_link("pcie5")  # one that is shipped
    assert find_node(path) == rack.node
    assert find_any(path, "rack").thing == rack


def test_a_file_may_name_one_beside_it(write, tmp_path, monkeypatch):
    write(CHIP, "chip.toml")
    path = write(NODE.replace('"mine"', '"chip.toml"', 1).replace('"mine"', '"800g"'), "node.toml")
    monkeypatch.chdir(Path(tmp_path.anchor))  # beside the file, not in the current folder
    assert find_node(path).chip == find_chip(str(tmp_path / "chip.toml"))


# ---------------------------------------------------------------- refused

EDITS = [
    ('latency = { value = "20 us", source = "my own measurement" }\n', "", ["latency", "missing"]),
    ("20 us", "-20 us", ["latency", "'-20 us'", "negative"]),
    ("20 us", "20 Gb", ["latency", "Gb", "no unit of a duration", "1.5 us"]),
    ("20 us", "20", ["latency", "no unit"]),
    ('"20 us"', "20", ["latency", "20 has no unit"]),
    ("10 Gb/s", "0 Gb/s", ["bandwidth", "zero"]),
    ("10 Gb/s", "10 GB", ["bandwidth", "no unit of a rate"]),
    ("10 Gb/s", "lots", ["bandwidth", "'lots' is no rate"]),
    ("value = ", "vlaue = ", ["bandwidth", "unknown 'vlaue'", "{ value ="]),
    ('value = "10 Gb/s", ', "", ["bandwidth", "it has no value", "{ value ="]),
    (', source = "card"', ', page = 3', ["bandwidth", "unknown 'page'"]),
    ('source = "card"', 'source = "crad"', ["bandwidth", "'crad' is not in [sources]", "'card'"]),
    ('source = "card"', "source = 3", ["bandwidth", "source 3 is no text"]),
    ('source = "card"', 'source = " "', ["bandwidth", "source ' ' is no text"]),
    ('overhead = "1 us"', 'overhaed = "1 us"', ["unknown field 'overhaed'", "'overhead'"]),
    ('jitter = "3 us"', 'jitter = ["3 us"]', ["jitter", "has no unit"]),
    ('loss = "0.1 %"', 'loss = "150 %"', ["loss", "150 %", "part of one"]),
    ('loss = "0.1 %"', "loss = 1", ["loss 1 lets nothing through"]),
    ("fails_after = 1000", "fails_after = -1", ["fails_after", "-1 is no whole number"]),
    ("fails_after = 1000", "fails_after = 1.5", ["fails_after", "1.5 is no whole number"]),
    ("fails_after = 1000", "fails_after = true", ["fails_after", "True is no whole number"]),
    ('name = "mine"', 'name = ""', ["name", "no text"]),
    ('name = "mine"', "name = 3", ["name", "3 is no text"]),
    ('name = "mine"\n', "", ["name", "missing"]),
    ('name = "mine"', 'name = "mine"\naliases = "one"', ["aliases", "no list of strings"]),
    ('name = "mine"', 'name = "mine"\naliases = [3]', ["aliases", "no list of strings"]),
    ("[link]", "[lnik]", ["unknown table 'lnik'", "'link'"]),
    ("[link]", "[chip]", ["describes no link but chip"]),
    ("[link]", "link = 3\n[x]", ["unknown table 'link'"]),
    ('card = "what is printed on the card"', "card = 3", ["[sources]"]),
    ("[link]", "[link", ["not valid TOML"]),
    ("1000", "9" * 5000, ["not valid TOML"]),
    ("1000", "[" * 5000, ["not valid TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), EDITS)
def test_a_wrong_link_is_refused_with_file_and_field(write, refused, old, new, words):
    assert old in LINK
    path = write(LINK.replace(old, new, 1))
    with refused("my.toml", *words):
        find_link(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[chip.flops]\nfp32 = \"1 TFLOP/s\"\n", "", ["flops is missing"]),
        ("[chip.flops]\nfp32 = \"1 TFLOP/s\"\n", "flops = 3\n", ["flops", "no table"]),
        ("fp32", "fp31", ["unknown field 'fp31'", "'fp32'"]),
        ('fp32 = "1 TFLOP/s"', "", ["no FLOP/s"]),
        ("1 TFLOP/s", "1 TFLOPS", ["fp32", "TFLOPS", "no unit"]),
        ("1 TFLOP/s", "1 TB/s", ["fp32", "TB/s"]),
        ("50 GB/s", "50 Gb/s", ["memory_rate", "did you mean GB/s"]),
        ("80 %", "0 %", ["efficiency = 0"]),
        ('memory = "16 GB"', 'memory = "16 GB"\npower = "0 W"', ["power: is zero", "1.4 kW"]),
        ('memory = "16 GB"\n', "", ["memory is missing", "288 GB"]),
        ('memory = "16 GB"', 'memory = "16 GB"\nusable_memory = "17 GB"', ["more than its memory"]),
        ("0.9", "9", ["memory_efficiency", "9 is no part of one"]),
    ],
)  # fmt: skip
def test_a_wrong_chip_is_refused_with_file_and_field(write, refused, old, new, words):
    assert old in CHIP
    with refused("my.toml", *words):
        find_chip(write(CHIP.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('chip = "mine"', 'chip = "gb3000"', ["[node]: chip", "unknown chip 'gb3000'", "'gb300'"]),
        ('chip = "mine"', 'chip = "no/such.toml"', ["[node]: chip", "cannot read"]),
        ("chips = 2", "chips = 0", ["[node]: chips", "0 is no whole number of at least 1"]),
        ("nodes = 3", 'nodes = "3"', ["[rack]: nodes", "'3' is no whole number"]),
        ("domain = 2", "domain = 2\nswitch_trays = -1", ["[rack]: switch_trays", "-1 is no whole"]),
        ("domain = 2", "domain = 4", ["[rack]", "domain = 4 does not divide"]),
        ("domain = 2", "domain = 3", ["[rack]", "domain = 3 does not divide"]),
    ],
)  # fmt: skip
def test_a_wrong_machine_is_refused_where_it_is_wrong(write, refused, old, new, words):
    whole = CHIP + NODE.replace('network = "mine"', 'network = "800g"') + RACK
    assert old in whole
    with refused("my.toml", *words):
        find_rack(write(whole.replace(old, new, 1)))


def test_every_number_of_a_fabric_is_read(write):
    counts = "ports = 64\ntiers = 3\nrails = 4\nplanes = 2\n"
    text = (
        f'[fabric]\nname = "f"\nport = "800g"\n{counts}oversubscription = "3 : 2"\nhop = "90 ns"\n'
    )
    found = find_fabric(write(text))
    assert (found.ports, found.tiers, found.rails, found.planes) == (64, 3, 4, 2)
    assert (found.oversubscription, found.hop_ps) == (Fraction(3, 2), 90_000)


def test_a_wrong_fabric_is_refused(write, refused):
    fabric = '[fabric]\nname = "f"\nport = "800g"\nports = 63\ntiers = 2\nrails = 4\n'
    with refused("my.toml", "ports = 63", "even"):
        find_fabric(write(fabric))
    with refused("my.toml", "oversubscription", "2 : 1"):
        find_fabric(write(fabric.replace("63", "64") + "oversubscription = 2\n"))
    with refused("my.toml", "oversubscription", "at least 1"):
        find_fabric(write(fabric.replace("63", "64") + 'oversubscription = "1 : 2"\n'))
    with refused("my.toml", "hop: is zero"):
        find_fabric(write(fabric.replace("63", "64") + 'hop = "0 ns"\n'))


def test_a_file_that_is_none_is_refused(write, refused, tmp_path):
    with refused("nothing.toml", "No such file"):
        find_link("nothing.toml")
    with refused("cannot read"):
        find_link(str(tmp_path) + "/")
    with refused("my.toml", "describes nothing"):
        find_link(write(""))
    (tmp_path / "latin.toml").write_bytes('[link]\nname = "é"'.encode("latin-1"))
    with refused("latin.toml", "UTF-8"):
        find_link(str(tmp_path / "latin.toml"))


@pytest.mark.parametrize("line_break", ["\r\n", "\n"])
def test_line_ends_of_any_system_are_read(tmp_path, line_break):
    path = tmp_path / "my.toml"
    path.write_bytes(LINK.replace("\n", line_break).encode())
    assert find_link(str(path)).name == "mine"
