"""The picture of a tape: what is on it, in which order, and which lines cross to where."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from baremetal.autograd import Parameter, Tensor, draw, no_grad, ops
from baremetal.errors import BaremetalError

SVG = "{http://www.w3.org/2000/svg}"


def residual():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True, name="x")
    w = Parameter(np.ones((3, 3), np.float32), name="w")
    loss = (ops.linear(x, w).relu() + x).sum()
    loss.name = "loss"
    return loss


def test_text_shows_the_branch_and_what_is_saved():
    assert draw(residual()).text.splitlines() == [
        "4 operations, 24 B saved",
        "o    x (2, 3)",
        "|\\",
        "| *  linear (2, 3)    weight: w (3, 3)",
        "| *  relu (2, 3)      saves 24 B",
        "|/",
        "*    add (2, 3)",
        "*    sum  -> loss ()",
    ]


def test_lines_cross_lanes_that_pass_by():
    x = Tensor(np.ones(2, np.float32), requires_grad=True, name="x")
    a, b = x * 2, x * 3
    # The addition reads x (lane 0) and b (lane 2) while a passes by in lane 1.
    assert draw(a * (x + b) + a).text.splitlines()[1:] == [
        "o      x (2,)",
        "|\\",
        "| *    multiply (2,)  saves 4 B",
        "|_|\\",
        "| | *  multiply (2,)  saves 4 B",
        "|_|/",
        "* |    add (2,)",
        "|/|",
        "* |    multiply (2,)  saves 16 B",
        "|/",
        "*      add (2,)",
    ]


def test_every_value_and_edge_is_in_the_svg():
    root = ET.fromstring(draw(residual()).svg)
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    for label in ("x (2, 3)", "linear (2, 3)", "relu (2, 3)", "add (2, 3)", "sum  -> loss ()"):
        assert label in texts
    assert texts[0] == "4 operations, 24 B saved"
    assert len(list(root.iter(f"{SVG}circle"))) == 5
    assert len(list(root.iter(f"{SVG}path"))) == 5
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{SVG}rect"):
        if box.get("rx"):
            assert 0 <= float(box.get("x")) < float(box.get("x")) + float(box.get("width")) <= width
            assert 0 <= float(box.get("y")) < height


def headline_y(drawing):
    return float(next(ET.fromstring(drawing.svg).iter(f"{SVG}text")).get("y"))


def test_boxes_do_not_overlap():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = x
    for _ in range(5):
        y = y * x + y
    boxes = [
        (float(b.get("y")), float(b.get("height")))
        for b in ET.fromstring(draw(y).svg).iter(f"{SVG}rect")
        if b.get("rx")
    ]
    boxes.sort()
    assert len(boxes) == 11
    assert headline_y(draw(y)) < boxes[0][0]
    for (top, height), (below, _) in pairwise(boxes):
        assert top + height < below


def test_names_are_escaped():
    x = Tensor([1.0], requires_grad=True, name="<b> & 'c'")
    svg = draw(x * 2).svg
    assert "&lt;b&gt; &amp;" in svg
    ET.fromstring(svg)


def test_leaves_and_freed_tapes():
    assert draw(Tensor([1.0])).text == "a leaf: no operation made it\no  Tensor (1,)"
    loss = residual()
    loss.backward()
    assert draw(loss).text.startswith("4 operations, freed by backward")
    with no_grad():
        assert "a leaf" in draw(residual()).text


def test_memory_that_two_operations_save_counts_once():
    x = Tensor(np.ones(10, np.float32), requires_grad=True)
    y = x + 0
    # The rows say 40 B each for y (square), exp(y), y (sin) and 80 B for the two factors.
    drawing = draw(y.square() + y.exp() * y.sin())
    assert drawing.text.startswith("6 operations, 120 B saved (what two rows share counts once)\n")
    assert "(what two rows share counts once)</text>" in drawing.svg
    assert "share" not in draw(residual()).text


def test_a_long_chain_is_drawn_without_recursion():
    y = Tensor([1.0], requires_grad=True)
    for _ in range(2000):
        y = y + 1.0
    assert draw(y).text.count("add") == 2000


def test_saving(tmp_path):
    drawing = draw(residual())
    assert drawing.save(tmp_path / "tape.svg").read_text(encoding="utf-8") == drawing.svg
    assert drawing.save(tmp_path / "tape.txt").read_text(encoding="utf-8") == drawing.text + "\n"
    assert drawing._repr_svg_() == drawing.svg
    assert str(drawing) == drawing.text
    with pytest.raises(BaremetalError, match=r"\.svg or \.txt"):
        drawing.save(tmp_path / "tape.png")
