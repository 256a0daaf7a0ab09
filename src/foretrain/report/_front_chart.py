"""The compression front: what each candidate costs to ship against how wrong it is."""

import math
from itertools import pairwise

from foretrain.report._charts import Chart, Key, label, layout, log_axis
from foretrain.report._format import count, percent, seconds, size
from foretrain.report._run_folder import Record, RunFolder


def front_chart(run: RunFolder) -> Chart | None:
    """Size against test error of every candidate, the budget as a shaded corner."""
    compression = run.compression or {}
    budget = compression.get("budget") or {}
    # Number formats of one network differ in bytes but hardly in numbers, so bytes keep the marks apart.
    trait, write = "bytes", size
    rows = [
        row for row in compression.get("rows") or [] if (row.get(trait) or 0) > 0 and (row.get("test_error") or 0) > 0
    ]
    if not rows:
        return None
    size_limit, error_limit = budget.get(trait), budget.get("error")
    sizes = [row[trait] for row in rows] + ([size_limit] if size_limit else [])
    errors = [row["test_error"] for row in rows] + ([error_limit] if error_limit else [])
    across = log_axis([0.6 * min(sizes), 1.7 * max(sizes)], write, f"{trait} to ship")
    upward = log_axis([0.7 * min(errors), 1.4 * max(errors)], lambda value: percent(value, 3, trim=True))
    data = _budget_traces(size_limit, error_limit, across["range"], upward["range"])
    data += _candidate_traces(rows, trait, across["range"])
    parts = [f"Test error against {trait} to ship, both axes logarithmic."]
    parts += [f"{_name(row)}: {write(row[trait])}, {percent(row['test_error'])} error." for row in rows]
    keys = [
        Key("shipped", "star", "measured"),
        Key("within budget", "disc", "forecast"),
        Key("not within budget", "ring", "muted"),
    ]
    present = {_standing(row) for row in rows}
    keys = [key for key in keys if key.text in present] + (
        [Key("budget" if size_limit else "error budget", "band", "accept")] if len(data) > len(rows) else []
    )
    return Chart(
        "chart-front",
        f"Test error against {trait}",
        " ".join(parts),
        tuple(keys),
        data,
        layout(360, xaxis=across, yaxis=upward),
    )


def _name(row: Record) -> str:
    return f"{row['name']}, {row['format']}"


def _standing(row: Record) -> str:
    if row.get("chosen") and row["within_budget"]:
        return "shipped"
    return "within budget" if row["within_budget"] else "not within budget"


def _candidate_traces(rows: list[Record], trait: str, limits: list[float]) -> list[Record]:
    """One mark for each candidate, named beside it on the side where there is room."""
    middle = sum(limits) / 2
    styles = {
        "shipped": {"symbol": "star", "size": 16, "color": "@measured"},
        "within budget": {"symbol": "circle", "size": 10, "color": "@forecast"},
        "not within budget": {
            "symbol": "circle",
            "size": 10,
            "color": "@paper",
            "line": {"color": "@muted", "width": 1.6},
        },
    }
    sides = _sides(rows, trait, middle)
    traces = []
    for row, side in zip(rows, sides, strict=True):
        lines = [
            f"<b>{label(_name(row))}</b>",
            f"{percent(row['test_error'], 3)} test error",
            f"{count(row.get('numbers'))} numbers",
        ]
        lines += [size(row.get("bytes")), f"{seconds(row.get('latency_seconds'))} per answer"]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [row[trait]],
                "y": [row["test_error"]],
                "marker": styles[_standing(row)],
                "text": [f"  {label(_name(row))}  "],
                "textposition": side,
                "customdata": ["<br>".join(lines)],
                "hovertemplate": "%{customdata}<extra></extra>",
                "cliponaxis": False,
            }
        )
    return traces


def _sides(rows: list[Record], trait: str, middle: float) -> list[str]:
    """Where each name goes: towards the middle of the chart, clear of another name at nearly the same height."""
    across = ["left" if math.log10(row[trait]) > middle else "right" for row in rows]
    upward = ["middle"] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: (rows[index]["test_error"], -rows[index][trait]))
    crowd: list[int] = order[:1]
    for low, high in [*pairwise(order), (-1, -1)]:
        near = low >= 0 and across[low] == across[high] and rows[high]["test_error"] < 1.3 * rows[low]["test_error"]
        if near:
            crowd.append(high)
            continue
        heights = {1: ("middle",), 2: ("bottom", "top")}.get(len(crowd), ("middle", "bottom", "top"))
        for place, index in enumerate(crowd):
            upward[index] = heights[place % len(heights)]
        crowd = [high]
    return [f"{height} {side}" for height, side in zip(upward, across, strict=True)]


def _budget_traces(
    size_limit: float | None, error_limit: float | None, across: list[float], upward: list[float]
) -> list[Record]:
    if size_limit is None and error_limit is None:
        return []
    left, right = 10 ** across[0], size_limit or 10 ** across[1]
    bottom, top = 10 ** upward[0], error_limit or 10 ** upward[1]
    corner = {"x": [left, right, right, left, left], "y": [bottom, bottom, top, top, bottom]}
    fill = {"fill": "toself", "fillcolor": "@accept", "line": {"width": 0}, "hoverinfo": "skip"}
    return [{"type": "scatter", "mode": "lines", **corner, **fill}]
