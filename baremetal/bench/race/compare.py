"""The default training run from its first step to its last, contenders in turn.

What counts is steps and evaluations: no compiling, no saving. The contenders take turns of some
hundred steps each, so that the machine's moods hit both alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

from baremetal.bench.contender import Contender, check_at_least_one, check_peer, check_threads
from baremetal.bench.machine import describe_machine, machine_lines
from baremetal.trace.tables import table

CONTENDERS = ("baremetal", "torch")


def race(
    against: Sequence[str],
    *,
    steps: int,
    turn: int,
    threads: int,
    on_turn: Callable[[str, int, dict[str, Any]], None] = lambda name, step, answer: None,
) -> dict[str, Any]:
    """Train with every contender and return one JSON-able object.

    Args:
        against: peers.
        steps: length of the run.
        turn: steps (and then one evaluation) per turn.
        threads: for every contender.
        on_turn: told of each turn's answer.

    Raises:
        BaremetalError: an unknown or missing peer, or no steps, turns or threads to speak of.
    """
    check_at_least_one(steps=steps, turn=turn)
    check_threads(threads)
    for name in against:
        check_peer(name, CONTENDERS)
    names = list(dict.fromkeys(["baremetal", *against]))
    contenders: list[Contender] = []
    times_s = dict.fromkeys(names, 0.0)
    last: dict[str, dict[str, Any]] = {}
    try:
        for name in names:
            contenders.append(
                Contender(name, ["baremetal.bench.race.worker", name, str(steps)], threads)
            )
            contenders[-1].ask({"warm_up": True})
        for done in range(0, steps, turn):
            for contender in contenders:
                answer = contender.ask({"steps": min(turn, steps - done)})
                times_s[contender.name] += answer["time_s"]
                last[contender.name] = answer
                on_turn(contender.name, min(done + turn, steps), answer)
    finally:
        for contender in contenders:
            contender.close()
    ours_s = times_s["baremetal"]
    rows = [
        {"name": name, "time_s": times_s[name], "ratio": times_s[name] / ours_s, **figures}
        for name, figures in (
            (name, {k: last[name][k] for k in ("train_loss", "val_loss")}) for name in names
        )
    ]
    return {"steps": steps, "threads": threads, "rows": rows, "machine": describe_machine()}


def race_table(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        [row["name"], f"{row['time_s']:.1f} s", f"{row['val_loss']:.4f}", f"{row['ratio']:.2f}x"]
        for row in result["rows"]
    ]
    columns = ["contender", "steps and evaluations", "validation loss", "time / ours"]
    return "\n".join(
        [
            f"the default run, {result['steps']} steps, {result['threads']} threads, in turns",
            "",
            table(rows, columns),
            "",
            *machine_lines(result["machine"]),
        ]
    )
