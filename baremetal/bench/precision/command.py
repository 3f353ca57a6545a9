"""`baremetal bench precision`, from its options to its last line."""

import json
from collections.abc import Sequence

from baremetal.bench.ladders.picture import check_picture
from baremetal.bench.precision.compare import compare_precisions
from baremetal.bench.precision.report import precision_plot, precision_table
from baremetal.nn import find_precision
from baremetal.train.trainer import StepReport


def run_precision(names: Sequence[str], *, steps: int, seed: int, plot: str, as_json: bool) -> None:
    """Train in each precision with a bar, draw, and print.

    Raises:
        BaremetalError: an unknown precision, no steps, or a picture that cannot be written.
    """
    from tqdm import tqdm

    for name in names:
        find_precision(name)
    check_picture("" if plot == "none" else plot)  # before minutes of training, not after
    runs = len({"float32", *names})
    with tqdm(total=runs * steps, unit="step", leave=False, disable=as_json or None) as bar:

        def on_step(name: str, report: StepReport) -> None:
            bar.set_description_str(name, refresh=False)
            bar.update(1)

        result = compare_precisions(names, steps=steps, seed=seed, on_step=on_step)
    if plot != "none":
        result["plot"] = str(precision_plot(result, plot))
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(precision_table(result))
        print(f"written: {result['plot']}" if plot != "none" else "no picture: --plot none")
