"""The page of the two-timescale reproduction: measured beside published, in sentences, charts and tables."""

import json
from pathlib import Path

import numpy as np

from foretrain._foundation import require_extra, write_atomically
from foretrain.report._charts import Chart
from foretrain.report._disturbed_data import disturbed_charts, disturbed_remarks, level_rows, verdict_rows
from foretrain.report._figures import Figure
from foretrain.report._format import count, number, percent, seconds
from foretrain.report._page import _filters, _script_json
from foretrain.report._run_folder import Record
from foretrain.report._two_timescale_animation import animation_chart, animation_frames
from foretrain.report._two_timescale_charts import (
    covered_chart,
    equal_positions_chart,
    loss_chart,
    positions_chart,
    sweep_chart,
)
from foretrain.studies import Reproduction, SampledComparison, StepCoverage

_HERE = Path(__file__).parent
_SECTIONS = {
    "claims": "Measured beside published",
    "motion": "One start, as it moves",
    "dynamics": "One start by four dynamics",
    "ratios": "The sweep over ratios",
    "shares": "How often every jump is covered",
    "samples": "Several dimensions and ReLUs",
    "disturbed": "Noise and shifted data",
    "replay": "Replay",
}
_TONES = {"reproduced": "good", "not reproduced": "bad", "for information": "quiet"}


def two_timescale_page(result: Reproduction, path: str | Path, environment: Record | None = None) -> Path:
    """Writes one self-contained HTML page about a reproduction and returns where it is.

    Arguments:
        result: what was run.
        path: the file to write.
        environment: versions, machine, date and command, if they are to be told.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    jinja2 = require_extra("jinja2", "report")
    plotly = require_extra("plotly.offline", "report")
    markup = require_extra("markupsafe", "report").Markup
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters.update(_filters(markup, jinja2.Undefined))
    charts = {
        "animation": animation_chart(result),
        "positions": positions_chart(result),
        "equal": equal_positions_chart(result),
        "loss": loss_chart(result),
        "sweep": sweep_chart(result.sweep),
        "covered": covered_chart(result.sweep),
    }
    disturbed = disturbed_charts(result.disturbed)
    page = templates.get_template("two_timescale.html.jinja").render(
        sections=_SECTIONS,
        lead=lead(result),
        figures=figures(result),
        claims=[{**vars(claim), "verdict": claim.verdict, "tone": _TONES[claim.verdict]} for claim in result.claims],
        start=start_view(result),
        charts=charts,
        sweep=[coverage_row(coverage) for coverage in result.sweep],
        shares=[coverage_row(coverage) for coverage in (result.equal_rates, result.two_timescales)],
        samples=[sample_row(each) for each in result.sampled],
        sample_seeds=len(result.sampled[0].training["limit"]) if result.sampled else 0,
        samples_remark=samples_remark(result),
        disturbed=disturbed_view(result, disturbed),
        uniform=result.settings.uniform,
        environment=[(name, str(value)) for name, value in (environment or {}).items() if value is not None],
        payload=markup(_script_json([chart.payload for chart in (*charts.values(), *disturbed)])),
        frames=markup(json.dumps(animation_frames(result), allow_nan=False, separators=(",", ":"))),
        style=markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=markup(plotly.get_plotlyjs()),
        seconds_of_all=result.seconds,
    )
    return write_atomically(path, lambda file: file.write(page.encode()))


def lead(result: Reproduction) -> list[Record]:
    """Three questions, each answered in a sentence."""
    claims = {claim.what.split(",")[0].split(":")[0]: claim for claim in reversed(result.claims)}
    equal, two, start = result.equal_rates, result.two_timescales, result.start
    return [
        {
            "question": "Do equal rates get stuck?",
            "badge": _badge(claims["Equal rates"].verdict),
            "text": (
                f"With both layers at one rate, {_starts(equal)} end with a neuron at every jump of the target, "
                f"and the median loss is {number(float(np.median(equal.losses)), 2)}."
            ),
        },
        {
            "question": "Do two timescales find the target?",
            "badge": _badge(claims["Two timescales"].verdict),
            "text": (
                f"With the inner layer slower by {count(round(1 / two.setting.ratio))}, {_starts(two)} do, "
                f"and the median loss is {number(float(np.median(two.losses)), 2)}."
            ),
        },
        {
            "question": "Does the limit describe it?",
            "badge": _badge(claims["One start"].verdict),
            "text": (
                f"After {count(start.online.steps)} noisy steps, no neuron of the start shown is farther than "
                f"{number(float(np.max(start.distances_to_flow)), 2)} from where gradient flow ends, nor than "
                f"{number(start.distance_to_limit, 2)} from where the limit does, on an interval of length 1."
            ),
        },
    ]


def _starts(coverage: StepCoverage) -> str:
    return f"{int(coverage.covered.all(axis=1).sum())} of {len(coverage.losses)} starts"


def _badge(verdict: str) -> Record:
    return {"text": verdict, "tone": _TONES[verdict]}


def figures(result: Reproduction) -> list[Figure]:
    """Figures worth reading from across the room."""
    start = result.start
    pace = start.online.seconds / (start.online.steps or 1)
    return [
        Figure(percent(result.equal_rates.share, trim=True), "of the starts cover every jump at equal rates"),
        Figure(percent(result.two_timescales.share, trim=True), "of the starts cover every jump by two timescales"),
        Figure(
            f"{count(round(1 / pace / 1e6))} million",
            "steps of online descent a second of one core",
        ),
        Figure(seconds(start.steep_limit.seconds), "for the exact limit, event by event, of the same trajectory"),
    ]


def start_view(result: Reproduction) -> Record:
    """The start that is shown: its dynamics, its jumps, and the events of the limit."""
    start = result.start
    everything = (*start.dynamics, start.equal)
    dynamics = [
        {
            "name": each.name,
            "steps": each.steps,
            "slow_time": float(each.slow_times[-1]),
            "loss": float(each.loss[-1]),
            "covered": f"{int(start.covered(each).sum())} of {len(start.target.locations)}",
            "seconds": each.seconds,
        }
        for each in everything
    ]
    reached = {event.jump: event.time for event in start.events if event.outcome == "stays"}
    jumps = [
        {
            "location": location,
            "height": height,
            "reached": reached.get(index),
            "nearest": [
                {
                    "dynamics": each.name,
                    "distance": float(np.min(np.abs(each.positions[-1] - location))) / start.two_timescales.step_width,
                    "covered": bool(start.covered(each)[index]),
                }
                for each in everything
            ],
        }
        for index, (location, height) in enumerate(zip(start.target.locations, start.target.jumps, strict=True))
    ]
    two = start.two_timescales
    return {
        "dynamics": dynamics,
        "jumps": jumps,
        "finish_time": start.finish_time,
        "neurons": start.online.positions.shape[1],
        "step_width": two.step_width,
        "step_size": two.step_size,
        "ratio": two.ratio,
        "noise": two.noise,
    }


def coverage_row(coverage: StepCoverage) -> Record:
    """One setting as a row of a table."""
    finished = coverage.limit_finish_times < coverage.setting.slow_time
    return {
        "name": coverage.setting.name,
        "steps": coverage.setting.steps,
        "slow_time": coverage.setting.slow_time,
        "starts": len(coverage.losses),
        "all": int(coverage.covered.all(axis=1).sum()),
        "finished": int(finished.sum()),
        "median": float(np.median(coverage.losses)),
        "worst": float(np.max(coverage.losses)),
        "seconds": coverage.seconds,
    }


def sample_row(each: SampledComparison) -> Record:
    """One experiment on a fixed sample as a row of a table."""
    ways = [
        {"way": way, "training": training, "test": test}
        for way in each.training
        for training, test in [each.medians(way)]
    ]
    return {"title": each.title, "published": each.setting.published, "seconds": each.seconds, "ways": ways}


def samples_remark(result: Reproduction) -> str:
    """Where equal rates, given the best of several step sizes, do as well as two timescales or better."""
    as_well = [
        each.title
        for each in result.sampled
        if each.medians("equal rates, best step size")[0] <= each.medians("two timescales")[0]
    ]
    if not as_well:
        return "Two timescales end below equal rates in all of them, whichever of the step sizes those take."
    return (
        f"In {' and '.join(as_well)} equal rates end as low as two timescales or lower once they take the best of "
        "several step sizes: there the slow inner layer does not help."
    )


def disturbed_view(result: Reproduction, charts: list[Chart]) -> Record:
    """The experiments under noise and covariate shift."""
    tables = [table for each in result.disturbed for table in each.tables]
    return {
        "charts": charts,
        "remarks": disturbed_remarks(result.disturbed),
        "verdicts": verdict_rows(result.disturbed),
        "levels": level_rows(result.disturbed),
        "seeds": tables[0].equal_rates.shape[1] if tables else 0,
        "step_sizes": [
            (each.title, each.tables[0].equal_rates_step_size, each.setting.step_size) for each in result.disturbed
        ],
        "seconds": sum(each.seconds for each in result.disturbed),
    }
