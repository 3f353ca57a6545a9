"""The form of a lesson, checked without running it: ``python docs/lesson_form.py``.

Every lesson has the same eight sections, so that a reader who knows one knows where to look in
all of them; every exercise has an answer that runs; and no lesson uses a part of the library that
a later lesson introduces, so that the lessons can be read in order.

The last rule needs to know what a lesson introduces. The lesson says so itself, in a comment of
its first code cell:

    # introduces: baremetal.nn, baremetal.optim

A name stands for everything below it, unless a lesson introduces a longer name: after
``baremetal.kernels`` in lesson 2 and ``baremetal.kernels.attention`` in lesson 3, lesson 2 may
use all kernels but attention. Each name is introduced once. Using is importing it, or reaching it
through an imported module (``import baremetal as bm; bm.nn.GPT``).
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "baremetal"
SECTIONS = (
    "What you will be able to do",
    "The idea",
    "Build it",
    "Predict, then run",
    "Look",
    "Exercises",
    "What the real system does that this does not",
    "Sources",
)
ANSWERS = 3  # each lesson has three exercises
LESSON_NAME = re.compile(r"\d\d_[a-z0-9_]+\.py")
CELL = re.compile(r"# %%(.*)")
INTRODUCES = re.compile(r"^# introduces:(.*)$", re.MULTILINE)


# --- reading a lesson ----------------------------------------------------------------------------


def find_lessons(folder: Path) -> list[Path]:
    """The lessons of a folder in order; other files there (helpers, data) are not lessons."""
    return sorted(path for path in folder.glob("*.py") if LESSON_NAME.fullmatch(path.name))


def cell_lines(source: str) -> list[int]:
    """The line, counted from 1, on which each cell begins."""
    return [number for number, line in enumerate(source.splitlines(), 1) if CELL.match(line)]


def cells(source: str) -> Iterator[tuple[str, str]]:
    """Each cell as (what follows ``# %%`` on its first line, its text)."""
    lines = source.splitlines()
    starts = cell_lines(source)
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        match = CELL.match(lines[start - 1])
        assert match is not None  # cell_lines chose this line by the same pattern
        yield match[1].strip(), "\n".join(lines[start : end - 1])


def prose(source: str) -> str:
    """All Markdown cells of a lesson, their comment signs removed."""
    texts = [text for head, text in cells(source) if head.startswith("[markdown]")]
    return re.sub(r"^# ?", "", "\n\n".join(texts), flags=re.MULTILINE)


def title_of(source: str) -> str:
    """The lesson's first heading, or "" if it has none."""
    match = re.search(r"^# (.+)$", prose(source), re.MULTILINE)
    return match[1] if match else ""


# --- the form ------------------------------------------------------------------------------------


def form_faults(source: str) -> list[str]:
    """What is wrong with the form of one lesson; an empty list if nothing is."""
    faults = []
    if not source.startswith("# %% [markdown]"):
        faults.append("does not begin with '# %% [markdown]'")
    if not title_of(source):
        faults.append("has no title: the first Markdown cell begins with '# # N. Title'")
    headings = re.findall(r"^## (.+)$", prose(source), re.MULTILINE)
    if headings != list(SECTIONS):
        faults.append(
            f"has the sections {headings}; expected exactly these, in this order: {list(SECTIONS)}"
        )
    answers = sum("answer" in head for head, _ in cells(source))
    if answers < ANSWERS:
        faults.append(
            f"has {answers} answers; expected {ANSWERS} code cells that begin with "
            "'# %% tags=[\"answer\"]'"
        )
    glued = re.search(r"^(?![-*+ #|>]|\d+\. ).+\n(?=[-*+] |\d+\. )", prose(source), re.MULTILINE)
    if glued:
        faults.append(f"needs an empty line between {glued[0].strip()!r} and the list under it")
    sources = prose(source).partition("\n## Sources")[2]
    if not re.search(r"\b(19|20)\d\d\b", sources):
        faults.append("has no dated source in its section 'Sources'")
    return faults


# --- the order -----------------------------------------------------------------------------------


def introduced(source: str) -> list[str]:
    """The names that a lesson says it introduces."""
    lists = INTRODUCES.findall(source)
    return [name.strip() for names in lists for name in names.split(",") if name.strip()]


def used(source: str) -> set[str]:
    """Every dotted name of the package that a lesson imports or reaches through an import."""
    tree = ast.parse(source)
    names: set[str] = set()
    aliases: dict[str, str] = {}  # local name -> dotted name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                names.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                names.add(f"{node.module}.{alias.name}")
    names |= {name for node in ast.walk(tree) if (name := dotted(node, aliases))}
    names = {name for name in names if name.startswith(f"{PACKAGE}.")}
    # Of baremetal.nn and baremetal.nn.GPT only the longer says what is used.
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """``bm.nn.GPT`` as ``baremetal.nn.GPT`` where ``bm`` is an imported name, otherwise ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not parts or not isinstance(node, ast.Name) or node.id not in aliases:
        return ""
    return ".".join([aliases[node.id], *reversed(parts)])


def order_faults(sources: list[str]) -> list[tuple[int, str]]:
    """Pairs (index of the lesson, what it uses too early or introduces twice)."""
    faults = []
    owner: dict[str, int] = {}
    for index, source in enumerate(sources):
        for name in introduced(source):
            if name in owner:
                faults.append((index, f"introduces {name} again"))
            owner.setdefault(name, index)
    for index, source in enumerate(sources):
        for name in sorted(used(source)):
            prefixes = [known for known in owner if f"{name}.".startswith(f"{known}.")]
            if not prefixes:
                faults.append((index, f"uses {name}, which no lesson introduces"))
            elif owner[max(prefixes, key=len)] > index:
                faults.append((index, f"uses {name}, which a later lesson introduces"))
    return faults


def check(lessons: list[Path]) -> list[str]:
    """One line for each fault of the given lessons, which are in their order."""
    sources = [lesson.read_text(encoding="utf-8") for lesson in lessons]
    faults = [
        f"{lesson.name} {fault}"
        for lesson, source in zip(lessons, sources, strict=True)
        for fault in form_faults(source)
    ]
    return faults + [f"{lessons[index].name} {fault}" for index, fault in order_faults(sources)]


if __name__ == "__main__":
    found = check(find_lessons(Path(__file__).resolve().parent.parent / "tutorials"))
    sys.exit("\n".join(found) or 0)
