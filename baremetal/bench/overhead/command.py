"""`baremetal bench overhead`: measure the curve, or read one that was saved; print, save, draw."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from baremetal.bench.contender import check_peer, check_threads
from baremetal.bench.ladders.picture import check_picture
from baremetal.bench.overhead import reading
from baremetal.bench.overhead.measure import AGAINST, MODELS, announcements, measure_curve
from baremetal.bench.overhead.picture import draw_curve
from baremetal.bench.overhead.report import curve_text
from baremetal.bench.step.compare import CONTENDERS
from baremetal.errors import BaremetalError
from baremetal.trace.files import write_atomically


def run_overhead(
    *,
    models: Sequence[str] = MODELS,
    large: bool = False,
    against: Sequence[str] = AGAINST,
    rounds: int = 6,
    seconds: float = 0.3,
    threads: int,
    source: str = "",
    save: str = "overhead.json",
    plot: str = "overhead.png",
    note: str = "",
    as_json: bool = False,
    show: Callable[[str], None] = print,
) -> None:
    """Measure or read a curve, then print it, save it and draw it.

    Args:
        models: sizes by name.
        large: add the largest size.
        against: contenders beside `baremetal`.
        rounds, seconds, threads: of each run.
        source: a saved curve to read instead of measuring; "recorded" for the one of the docs.
        save: where the measured curve goes (.json); "none" for nowhere.
        plot: where the picture goes; "none" for nowhere.
        note: kept with what is saved.
        as_json: print the object, with its fits, instead of tables.

    Raises:
        BaremetalError: what cannot be measured, read, or written, before anything is measured.
    """
    picture = "" if plot == "none" else plot
    check_picture(picture)
    if source:
        curve = reading.load_curve(reading.RECORDED if source == "recorded" else source)
    else:
        target = "" if save == "none" else save
        _check_save(target)
        check_threads(threads)
        for name in against:
            check_peer(name, CONTENDERS)
        chosen = [*models, *(["large"] if large and "large" not in models else [])]

        def keep(curve: dict[str, Any]) -> None:
            if target:
                write_atomically(Path(target), (json.dumps(curve, indent=1) + "\n").encode())

        curve = _measure(
            chosen, against, rounds=rounds, seconds=seconds, threads=threads, note=note, keep=keep
        )
    if picture:
        draw_curve(curve, picture)
    if as_json:
        whole = {**curve, "ours": reading.OURS, "fits": reading.fits(curve)}
        show(json.dumps(whole, indent=2))
        return
    show(curve_text(curve))
    written = [path for path in ("" if source or save == "none" else save, picture) if path]
    for path in written:
        show(f"written: {path}")


def _measure(
    models: Sequence[str], against: Sequence[str], *, rounds: int, **options: Any
) -> dict[str, Any]:
    from tqdm import tqdm

    total = announcements(models, against, max(rounds, 0))
    # On a terminal only (disable=None): how far it is, and what is being done.
    with tqdm(total=total, disable=None, leave=False) as bar:

        def tell(what: str) -> None:
            bar.set_description_str(what)
            bar.update()

        return measure_curve(models, against, rounds=rounds, progress=tell, **options)


def _check_save(path: str) -> None:
    """Refuse a file that could not be written, before minutes are spent on measuring.

    Raises:
        BaremetalError: no .json, or no folder to write into.
    """
    if path and Path(path).suffix != ".json":
        raise BaremetalError(f"--save {path}: end the name in .json, or write none")
    if not Path(path).parent.is_dir():
        raise BaremetalError(f"--save {path}: there is no folder {Path(path).parent}")
