"""A plan on one line: ``tp=8,pp=16,dp=64,mbs=1,gbs=2048,recompute=selective``.

Keys are the plan's fields. What is left out has the plan's default, but for `dp`: if the number of
GPUs is known, dp is what is left of them. `layers` holds a number for each stage, joined by a
colon: ``layers=7:8:8:7``.
"""

from dataclasses import fields
from typing import Any

from baremetal.cluster.errors import ClusterError
from baremetal.cluster.plan.plan import Plan
from baremetal.machine.errors import nearest

_TEXTS = ("schedule", "recompute")
_KEYS = tuple(field.name for field in fields(Plan))


def read_plan(text: str, gpus: int | None = None) -> Plan:
    """The plan of a line.

    Args:
        text: ``key=value`` joined by commas.
        gpus: of the cluster: decides `dp`, if it is not given; None: not known.

    Raises:
        ClusterError: an unknown key, one given twice, a value that is none, degrees that do not
            multiply to the number of GPUs.
    """
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in _KEYS:
            raise ClusterError(
                f"plan: '{part}': {nearest(key, _KEYS)}expected key=value joined by commas, with "
                f"keys {', '.join(_KEYS)}"
            )
        if key in given:
            raise ClusterError(f"plan: {key} is given twice")
        given[key] = _value(key, value)
    if gpus and "dp" not in given:
        given["dp"] = _left_over(given, gpus)
    plan = Plan(**given)
    if gpus and plan.gpus != gpus:
        raise ClusterError(
            f"plan: tp x cp x pp x dp = {plan.tp} x {plan.cp} x {plan.pp} x {plan.dp} = "
            f"{plan.gpus} GPUs, but the cluster has {gpus}: leave out dp, or ask for {plan.gpus}"
        )
    return plan


def _left_over(given: dict[str, Any], gpus: int) -> int:
    one = given.get("tp", 1) * given.get("cp", 1) * given.get("pp", 1)
    if one < 1 or gpus % one:
        raise ClusterError(
            f"plan: a replica of tp x cp x pp = {one} GPUs does not divide {gpus}: give dp, or ask "
            f"for a multiple of {max(one, 1)} GPUs"
        )
    return gpus // one


def _value(key: str, text: str) -> Any:
    if key in _TEXTS:
        return text
    try:
        if key == "layers":
            return tuple(int(number) for number in text.split(":"))
        number = int(text)
    except ValueError:
        raise ClusterError(f"plan: {key}={text}: expected a whole number") from None
    if key == "sp":
        if number not in (0, 1):
            raise ClusterError(f"plan: sp={text}: expected 0 or 1")
        return bool(number)
    return number
