"""What mkdocs does beyond its plugins, in four small hooks.

- `on_config` puts the pages that are made, not written, into the navigation: the lessons that
  `build_lessons.py` has run, and one API page for each room.
- `on_files` makes those API pages. The rooms are read from the import contract in
  `pyproject.toml`, so a new room has its page from its first day. It also draws the overhead curve
  from the recorded run, and `on_page_markdown` puts that run's tables onto its page: no figure
  there can differ from the record.
- `on_page_content` turns each formula into MathML. Browsers draw it themselves: the site fetches
  no script and no font from anywhere, works offline, and a formula that does not parse fails the
  build instead of showing up as red text.
"""

import html
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "baremetal"
NO_LESSONS = """# Lessons

The lessons have not been run yet. They are executed to pages by

    python docs/build_lessons.py
"""


# --- navigation ----------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the empty navigation entries "Lessons" and "API reference"."""
    made = {
        "Lessons": ["lessons/index.md", *(f"lessons/{path.name}" for path in lesson_pages())],
        "API reference": ["api/index.md", *({name: f"api/{name}.md"} for name in rooms())],
    }
    config.nav = [
        {title: made.get(title, target) for title, target in entry.items()}
        for entry in config.nav or []
    ]
    return config


def lesson_pages() -> list[Path]:
    """The pages that `build_lessons.py` wrote."""
    return sorted((ROOT / "docs" / "lessons").glob("[0-9]*.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the list of lessons and an API page for each room."""
    pages = {f"api/{name}.md": api_page(name) for name in rooms()}
    pages["lessons/index.md"] = lesson_index()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, "overhead.png", content=overhead_picture()))
    return files


# --- the overhead curve --------------------------------------------------------------------------

CURVE_TABLES = "<!-- made from the recorded run: docs/hooks.py -->"


def overhead_picture() -> bytes:
    """The recorded curve, drawn (PNG)."""
    from baremetal.bench.overhead import reading
    from baremetal.bench.overhead.picture import draw_curve

    with tempfile.TemporaryDirectory() as folder:
        curve = reading.load_curve(reading.RECORDED)
        return draw_curve(curve, Path(folder) / "overhead.png").read_bytes()


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the recorded curve's tables where a page asks for them."""
    if CURVE_TABLES not in markdown:
        return markdown
    from baremetal.bench.overhead import reading
    from baremetal.bench.overhead.report import curve_text

    text = curve_text(reading.load_curve(reading.RECORDED))
    return markdown.replace(CURVE_TABLES, f"```text\n{text}\n```")


def lesson_index() -> str:
    """The list of lessons, or how to make them."""
    lines = []
    for path in lesson_pages():
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    if not lines:
        return NO_LESSONS
    intro = (
        "Each lesson is a Python file in `tutorials/`: run it as a script, open it as a notebook, "
        "or read it here, as it ran when this site was built."
    )
    return "\n".join(["# Lessons", "", intro, "", *lines, ""])


# --- API pages -----------------------------------------------------------------------------------


def rooms() -> list[str]:
    """The rooms that exist, lowest floor first, as the import contract lists them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name.strip() for floor in reversed(floors) for name in floor.split("|")]
    short = [name.removeprefix(f"{PACKAGE}.") for name in names]
    return [name for name in short if (ROOT / PACKAGE / name / "__init__.py").exists()]


def api_page(room: str) -> str:
    """A page with the docstrings of a room and of every module in it."""
    folder = ROOT / PACKAGE / room
    blocks = [f"# baremetal.{room}", f"::: {PACKAGE}.{room}", "    options: {members: false}"]
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.name == "__init__.py" or any(part.startswith("_") for part in parts):
            continue
        blocks += ["", f"## {'.'.join(parts[1:])}", "", f"::: {'.'.join(parts)}"]
    return "\n".join(blocks) + "\n"


# --- formulas ------------------------------------------------------------------------------------

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)

MATHML = "http://www.w3.org/1998/Math/MathML"
ROWS = {"math", "mrow", "mstyle", "mtd"}  # what sets its children side by side
SIGNS = ("\u2212", "+")
NOT_YET = set("=<>\u2264\u2265\u2248\u2192\u2190([{,+\u2212\u22c5\u00d7/")  # before an operand


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Replace each formula that arithmatex marked by MathML."""

    def replace(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        try:
            return mathml(html.unescape(match["tex"]), display)
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: formula {match['tex']!r}: {error}") from error

    return FORMULA.sub(replace, content)


def mathml(tex: str, display: str) -> str:
    """TeX as MathML; `display` is "inline" or "block". Raises ValueError for an unknown command."""
    from latex2mathml.converter import convert

    # The two environments align alike; the converter knows only one of them.
    tex = re.sub(r"\{aligned\}", "{align*}", tex.strip())
    made = str(convert(tex, display=display))
    if unknown := re.search(r"<m\w+>(\\\w+)</m\w+>", made):
        raise ValueError(f"unknown command {unknown[1]}")
    # HTML knows what <math> is without the namespace, and then the elements have short names.
    math = ElementTree.fromstring(made.replace(f' xmlns="{MATHML}"', ""))
    for row in list(math.iter()):
        if row.tag in ROWS:
            space(row)
    for word in list(math.iter("mtext")):
        if (word.text or "").isalpha():
            word.tag = "mi"  # beside text, which counts as space, an operator loses its gaps
    return ElementTree.tostring(math, encoding="unicode")


def space(row: ElementTree.Element) -> None:
    """Set the gaps of a row that TeX sets by itself and a browser does not.

    A function's name stands off from what is beside it (log x), unless that is an operator or a
    bracket, which has its own gap (log(x)). A minus after an operator or an opening bracket is a
    sign and stands close to its number (= -1).
    """
    before: ElementTree.Element | None = None
    for child in list(row):
        if child.tag == "mo" and (is_name(child) or child.text == "\u221e"):
            child.tag = "mi"  # max, infinity: as an operator it would have wide gaps on both sides
        if before is not None:
            if child.tag == "mo" and child.text in SIGNS and core(before).text in NOT_YET:
                child.set("form", "prefix")
            gap = is_name(core(before)) or is_name(core(child))
            opened = child.tag == "mrow" and child[:1] and child[0].tag == "mo"  # \left(
            if gap and not opened and "mo" not in (core(before).tag, core(child).tag):
                row.insert(list(row).index(child), ElementTree.Element("mspace", width="0.17em"))
        before = child


def core(element: ElementTree.Element) -> ElementTree.Element:
    """What a subscript or a power stands at: the log of log_2."""
    return core(element[0]) if element.tag in ("msub", "msup", "msubsup") else element


def is_name(element: ElementTree.Element) -> bool:
    """Whether it is a function's name, such as log or max."""
    return element.tag in ("mi", "mo") and re.fullmatch("[a-z]{2,}", element.text or "") is not None
