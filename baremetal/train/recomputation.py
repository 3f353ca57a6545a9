"""What each policy of recomputation saves, and what it costs: one step under each, side by side.

    baremetal inspect --compare-recompute

Memory and FLOP are read off the plans, before anything is timed. Then the plans are replayed in
turns, round after round, so that the machine's moods hit all of them alike; what is reported is the
median. All of them do the same arithmetic on the same tokens, and that is checked: after the last
step their weights have the same bits.

What to expect: a training step is one forward and twice that for the backward, so one more forward
is 4/3 of the FLOP. Running whole blocks again comes to less, because what lies outside the blocks
and a block's last product are not computed again.
"""

import dataclasses
import statistics
from typing import Any

from baremetal.data import TextData
from baremetal.data.track import Track, untracked
from baremetal.errors import BaremetalError
from baremetal.nn.block import POLICIES
from baremetal.trace import Column, format_bytes, format_count, format_seconds, table
from baremetal.train.config import TrainConfig
from baremetal.train.trainer import Trainer

ROUNDS = 5
STEPS = 3  # per round


def compare_policies(
    config: TrainConfig, data: TextData, rounds: int = ROUNDS, track: Track = untracked
) -> dict[str, Any]:
    """Capture and time a step under each policy.

    Args:
        config: the run; its own policy and length are overridden.
        data: the text to train on.
        rounds: how often the policies take turns, of `STEPS` steps each.
        track: shows how far it has got.

    Returns:
        A JSON-able object: `rounds`, `steps_per_round` and `rows`, one for each policy:
        `planned_bytes`, `bound_bytes`, `flops`, their ratios to "none" (`memory_ratio`,
        `flops_ratio`, `time_ratio`), `median_step_s`, and whether its weights have the `same_bits`.

    Raises:
        BaremetalError: the model cannot be captured.
    """
    trainers = {
        policy: Trainer(
            dataclasses.replace(config, recompute=policy, steps=1 + rounds * STEPS), data=data
        )
        for policy in POLICIES
    }
    times_s: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for trainer in trainers.values():
        trainer.train_step()  # captures
    for _ in track(range(rounds), "steps under each policy"):
        for policy, trainer in trainers.items():
            times_s[policy] += [trainer.train_step().time_s for _ in range(STEPS)]
    rows = [_row(trainers[policy], times_s[policy]) for policy in POLICIES]
    plain = rows[0]
    for policy, row in zip(POLICIES, rows, strict=True):
        row["memory_ratio"] = row["planned_bytes"] / plain["planned_bytes"]
        row["flops_ratio"] = row["flops"] / plain["flops"]
        row["time_ratio"] = row["median_step_s"] / plain["median_step_s"]
        row["same_bits"] = _bits(trainers[policy]) == _bits(trainers["none"])
    return {"rounds": rounds, "steps_per_round": STEPS, "rows": rows}


def _row(trainer: Trainer, times_s: list[float]) -> dict[str, Any]:
    """What one policy's plan says, and its median."""
    if trainer.captured is None:
        raise BaremetalError(
            f"--model {trainer.config.model} cannot be captured: only a plan says what it takes"
        )
    plan = trainer.captured.plan
    return {
        "recompute": trainer.config.recompute,
        "launches": len(plan.launches),
        "planned_bytes": plan.memory.planned_bytes,
        "bound_bytes": plan.memory.bound_bytes,
        "flops": plan.cost.flops,
        "median_step_s": statistics.median(times_s),
    }


def _bits(trainer: Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in trainer.model.state_dict().items()}


def comparison_table(comparison: dict[str, Any]) -> str:
    """What a person reads of it."""

    def times(ratio: float) -> str:
        return f"{ratio:.2f}x"

    columns = [
        Column("recompute"),
        Column("launches"),
        Column("planned_bytes", "arena", format_bytes),
        Column("bound_bytes", "at least", format_bytes),
        Column("memory_ratio", "", times),
        Column("flops", "FLOP", format_count),
        Column("flops_ratio", "", times),
        Column("median_step_s", "step", format_seconds),
        Column("time_ratio", "", times),
        Column("same_bits", "same bits", lambda same: "yes" if same else "NO"),
    ]
    return table(comparison["rows"], columns)
