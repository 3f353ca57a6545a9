"""What `baremetal ladder` prints: the check, the times, and what the ladder has to add."""

from typing import Any

from baremetal.trace.tables import Column, table
from baremetal.trace.units import format_bytes, format_percent, format_rate, format_seconds


def ladder_text(result: dict[str, Any]) -> str:
    """The object that `climb` returned, for people."""
    parts = [_heading(result), _checks(result), _times(result)]
    if "afterword" in result:
        parts.append(_afterword(result["afterword"]))
    parts.append(_machine(result))
    return "\n\n".join(parts)


def _heading(result: dict[str, Any]) -> str:
    problem = result["problem"]
    inputs, outputs = (
        ", ".join(str(tuple(shape)) for shape in problem[side]) for side in ("inputs", "outputs")
    )
    return "\n".join(
        [
            f"the {result['ladder']} ladder: {inputs} -> {outputs}, {problem['dtype']}",
            f"limits measured in this run: {format_rate(result['peak_flops'])} in matrix products, "
            f"{format_rate(result['bandwidth_Bps'], 'B/s')} from and to memory",
        ]
    )


def _checks(result: dict[str, Any]) -> str:
    rows = result["versions"]
    lines = ["first elements, against the NumPy reference in float64"]
    for row in rows:
        verdict = "OK" if row["right"] else "NOT OK"
        error = "NaN" if row["error"] is None else f"{row['error']:.1e}"
        lines.append(
            f"  {row['version']}  {_elements(row['first'])}   {verdict}   "
            f"(error {error}, allowed {row['tolerance']:.0e})"
        )
        if not row["right"]:
            lines.append(f"     {_elements(row['expected'])}   expected")
    return "\n".join(lines)


def _elements(values: list[float]) -> str:
    return " ".join(f"{value:>11.6f}" for value in values)


def _times(result: dict[str, Any]) -> str:
    by_rate = result["bound_by"] == "arithmetic"
    rate, unit = ("flops_per_s", "FLOP/s") if by_rate else ("bytes_per_s", "B/s")
    rows = [
        {
            **row,
            "number": row["version"],
            "size": "" if row["size"] == result["size"] else row["size"],
            "rate": format_rate(row[rate], unit),
            "gain": None if i == 0 else f"{row[rate] / result['versions'][i - 1][rate]:.1f}x",
        }
        for i, row in enumerate(result["versions"])
    ]
    columns = [
        Column("number", "", str, align=">"),
        Column("idea", "version"),
        Column("best_s", "best", format_seconds),
        Column("median_s", "median", format_seconds),
        Column("rate", "rate", align=">"),
        Column("share_of_limit", "of limit", format_percent),
        Column("gain", "gain", align=">"),
        Column("why", "why"),
    ]
    return "\n".join([table(rows, columns), *_extrapolated(result, rate)])


def _extrapolated(result: dict[str, Any], rate: str) -> list[str]:
    """What was tried at a smaller size, and how long the full size would take at that rate."""
    full = max(result["versions"], key=lambda row: row["size"])
    lines = []
    for row in result["versions"]:
        if row["size"] < result["size"]:
            line = f"version {row['version']} was timed at size {row['size']}"
            if full["size"] == result["size"]:
                work = "flops" if rate == "flops_per_s" else "size_bytes"
                estimate_s = full[work] / row[rate]
                line += (
                    f"; at this rate, size {full['size']} would take {format_seconds(estimate_s)}"
                )
            lines.append(line)
    return lines


def _afterword(afterword: dict[str, Any]) -> str:
    return "\n".join(
        [afterword["title"], table(afterword["rows"], _columns(afterword["rows"][0])),
         afterword["remark"]]
    )  # fmt: skip


def _columns(row: dict[str, Any]) -> list[Column]:
    """A column for each key, printed as the unit in its name says."""
    endings: dict[str, Any] = {
        "_flops_per_s": format_rate,
        "_bytes": format_bytes,
        "_error": ".1e",
        "share": format_percent,
        "ratio": ".1f",
    }
    columns = []
    for key in row:
        ending = next((ending for ending in endings if key.endswith(ending)), None)
        title = key.removesuffix("_flops_per_s").removesuffix("_bytes").replace("_", " ")
        columns.append(Column(key, title, endings[ending] if ending else None, align=">"))
    return columns


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"on {machine['processor']}, {machine['threads']} threads of {machine['cores']} cores; "
        "times interleaved, rates from the best",
        f"the versions, to read: baremetal/bench/ladders/{result['ladder']}.py",
    ]
    if "plot" in result:
        lines.append(f"roofline drawn: {result['plot']}")
    wrong = [str(row["version"]) for row in result["versions"] if not row["right"]]
    if wrong:
        lines.append(f"NOT OK: version {', '.join(wrong)} differs from the reference")
    return "\n".join(lines)
