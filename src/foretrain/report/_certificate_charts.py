"""Charts of what the certificate watched: how far the weights moved, how far the kernel drifted."""

from foretrain.report._charts import Chart, Key, curve, label, layout, log_axis, significant, write_step, write_value
from foretrain.report._run_folder import Record, RunFolder

FARTHEST_LIMIT = 1000.0
_SERIES_STYLES = (("@forecast", "solid", "circle"), ("@measured", "dash", "diamond"), ("@third", "dot", "square"))


def certificate_charts(run: RunFolder) -> list[Chart]:
    """How far the weights moved and how far the kernel drifted, over the steps."""
    rows = sorted((run.certificate or {}).get("measurements") or [], key=lambda row: row["step"])
    names = list(dict.fromkeys(name for row in rows for name in row))
    groups = (("distance", "Weights' distance from start"), ("drift", "Drift of the kernel"))
    charts = []
    for word, title in groups:
        series = [name for name in names if word in name and any(_positive(row, name) for row in rows)]
        if series:
            charts.append(_certificate_chart(run, rows, series, word, title))
    return charts


def _positive(row: Record, name: str) -> bool:
    return row["step"] > 0 and isinstance(row.get(name), int | float) and row[name] > 0


def _certificate_chart(run: RunFolder, rows: list[Record], series: list[str], word: str, title: str) -> Chart:
    data, keys, scale, parts = [], [], [], [f"{title} against step, both axes logarithmic."]
    every_step = [row["step"] for row in rows if row["step"] > 0]
    bounded = False
    for position, name in enumerate(series):
        role, dash, symbol = _SERIES_STYLES[position % len(_SERIES_STYLES)]
        points = [(row["step"], row[name]) for row in rows if _positive(row, name)]
        steps, values = (list(column) for column in zip(*points, strict=True))
        words = name.replace("_", " ")
        style = {
            "mode": "lines+markers",
            "line": {"color": role, "width": 1.6, "dash": dash},
            "marker": {"symbol": symbol, "size": 6},
        }
        data.append(curve(steps, values, role, label(words), significant, **style))
        keys.append(Key(words, {"solid": "line", "dash": "dash"}.get(dash, "dot"), role[1:]))
        scale += values
        parts.append(f"{words.capitalize()} ends at {significant(values[-1])}.")
        limit = _limit(run, name)
        if limit is not None and limit > FARTHEST_LIMIT * max(values):
            parts.append(f"Its limit, {significant(limit)}, is far above what is drawn.")
        elif limit is not None:
            bound = {"line": {"color": role, "width": 1, "dash": "longdash"}, "opacity": 0.85}
            ends = [min(every_step), max(every_step)]
            data.append(curve(ends, [limit] * 2, role, f"limit for {label(words)}", significant, **bound))
            scale.append(limit)
            bounded = True
            parts.append(f"Its limit is {significant(limit)}.")
    if bounded:
        keys.append(Key("limit, same colour", "dash", "muted"))
    axes = {"xaxis": log_axis(every_step, write_step, "step"), "yaxis": log_axis(scale, write_value)}
    return Chart(f"chart-{word}", title, " ".join(parts), tuple(keys), data, layout(260, **axes))


def _limit(run: RunFolder, name: str) -> float | None:
    """The limit of the check that names all the words of a measurement, if there is one."""
    for check in (run.certificate or {}).get("checks") or []:
        if all(word in check["name"].lower() for word in name.split("_")) and (check.get("limit") or 0) > 0:
            return float(check["limit"])
    return None
