"""The form of lessons: each rule is broken once, and the fault must be named."""

import lesson_form
import pytest


def test_the_lessons_of_this_repository_keep_the_form(root):
    lessons = lesson_form.find_lessons(root / "tutorials")
    assert lesson_form.check(lessons) == []


def test_lessons_are_found_in_order_and_helpers_are_not(tmp_path):
    for name in ["02_b.py", "01_a.py", "helper.py", "3_short.py", "04_notes.md"]:
        (tmp_path / name).touch()
    assert [path.name for path in lesson_form.find_lessons(tmp_path)] == ["01_a.py", "02_b.py"]


def test_a_good_lesson_has_no_fault(lesson_source):
    assert lesson_form.form_faults(lesson_source) == []
    assert lesson_form.title_of(lesson_source) == "0. A very small lesson"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# # 0. A very small lesson", "# 0. A very small lesson", "no title"),
        ("# %% [markdown]\n# # 0.", "import os\n# %% [markdown]\n# # 0.", "does not begin with"),
        ("# ## Look\n", "", "expected exactly these"),
        ("# ## The idea\n# ## Build it\n", "# ## Build it\n# ## The idea\n", "in this order"),
        ('# %% tags=["answer"]\n# The third', "# %%\n# The third", "2 answers"),
        ("A paper, 2017.", "A paper.", "no dated source"),
        ("# Some text, and", "# Some text\n# - in a list, and", "empty line between 'Some text'"),
    ],
)
def test_a_lesson_that_breaks_the_form_is_told_how(lesson_source, old, new, fault):
    assert old in lesson_source
    (found,) = lesson_form.form_faults(lesson_source.replace(old, new))
    assert fault in found


def test_a_list_after_an_empty_line_is_fine(lesson_source):
    source = lesson_source.replace(
        "# Some text, and", "# Some text\n#\n# - a\n# - b\n#   and more\n# - c\n#\n# and"
    )
    assert lesson_form.form_faults(source) == []


def test_cells_begin_where_their_markers_stand(lesson_source):
    lines = lesson_source.splitlines()
    starts = lesson_form.cell_lines(lesson_source)
    assert len(starts) == len(list(lesson_form.cells(lesson_source))) == 9
    assert all(lines[start - 1].startswith("# %%") for start in starts)


# --- the order of the lessons --------------------------------------------------------------------


def lesson(*lines: str) -> str:
    return "\n".join(["# %%", *lines])


@pytest.mark.parametrize(
    "use",
    [
        "import baremetal.nn",
        "import baremetal.nn as nn",
        "from baremetal import nn",
        "from baremetal.nn import GPT",
        "from baremetal.nn.gpt import GPT",
        "import baremetal\nbaremetal.nn.GPT(1)",
        "import baremetal as bm\nmodel = bm.nn.GPT",
        "def later():\n    from baremetal import nn",
    ],
)
def test_using_what_a_later_lesson_introduces_is_a_fault(use):
    first, second = lesson(use), lesson("# introduces: baremetal.nn", use)
    ((index, fault),) = lesson_form.order_faults([first, second])
    assert index == 0
    assert fault.endswith("which a later lesson introduces")
    assert lesson_form.order_faults([second, first]) == []


def test_using_what_no_lesson_introduces_is_a_fault():
    ((index, fault),) = lesson_form.order_faults([lesson("from baremetal.optim import SGD")])
    assert (index, fault) == (0, "uses baremetal.optim.SGD, which no lesson introduces")


def test_a_name_covers_what_is_below_it_and_not_its_neighbours():
    below = lesson("# introduces: baremetal.nn", "from baremetal.nn.gpt import GPT")
    assert lesson_form.order_faults([below]) == []
    ((_, fault),) = lesson_form.order_faults([below.replace(".nn\n", ".n\n")])
    assert fault.endswith("which no lesson introduces")


def test_the_longest_introduced_name_decides():
    early = lesson("# introduces: baremetal.kernels", "from baremetal.kernels import attention")
    late = lesson("# introduces: baremetal.kernels.attention, baremetal.nn")
    ((index, fault),) = lesson_form.order_faults([early, late])
    assert index == 0
    assert "baremetal.kernels.attention" in fault
    assert lesson_form.order_faults([early.replace("attention", "softmax"), late]) == []


def test_introducing_twice_is_a_fault():
    twice = lesson("# introduces: baremetal.nn")
    assert lesson_form.order_faults([twice, twice]) == [(1, "introduces baremetal.nn again")]


def test_other_packages_and_the_bare_name_are_free():
    free = lesson("import numpy as np", "np.add.reduce([1])", "import baremetal", "x.nn = 1")
    assert lesson_form.order_faults([free]) == []
