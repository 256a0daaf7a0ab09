"""Noise and covariate shift on the page of the two-timescale reproduction: charts, rows and what they come to."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from foretrain.report._charts import Chart, Key, axis, layout, log_axis, panel_title, write_value
from foretrain.report._format import number
from foretrain.report._run_folder import Record
from foretrain.report._two_timescale_charts import EQUAL, TWO
from foretrain.studies import DisturbedComparison, Effect, RobustnessTable

_TONES = {"two timescales better": "good", "equal rates better": "bad", "no difference seen": "quiet"}
_WAYS = (("equal rates", EQUAL, -1), ("two timescales", TWO, 1))
_LEVEL_TITLES = {
    "label noise": "standard deviation",
    "input noise": "standard deviation",
    "covariate shift": "s of Beta(1, 1 + s)",
}


def disturbed_charts(disturbed: Sequence[DisturbedComparison]) -> list[Chart]:
    """One for each disturbance: test error against its level, an experiment to a panel."""
    kinds = [table.kind for table in disturbed[0].tables] if disturbed else []
    return [_disturbed_chart([(each.title, each.tables[index]) for each in disturbed]) for index in range(len(kinds))]


def _disturbed_chart(panels: Sequence[tuple[str, RobustnessTable]]) -> Chart:
    kind, levels = panels[0][1].kind, panels[0][1].levels
    share = 1 / len(panels)
    traces: list[Record] = []
    upward: Record = {}
    titles: list[Record] = []
    for index, (title, table) in enumerate(panels):
        number_of_axis = str(index + 1) if index else ""
        drawn, scale = _panel(title, table, f"y{number_of_axis}")
        # Room for the panel's title above, and between panels.
        domain = [1 - (index + 1) * share + (0.06 if index < len(panels) - 1 else 0), 1 - index * share - 0.07]
        upward[f"yaxis{number_of_axis}"] = scale | {"domain": domain}
        titles.append(panel_title(title, domain[1] + 0.01))
        traces += drawn
    across = axis(
        # Levels stand at equal distances: to scale, the smaller ones would crowd.
        range=[-0.3, len(levels) - 0.7],
        title={"text": _LEVEL_TITLES[kind], "standoff": 8},
        showgrid=False,
        anchor=f"y{len(panels)}" if len(panels) > 1 else "y",
        tickmode="array",
        tickvals=list(range(len(levels))),
        tickangle=0,
        ticktext=[f"{level:g}" for level in levels],
    )
    return Chart(
        f"chart-{kind.replace(' ', '-')}",
        f"Test error under {kind}",
        " ".join(_described(title, table) for title, table in panels),
        tuple(Key(name, "line", role[1:]) for name, role, _ in _WAYS),
        traces,
        layout(230 * len(panels), xaxis=across, **upward, annotations=titles),
    )


def _panel(title: str, table: RobustnessTable, upward_name: str) -> tuple[list[Record], Record]:
    """One experiment: a trace for each way, a little apart so that no bar hides another, and the scale."""
    ways = (table.equal_rates, table.two_timescales)
    spread = np.array([[quartiles(errors) for errors in way] for way in ways])
    scale = log_axis(spread.ravel().tolist(), write_value)
    bottom, top = scale["range"]
    # Plotly hides what lies beyond an axis by a hair: what diverged stands just below the end.
    highest = 10 ** (top - 0.01 * (top - bottom))
    traces = []
    for of_way, (name, role, side) in zip(spread, _WAYS, strict=True):
        trace = _way_trace(table.levels, of_way, highest, role, f"{title}, {name}")
        traces.append(trace | {"x": [place + 0.05 * side for place in range(len(table.levels))], "yaxis": upward_name})
    return traces, scale


def quartiles(errors: Float[np.ndarray, " seeds"]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; quartiles are errors that occurred, since some may be infinite."""
    ordered, seeds = np.sort(errors), len(errors)
    low, high = ordered[(seeds + 3) // 4 - 1], ordered[(3 * seeds + 3) // 4 - 1]
    return float(low), float(np.median(ordered)), float(high)


def _way_trace(
    levels: Sequence[float], spread: Float[np.ndarray, "levels quartiles"], top: float, role: str, name: str
) -> Record:
    """Medians joined by a line, bars from quartile to quartile; what diverged stands at the top of the panel."""
    low, middle, high = np.minimum(spread.T, top)
    hover = [
        f"{name}<br>level {level:g}: {_error(of[1])}, quartiles {_error(of[0])} to {_error(of[2])}"
        for level, of in zip(levels, spread.tolist(), strict=True)
    ]
    symbols = ["circle" if np.isfinite(of[1]) else "triangle-up" for of in spread]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "cliponaxis": False,
        "y": [float(f"{value:.5g}") for value in middle],
        "line": {"color": role, "width": 1.8},
        "marker": {"color": role, "size": 6, "symbol": symbols},
        "error_y": {
            "type": "data", "symmetric": False, "array": (high - middle).tolist(),
            "arrayminus": (middle - low).tolist(), "color": role, "thickness": 1.2, "width": 3,
        },
        "text": hover,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _error(value: float) -> str:
    return number(value, 2) if np.isfinite(value) else "diverged"


def _described(title: str, table: RobustnessTable) -> str:
    ends = [
        f"{way} from {_error(float(np.median(errors[0])))} to {_error(float(np.median(errors[-1])))}"
        for way, errors in (("equal rates", table.equal_rates), ("two timescales", table.two_timescales))
    ]
    levels = f"level {table.levels[0]:g} to {table.levels[-1]:g}"
    return f"{title}, median test error at {levels} of {table.kind}, logarithmic: {', '.join(ends)}."


def verdict_rows(disturbed: Sequence[DisturbedComparison]) -> list[Record]:
    """One row for each experiment and disturbance, over all levels above 0."""
    return [
        {
            "title": each.title,
            "kind": table.kind,
            "ratio": ratio_text(table.effect),
            "badge": {"text": table.verdict, "tone": _TONES[table.verdict]},
            "exceptions": [
                {"text": f"at {level:g}: {verdict}", "tone": f"small {_TONES[verdict]}"}
                for level, verdict in table.exceptions
            ],
        }
        for each in disturbed
        for table in each.tables
    ]


def level_rows(disturbed: Sequence[DisturbedComparison]) -> list[Record]:
    """One row for each level of each of those."""
    return [
        {
            "title": each.title,
            "kind": table.kind,
            "level": f"{level:g}",
            "equal": _error(float(np.median(table.equal_rates[index]))),
            "two": _error(float(np.median(table.two_timescales[index]))),
            "diverged": [int(np.isinf(ways[index]).sum()) for ways in (table.equal_rates, table.two_timescales)],
            "ratio": ratio_text(table.effects[index]),
            "badge": {"text": table.verdicts[index], "tone": _TONES[table.verdicts[index]]},
        }
        for each in disturbed
        for table in each.tables
        for index, level in enumerate(table.levels)
    ]


def ratio_text(effect: Effect) -> str:
    """A ratio of errors with its interval."""
    if not np.isfinite(effect.upper) and effect.lower == 0:
        return f"{_bound(effect.ratio)} (interval unbounded)"
    return f"{_bound(effect.ratio)} ({_bound(effect.lower)} to {_bound(effect.upper)})"


def _bound(value: float) -> str:
    return number(value, 3) if np.isfinite(value) else "∞"


def disturbed_remarks(disturbed: Sequence[DisturbedComparison]) -> list[str]:
    """Who ends lower under what, in sentences: where equal rates do, first; last, what was so without a disturbance."""
    found: dict[str, list[str]] = {verdict: [] for verdict in _TONES}
    single: dict[str, list[str]] = {verdict: [] for verdict in _TONES}
    before: dict[str, list[str]] = {verdict: [] for verdict in _TONES}
    for each in disturbed:
        for table in each.tables:
            found[table.verdict].append(f"{table.kind} in {each.title}")
            for level, verdict in table.exceptions:
                single[verdict].append(f"{table.kind} {level:g} in {each.title}")
        for level, verdict in zip(each.tables[0].levels, each.tables[0].verdicts, strict=True):
            if level == 0:
                before[verdict].append(each.title)
    sentences = (
        (found, "equal rates better", "Equal rates end lower under {}: there a slow inner layer costs accuracy."),
        (found, "two timescales better", "Two timescales end lower under {}."),
        (found, "no difference seen", "Over all levels together no difference is seen under {}."),
        (single, "equal rates better", "At single levels equal rates end lower: {}."),
        (single, "two timescales better", "At single levels two timescales end lower: {}."),
        (before, "equal rates better", "Without a disturbance equal rates end lower in {}."),
        (before, "two timescales better", "Without a disturbance two timescales end lower in {}."),
    )
    remarks = [sentence.format(_listed(where[verdict])) for where, verdict, sentence in sentences if where[verdict]]
    if any(row["diverged"] != [0, 0] for row in level_rows(disturbed)):
        remarks.append(
            "Some runs diverged: their error is infinite, which a triangle at the top of a panel stands for."
        )
    return remarks


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
