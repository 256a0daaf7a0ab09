"""A few test functions drawn out: curves in one dimension, maps in two."""

from dataclasses import dataclass

import numpy as np

from foretrain.report._charts import Chart, Key, Ramp, axis, compact, layout, panel_title
from foretrain.report._format import number, percent
from foretrain.report._run_folder import Record, RunFolder

_MOST_FUNCTIONS = 6
_MOST_POINTS = 800  # along a curve
_MOST_CELLS = 96  # along one side of a map
# Even steps in lightness, so that they read without colour vision too: Cividis, Viridis, and blue to brown with
# near-white for no error.
_INPUT = ("#00224e", "#31446b", "#666970", "#958f78", "#cab969", "#fee838")
_ANSWER = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
_ERROR = ("#0b4f7d", "#6ca6c6", "#f3f1ee", "#d99a6c", "#7d2f0b")

CURVE_KEYS = (
    Key("input", "line", "muted"),
    Key("truth", "line", "truth"),
    Key("prediction", "dash", "prediction"),
    Key("error of the prediction", "line", "error"),
)
COMPRESSED_KEYS = (Key("error of the compressed model", "dot", "compressed"),)


@dataclass(frozen=True)
class FunctionCharts:
    """The charts of one test function, under its label and relative error."""

    label: str
    error: float
    largest: float
    compressed_error: float | None
    charts: list[Chart]


def function_charts(run: RunFolder) -> list[FunctionCharts]:
    """Input, truth, prediction and error of at most six test functions."""
    if run.fields is None:
        return []
    fields = run.fields
    functions = range(min(len(fields["truth"]), _MOST_FUNCTIONS))
    return [_function(fields, index, _charts_of(fields, index)) for index in functions]


def dimension(run: RunFolder) -> int:
    """The dimension of the query points, 0 without fields."""
    return 0 if run.fields is None else _columns(run.fields["query_points"])


def has_compressed(run: RunFolder) -> bool:
    """Whether the answers of the compressed model are among the fields."""
    return run.fields is not None and "compressed" in run.fields


def _function(fields: dict[str, np.ndarray], index: int, charts: list[Chart]) -> FunctionCharts:
    truth, prediction = fields["truth"][index], fields["prediction"][index]
    compressed = fields["compressed"][index] if "compressed" in fields else None
    return FunctionCharts(
        label=str(fields["labels"][index]) if "labels" in fields else f"function {index + 1}",
        error=float(fields["errors"][index]) if "errors" in fields else _relative(prediction, truth),
        largest=_range(np.abs(prediction - truth))[1],
        compressed_error=None if compressed is None else _relative(compressed, truth),
        charts=charts,
    )


def _relative(value: np.ndarray, truth: np.ndarray) -> float:
    scale = float(np.linalg.norm(truth))
    return float(np.linalg.norm(value - truth)) / scale if scale else float("nan")


def _columns(points: np.ndarray) -> int:
    return 1 if points.ndim == 1 else points.shape[1]


def _charts_of(fields: dict[str, np.ndarray], index: int) -> list[Chart]:
    columns = _columns(fields["query_points"])
    if columns == 1:
        return [_curves(fields, index)]
    return _maps(fields, index) if columns == 2 else []


# ---- one dimension


def _curves(fields: dict[str, np.ndarray], index: int) -> Chart:
    """Three panels over each other: input, truth under prediction, error; the error axis is shared by all functions."""
    data, titles = [], [panel_title("truth and prediction", 0.68), panel_title("error", 0.26)]
    if _columns(fields["sensor_points"]) == 1:
        titles.append(panel_title("input", 1))
        data.append(_line(fields["sensor_points"], fields["inputs"][index], "@muted", "input", "x2", "y3", width=1.5))
    query, truth = fields["query_points"], fields["truth"][index]
    data.append(_line(query, truth, "@truth", "truth", "x", "y2", width=4))
    data.append(
        _line(query, fields["prediction"][index], "@prediction", "prediction", "x", "y2", width=1.8, dash="dash")
    )
    for name, role, dash in (("compressed", "@compressed", "dot"), ("prediction", "@error", "solid")):
        if name in fields:
            error = fields[name][index] - truth
            data.append(_line(query, error, role, f"error, {name}", "x", "y", width=1.4, dash=dash))
    panels = {
        "xaxis": axis(anchor="y", nticks=5),
        "xaxis2": axis(anchor="y3", showticklabels=False, nticks=5),
        "yaxis": axis(domain=[0, 0.26], range=_shared_error_range(fields), nticks=4),
        "yaxis2": axis(domain=[0.35, 0.68], nticks=4),
        "yaxis3": axis(domain=[0.77, 1], nticks=4),
    }
    chart_layout = layout(360, **panels, annotations=titles, margin={"l": 46, "r": 6, "t": 18, "b": 24})
    return Chart(f"chart-function-{index}", "", _describe(fields, index), (), data, chart_layout)


def _line(
    points: np.ndarray, values: np.ndarray, role: str, name: str, x: str, y: str, width: float, dash: str = "solid"
) -> Record:
    places = points.reshape(-1)
    order = np.argsort(places, kind="stable")[:: max(1, -(-len(places) // _MOST_POINTS))]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": compact(places[order]),
        "y": compact(values[order]),
        "xaxis": x,
        "yaxis": y,
        "line": {"color": role, "width": width, "dash": dash},
        "hovertemplate": f"{name} %{{y:.4g}} at %{{x:.4g}}<extra></extra>",
    }


def _shared_error_range(fields: dict[str, np.ndarray]) -> list[float]:
    names = [name for name in ("prediction", "compressed") if name in fields]
    errors = [_range(np.abs(fields[name] - fields["truth"])[:_MOST_FUNCTIONS])[1] for name in names]
    reach = 1.08 * max(errors) or 1.0
    return [-reach, reach]


def _describe(fields: dict[str, np.ndarray], index: int) -> str:
    truth, prediction = fields["truth"][index], fields["prediction"][index]
    low, high = _range(truth)
    return (
        f"Input, truth, prediction and error of one test function: truth between {number(low)} and {number(high)}, "
        f"relative error of the prediction {percent(_relative(prediction, truth))}, "
        f"largest error {number(_range(np.abs(prediction - truth))[1])}."
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest of the finite values; zeros where there is none, as after a training that diverged."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


# ---- two dimensions


def _maps(fields: dict[str, np.ndarray], index: int) -> list[Chart]:
    """Four maps; truth and prediction share one colour scale, the errors of all functions share another."""
    truth, prediction = fields["truth"][index], fields["prediction"][index]
    sensors, query = fields["sensor_points"], fields["query_points"]
    inputs = fields["inputs"][index]
    both = np.concatenate([truth, prediction])
    panels = [
        ("truth", query, truth, _ramp(_ANSWER, both)),
        ("prediction", query, prediction, _ramp(_ANSWER, both)),
        ("error", query, prediction - truth, Ramp(_ERROR, *_shared_error_range(fields))),
    ]
    if _columns(sensors) == 2:
        panels.insert(0, ("input", sensors, inputs, _ramp(_INPUT, inputs)))
    return [map_chart(f"chart-function-{index}-{name}", name, *panel) for name, *panel in panels]


def _ramp(colours: tuple[str, ...], values: np.ndarray) -> Ramp:
    low, high = _range(values)
    return Ramp(colours, low, high) if high > low else Ramp(colours, low - 0.5, high + 0.5)


def map_chart(identifier: str, name: str, points: np.ndarray, values: np.ndarray, ramp: Ramp) -> Chart:
    width, height = np.ptp(points, axis=0)
    bare = {"showgrid": False, "showticklabels": False, "showline": False, "ticks": ""}
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    low, high = _range(values)
    return Chart(
        identifier,
        name,
        f"Map of the {name}, from {number(low)} to {number(high)}.",
        keys=(),
        data=[_painted_points(points, values, name, ramp)],
        layout=layout(None, xaxis=axis(**bare), yaxis=axis(**bare), margin=margin),
        aspect=float(np.clip(width / height, 0.4, 2.5)) if width > 0 and height > 0 else 1.0,
        ramp=ramp,
    )


def _painted_points(points: np.ndarray, values: np.ndarray, name: str, ramp: Ramp) -> Record:
    """A heat map where the points form a full grid, coloured dots where they do not."""
    across, column = np.unique(points[:, 0], return_inverse=True)
    upward, row = np.unique(points[:, 1], return_inverse=True)
    if len(across) * len(upward) != len(points):
        colours = {"color": compact(values), "cmin": ramp.low, "cmax": ramp.high, "colorscale": ramp.scale}
        hover = f"{name} %{{marker.color:.4g}} at (%{{x:.3g}}, %{{y:.3g}})<extra></extra>"
        places = {"x": compact(points[:, 0]), "y": compact(points[:, 1]), "hovertemplate": hover}
        return {"type": "scatter", "mode": "markers", **places, "marker": {"size": 6, **colours}}
    grid = np.full((len(upward), len(across)), np.nan)
    grid[row, column] = values
    every_row, every_column = (-(-length // _MOST_CELLS) for length in grid.shape)
    return {
        "type": "heatmap",
        "x": compact(across[::every_column]),
        "y": compact(upward[::every_row]),
        "z": [compact(line) for line in grid[::every_row, ::every_column]],
        "hovertemplate": f"{name} %{{z:.4g}} at (%{{x:.3g}}, %{{y:.3g}})<extra></extra>",
        "colorscale": ramp.scale,
        "zmin": ramp.low,
        "zmax": ramp.high,
        "showscale": False,
    }
