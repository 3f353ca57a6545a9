"""What the lessons share: seven small functions, and nothing of the library itself.

    from lesson import check, finish, quote, show     # tutorials/lesson.py, beside the lesson

    check("loss", ln(V), loss, "nats", ...)   a prediction beside what the run gave
    agree("gradient", ours, theirs)           two arrays that should be equal
    time_s(lambda: a @ b)                     how long one call takes, in seconds
    quote(ops.multiply)                       the library's own source, read from the package
    show(figure, "What to see in it.")        a picture with its caption
    with starting(): process.start()          start processes that do not run the lesson anew
    finish()                                  the last line: how long the lesson took

A lesson runs as a script and as a notebook. Each function does what is right for the one it finds
itself in: print or display, write a picture to a file or put it on the page.
"""

import functools
import inspect
import io
import os
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

_STARTED_S = time.perf_counter()  # a lesson imports this file in its first code cell
DPI = 150  # at a figure's 8 inches, 1200 pixels: sharp at the width of a page


class PredictionMissed(AssertionError):  # noqa: N818  (it reads better than ...Error)
    """What was predicted is not what came out; the message says what that means."""


# --- predict, then run ---------------------------------------------------------------------------


def check(
    what: str,
    predicted: float,
    found: float,
    unit: str = "",
    *,
    within: float = 0.0,
    factor: float = 1.0,
    miss: str,
    timed: bool = False,
) -> None:
    """Print a prediction beside what the run gave, and say whether it held.

    Args:
        what: what the number is.
        predicted, found: the two numbers.
        within: how far apart they may be, as a fraction of the prediction; 0 for equal (whole
            numbers to the last digit, others to the ninth).
        factor: or how far apart as a ratio, either way, where only the order of magnitude can be
            foretold; takes the place of `within` if above 1.
        miss: what it means if the prediction does not hold.
        timed: the number rests on a clock, which a busy machine can spoil: a miss is then
            explained and not raised.

    Raises:
        PredictionMissed: the prediction did not hold, and no clock is to blame.
    """
    if factor > 1.0:
        held = bool(predicted > 0 and found > 0 and 1 / factor <= found / predicted <= factor)
        allowed = f"within a factor of {factor:g}"
    elif not within and isinstance(predicted, Integral) and isinstance(found, Integral):
        held, allowed = predicted == found, "equal"  # bytes, counts, picoseconds: to the last one
    else:
        # A hair of room, because 0.1 + 0.2 is not 0.3: equal means equal to nine digits.
        held = abs(found - predicted) <= max(within, 1e-9) * abs(predicted)
        allowed = f"within {100 * within:g} %" if within else "equal"
    unit = f" {unit}" if unit else ""
    print(f"{what}: predicted {_number(predicted)}{unit}, found {_number(found)}{unit}")
    print(f"    {'held: ' if held else 'MISSED: not '}{allowed}")
    if held:
        return
    meaning = f"What the miss means: {miss}"
    if not timed:
        raise PredictionMissed(f"{what}: {predicted} predicted, {found} found. {meaning}")
    print(textwrap.fill(meaning, 96))


def _number(value: float) -> str:
    """Integers in full, the rest in four digits."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def agree(what: str, ours: Any, theirs: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Say that two arrays (or tensors) are equal up to rounding, and how far apart they are.

    Raises:
        AssertionError: they are not, by `numpy.testing.assert_allclose`.
    """
    import numpy as np

    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=what)
    apart = np.max(np.abs(ours - theirs), initial=0.0)
    print(f"{what}: they agree; the largest difference is {apart:.1g}")


def time_s(call: Callable[[], Any], budget_s: float = 0.3) -> float:
    """Seconds that one call takes: the shortest of many short rounds of calls.

    The shortest, because whatever else the machine does can only add to a time; and many short
    ones, because in some of them it will have done nothing else.

    Args:
        call: called with no arguments; once before the clock starts.
        budget_s: about how long to spend on it.
    """
    call()
    start = time.perf_counter()
    call()
    once_s = max(time.perf_counter() - start, 1e-7)
    calls = max(1, int(1e-3 / once_s))  # a round lasts a millisecond, or one call
    best_s, end = float("inf"), start + budget_s
    while best_s == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best_s = min(best_s, (time.perf_counter() - start) / calls)
    return best_s


# --- showing things ------------------------------------------------------------------------------


def quote(thing: Any, *more: Any) -> None:
    """Show the source of functions, classes, operations or kernels as the package has it.

    Of an operation it shows the forward and the rules under it; of a kernel the NumPy reference
    and the cost under it. It is read from the installed files, so it is never older than the code.
    """
    for each in (thing, *more):
        path, line, source = _source_of(each)
        if _in_notebook():
            from IPython.display import Markdown, display

            display(Markdown(f"`{path}`, from line {line}:\n\n```python\n{source}\n```"))
        else:
            print(f"--- {path}, from line {line} ---\n{source}\n")


def _source_of(thing: Any) -> tuple[str, int, str]:
    """(file as seen from above the package, first line, text)."""
    parts = [thing]
    if hasattr(thing, "forward") and hasattr(thing, "rules"):  # an operation
        parts = [thing.forward, *(rule.function for rule in thing.rules)]
    elif hasattr(thing, "reference"):  # a kernel
        parts = [part for part in (thing.reference, thing._cost) if part is not None]
    blocks, first = [], 0
    for part in parts:
        lines, start = inspect.getsourcelines(part)
        first = first or start
        blocks.append(textwrap.dedent("".join(lines)).rstrip())
    path = Path(inspect.getsourcefile(inspect.unwrap(parts[0])) or "?")
    package = inspect.getmodule(parts[0]).__name__.partition(".")[0]
    names = path.parts
    start = len(names) - 1 - names[::-1].index(package) if package in names else len(names) - 1
    return "/".join(names[start:]), first, "\n\n\n".join(blocks)


def show(figure: Any, caption: str) -> None:
    """Put a picture on the page, with a caption that says what to see.

    Args:
        figure: a matplotlib `Figure`, or something that shows itself in notebooks and as text. As
            a script, a figure is written to a new folder among the system's temporary files.
        caption: one sentence or two.
    """
    is_figure = hasattr(figure, "savefig")
    if _in_notebook():
        from IPython.display import Image, Markdown, display

        png = io.BytesIO()
        if is_figure:
            figure.savefig(png, format="png", dpi=DPI)
        display(Image(data=png.getvalue(), width=800) if is_figure else figure)
        display(Markdown(f"*{caption}*"))
        return
    if is_figure:
        folder = _picture_folder()
        path = folder / f"picture_{len(list(folder.iterdir())) + 1}.png"
        figure.savefig(path, dpi=DPI)
        print(f"[picture: {path}]")
    else:
        print(figure)
    print(f"{textwrap.fill(caption, 96)}\n")


@functools.cache
def _picture_folder() -> Path:
    """One new folder for each run, so that no run shows another's pictures."""
    return Path(tempfile.mkdtemp(prefix=f"{Path(sys.argv[0]).stem or 'lesson'}_"))


# --- processes -----------------------------------------------------------------------------------


@contextmanager
def starting() -> Iterator[None]:
    """Start processes inside this, and they will not run the lesson from its first line.

    A spawned process begins with nothing. To know the functions that it is to run, it imports the
    script of the process that started it, as a module. A lesson is a script without a
    ``if __name__ == "__main__"``: all of it would run again in every process, and start processes
    of its own. So what the processes of a lesson run is in the package, never in the lesson, and
    while they are being started nothing says that there is a script. (A notebook has none.)
    """
    main = vars(sys.modules["__main__"])
    hidden = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


# --- the end -------------------------------------------------------------------------------------


def finish() -> None:
    """Print how long the lesson took. Every lesson ends with it."""
    took_s = time.perf_counter() - _STARTED_S
    print(
        f"From the first cell to here: {took_s:.0f} s on {os.cpu_count()} cores "
        f"({platform.system()}, Python {platform.python_version()})."
    )


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs us (IPython is then loaded already)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None
