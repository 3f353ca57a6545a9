"""What a measured curve says: speed-ups, shares of the machine's rate, fixed costs.

    speed-up      a contender's median step over that of the reference contender
    share         model FLOP per second over the best rate of NumPy's matrix product in the run
    fixed cost    fitted over all sizes of a contender, at least four (`amdahl.py`)

The reference contender is ours: the step as one compiled function.
"""

import json
from pathlib import Path
from typing import Any

from baremetal.bench.overhead.amdahl import LEAST_SIZES, fit_step_times
from baremetal.errors import BaremetalError

RECORDED = Path(__file__).with_name("recorded.json")  # the curve that the docs and lesson 5 show

OURS = "baremetal"  # which contender all are compared with


def load_curve(path: str | Path) -> dict[str, Any]:
    """A curve that was saved.

    Raises:
        BaremetalError: it cannot be read, or is no curve.
    """
    try:
        curve = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BaremetalError(f"--from {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BaremetalError(f"--from {path}: is no JSON ({error})") from None
    if not isinstance(curve, dict) or not curve.get("models"):
        raise BaremetalError(
            f"--from {path}: is no result of 'baremetal bench overhead': it has no 'models'"
        )
    return curve


def contenders(curve: dict[str, Any]) -> list[str]:
    """Every contender that occurs, in the order of appearance."""
    rows = [row["name"] for result in curve["models"] for row in result["rows"]]
    return list(dict.fromkeys(rows))


def step_s(result: dict[str, Any], name: str) -> float | None:
    """A contender's median step at one size, in seconds; None if it did not run there."""
    for row in result["rows"]:
        if row["name"] == name:
            return row["median_step_s"]
    return None


def speed_up(curve: dict[str, Any], result: dict[str, Any], name: str) -> float | None:
    """How many times longer this contender's step takes than ours, at one size."""
    own, other = step_s(result, OURS), step_s(result, name)
    return None if own is None or other is None else other / own


def share(curve: dict[str, Any], result: dict[str, Any], name: str) -> float | None:
    """Model FLOP per second, as a fraction of NumPy's matrix products at their best in the run."""
    seconds = step_s(result, name)
    if seconds is None:
        return None
    best_rate = max(each["gemm_rate_flops"] for each in curve["models"])
    return result["flops_per_step"] / seconds / best_rate


def fits(curve: dict[str, Any]) -> list[dict[str, Any]]:
    """For each contender with enough sizes: name, models, and the numbers of the fit."""
    found = []
    for name in contenders(curve):
        results = [r for r in curve["models"] if step_s(r, name) is not None]
        if len(results) >= LEAST_SIZES:
            times_s = [step_s(r, name) or 0.0 for r in results]
            fit = fit_step_times([r["flops_per_step"] for r in results], times_s)
            models = [r["model"] for r in results]
            found.append({"name": name, "models": models, **fit._asdict()})
    return found
