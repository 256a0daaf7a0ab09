"""Charts of the modes: how much of the target is learnt by each step, and what the rest looks like."""

from typing import Any

import numpy as np

from foretrain._foundation import require_extra
from foretrain.forecast import ModeReport
from foretrain.report._charts import Chart, Key, Ramp, axis, compact, curve, layout, log_axis, panel_title, write_step
from foretrain.report._field_charts import map_chart
from foretrain.report._format import count, percent
from foretrain.report._run_folder import Record

_COLOURS = {"learnt": "@forecast", "half-learnt": "@band", "unresolved": "@grid", "not learnt": "@error"}
_ABOVE_AND_BELOW = ("#0b4f7d", "#6ca6c6", "#f3f1ee", "#d99a6c", "#7d2f0b")
_PANEL = 110
_LIGHT = {
    "@forecast": "#0b5c92", "@band": "rgba(11, 92, 146, .17)", "@grid": "#e7e4dc", "@error": "#c24a00",
    "@ink": "#1d2023", "@muted": "#63686f", "@paper": "#fdfcf9", "@font": "system-ui, Helvetica, Arial, sans-serif",
}  # fmt: skip


def mode_charts(modes: Record) -> list[Chart]:
    """The shares of the modes against the step, and the leading shapes of what remains, from `ModeReport.as_dict`.

    Shapes are curves where the query points lie on a line, maps where they lie on a plane, left out beyond.
    """
    remaining = next(part for part in modes["residuals"] if part["name"] == "remaining")
    points = np.asarray(modes["query_points"], float)
    charts = [_shares_chart(modes)]
    if remaining["shapes"] and points.shape[1] == 1:
        charts.append(_curves_chart(modes, remaining["shapes"], points[:, 0]))
    if points.shape[1] == 2:
        charts += [_shape_map(index, shape, points) for index, shape in enumerate(remaining["shapes"])]
    return charts


def plot_modes(report: ModeReport) -> tuple[Any, ...]:
    """Plotly figures of the charts, in the colours of the light page.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    graph = require_extra("plotly.graph_objects", "report")
    return tuple(
        graph.Figure(_coloured(chart.data), _coloured({"title": {"text": chart.title}, **chart.layout, **_room(chart)}))
        for chart in mode_charts(report.as_dict())
    )


def _shares_chart(modes: Record) -> Chart:
    """Stacked areas of the groups, and over them the energy learnt, which also counts what half-learnt modes gained."""
    marks = modes["marks"]
    data: list[Record] = []
    for name, shares in modes["group_shares"].items():
        area = {"stackgroup": "shares", "fillcolor": _COLOURS[name], "line": {"width": 0, "shape": "hv"}}
        data.append(curve(marks, shares, _COLOURS[name], name, percent, **area) | {"name": name})
    learnt = [1 - kept for kept in modes["kept"]]
    line = {"color": "@ink", "width": 1.6}
    data.append(curve(marks, learnt, "@ink", "energy learnt", percent, line=line) | {"name": "energy learnt"})
    here = {"type": "line", "x0": modes["steps"], "x1": modes["steps"], "yref": "paper", "y0": 0, "y1": 1}
    shown = [name for name, shares in modes["group_shares"].items() if max(shares) > 1e-3]
    return Chart(
        identifier="chart-modes",
        title="Modes of the target learnt by each step",
        description=modes["summary"],
        keys=(*(Key(name, "band", _COLOURS[name][1:]) for name in shown), Key("energy learnt", "line", "ink")),
        data=data,
        layout=layout(
            300,
            xaxis=log_axis(marks, write_step, "step"),
            yaxis=axis(range=[0, 1], tickformat=".0%", nticks=6),
            shapes=[{**here, "line": {"color": "@muted", "width": 1, "dash": "dot"}}] if modes["steps"] else [],
        ),
    )


def _curves_chart(modes: Record, shapes: list[Record], places: np.ndarray) -> Chart:
    """One panel for each shape, the largest at the top."""
    order = np.argsort(places, kind="stable")
    panel, data, titles, axes = 1 / len(shapes), [], [], {"xaxis": axis(anchor=f"y{len(shapes)}", title="y")}
    for index, shape in enumerate(shapes):
        top = 1 - index * panel
        axes[f"yaxis{index + 1}"] = axis(domain=[top - 0.72 * panel, top - 0.14 * panel], nticks=3, zeroline=True)
        titles.append(panel_title(_words(shape), top - 0.14 * panel))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": compact(places[order]),
                "y": compact(np.asarray(shape["values"])[order]),
                "yaxis": f"y{index + 1}",
                "line": {"color": "@error", "width": 1.6},
                "hovertemplate": "%{y:.3g} at %{x:.4g}<extra></extra>",
            }
        )
    return Chart(
        identifier="chart-mode-shapes",
        title=f"What is not learnt by step {count(modes['steps'])}",
        description=" ".join(f"{_words(shape)}." for shape in shapes),
        keys=(),
        data=data,
        layout=layout(_PANEL * len(shapes) + 60, **axes, annotations=titles),
    )


def _shape_map(index: int, shape: Record, points: np.ndarray) -> Chart:
    values = np.asarray(shape["values"], float)
    reach = float(np.abs(values).max())
    ramp = Ramp(_ABOVE_AND_BELOW, -reach, reach)
    return map_chart(f"chart-mode-shape-{index}", _words(shape), points, values, ramp)


def _words(shape: Record) -> str:
    needed = "not before step 10¹²" if shape["steps"] is None else f"by step {count(shape['steps'])}"
    return f"{percent(shape['share'])} of what remains; nine tenths of it learnt {needed}"


def _room(chart: Chart) -> Record:
    """Room for the title and the legend, which the page writes itself."""
    return {"margin": {**chart.layout["margin"], "t": 48}, "showlegend": bool(chart.keys)}


def _coloured(value: Any) -> Any:
    """Roles replaced by colours, at any depth."""
    if isinstance(value, dict):
        return {name: _coloured(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_coloured(item) for item in value]
    return _LIGHT.get(value, value) if isinstance(value, str) else value
