"""Run the commands that the documentation shows: ``python docs/run_commands.py docs README.md``.

Documentation and command line drift apart unless something holds them together. So every command
in a fenced ``console`` block is run here, in CI:

    ```console
    $ baremetal doctor
    what it prints may follow; it is for the reader, and not compared
    ```

All commands of one page run in one empty folder, in order, so that a later command may use what
an earlier one left. Each must exit with 0. A command is one program with its arguments, run
without a shell: it must work on Windows too.

A block that must not run says why, in a comment on a line of its own before it:

    <!-- not run: needs two machines -->

A shell block in another language (``sh``, ``bash``) would escape all this and is refused, unless
a comment says that CI runs it (``<!-- ci: test -->``) or why nothing does.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)")
COMMENT = re.compile(r"^ *<!-- *(?P<kind>not run|ci): *(?P<text>.+?) *-->$")
SHELLS = {"bash", "sh", "shell", "zsh", "powershell"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, the comment before it, its lines."""

    page: Path
    line: int
    language: str
    comment: str  # "not run" or "ci", "" without a comment
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.as_posix()}:{self.line}"

    def commands(self) -> list[str]:
        """The lines after ``$``, a trailing backslash joining a line with the next."""
        text = "\n".join(self.lines).replace("\\\n", " ")
        return [line.strip()[2:].strip() for line in text.split("\n") if line.strip()[:2] == "$ "]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a Markdown page."""
    comment = fence = language = ""
    start, lines = 0, list[str]()
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence:
            if text.strip() == fence:
                yield Block(page, start, language, comment, tuple(lines))
                comment = fence = ""
            else:
                lines.append(text)
        elif match := FENCE.match(text):
            fence, language, start, lines = match["fence"], match["language"], number, []
        elif match := COMMENT.match(text):
            comment = match["kind"]
        elif text.strip():
            comment = ""  # a comment belongs to the block that follows it directly


def pages(paths: list[Path]) -> list[Path]:
    """Markdown files named directly, and those inside named folders, but no generated lesson."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return [page for page in found if "lessons" not in page.parts]


def faults(found: list[Block]) -> list[str]:
    """What must be mended before anything runs: blocks that nobody would run."""
    lines = []
    for block in found:
        if block.language in SHELLS and not block.comment:
            lines.append(
                f"{block}: a `{block.language}` block that nothing runs; write it as ```console "
                "with '$ ' before each command, or say why not: <!-- not run: the reason -->"
            )
        elif block.language == "console" and not block.commands():
            lines.append(f"{block}: a console block without a command; commands begin with '$ '")
    return lines


def run(block: Block, command: str, folder: Path) -> float:
    """Run one command in `folder`; return its seconds, or exit with what it printed."""
    arguments = shlex.split(command)
    # The programs beside this Python are the ones that the documentation speaks of.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(arguments[0], path=path)
    if program is None:
        sys.exit(f"{block}: there is no program {arguments[0]!r}")
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [program, *arguments[1:]],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"{block}: $ {command}\nran longer than {TIMEOUT_S} s")
    if done.returncode:
        printed = done.stdout.decode("utf-8", errors="replace")
        sys.exit(f"{block}: $ {command}\nexited with {done.returncode} and printed:\n{printed}")
    return time.perf_counter() - start


def main() -> int:
    """Check all blocks, then run the commands of each page in a folder of its own."""
    parser = argparse.ArgumentParser(description="Run the commands that documentation shows.")
    parser.add_argument("paths", nargs="+", type=Path, help="Markdown files, or folders of them")
    for page in pages(parser.parse_args().paths):
        found = list(blocks(page))
        if wrong := faults(found):
            sys.exit("\n".join(wrong))
        with tempfile.TemporaryDirectory(prefix="docs-", ignore_cleanup_errors=True) as folder:
            for block in found:
                if block.language != "console" or block.comment:
                    continue
                for command in block.commands():
                    print(f"{block}: $ {command} ... ", end="", flush=True)
                    print(f"{run(block, command, Path(folder)):.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
