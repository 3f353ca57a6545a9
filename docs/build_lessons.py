"""Run the lessons and write them as pages: ``python docs/build_lessons.py``.

A lesson is a Python file in percent format, ``tutorials/NN_name.py``: a plain script whose
comments are its prose. `jupytext` reads it as a notebook, `nbclient` runs it cell by cell in a
fresh process, and this file writes what came out as Markdown for mkdocs:

    tutorials/03_attention.py  ->  docs/lessons/03_attention.md      the page
                                   docs/lessons/03_attention.ipynb   the notebook, to download
                                   docs/lessons/03_attention_1.png   its pictures, in order

Nothing in `docs/lessons/` is kept in git. So no number and no picture on the site is older than
the code that made it, and a lesson that no longer runs cannot be published.

One cell tag means something here: a code cell tagged ``answer`` answers an exercise. It runs with
the rest, and is folded on the page. What else makes a lesson a lesson is checked without running
it, in `lesson_form.py`.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from lesson_form import cell_lines, find_lessons, title_of

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 180  # a lesson promises two minutes on two cores; this is where CI gives up
ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# What a cell may show, best first; the first form that an output has is used.
PICTURES = {"image/svg+xml": "svg", "image/png": "png"}


class LessonError(Exception):
    """A lesson did not run: the message names lesson, cell and line."""


# --- run -----------------------------------------------------------------------------------------


def run(lesson: Path, timeout_s: float = TIMEOUT_S) -> tuple[Any, float]:
    """Run every cell of `lesson`; return the notebook with its outputs, and the seconds it took.

    The lesson runs in an empty folder, so that what it writes does not land in the repository.
    Its own folder is on `PYTHONPATH`, as it is when the lesson runs as a script.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(lesson, fmt="py:percent")
    start = time.perf_counter()

    def remaining_s(_cell: object) -> float:
        return max(1.0, timeout_s - (time.perf_counter() - start))

    with tempfile.TemporaryDirectory(prefix="lesson-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout_func=remaining_s,  # one budget for the whole lesson, not one for each cell
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=40"],  # else it warns of its local sockets at each start
        )
        with client.setup_kernel(env=environment(lesson)):
            for index, cell in enumerate(notebook.cells):
                run_cell(client, cell, index, lesson)
    return notebook, time.perf_counter() - start


def environment(lesson: Path) -> dict[str, str]:
    """The environment a lesson runs in: this one, with its folder to import from and pictures."""
    path = [str(lesson.parent.resolve()), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def run_cell(client: Any, cell: Any, index: int, lesson: Path) -> None:
    """Run one cell; on failure raise a `LessonError` that says where to look."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        client.execute_cell(cell, index)
        return
    except CellExecutionError as error:
        reason = f"{error.ename}: {error.evalue}\n\n{plain(error.traceback)}"
    except CellTimeoutError:
        reason = "the lesson's time was up in this cell"
    except DeadKernelError:
        reason = "the Python process died in this cell"
    line = cell_lines(lesson.read_text(encoding="utf-8"))[index]
    raise LessonError(f"{lesson.name}, cell {index + 1} (line {line}): {reason}")


# --- write ---------------------------------------------------------------------------------------


@dataclass
class Page:
    """A lesson's page while it is being written: its text, and its pictures by file name."""

    stem: str
    blocks: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add_picture(self, content: str, extension: str) -> str:
        """Keep a picture under the next free name; return the Markdown that shows it."""
        name = f"{self.stem}_{len(self.pictures) + 1}.{extension}"
        self.pictures[name] = (
            b64decode(content) if extension == "png" else content.encode(encoding="utf-8")
        )
        # A link to its own file: on a telephone a picture must be enlarged to be read.
        return f"[![Picture {len(self.pictures)} of this lesson]({name})]({name})"


def to_page(cells: list[Any], stem: str, header: str) -> Page:
    """Write executed notebook cells as Markdown, `header` directly under the title."""
    page = Page(stem)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            page.blocks.append(cell["source"].strip())
        elif cell["cell_type"] == "code":
            page.blocks.extend(code_blocks(cell, page))
    title, _, rest = page.blocks[0].partition("\n")
    page.blocks[0] = f"{title}\n\n{header}\n{rest}".rstrip()
    return page


def code_blocks(cell: Any, page: Page) -> Iterator[str]:
    """A code cell and what it showed, folded if it is the answer of an exercise."""
    blocks = [fenced(cell["source"], "python")] if cell["source"].strip() else []
    blocks += [block for output in merged(cell["outputs"]) if (block := shown(output, page))]
    if "answer" in cell["metadata"].get("tags", []):
        inside = "\n\n".join(blocks).replace("\n", "\n    ")
        blocks = [f'??? success "Answer"\n    {inside}']
    return iter(blocks)


def merged(outputs: list[Any]) -> Iterator[Any]:
    """Outputs with neighbouring prints joined: a kernel sends one `print` loop in many pieces."""
    text = ""
    for output in outputs:
        if output["output_type"] == "stream":
            # Progress bars and warnings go to stderr; they belong to the run, not to the page.
            text += output["text"] if output["name"] == "stdout" else ""
            continue
        if text:
            yield {"output_type": "stream", "text": text}
            text = ""
        yield output
    if text:
        yield {"output_type": "stream", "text": text}


def shown(output: Any, page: Page) -> str:
    """One output as Markdown: a picture, prose, or text in a fence."""
    if output["output_type"] == "stream":
        return fenced(plain(output["text"]), "text")
    data = output.get("data", {})
    for kind, extension in PICTURES.items():
        if kind in data:
            return page.add_picture(data[kind], extension)
    if "text/markdown" in data:
        return str(data["text/markdown"]).strip()
    return fenced(plain(data.get("text/plain", "")), "text")


def plain(text: str) -> str:
    """Text as a terminal would leave it: no colours, and of an overwritten line the last state."""
    lines = ANSI_ESCAPE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def fenced(text: str, language: str) -> str:
    """Text in a fence longer than any run of backticks inside it."""
    text = text.strip("\n")
    if not text.strip():
        return ""
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def header_of(stem: str, duration_s: float) -> str:
    """The line under a lesson's title: how long it took, where, when, and the notebook."""
    return (
        f"*This lesson ran in {duration_s:.0f} s on {os.cpu_count()} cores "
        f"({platform.system()} {platform.machine()}, Python {platform.python_version()}) on "
        f"{date.today().isoformat()}. [Download it as a notebook]({stem}.ipynb); it needs the "
        "repository: put it into `tutorials/`, beside the `lesson.py` that it imports.*"
    )


def build(lesson: Path, out: Path) -> float:
    """Run one lesson and write its page, pictures and notebook; return the seconds it took."""
    import nbformat

    notebook, duration_s = run(lesson)
    page = to_page(notebook.cells, lesson.stem, header_of(lesson.stem, duration_s))
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{lesson.stem}*"):
        old.unlink()
    for name, content in page.pictures.items():
        (out / name).write_bytes(content)
    text = "\n\n".join(page.blocks) + "\n"
    (out / f"{lesson.stem}.md").write_text(text, encoding="utf-8")
    for cell in notebook.cells:  # answers start folded in Jupyter too
        if "answer" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
    nbformat.write(notebook, out / f"{lesson.stem}.ipynb")
    return duration_s


def main() -> int:
    """Build the lessons named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Run lessons and write them as pages.")
    parser.add_argument("lessons", nargs="*", type=Path, help="lesson files (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "lessons")
    options = parser.parse_args()
    for lesson in options.lessons or find_lessons(ROOT / "tutorials"):
        title = title_of(lesson.read_text(encoding="utf-8"))
        print(f"{lesson.name}: {title} ... ", end="", flush=True)
        try:
            print(f"{build(lesson, options.out):.0f} s")
        except LessonError as error:
            print("failed")
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
