"""`foretrain train --two-timescales`: a small network at its own optimum."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretrain._foundation import ForetrainError, write_json
from foretrain.cli._display import Display, percent, seconds
from foretrain.cli._main_job import command_line
from foretrain.data import OperatorDataset
from foretrain.models import ShallowOperator
from foretrain.studies import environment
from foretrain.training import (
    Expected,
    TwoTimescale,
    TwoTimescaleForecast,
    TwoTimescaleRecord,
    TwoTimescaleRun,
    forecast_two_timescales,
    save_weights,
    train,
)

ROWS = 10


def train_small_network(
    learn: OperatorDataset,
    test: OperatorDataset,
    model: ShallowOperator,
    steps: int,
    key: int,
    folder: Path,
    display: Display,
    rehearse: bool = True,
) -> TwoTimescaleRun:
    """Trains in the two-timescale limit, shows how it went, writes weights and figures into the folder.

    With `rehearse`, what it will cost and reach is forecast before, and shown beside what it did cost and reach.
    """
    told = _forecast(learn, model, steps, key, display) if rehearse else None
    run = train(learn, model, TwoTimescale(), steps=steps, test=test, key=key, progress=display)
    numbers = model.parameter_count(learn)
    display.heading(f"Two timescales: {model.width} trunk and {model.branch_width} branch neurons, {numbers:,} numbers")
    display.table(
        ("evaluations", "loss", "held-out error", "test error", "seconds"),
        [
            (
                f"{record.step:,}",
                f"{record.loss:.3g}",
                percent(record.held_out_error),
                percent(record.test_error),
                f"{record.seconds:.1f}",
            )
            for record in _spread_out(run.records)
        ],
        right=("evaluations", "loss", "held-out error", "test error", "seconds"),
    )
    display.line(f"  {run.verdict}")
    display.line(f"  kept: the weights of least held-out error, {percent(run.test_error)} test error")
    compared = None if told is None else _show_beside(told, run, display)
    figures = {
        "verdict": run.verdict,
        "held": run.held,
        "numbers": numbers,
        "test_error": run.test_error,
        "seconds": run.seconds,
        "evaluations": run.evaluations,
        "forecast": compared,
        "records": [vars(record) for record in run.records],
    }
    save_weights(folder / "weights.safetensors", run.network)
    write_json(folder / "two_timescales.json", figures)
    write_json(folder / "environment.json", environment(command_line()))
    display.line(f"{seconds(run.seconds)} of training; figures and weights in {folder}")
    shown = ("verdict", "test_error", "numbers", "seconds", "evaluations", "forecast")
    display.result({"folder": str(folder), **{name: figures[name] for name in shown}})
    return run


def _forecast(
    learn: OperatorDataset, model: ShallowOperator, steps: int, key: int, display: Display
) -> TwoTimescaleForecast | None:
    """Before the run, in one line; too few functions to forecast from do not keep them from being trained on."""
    try:
        told = forecast_two_timescales(learn, model, TwoTimescale(), steps=steps, key=key, progress=display)
    except ForetrainError as error:
        display.line(f"no {error}")
        return None
    display.line(f"forecast: {told.said} (90 % bands, estimate; took {seconds(told.spent)} with compiling)")
    return told


def _show_beside(told: TwoTimescaleForecast, run: TwoTimescaleRun, display: Display) -> dict[str, Any]:
    """Forecast and measured, as a table; the same as figures."""
    rows: list[tuple[str, Expected, float | None, Callable[[float | None], str]]] = [
        ("evaluations", told.evaluations, run.evaluations, lambda value: f"{value:,.0f}"),
        ("seconds", told.seconds, run.seconds, seconds),
        ("test error", told.test_error, run.test_error, percent),
    ]
    display.heading("Forecast and measured")
    display.table(
        ("", "forecast", "90 % band (estimate)", "measured", "in the band"),
        [
            (
                name,
                shown(band.value),
                f"{shown(band.lower)} to {shown(band.upper)}",
                shown(measured),
                _held(band, measured),
            )
            for name, band, measured, shown in rows
        ],
        right=("forecast", "90 % band (estimate)", "measured"),
    )
    compared: dict[str, Any] = {
        name.replace(" ", "_"): {**asdict(band), "measured": measured} for name, band, measured, _ in rows
    }
    return {
        **compared,
        "spent": told.spent,
        "compiling_seconds": told.compiling_seconds,
        "rehearsed": told.records[-1].step,
    }


def _held(band: Expected, measured: float | None) -> str:
    return "-" if measured is None else "yes" if band.holds(measured) else "no"


def _spread_out(records: tuple[TwoTimescaleRecord, ...]) -> list[TwoTimescaleRecord]:
    """A screenful, the last one always among them."""
    stride = max(1, -(-len(records) // ROWS))
    return [record for place, record in enumerate(records[::-1]) if place % stride == 0][::-1]
