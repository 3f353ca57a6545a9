"""Fitting the constants: once per chip and per generation of software, on half of the rows.

Least squares over log(predicted / published), in which an outlier counts less than its square
(soft L1 beyond 10 %), and with a light pull of every constant towards a common value, so that what
the rows cannot tell stays where physics would put it. First the chips, each on its dense rows (or
all, if it has no dense ones); then the generations of software, on all their rows; and once more.

    chip        most (by precision), attention, attention_backward, scale_up, launch_s
    software    hides_tp, hides_cp, hides_ep, hides_dp, stream_passes

Nothing else is free, and only rows with `Run.fits` are looked at. `constants.py` and `software.py`
say what each constant means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from baremetal.cluster.cost.constants import Constants, find_constants
from baremetal.cluster.cost.software import Software, find_software
from baremetal.cluster.models import ModelDescription, find_model
from baremetal.cluster.plan import Plan, read_plan
from baremetal.cluster.step.pipeline import make_pipeline
from baremetal.cluster.step.replica import make_setting, step_spent
from baremetal.cluster.validation.tables import Run
from baremetal.machine.catalogue import find_cluster
from baremetal.machine.cluster import Cluster

ROUNDS = 2
PULL = 0.06  # of a constant's whole range, weighed like this log error of ten rows
FIXED_SOFTWARE = ("megatron-2021", "current")  # what it did is known, or nothing is


class Range(NamedTuple):
    """Where a constant may lie, and the common value that it is pulled to."""

    low: float
    high: float
    common: float


MOST = Range(0.2, 0.95, 0.6)
CHIP = {
    "attention": Range(0.2, 0.9, 0.55),
    "attention_backward": Range(0.15, 0.8, 0.45),
    "scale_up": Range(0.3, 1.0, 0.75),
    "launch_s": Range(5e-7, 6e-6, 2e-6),
}
SOFTWARE = {
    "hides_tp": Range(0, 1, 0.6),
    "hides_cp": Range(0, 1, 0.8),
    "hides_ep": Range(0, 1, 0.3),
    "hides_dp": Range(0, 1, 0.9),
    "stream_passes": Range(0.6, 4, 1.2),
}


@dataclass(frozen=True)
class Row:
    """A published run, looked up."""

    run: Run
    model: ModelDescription
    cluster: Cluster
    plan: Plan

    @property
    def software(self) -> str:
        """The generation that it ran on."""
        return self.run.software or self.cluster.software

    def error(self, constants: Constants, software: Software) -> float:
        """Log of predicted / published."""
        setting = make_setting(
            self.model, self.cluster, self.plan, self.run.precision, software, constants
        )
        predicted_s = step_spent(setting, make_pipeline(setting)).total_s
        return float(np.log(predicted_s / self.run.step_s))


@dataclass
class Fitted:
    """The constants so far, by chip and by generation."""

    chips: dict[str, Constants]
    software: dict[str, Software]


def fit(runs: Sequence[Run], say: Callable[[str], None] = lambda _: None) -> Fitted:
    """Fit all constants to the rows that may be looked at.

    Args:
        runs: all tables' rows.
        say: hears what is being fitted.
    """
    rows = [_row(run) for run in runs if run.fits]
    found = Fitted(
        {row.cluster.chip.name: find_constants(row.cluster.chip) for row in rows},
        {row.software: find_software(row.software) for row in rows},
    )
    for _ in range(ROUNDS):
        for name in sorted(found.chips):
            say(name)
            found.chips[name] = _fit_chip(rows, found, name)
        for name in sorted(found.software.keys() - set(FIXED_SOFTWARE)):
            say(name)
            found.software[name] = _fit_software(rows, found, name)
    return found


def _row(run: Run) -> Row:
    cluster = find_cluster(run.cluster)
    return Row(run, find_model(run.model), cluster, read_plan(run.plan, cluster.gpus))


def _fit_chip(rows: Sequence[Row], found: Fitted, name: str) -> Constants:
    mine = [row for row in rows if row.cluster.chip.name == name]
    mine = [row for row in mine if row.model.experts is None] or mine
    old = found.chips[name]
    precisions = sorted({row.run.precision for row in mine})
    ranges = {**{f"most.{each}": MOST for each in precisions}, **CHIP}
    start = {**{f"most.{each}": old.reached(each) for each in precisions}, **_fields(old, CHIP)}

    def made(values: Mapping[str, float]) -> Constants:
        most = {**old.most, **{each: values[f"most.{each}"] for each in precisions}}
        return replace(old, most=most, **{key: values[key] for key in CHIP})

    def errors(values: Mapping[str, float]) -> list[float]:
        constants = made(values)
        return [row.error(constants, found.software[row.software]) for row in mine]

    return made(_least_squares(errors, ranges, start))


def _fit_software(rows: Sequence[Row], found: Fitted, name: str) -> Software:
    mine = [row for row in rows if row.software == name]
    old = found.software[name]

    def made(values: Mapping[str, Any]) -> Software:
        return replace(old, **values)

    def errors(values: Mapping[str, float]) -> list[float]:
        software = made(values)
        return [row.error(found.chips[row.cluster.chip.name], software) for row in mine]

    return made(_least_squares(errors, SOFTWARE, _fields(old, SOFTWARE)))


def _fields(thing: Any, ranges: Mapping[str, Range]) -> dict[str, float]:
    return {key: getattr(thing, key) for key in ranges}


def _least_squares(
    errors: Callable[[Mapping[str, float]], list[float]],
    ranges: Mapping[str, Range],
    start: Mapping[str, float],
) -> dict[str, float]:
    """The constants with the least errors."""
    from scipy.optimize import least_squares

    names = list(ranges)
    low, high, common = (np.array(column) for column in zip(*ranges.values(), strict=True))
    span = high - low
    begin = np.clip([start[name] for name in names], low + 1e-3 * span, high - 1e-3 * span)

    def residuals(x: np.ndarray) -> np.ndarray:
        off = np.array(errors(dict(zip(names, x.tolist(), strict=True))))
        return np.concatenate([off, PULL * np.sqrt(len(off) / 10) * (x - common) / span])

    solved = least_squares(
        residuals, begin, bounds=(low, high), x_scale=span, diff_step=0.02, max_nfev=7,
        loss="soft_l1", f_scale=0.1,
    )  # fmt: skip
    return dict(zip(names, solved.x.tolist(), strict=True))


def write(found: Fitted, folder: Path) -> list[Path]:
    """Write the constants as the files that `cost/data/` holds; returns them."""
    files = {}
    for name, constants in found.chips.items():
        lines = [f"# {name}: baremetal validate --fit; meanings: cluster/cost/constants.py"]
        lines.append("[constants]")
        lines += [f"{key} = {getattr(constants, key):.3g}" for key in CHIP]
        lines += ["", "[constants.most]"]
        lines += [f"{key} = {value:.3f}" for key, value in constants.most.items()]
        files[folder / "chips" / f"{name.casefold()}.toml"] = lines
    for name, software in found.software.items():
        if name in FIXED_SOFTWARE:
            continue
        lines = [
            "# baremetal validate --fit; meanings: cluster/cost/software.py",
            f'name = "{name}"',
        ]
        lines += [f"{key} = {getattr(software, key):.3g}" for key in SOFTWARE]
        files[folder / "software" / f"{name}.toml"] = lines
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(files)
