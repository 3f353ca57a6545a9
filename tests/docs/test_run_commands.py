"""Commands in the documentation: which are found, which are refused, and what running means."""

import subprocess
import sys
from pathlib import Path

import run_commands

PAGE = """\
# A page

```console
$ python -c "open('left', 'w').close()"
nothing is printed
$ python -c \\
    "import os; assert os.path.exists('left')"
```

<!-- not run: it fails, which is what it is here for -->
```console
$ python -c "raise SystemExit(3)"
```

<!-- ci: test -->
```bash
pytest
```

- in a list:

    ```console
    $ python --version
    ```

```python
print("$ not a command")
```
"""


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def run(page: Path) -> subprocess.CompletedProcess[str]:
    script = run_commands.__file__
    return subprocess.run(
        [sys.executable, script, str(page)], capture_output=True, text=True, encoding="utf-8"
    )


def test_blocks_are_found_with_their_line_language_and_comment(tmp_path):
    found = list(run_commands.blocks(write(tmp_path, PAGE)))
    assert [(block.line, block.language, block.comment) for block in found] == [
        (3, "console", ""),
        (11, "console", "not run"),
        (16, "bash", "ci"),
        (22, "console", ""),
        (26, "python", ""),
    ]
    assert len(found[0].commands()) == 2
    assert found[3].commands() == ["python --version"]
    assert run_commands.faults(found) == []


def test_commands_of_a_page_run_in_order_in_one_folder(tmp_path):
    done = run(write(tmp_path, PAGE))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ... ") == 3
    assert "raise SystemExit" not in done.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "page.md"]


def test_a_failing_command_fails_the_run_and_shows_what_it_printed(tmp_path):
    done = run(
        write(tmp_path, "```console\n$ python -c \"print('seen'); raise SystemExit(3)\"\n```")
    )
    assert done.returncode == 1
    assert "page.md:1: $ python -c" in done.stderr
    assert "exited with 3 and printed:\nseen" in done.stderr


def test_an_unknown_program_is_named(tmp_path):
    done = run(write(tmp_path, "```console\n$ no-such-program-here\n```"))
    assert done.returncode == 1
    assert "there is no program 'no-such-program-here'" in done.stderr


def test_blocks_that_nobody_would_run_are_refused(tmp_path):
    text = "```bash\nls\n```\n\n<!-- not run: old -->\ntext between\n```sh\nls\n```\n"
    text += "```console\nbaremetal train\n```\n"
    lines = run_commands.faults(list(run_commands.blocks(write(tmp_path, text))))
    assert [line.partition(": ")[0].rpartition(":")[2] for line in lines] == ["1", "7", "10"]
    assert run(tmp_path / "page.md").returncode == 1


def test_generated_lessons_are_not_searched(tmp_path):
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "00_a.md").touch()
    page = write(tmp_path, "")
    assert run_commands.pages([tmp_path]) == [page]
