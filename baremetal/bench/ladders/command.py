"""`baremetal ladder`: climb one ladder, print what came of it; exit 1 if a version is wrong."""

import json
from collections.abc import Callable, Sequence

from baremetal.bench.ladders.climb import climb
from baremetal.bench.ladders.ladder import find_ladder
from baremetal.bench.ladders.picture import check_picture
from baremetal.bench.ladders.report import ladder_text
from baremetal.errors import BaremetalError


def run_ladder(
    name: str,
    *,
    versions: str = "",
    size: int = 0,
    plot: str = "",
    seconds: float = 1.0,
    as_json: bool = False,
    show: Callable[[str], None] = print,
) -> int:
    """Climb and print; the exit status is 1 if a version differs from the reference, else 0.

    Args:
        name: which ladder.
        versions: numbers separated by commas; all if empty.
        size: of the problem; 0 for the ladder's own.
        plot: picture to draw; empty for `ladder-NAME.png` here, "none" for none.
        seconds: how long to time each version.
        as_json: print the object instead of tables.

    Raises:
        BaremetalError: an unknown ladder or version, an impossible size or picture.
    """
    from tqdm import tqdm

    ladder = find_ladder(name)
    numbers = _numbers(versions)
    if not 0 <= seconds <= 3600:
        raise BaremetalError(f"--seconds {seconds}: choose 0 to 3600 seconds for each version")
    picture = "" if plot == "none" else plot or f"ladder-{name}.png"
    check_picture(picture)
    # On a terminal only (disable=None): what is being done, and for how long.
    with tqdm(disable=None, leave=False, bar_format="{desc} [{elapsed}]") as bar:
        result = climb(
            ladder, numbers, size=size, budget_s=seconds, plot=picture,
            progress=bar.set_description_str,
        )  # fmt: skip
    show(json.dumps(result, indent=2, allow_nan=False) if as_json else ladder_text(result))
    return 0 if result["all_right"] else 1


def _numbers(text: str) -> Sequence[int]:
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise BaremetalError(
            f"--versions '{text}': expected numbers separated by commas, such as 1,2,5"
        ) from None
