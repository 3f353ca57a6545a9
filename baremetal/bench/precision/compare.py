"""Train the same small model from the same seed in each precision.

Same weights, same batches, same learning rates: what differs between two curves is the rounding.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

from baremetal.bench.contender import check_at_least_one
from baremetal.bench.machine import describe_machine
from baremetal.bench.precision.accounting import account_for
from baremetal.bench.precision.rates import BY_BITS
from baremetal.nn import PRECISIONS, find_precision
from baremetal.train.build import build_data
from baremetal.train.config import PrecisionName, TrainConfig
from baremetal.train.trainer import StepReport, Trainer

ALL = tuple(PRECISIONS)
TURN = 10  # steps that one precision takes before the next one's turn: the machine's moods hit all
LAST = 20  # steps whose mean is the training loss that is reported
NO_FASTER = (
    "The CPU gains no speed from any of this: numbers are rounded, read back, and multiplied in "
    "float32; the rounding comes on top."
)

# Four blocks, so that nvfp4 has two inside; large enough to learn, small enough to wait for.
# Nothing is fused, because the account of a step reads its launches kernel by kernel.
BASE = TrainConfig(
    layers=4, heads=4, width=64, context=64, batch=8, warmup=30, learning_rate=4e-3,
    eval_batches=20, fuse="none",
)  # fmt: skip


def compare_precisions(
    names: Sequence[str],
    *,
    steps: int,
    seed: int = BASE.seed,
    on_step: Callable[[str, StepReport], None] = lambda name, report: None,
    base: TrainConfig = BASE,
) -> dict[str, Any]:
    """Train once in each precision, float32 first, and return one JSON-able object.

    Args:
        names: of the recipes in `nn/precision.py`; float32 is always among them.
        steps: length of each run.
        seed: of the weights and the batches.
        on_step: told of each step.
        base: the run that all share.

    Returns:
        `rows`, one per precision (losses in nats per token, sizes in bytes, `best_step_s` measured
        here in turns, `product_time` modelled, relative to float32); `curves`, the training losses
        by precision; `rates`, what the model assumes; and the machine.

    Raises:
        BaremetalError: an unknown precision, or no steps.
    """
    check_at_least_one(steps=steps)
    names = list(dict.fromkeys(["float32", *(find_precision(name).name for name in names)]))
    config = dataclasses.replace(base, steps=steps, seed=seed)
    data = build_data(config)
    trainers = {}
    for name in names:
        recipe = cast(PrecisionName, name)  # `find_precision` knows it
        trainers[name] = Trainer(dataclasses.replace(config, precision=recipe), data=data)
    reports: dict[str, list[StepReport]] = {name: [] for name in names}
    for done in range(0, steps, TURN):
        for name, trainer in trainers.items():
            for _ in range(min(TURN, steps - done)):
                reports[name].append(trainer.train_step())
                on_step(name, reports[name][-1])
    rows: list[dict[str, Any]] = [
        {"precision": name, **_figures(trainers[name], reports[name])} for name in names
    ]
    full_s = rows[0]["product_time_s"]
    for row in rows:
        row["val_difference"] = row["val_loss"] - rows[0]["val_loss"]
        row["product_time"] = row.pop("product_time_s") / full_s
    return {
        "steps": steps,
        "parameters": trainers["float32"].model.num_parameters(),
        "tokens_per_step": config.tokens_per_step,
        "rows": rows,
        "curves": {name: [r.train_loss for r in reports[name]] for name in names},
        "rates": {str(bits): rate for bits, rate in BY_BITS.items()},
        "note": NO_FASTER,
        "machine": describe_machine(),
    }


def _figures(trainer: Trainer, reports: list[StepReport]) -> dict[str, Any]:
    assert trainer.captured is not None
    plan = trainer.captured.plan
    account = account_for(plan)
    last = [report.train_loss for report in reports[-LAST:]]
    return {
        "train_loss": sum(last) / len(last),
        "val_loss": trainer.evaluate(),
        "skipped_steps": sum(report.skipped for report in reports),
        "best_step_s": min(report.time_s for report in reports),
        "arena_bytes": plan.memory.planned_bytes,
        "read_bytes": account.read_bytes,
        "written_bytes": account.written_bytes,
        "product_flops": {str(bits): flops for bits, flops in account.flops.items()},
        "product_time_s": account.least_time_s(),
    }
