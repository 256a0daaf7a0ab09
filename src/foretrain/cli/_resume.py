"""foretrain forecast --resume: how Adam goes on from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from foretrain._foundation import DataError, require_extra, write_atomically
from foretrain.cli._display import Display, percent
from foretrain.cli._forecast_model import ForecastModel, marks_up_to
from foretrain.cli._tables import ForecastRow, show_forecast
from foretrain.data import OperatorDataset, OutputScale
from foretrain.forecast import (
    AdamCheckpoint,
    AdamForecast,
    Decision,
    Moments,
    TestFunctions,
    TorchAdamKernel,
    forecast_adam,
    load_adam_checkpoint,
    load_torch_checkpoint,
)
from foretrain.tangent import empirical_kernel

SOME_FUNCTIONS = 128
"""The forecast of training by minibatches, whose steps are cheap, rests on so many functions."""
APPLICATIONS = {True: 150, False: 60}
"""Of the kernel, on all functions and on some."""


@dataclass(frozen=True)
class Resumption:
    """What is asked: the checkpoint, so many more steps, a test error to reach, where to draw the curves, a seed."""

    path: Path
    steps: int
    target_error: float
    plot: Path | None
    key: int


def forecast_resumed(
    asked: Resumption, model: ForecastModel, learn: OperatorDataset, test: OperatorDataset, display: Display
) -> None:
    """Reads the checkpoint, forecasts, shows."""
    path, key = asked.path, asked.key
    checkpoint = _checkpoint(path, model, learn, key)
    whole = checkpoint.batch_size is None or checkpoint.batch_size >= len(learn)
    rows = np.sort(np.random.default_rng(key).permutation(len(learn))[: len(learn) if whole else SOME_FUNCTIONS])
    some = learn.take(rows)
    kernel, moments = _kernel(model, checkpoint, some)
    scale = OutputScale.of(some.outputs).scale
    target = some.outputs / scale
    present = float(np.mean((np.asarray(kernel.outputs(), np.float64) - target) ** 2))
    if not np.isfinite(present) or present <= 0:
        raise DataError(f"{path}: expected weights whose loss is finite and not zero, came ones of loss {present}")
    told = forecast_adam(
        kernel,
        target,
        moments,
        checkpoint.settings,
        asked.steps,
        loss_scale=scale**2 if checkpoint.loss is None else checkpoint.loss / present,
        full_batch=whole,
        test=TestFunctions(test.inputs, test.query_points, test.outputs / scale),
        applications=APPLICATIONS[whole],
        progress=display,
    )
    shown = _rows(told)
    decisions = _rests_on(told, checkpoint, len(some), len(learn), asked.target_error)
    show_forecast(display, f"Forecast: {model.name}, Adam, from step {moments.count:,} of {path}", shown, decisions)
    if asked.plot is not None:
        write_atomically(asked.plot, lambda file: file.write(_figure(told).to_html(include_plotlyjs=True).encode()))
        display.line(f"curves: {asked.plot}")
    display.result(
        {
            "model": model.name,
            "method": "adam",
            "checkpoint": str(path),
            "checkpoint_step": moments.count,
            "steps": asked.steps,
            "curve": [vars(row) for row in shown],
            "horizon": told.horizon,
            "target_error": asked.target_error,
            "steps_to_target": _step_of(told, asked.target_error),
            "stages": told.stages,
            "applications": told.applications,
            "curvature": told.curvature,
            "drift": told.drift,
            "functions": len(some),
            "batch_size": checkpoint.batch_size,
            "rests_on": [vars(decision) for decision in decisions],
        }
    )


def _checkpoint(path: Path, model: ForecastModel, learn: OperatorDataset, key: int) -> AdamCheckpoint:
    if model.in_torch:
        return load_torch_checkpoint(path, model.value)
    return load_adam_checkpoint(path, model.network(learn, key))


def _kernel(model: ForecastModel, checkpoint: AdamCheckpoint, data: OperatorDataset) -> tuple[Any, Moments]:
    """The kernel at the checkpoint's weights, and moments like its weights."""
    moments = checkpoint.moments
    if model.in_torch:
        return TorchAdamKernel.of(model.value, data), moments
    first, second, network = map(model.convention, (moments.momentum, moments.second, checkpoint.network))
    trained = jax.tree.map(lambda leaf: leaf is not None, first, is_leaf=lambda leaf: leaf is None)
    if not any(jax.tree.leaves(trained)) or not eqx.is_array(jax.tree.leaves(first)[0]):
        raise DataError("a checkpoint: expected moments of trained weights, came none")
    return empirical_kernel(network, data, trained=trained), Moments(first, second, moments.count)


def _errors_at(told: AdamForecast, steps: list[int]) -> list[float | None]:
    """The test error between the marks, straight in logarithms."""
    if told.test_error is None:
        return [None for _ in steps]
    known = np.isfinite(told.test_error) & (told.test_error > 0)
    marks, errors = np.log1p(told.marks[known]), np.log(told.test_error[known])
    return [float(np.exp(np.interp(np.log1p(step), marks, errors))) for step in steps]


def _rows(told: AdamForecast) -> list[ForecastRow]:
    steps = marks_up_to(told.steps)
    return [
        ForecastRow(
            step,
            float(told.loss[step]),
            float(told.lower[step]),
            float(told.upper[step]),
            error,
            note="extrapolation" if step > told.horizon else "",
        )
        for step, error in zip(steps, _errors_at(told, steps), strict=True)
    ]


def _step_of(told: AdamForecast, target_error: float) -> int | None:
    """The first mark within the horizon at which the test error is reached."""
    if told.test_error is None:
        return None
    reached = (told.test_error <= target_error) & (told.marks <= told.horizon)
    return int(told.marks[np.argmax(reached)]) if np.any(reached) else None


def _rests_on(
    told: AdamForecast, checkpoint: AdamCheckpoint, some: int, functions: int, target_error: float
) -> tuple[Decision, ...]:
    last, count, settings = told.steps, checkpoint.moments.count, checkpoint.settings
    rates = settings.rates(count, last)
    target = _step_of(told, target_error)
    told_loss = "or a multiple of it, by the checkpoint's loss" if checkpoint.loss is not None else "taken to be"
    batches = "all functions at once" if checkpoint.batch_size is None else f"batches of {checkpoint.batch_size}"
    learning_rate = f"learning rate {rates[0]:.3g}" + (f" to {rates[-1]:.3g}" if rates[-1] != rates[0] else "")
    return (
        Decision("checkpoint", f"step {count:,}", f"{learning_rate}, {batches}", "computation"),
        Decision(
            f"loss after {last:,} more steps",
            f"{told.loss[-1]:.4g}",
            f"{told.stages} linear forecasts handed on, {told.applications} applications of the kernel to {some:,} of "
            f"{functions:,} functions",
            "estimate",
        ),
        Decision(
            "its band",
            f"{told.lower[-1]:.4g} to {told.upper[-1]:.4g}",
            "departure of the real network at the foretold weights, and change of Adam's step sizes"
            + ("" if checkpoint.batch_size is None else "; without the noise of batches"),
            "estimate",
        ),
        Decision(
            "horizon",
            f"step {told.horizon:,}",
            "the last at which the real network, at the foretold weights, has about the forecast loss",
            "computation",
        ),
        Decision(
            f"{percent(target_error)} test error",
            f"about step {target:,}" if target is not None else f"not before step {told.horizon:,}",
            "of the marks up to the horizon",
            "estimate",
        ),
        Decision(
            "curvature",
            f"{told.curvature:.2g} of the stable",
            "near 1 training runs at the edge of stability, where the loss goes up and down",
            "computation",
        ),
        Decision("loss trained", "mean squared error", f"{told_loss}; the forecast follows no other", "estimate"),
    )


def _figure(told: AdamForecast) -> Any:
    graph = require_extra("plotly.graph_objects", "report")
    steps = np.unique(np.round(np.logspace(0, np.log10(max(told.steps, 2)), 300)).astype(int))
    steps = steps[steps <= told.steps]
    figure = graph.Figure(
        layout={"xaxis": {"type": "log", "title": "steps from the checkpoint"}, "yaxis": {"type": "log"}}
    )
    colour = "rgb(0,90,181)"
    for values, fill in ((told.lower, None), (told.upper, "tonexty")):
        figure.add_scatter(x=steps, y=values[steps], line={"width": 0, "color": colour}, fill=fill, showlegend=False)
    figure.add_scatter(x=steps, y=told.loss[steps], name="training loss", line={"color": colour})
    if told.test_error is not None:
        later = told.marks > 0
        figure.add_scatter(
            x=told.marks[later], y=told.test_error[later], name="test error", line={"color": "rgb(220,50,32)"}
        )
    figure.add_vline(x=max(told.horizon, 1), line_dash="dot", annotation_text="horizon")
    return figure
