"""Tables of the main job's parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foretrain.cli._display import Display, percent, seconds, size
from foretrain.compression import CompressedModel
from foretrain.forecast import Decision, Forecast, ModeReport, Plan
from foretrain.tangent import FormReport
from foretrain.training import Run

MARKS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def show_plan(display: Display, planned: Plan) -> None:
    """The plan's numbers with reasons, its curves and its routes."""
    display.heading("Plan")
    display.table(
        ("what", "value", "why", "status"),
        [(d.name, d.value, d.reason, d.status) for d in planned.decisions],
    )
    display.heading("Forecast from the data alone (90 % band)")
    show_curves(display, planned.forecast)
    target = planned.forecast.steps_to(planned.target_error)
    horizon = planned.forecast.horizon
    reached = f"{target:,} steps" if target else f"not within the {horizon:,} steps this forecast resolves"
    display.line(
        f"  {percent(planned.target_error)} test error: {reached}; best stopping step "
        f"{planned.forecast.best_stopping_step:,} of {planned.steps:,}"
    )
    display.heading("Routes to the target")
    priced = any(route.price for route in planned.routes)
    display.table(
        ("", "route", "test error", "steps", "time", "memory", *(("price",) if priced else ()), "status", "note"),
        [
            (
                "->" if r.chosen else "",
                r.name,
                percent(r.test_error),
                f"{r.steps:,}" if r.steps is not None else "-",
                seconds(r.seconds),
                size(r.bytes),
                *((f"{r.price:.2g}" if r.price is not None else "-",) if priced else ()),
                r.status,
                r.note,
            )
            for r in planned.routes
        ],
        right=("test error", "steps", "time", "memory", "price"),
    )


def show_curves(display: Display, told: Forecast) -> None:
    """Loss and test error at round steps."""
    rows = []
    for step in [mark for mark in MARKS if mark <= told.steps]:
        error = percent(float(told.test_error[step])) if told.test_error is not None else "-"
        band = f"{told.lower[step]:.4g} to {told.upper[step]:.4g}"
        rows.append((f"{step:,}", f"{told.loss[step]:.4g}", band, error))
    display.table(("step", "loss", "band", "test error"), rows, right=("step", "loss", "test error"))


@dataclass(frozen=True)
class ForecastRow:
    """A forecast at one step; the loss is None where it has exploded, what is not known is None too."""

    step: int
    loss: float | None
    lower: float | None = None
    upper: float | None = None
    test_error: float | None = None
    test_error_lower: float | None = None
    test_error_upper: float | None = None
    note: str = ""


def show_forecast(
    display: Display,
    title: str,
    rows: Sequence[ForecastRow],
    decisions: Sequence[Decision],
    advice: str | None = None,
) -> None:
    """Loss and test error at round steps with their bands, and what they rest on."""

    def between(lower: float | None, upper: float | None, text: Any) -> str:
        return "" if lower is None or upper is None else f"{text(lower)} to {text(upper)}"

    display.heading(title)
    columns: dict[str, list[str]] = {
        "step": [f"{row.step:,}" for row in rows],
        "loss": ["unstable" if row.loss is None else f"{row.loss:.4g}" for row in rows],
        "90 % band": [between(row.lower, row.upper, lambda value: f"{value:.4g}") for row in rows],
        "test error": ["" if row.test_error is None else percent(row.test_error) for row in rows],
        "its 90 % band": [between(row.test_error_lower, row.test_error_upper, percent) for row in rows],
        "": [row.note for row in rows],
    }
    known = {name: cells for name, cells in columns.items() if any(cells)}
    display.table(tuple(known), list(zip(*known.values(), strict=True)), right=("step", "loss", "test error"))
    if advice is not None:
        display.line(f"  {advice}")
    if decisions:
        display.heading("What it rests on")
        display.table(("what", "value", "why", "status"), [(d.name, d.value, d.reason, d.status) for d in decisions])


def show_explanation(display: Display, report: ModeReport) -> None:
    """Which part of the target is learnt, and which is not."""
    display.heading(f"What is learnt by step {report.steps:,}")
    display.line(f"  {report.summary}")
    display.table(
        ("modes", "how many", "share of the target", "still missing"),
        [(group.name, str(group.modes), percent(group.share), percent(group.kept)) for group in report.groups],
        right=("how many", "share of the target", "still missing"),
    )


def show_run(display: Display, run: Run, checked: list[dict[str, float]]) -> None:
    """Forecast beside measured, and the certificate."""
    display.heading("Forecast beside measured")
    display.table(
        ("step", "loss forecast", "measured", "off by", "test error forecast", "measured ", "off by "),
        [
            (
                f"{row['step']:,}",
                f"{row['forecast_loss']:.4g}",
                f"{row['measured_loss']:.4g}",
                f"{100 * (row['loss_ratio'] - 1):+.2f} %",
                percent(row["forecast_test_error"]),
                percent(row["measured_test_error"]),
                f"{100 * (row['test_ratio'] - 1):+.2f} %",
            )
            for row in checked
        ],
        right=("step", "loss forecast", "measured", "off by", "test error forecast", "measured ", "off by "),
    )
    display.heading(f"Certificate: {run.certificate.verdict}")
    display.line(f"  {run.certificate.sentence}")
    display.table(
        ("check", "value", "limit", "", "status"),
        [
            (
                c.name,
                f"{c.value:.4g}",
                "none" if math.isinf(c.limit) else f"{c.limit:.3g}",
                "held" if c.held else "NOT held",
                c.status,
            )
            for c in run.certificate.checks
        ],
        right=("value", "limit"),
    )


def show_fit(display: Display, record: dict[str, Any]) -> None:
    """The closed forms."""
    display.heading("Infinite width, in closed form")
    display.table(
        ("", "form", "settings", "held-out error", "test error", "fit", "predict", "residual"),
        [
            (
                "->" if row["form"] == record["chosen"] else "",
                row["form"],
                row["description"],
                percent(row["held_out_error"]),
                percent(row["test_error"]),
                seconds(row["fit_seconds"]),
                seconds(row["predict_seconds"]),
                f"{row['residual']:.1g}",
            )
            for row in record["forms"]
        ],
        right=("held-out error", "test error", "fit", "predict", "residual"),
    )


def show_choice(display: Display, report: FormReport) -> None:
    """What was looked at on the way to a form's hyper-parameters, and what each gave."""
    display.heading(
        f"Choice of the {report.form} form: {len(report.candidates)} settings on {report.learnt_on} functions, "
        f"{seconds(report.seconds)}"
    )
    display.table(
        ("setting", "value", "held-out error", "", ""),
        [
            (
                step.name.replace("_", " "),
                step.value_text,
                percent(step.before),
                f"-> {percent(step.after)}",
                "taken" if step.adopted else "left",
            )
            for step in report.steps
        ],
        right=("held-out error",),
    )


def show_compressed(display: Display, small: CompressedModel) -> None:
    """The front of sizes, errors and latencies; what there is to say about a candidate has a line below the table."""
    display.heading("What can be shipped")
    noted = [c for c in small.candidates if c.as_dict()["note"]]
    display.table(
        ("", "model", "format", "numbers", "file", "test error", "answer in", "note"),
        [
            (
                "->" if c.chosen else "",
                c.name,
                c.format,
                f"{c.numbers:,}",
                size(c.bytes),
                percent(c.test_error),
                seconds(c.latency_seconds),
                f"({noted.index(c) + 1})" if c in noted else "",
            )
            for c in small.candidates
        ],
        right=("numbers", "file", "test error", "answer in"),
    )
    for number, candidate in enumerate(noted, 1):
        display.line(f"  ({number}) {candidate.as_dict()['note']}")
    differences = [c.agreement for c in small.candidates if c.format == "float32" and c.agreement is not None]
    if differences:
        display.line(f"  float32 files answer like their networks to {max(differences):.1g}")
    _show_shares(display, small)


def _show_shares(display: Display, small: CompressedModel) -> None:
    """Where the error of the file to ship, or of the one nearest to the budget, comes from; and what was refused."""
    nearest = small.nearest
    if nearest is not None and nearest.shares is not None:
        limit, shares = small.budget.error, nearest.shares
        display.heading(f"Where its error of {percent(nearest.test_error)} comes from")
        display.table(
            ("step", "part", "of the squared error", *(("of the budget",) if limit else ())),
            [
                (
                    part.name,
                    percent(part.size),
                    f"{100 * part.share:.0f} %",
                    *((f"{100 * part.size / limit:.0f} %",) if limit else ()),
                )
                for part in shares.parts
            ],
            right=("part", "of the squared error", "of the budget"),
        )
        display.line(
            f"  root mean square {percent(shares.total)}; the parts' root sum of squares is "
            f"{percent(shares.if_independent)}"
        )
    for line in small.refused:
        display.line(f"  {line}")
