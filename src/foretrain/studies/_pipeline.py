"""The main job, end to end: plan, forecast, train, certify, fit, compress, and a folder that records it all."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import Progress, ignore_progress, require_extra, write_atomically, write_json
from foretrain.compression import Budget, CompressedModel
from foretrain.data import OperatorDataset, mean_relative_error, regular_grid_shape, relative_errors
from foretrain.deployment import compress_with_trust
from foretrain.forecast import Forecast, Plan, explain_modes, forecast, log_spaced_steps, plan, toml_value
from foretrain.studies._environment import environment
from foretrain.tangent import InfiniteWidthOperator, settings_record
from foretrain.training import Run, save_weights, train

CHECKED_STEPS = (10, 30, 100, 300, 1000, 3000, 10_000)
SHOWN = (("best", 0.0), ("median", 0.5), ("90th percentile", 0.9), ("worst", 1.0))
Tell = Callable[[str, Any], None]


@dataclass(frozen=True)
class PipelineSettings:
    """What a run of the main job depends on, beside the data.

    Attributes:
        target_error: relative L2 error the plan aims at.
        steps: of gradient descent.
        tolerance: of the forecast, decides the width.
        error_budget, numbers_budget: of the shipped model: mean relative L2 error, numbers in the file.
        fresh: inputs drawn anew for the student to learn from, labelled by the closed form.
        evaluations: of the student's loss while it is distilled (more is better and slower).
        key: seed of everything drawn.
        price_per_hour: of this machine.
    """

    target_error: float = 0.02
    steps: int = 1000
    tolerance: float = 0.03
    error_budget: float = 0.012
    numbers_budget: int = 20_000
    fresh: int = 1500
    evaluations: int = 220
    key: int = 0
    price_per_hour: float = 0.0


@dataclass(frozen=True)
class PipelineResult:
    """Everything the main job made."""

    folder: Path
    plan: Plan
    forecast: Forecast
    run: Run
    exact: InfiniteWidthOperator
    compressed: CompressedModel
    checked: list[dict[str, float]]
    seconds: float
    trust: str


def run_pipeline(
    learn: OperatorDataset,
    test: OperatorDataset,
    folder: Path,
    settings: PipelineSettings,
    source: dict[str, Any],
    command: str,
    *,
    tell: Tell = lambda name, value: None,
    progress: Progress = ignore_progress,
) -> PipelineResult:
    """Plans, forecasts, trains, certifies, fits and compresses; writes every result into the run folder as it comes.

    Arguments:
        learn, test: training functions, and functions never learnt from.
        folder: of the run; made when the first file is written.
        settings: see `PipelineSettings`.
        source: where the data came from, for config.toml.
        command: that was typed, for environment.json.
        tell: called with the name and value of each finished part.
    """
    for module, extra in (("onnx", "onnx"), ("onnxruntime", "onnx"), ("jinja2", "report"), ("plotly", "report")):
        require_extra(module, extra)
    started = time.perf_counter()
    _write_start(folder, learn, test, settings, source, command)

    planned = plan(
        learn,
        settings.target_error,
        steps=settings.steps,
        tolerance=settings.tolerance,
        key=settings.key,
        price_per_hour=settings.price_per_hour,
        test=test,
        progress=progress,
    )
    planned.save(folder / "plan.toml")
    write_json(folder / "plan.json", planned.as_dict())
    tell("plan", planned)

    told = forecast(
        learn,
        planned.model,
        planned.method,
        settings.steps,
        test,
        key=settings.key,
        basis="drawn weights",
        cost=planned.cost,
        progress=progress,
    )
    write_json(folder / "forecast.json", _forecast_record(planned, told, learn, []))
    tell("forecast", told)

    run = train(
        learn,
        planned,
        test=test,
        told=told,
        checkpoint=folder / "checkpoint.safetensors",
        resume=True,
        progress=progress,
    )
    checked = checked_steps(planned.forecast, told, run)
    _write_training(folder, planned, told, run, checked)
    tell("run", (run, checked))

    exact, record = _fit(planned, learn, test, progress)
    write_json(folder / "exact.json", record)
    tell("fit", record)

    compressed, trust = compress_with_trust(
        exact,
        Budget(error=settings.error_budget, numbers=settings.numbers_budget),
        learn,
        test,
        fresh=settings.fresh,
        evaluations=settings.evaluations,
        key=settings.key,
        card=_card(learn, exact, run, folder, command),
        progress=progress,
    )
    write_json(folder / "compression.json", {**compressed.as_dict(), "trust": trust})
    if compressed.chosen is not None:
        compressed.export(folder / "model.onnx")
    else:
        # One that an earlier run left in this folder would not be this run's.
        (folder / "model.onnx").unlink(missing_ok=True)
    _write_fields(folder, exact, compressed, test)
    tell("compress", compressed)
    seconds = time.perf_counter() - started
    return PipelineResult(folder, planned, told, run, exact, compressed, checked, seconds, trust)


def checked_steps(limit: Forecast, told: Forecast, run: Run) -> list[dict[str, float]]:
    """Forecast beside measured at round steps, with their ratios, for both kernels."""
    rows = []
    for measurement in run.certificate.measurements:
        step = measurement.step
        if step not in CHECKED_STEPS or told.test_error is None or measurement.test_error is None:
            continue
        rows.append(
            {
                "step": step,
                "forecast_loss": float(told.loss[step]),
                "measured_loss": measurement.loss,
                "loss_ratio": float(told.loss[step]) / measurement.loss,
                "data_only_loss_ratio": float(limit.loss[step]) / measurement.loss,
                "forecast_test_error": float(told.test_error[step]),
                "measured_test_error": measurement.test_error,
                "test_ratio": float(told.test_error[step]) / measurement.test_error,
                "data_only_test_ratio": float(limit.test_error[step]) / measurement.test_error
                if limit.test_error is not None
                else float("nan"),
            }
        )
    return rows


def _write_start(
    folder: Path,
    learn: OperatorDataset,
    test: OperatorDataset,
    settings: PipelineSettings,
    source: dict[str, Any],
    command: str,
) -> None:
    lines = [f"# replay with: foretrain run {folder / 'config.toml'}"]
    for title, table in (("data", source), ("run", vars(settings))):
        lines += ["", f"[{title}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    text = "\n".join(lines) + "\n"
    write_atomically(folder / "config.toml", lambda file: file.write(text.encode()))
    write_json(folder / "environment.json", environment(command))
    write_json(
        folder / "data.json",
        {
            "name": learn.name,
            "equation": learn.description.get("equation", ""),
            "train": len(learn),
            "test": len(test),
            "sensors": learn.inputs.shape[1],
            "query_points": learn.outputs.shape[1],
            "query_grid_shape": regular_grid_shape(learn.query_points) or [learn.outputs.shape[1]],
            "sensor_grid_shape": regular_grid_shape(learn.sensor_points) or [learn.inputs.shape[1]],
            "fingerprint": learn.fingerprint,
        },
    )


def _forecast_record(
    planned: Plan, told: Forecast, learn: OperatorDataset, checked: list[dict[str, float]]
) -> dict[str, Any]:
    marks = log_spaced_steps(told.steps)
    targets = sorted({planned.target_error, 0.5, 0.2, 0.1, 0.05, 0.02}, reverse=True)
    record = told.as_dict(marks)
    record["steps_to"] = {f"{target:g}": planned.forecast.steps_to(target) for target in targets}
    record["horizon"] = planned.forecast.horizon
    record["from_data_alone"] = planned.forecast.as_dict(marks)
    record["modes"] = explain_modes(told.curves, told.method, told.steps, query_points=learn.query_points).as_dict()
    if checked:
        record["checked"] = checked
    return record


def _write_training(folder: Path, planned: Plan, told: Forecast, run: Run, checked: list[dict[str, float]]) -> None:
    write_json(folder / "forecast.json", _forecast_record(planned, told, run.train, checked))
    write_json(folder / "certificate.json", run.certificate.as_dict())
    lines = [
        json.dumps(
            {
                "step": m.step,
                # A loss beyond all numbers, the mark of instability, is null: JSON has no infinity.
                "loss": m.loss if np.isfinite(m.loss) else None,
                "test_error": m.test_error,
                "seconds": m.seconds,
            }
        )
        for m in run.certificate.measurements
    ]
    write_atomically(folder / "metrics.jsonl", lambda file: file.write(("\n".join(lines) + "\n").encode()))
    save_weights(folder / "weights.safetensors", run.network)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _fit(
    planned: Plan, learn: OperatorDataset, test: OperatorDataset, progress: Progress
) -> tuple[InfiniteWidthOperator, dict[str, Any]]:
    """Fits every form the plan found settings for; keeps the one better on held-out training functions."""
    best = min(planned.forms, key=lambda report: report.held_out_error)
    kept, rows = None, []
    for report in planned.forms:
        started = time.perf_counter()
        operator = InfiniteWidthOperator(settings=report.settings, progress=progress).fit(learn)
        fitted = time.perf_counter()
        error = mean_relative_error(operator.predict(test.inputs), test.outputs)
        rows.append(
            {
                "form": report.form,
                "description": str(report.settings),
                "settings": settings_record(report.settings),
                "held_out_error": report.held_out_error,
                "test_error": error,
                "choice_seconds": report.seconds,
                "fit_seconds": fitted - started,
                "predict_seconds": time.perf_counter() - fitted,
                "residual": operator.relative_residual_,
                "jitter": operator.jitter_,
            }
        )
        kept = operator if report is best else kept
    if kept is None:
        raise RuntimeError("the plan holds no closed form")
    kept.progress = ignore_progress
    return kept, {"chosen": best.form, "forms": rows}


def _card(
    learn: OperatorDataset, exact: InfiniteWidthOperator, run: Run, folder: Path, command: str
) -> dict[str, object]:
    return {
        "name": learn.name,
        "equation": str(learn.description.get("equation", "")),
        "data_fingerprint": learn.fingerprint,
        "teacher": f"infinite width, {exact.form_} form",
        "certificate": run.certificate.verdict,
        "command": command,
        "replay": f"foretrain run {folder / 'config.toml'}",
    }


def _write_fields(
    folder: Path, exact: InfiniteWidthOperator, compressed: CompressedModel, test: OperatorDataset
) -> None:
    prediction = exact.predict(test.inputs)
    errors = relative_errors(prediction, test.outputs)
    order = np.argsort(errors)
    rows = [int(order[round(share * (len(order) - 1))]) for _, share in SHOWN]
    fields = {
        "inputs": test.inputs[rows],
        "truth": test.outputs[rows],
        "prediction": prediction[rows],
        "query_points": test.query_points,
        "sensor_points": test.sensor_points,
        "errors": errors[rows],
        "labels": np.array([label for label, _ in SHOWN]),
    }
    if compressed.chosen is not None:
        fields["compressed"] = compressed.predict(test.inputs[rows])
    write_atomically(folder / "fields.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **fields))


def with_overrides(settings: PipelineSettings, table: dict[str, Any]) -> PipelineSettings:
    """Settings with the values of a [run] table; unknown names are refused by `dataclasses.replace`."""
    return replace(settings, **table)
