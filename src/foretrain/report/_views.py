"""What each section of the page shows: charts, table rows and words, ready for the templates."""

import shlex
from collections.abc import Callable

from foretrain.report._certificate_charts import certificate_charts
from foretrain.report._charts import Chart, Key
from foretrain.report._compare import checked_rows, inside_band, ratio
from foretrain.report._field_charts import COMPRESSED_KEYS, CURVE_KEYS, dimension, function_charts, has_compressed
from foretrain.report._format import about, count, number, percent, plain, seconds, size
from foretrain.report._front_chart import front_chart
from foretrain.report._mode_chart import mode_charts
from foretrain.report._run_folder import Record, RunFolder
from foretrain.report._sentences import exact_sentence, verdict_badge
from foretrain.report._shipping import shipping_sentence
from foretrain.report._training_charts import forecast_charts

_MOST_ROWS = 60  # of a table that only repeats a chart


def forecast_view(run: RunFolder) -> Record:
    """Section 1: forecast and measurement."""
    modes = (run.forecast or {}).get("modes")
    return {
        "charts": forecast_charts(run),
        "modes": mode_charts(modes) if modes else [],
        "modes_words": modes["summary"] if modes else "",
        "words": _forecast_words(run),
        "checked": [_checked_row(row) for row in checked_rows(run)],
        "facts": _forecast_facts(run.forecast) if run.forecast else [],
        "rows": _forecast_rows(run.forecast) if run.forecast else [],
        "measured": _spread([_measured_row(row) for row in run.metrics or []]),
    }


def _forecast_words(run: RunFolder) -> str:
    words = []
    if run.forecast is not None:
        words.append("The forecast was made before the first step.")
        if run.forecast.get("worst_case_loss"):
            words.append(
                "The solid line is what was expected to happen; the dashed line is the least the theorem guarantees, "
                "for networks as wide as it asks."
            )
    for quantity, name in (("loss", "training loss"), ("test_error", "test error")):
        inside = inside_band(run, quantity)
        if inside is not None:
            words.append(
                f"Of {count(inside[1])} measured values of the {name}, {count(inside[0])} lie inside the band."
            )
    return " ".join(words)


def _checked_row(row: Record) -> Record:
    loss, test = ratio(row, "loss"), ratio(row, "test_error")
    gaps = {"loss_gap": None if loss is None else loss - 1, "test_gap": None if test is None else test - 1}
    names = ("forecast_loss", "measured_loss", "forecast_test_error", "measured_test_error")
    return {"step": row["step"], **{name: row.get(name) for name in names}, **gaps}


def _measured_row(row: Record) -> Record:
    return {name: row.get(name) for name in ("step", "loss", "test_error", "seconds")}


def _forecast_facts(forecast: Record) -> list[Record]:
    """The figures of the forecast that are not curves, those that are known."""
    last = count(forecast.get("horizon") or forecast["steps"][-1])
    known: list[tuple[str, str | None, str]] = [("step size", _written(number, forecast.get("step_size")), "")]
    for error, steps in (forecast.get("steps_to") or {}).items():
        reached = f"not within {last}" if steps is None else about(steps)
        known.append((f"steps to {percent(float(error), 3, trim=True)} test error", reached, ""))
    known += [
        ("best stopping step", _stopping_step(forecast), ""),
        ("worst-case rate of the theorem, per step", _written(number, forecast.get("worst_case_rate")), "guarantee"),
        ("time to train", _written(seconds, forecast.get("seconds")), "estimate"),
        ("memory to train", _written(size, forecast.get("bytes")), "estimate"),
    ]
    return [_fact(name, value, status) for name, value, status in known if value is not None]


def _stopping_step(forecast: Record) -> str | None:
    step = forecast.get("best_stopping_step")
    if step is not None and step >= forecast["steps"][-1]:
        return f"{about(step)} or later"
    return _written(about, step)


def _written(write: Callable[..., str], value: float | None) -> str | None:
    return None if value is None else write(value)


def _fact(name: str, value: str, status: str = "") -> Record:
    return {"name": name, "value": value, "status": status}


def _forecast_rows(forecast: Record) -> list[list[float | None]]:
    names = ("loss", "lower", "upper", "worst_case_loss", "test_error", "test_error_lower", "test_error_upper")
    columns = [forecast.get(name) or [None] * len(forecast["steps"]) for name in names]
    return _spread([list(row) for row in zip(forecast["steps"], *columns, strict=True)])


def _spread(rows: list) -> list:
    """At most sixty of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= _MOST_ROWS:
        return rows
    return [rows[round(k * (len(rows) - 1) / (_MOST_ROWS - 1))] for k in range(_MOST_ROWS)]


def certificate_view(run: RunFolder) -> Record:
    """Section 2: the certificate."""
    measurements = (run.certificate or {}).get("measurements") or []
    names = [name for name in dict.fromkeys(name for row in measurements for name in row) if name != "step"]
    return {
        "badge": verdict_badge(run.certificate),
        "charts": certificate_charts(run),
        "heads": ["#Step", *(f"#{name.replace('_', ' ')}" for name in names)],
        "rows": _spread([[row["step"], *(row.get(name) for name in names)] for row in measurements]),
    }


def exact_view(run: RunFolder) -> Record:
    """Section 4: the closed form."""
    return {"words": exact_sentence(run.exact) if run.exact else ""}


def fields_view(run: RunFolder) -> Record:
    """Section 5: a few test functions."""
    functions, columns = function_charts(run), dimension(run)
    keys: tuple[Key, ...] = CURVE_KEYS + (COMPRESSED_KEYS if has_compressed(run) else ()) if columns == 1 else ()
    return {
        "functions": functions,
        "dimension": columns,
        "legend": keys,
        "words": _fields_words(run, columns, len(functions)),
    }


def _fields_words(run: RunFolder, columns: int, shown: int) -> str:
    if run.fields is None:
        return ""
    if columns > 2:
        return f"Functions of {columns} variables are not drawn; their errors are in the table."
    scale = "one axis" if columns == 1 else "one colour scale"
    kept = len(run.fields["truth"])
    part = f" Of {count(kept)} kept in the run folder, the first {count(shown)} are shown." if kept > shown else ""
    return (
        f"Functions from the test set, none of them seen in training; the errors of all of them are on {scale}.{part}"
    )


def compression_view(run: RunFolder) -> Record:
    """Section 6: what can be shipped."""
    return {"chart": front_chart(run), "words": shipping_sentence(run.compression)[0] if run.compression else ""}


def replay_view(run: RunFolder) -> Record:
    """Section 7: where the run was made, and how to make it again."""
    words = {"foretrain": "foretrain", "python": "Python", "jax": "JAX", "numpy": "NumPy", "git": "git revision"}
    facts = [_fact(words.get(name, name), plain(value)) for name, value in run.environment.items() if value is not None]
    if run.data and run.data.get("fingerprint"):
        facts.append(_fact("data", str(run.data["fingerprint"])))
    return {"facts": facts, "command": f"foretrain run {shlex.quote(f'{run.name}/config.toml')}"}


def charts_of(views: dict[str, Record]) -> list[Chart]:
    """Every chart of the page, in the order of the sections."""
    functions = [chart for function in views["fields"]["functions"] for chart in function.charts]
    front = [views["compression"]["chart"]] if views["compression"]["chart"] else []
    return [
        *views["forecast"]["charts"],
        *views["forecast"]["modes"],
        *views["certificate"]["charts"],
        *functions,
        *front,
    ]
