"""Charts of the training: the forecast, its band, what was measured, and the gap between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foretrain.report._charts import (
    Chart,
    Key,
    axis,
    compact,
    curve,
    layout,
    log_axis,
    panel_title,
    significant,
    write_step,
    write_value,
)
from foretrain.report._compare import band, checked_rows, inside_band, interpolate, measured_points, ratio
from foretrain.report._format import count, percent, signed_percent
from foretrain.report._run_folder import Record, RunFolder
from foretrain.report._sentences import target

_MOST_POINTS = 34
_GUARANTEE = "guaranteed by the theorem's rate"


@dataclass(frozen=True)
class _Quantity:
    """A quantity followed over training, and how its values are written on the axis and in words."""

    key: str
    title: str
    tick: Callable[[float], str]
    write: Callable[[float], str]


_LOSS = _Quantity("loss", "Training loss", write_value, significant)
_TEST = _Quantity("test_error", "Test error", lambda x: percent(x, 3, trim=True), lambda x: percent(x, 3))


@dataclass(frozen=True)
class _Curves:
    """All that is known of one quantity after step 0, which has no place on a logarithmic axis."""

    steps: list[int]
    forecast: list[float | None]
    edges: tuple[list[float | None], list[float | None]] | None
    guarantee: list[float | None] | None
    seen: dict[int, float]
    checked: dict[int, float]
    gaps: dict[int, float]  # forecast / measured - 1 by step

    @property
    def positive(self) -> list[float]:
        """Every value of the forecast and the measurement that a logarithmic axis can show."""
        values = [*self.forecast, *self.seen.values(), *self.checked.values()]
        return [value for value in values if value is not None and value > 0]

    @property
    def every_step(self) -> list[int]:
        return [*self.steps, *self.seen, *self.checked]


def forecast_charts(run: RunFolder) -> list[Chart]:
    """Loss and test error over the steps, forecast and measured, as far as either is known."""
    charts = (_forecast_chart(run, quantity) for quantity in (_LOSS, _TEST))
    return [chart for chart in charts if chart is not None]


def _forecast_chart(run: RunFolder, quantity: _Quantity) -> Chart | None:
    curves = _curves(run, quantity)
    if not curves.positive:
        return None
    data, scale = _main_panel(curves, quantity)
    if quantity is _TEST:
        data, scale = _with_target(run, curves, data, scale)
    axes = {"xaxis": log_axis(curves.every_step, write_step, "step"), "yaxis": log_axis(scale, quantity.tick)}
    height, more = 330, {}
    if curves.gaps:
        gap_traces, gap_axis = _gap_panel(curves)
        data += gap_traces
        axes["xaxis"] |= {"anchor": "y2"}
        axes |= {"yaxis": axes["yaxis"] | {"domain": [0.36, 1]}, "yaxis2": gap_axis | {"domain": [0, 0.24]}}
        height, more = 440, {"annotations": [panel_title("forecast above (+) or below (−) measured", 0.24)]}  # noqa: RUF001
    return Chart(
        identifier=f"chart-{quantity.key.replace('_', '-')}",
        title=quantity.title,
        description=_describe(run, curves, quantity),
        keys=_keys(curves),
        data=data,
        layout=layout(height, **axes, **more),
    )


def _curves(run: RunFolder, quantity: _Quantity) -> _Curves:
    forecast = run.forecast or {}
    values = forecast.get(quantity.key) or []
    kept = [index for index, step in enumerate(forecast.get("steps") or []) if step > 0 and index < len(values)]
    edges = band(forecast, quantity.key)
    guarantee = forecast.get("worst_case_loss") if quantity is _LOSS else None
    seen = dict(_thinned(*measured_points(run, quantity.key)))
    rows = checked_rows(run)
    checked = {row["step"]: value for row in rows if (value := row.get(f"measured_{quantity.key}")) is not None}
    gaps = {}
    if kept and seen:
        expected = interpolate(forecast["steps"], values, list(seen))
        gaps = {step: float(want) / got - 1 for (step, got), want in zip(seen.items(), expected, strict=True)}
    gaps |= {row["step"]: value - 1 for row in rows if (value := ratio(row, quantity.key)) is not None}
    return _Curves(
        steps=[forecast["steps"][index] for index in kept],
        forecast=[values[index] for index in kept],
        edges=([edges[0][index] for index in kept], [edges[1][index] for index in kept]) if edges and kept else None,
        guarantee=[guarantee[index] for index in kept] if guarantee else None,
        seen={step: value for step, value in seen.items() if step not in checked},
        checked=checked,
        gaps={step: gap for step, gap in gaps.items() if np.isfinite(gap)},
    )


def _thinned(steps: list[int], values: list[float]) -> list[tuple[int, float]]:
    """Some thirty points after step 0, evenly spread over the logarithmic axis, so that the curve shows between."""
    kept = [index for index, step in enumerate(steps) if step > 0 and values[index] > 0]
    if len(kept) > _MOST_POINTS:
        positions = np.log([steps[index] for index in kept])
        wanted = np.linspace(positions[0], positions[-1], _MOST_POINTS)
        kept = [kept[index] for index in np.unique([np.abs(positions - place).argmin() for place in wanted])]
    return [(steps[index], values[index]) for index in kept]


def _keys(curves: _Curves) -> tuple[Key, ...]:
    known = (
        (curves.steps, Key("forecast", "line", "forecast")),
        (curves.edges, Key("its band", "band", "band")),
        (curves.seen, Key("measured", "ring", "measured")),
        (curves.checked, Key("measured, checked step", "disc", "measured")),
        (curves.guarantee, Key(_GUARANTEE, "dash", "guarantee")),
    )
    return tuple(key for present, key in known if present)


def _main_panel(curves: _Curves, quantity: _Quantity) -> tuple[list[Record], list[float]]:
    """Traces from back to front, and the values the vertical axis must hold."""
    data: list[Record] = []
    scale = curves.positive
    floor = min(scale) / 3  # a lower bound may fall to zero: it leaves the panel at the bottom
    if curves.edges:
        data += _band_traces(
            curves.steps, *([max(v, floor / 9) if v is not None else None for v in e] for e in curves.edges)
        )
        scale = scale + [max(value, floor) for edge in curves.edges for value in edge if value is not None]
    if curves.guarantee:
        dash = {"line": _thin_dash("@guarantee")}
        data.append(curve(curves.steps, curves.guarantee, "@guarantee", _GUARANTEE, quantity.write, **dash))
        scale = scale + [value for value in curves.guarantee if value is not None and value >= floor]
    if curves.steps:
        data.append(curve(curves.steps, curves.forecast, "@forecast", "forecast", quantity.write))
    marks = _marks(curves, "measured", quantity.write, {**curves.seen, **curves.checked})
    return data + marks, scale


def _gap_panel(curves: _Curves) -> tuple[list[Record], Record]:
    """The gap on an axis of its own, where a few per cent can be seen; the band seen from the measurement's side."""
    data, last = [], max(curves.gaps)
    reach = max(0.01, *(abs(gap) for gap in curves.gaps.values()))
    steps, low, high = _gap_band(curves)
    if steps:
        data += _band_traces(steps, low, high, yaxis="y2")
        shown = [
            max(abs(below), abs(above)) for step, below, above in zip(steps, low, high, strict=True) if step <= last
        ]
        reach = max([reach, *shown])
    reach = min(1.15 * reach, 1.0)
    data += _marks(curves, "forecast against measured", signed_percent, curves.gaps, yaxis="y2")
    zero = {"zeroline": True, "zerolinecolor": "@muted", "zerolinewidth": 1}
    return data, axis(range=[-reach, reach], tickformat="+.2~p", nticks=5, **zero)


def _gap_band(curves: _Curves) -> tuple[list[int], list[float], list[float]]:
    """The gaps that a measurement on either edge of the band would show."""
    steps, low, high = [], [], []
    for step, value, lower, upper in zip(curves.steps, curves.forecast, *(curves.edges or ([], [])), strict=False):
        if value and lower and upper and lower > 0:
            steps.append(step)
            low.append(value / upper - 1)
            high.append(value / lower - 1)
    return steps, low, high


def _marks(
    curves: _Curves, name: str, write: Callable[[float], str], values: dict[int, float], **more: object
) -> list[Record]:
    """Rings where something was measured, discs where the forecast was checked against it."""
    ring = {"symbol": "circle", "size": 6, "color": "@paper", "line": {"color": "@measured", "width": 1.3}}
    disc = {"symbol": "circle", "size": 8, "color": "@measured"}
    data = []
    for steps, marker in ((curves.seen, ring), (curves.checked, disc)):
        known = [step for step in steps if step in values]
        if known:
            heights = [values[step] for step in known]
            data.append(curve(known, heights, "@measured", name, write, mode="markers", marker=marker, **more))
    return data


def _thin_dash(role: str) -> Record:
    return {"color": role, "width": 1.2, "dash": "dash"}


def _band_traces(
    steps: list[int], lower: Sequence[float | None], upper: Sequence[float | None], **more: object
) -> list[Record]:
    """The band as two invisible lines with the space between them filled."""
    shared = {"type": "scatter", "mode": "lines", "x": steps, "line": {"width": 0}, "hoverinfo": "skip", **more}
    fill = {"fill": "tonexty", "fillcolor": "@band"}
    return [{**shared, "y": compact(lower)}, {**shared, "y": compact(upper), **fill}]


def _with_target(
    run: RunFolder, curves: _Curves, data: list[Record], scale: list[float]
) -> tuple[list[Record], list[float]]:
    """Adds the error aimed at as a thin level, unless it lies so far below that showing it would flatten the curves."""
    aim = target(run)
    if aim is None or not min(scale) / 20 < aim[0] < max(scale):
        return data, scale
    ends = [min(curves.every_step), max(curves.every_step)]
    level = {"type": "scatter", "mode": "lines+text", "x": ends, "y": [aim[0]] * 2, "line": _thin_dash("@muted")}
    words = {"text": [f"target {percent(aim[0], 3, trim=True)}", ""], "textposition": "top right"}
    return [*data, {**level, **words, "textfont": {"color": "@muted"}, "hoverinfo": "skip"}], [*scale, aim[0]]


def _describe(run: RunFolder, curves: _Curves, quantity: _Quantity) -> str:
    parts = [f"{quantity.title} against step, both axes logarithmic."]
    known = {step: value for step, value in zip(curves.steps, curves.forecast, strict=True) if value is not None}
    for name, values in (("Forecast", known), ("Measured", {**curves.seen, **curves.checked})):
        if values:
            first, last = min(values), max(values)
            ends = f"{quantity.write(values[first])} at step {count(first)} to {quantity.write(values[last])}"
            parts.append(f"{name} from {ends} at step {count(last)}.")
    inside = inside_band(run, quantity.key)
    if inside is not None:
        parts.append(f"{count(inside[0])} of {count(inside[1])} measured points lie inside the band.")
    return " ".join(parts)
