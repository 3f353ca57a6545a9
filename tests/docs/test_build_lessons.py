"""Lessons to pages: how outputs are written, and one small lesson through the whole pipeline."""

import importlib.util
import json
import subprocess
import sys
from base64 import b64encode

import build_lessons
import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def code(source, *outputs, tags=()):
    return {
        "cell_type": "code",
        "source": source,
        "outputs": list(outputs),
        "metadata": {"tags": list(tags)},
    }


def prints(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shows(**data):
    kinds = {"text": "text/plain", "markdown": "text/markdown", "png": "image/png"}
    return {"output_type": "display_data", "data": {kinds[key]: data[key] for key in data}}


def page(*cells):
    title = {"cell_type": "markdown", "source": "# Title\n\nText."}
    return build_lessons.to_page([title, *cells], "01_a", "HEADER")


def test_the_header_stands_under_the_title():
    assert page().blocks == ["# Title\n\nHEADER\n\nText."]


def test_code_and_its_prints_are_fenced_and_neighbouring_prints_joined():
    blocks = page(code("f()", prints("a\n"), prints("b\n"))).blocks
    assert blocks[1:] == ["```python\nf()\n```", "```text\na\nb\n```"]


def test_progress_bars_are_left_out_and_overwritten_lines_show_their_last_state():
    blocks = page(code("f()", prints("50 %|##\n", name="stderr"), prints("1\r2\r3\r\nend"))).blocks
    assert blocks[2:] == ["```text\n3\nend\n```"]


def test_colours_are_removed():
    assert page(code("f()", prints("\x1b[31mred\x1b[0m"))).blocks[2] == "```text\nred\n```"


def test_a_fence_inside_the_text_needs_a_longer_one_outside():
    assert page(code("f()", prints("```\nx\n```"))).blocks[2] == "````text\n```\nx\n```\n````"


def test_the_best_form_of_an_output_is_shown_and_pictures_are_kept_in_order():
    png = b64encode(PNG).decode()
    made = page(
        code("f()", shows(text="<Figure>", png=png), shows(text="<Figure>", png=png)),
        code("g()", shows(text="<Markdown>", markdown="**bold**"), shows(text="4")),
    )
    assert made.pictures == {"01_a_1.png": PNG, "01_a_2.png": PNG}
    # Each links to its own file, which a telephone can enlarge.
    assert made.blocks[2] == "[![Picture 1 of this lesson](01_a_1.png)](01_a_1.png)"
    assert made.blocks[3] == "[![Picture 2 of this lesson](01_a_2.png)](01_a_2.png)"
    assert made.blocks[5:] == ["**bold**", "```text\n4\n```"]


def test_an_answer_is_folded_with_its_output():
    block = page(code("a\nb", prints("c"), tags=["answer"])).blocks[1]
    assert block.splitlines() == [
        '??? success "Answer"',
        "    ```python",
        "    a",
        "    b",
        "    ```",
        "    ",
        "    ```text",
        "    c",
        "    ```",
    ]


def build(lesson, out):
    script = build_lessons.__file__
    return subprocess.run(
        [sys.executable, script, str(lesson), "--out", str(out)],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


needs_notebooks = pytest.mark.skipif(
    importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("jupytext") is None,
    reason="needs the docs extra: pip install -e '.[docs]'",
)


@needs_notebooks
def test_a_lesson_becomes_a_page_with_its_picture_and_a_notebook(tmp_path, lesson_source):
    lesson = tmp_path / "00_small.py"
    lesson.write_text(lesson_source, encoding="utf-8")
    out = tmp_path / "lessons"
    done = build(lesson, out)
    assert done.returncode == 0, done.stderr
    text = (out / "00_small.md").read_text(encoding="utf-8")
    assert text.startswith("# 0. A very small lesson\n\n*This lesson ran in ")
    header = text.splitlines()[2]
    assert "](00_small.ipynb)" in header
    assert "put it into `tutorials/`" in header  # it imports lesson.py, which lies there
    assert "```text\none\ntwo\n```" in text
    assert '??? success "Answer"\n    ```python\n    print("first answer")' in text
    assert "    ```text\n    True\n    ```" in text
    assert "](00_small_1.png)" in text
    assert (out / "00_small_1.png").read_bytes().startswith(PNG)
    notebook = json.loads((out / "00_small.ipynb").read_text(encoding="utf-8"))
    hidden = [cell["metadata"].get("jupyter") for cell in notebook["cells"]]
    assert hidden.count({"source_hidden": True}) == 3


@needs_notebooks
def test_a_lesson_that_fails_names_itself_the_cell_and_the_line(tmp_path):
    lesson = tmp_path / "01_broken.py"
    lesson.write_text("# %% [markdown]\n# # Broken\n\n# %%\n1 / 0\n", encoding="utf-8")
    done = build(lesson, tmp_path / "out")
    assert done.returncode == 1
    assert "01_broken.py, cell 2 (line 4): ZeroDivisionError: division by zero" in done.stderr
    assert not (tmp_path / "out").exists()


@needs_notebooks
def test_a_lesson_that_takes_too_long_is_stopped(tmp_path):
    lesson = tmp_path / "02_slow.py"
    lesson.write_text("# %%\nwhile True:\n    pass\n", encoding="utf-8")
    with pytest.raises(build_lessons.LessonError, match=r"02_slow.py, cell 1 \(line 1\).*time"):
        build_lessons.run(lesson, timeout_s=1)
