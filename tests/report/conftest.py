"""A run folder as foretrain writes one, with made-up but lifelike figures; every number comes from one seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Write = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Writes a complete run folder below the test's own directory and returns it."""
    return lambda name="burgers-run", **options: write_run_folder(tmp_path / name, **options)


def write_run_folder(folder: Path, dimension: int = 1, seed: int = 0, without: tuple[str, ...] = ()) -> Path:
    """Writes every file of a run but those in `without`; `dimension` is that of the functions' domain (1 or 2)."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    records = {
        "environment.json": _environment(),
        "data.json": _data(dimension),
        "plan.json": _plan(),
        "forecast.json": _forecast(),
        "certificate.json": _certificate(generator),
        "exact.json": _exact(),
        "compression.json": _compression(),
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _metrics(generator)))
    (folder / "config.toml").write_text('[data]\nproblem = "burgers"\nsamples = 1200\n\n[plan]\ntarget_error = 0.02\n')
    np.savez(folder / "fields.npz", **(_fields_1d(generator) if dimension == 1 else _fields_2d(generator)))
    for name in without:
        (folder / name).unlink()
    return folder


def _environment() -> dict[str, Any]:
    return {
        "foretrain": "0.1.0",
        "python": "3.11.7",
        "jax": "0.10.2",
        "numpy": "2.4.6",
        "platform": "Linux x86_64",
        "cores": 2,
        "device": "cpu",
        "date": "2026-11-22T01:02:03Z",
        "command": "foretrain demo",
        "git": "abc1234",
    }


def _data(dimension: int) -> dict[str, Any]:
    one = {"name": "Burgers, viscosity 0.0159", "equation": "u_t + u u_x = nu u_xx, periodic"}
    two = {"name": "Darcy flow, rough coefficients", "equation": "-div(a grad u) = 1, u = 0 on the boundary"}
    grid, points = ([128], 128) if dimension == 1 else ([29, 29], 841)
    return {
        **(one if dimension == 1 else two),
        "train": 1000,
        "test": 200,
        "sensors": points,
        "query_points": points,
        "query_grid_shape": grid,
        "sensor_grid_shape": grid,
        "fingerprint": "sha256:5b1f0c2f7c3e9a",
    }


def _plan() -> dict[str, Any]:
    rows = [
        ("activation", "relu", "lowest error on held-out training functions, of relu, erf and sin", "computation"),
        ("input scale", 0.5, "the same held-out functions, four scales tried", "computation"),
        ("form", "block", "its kernel drifts less than that of the shared form at equal cost", "estimate"),
        ("width", 512, "kernel noise 1/sqrt(width) keeps the forecast within 5 %", "estimate"),
        ("branch width", 32, "more does not lower the noise of the trunk term", "estimate"),
        ("step size", 3.217e-4, "1 / largest eigenvalue: the loss cannot increase", "guarantee"),
    ]
    routes = [
        ("gradient descent", 1.2e7, 6.1e5, 41_000_000, 0.02, "estimate", "falls like a small power of the step", False),
        ("momentum", 9.4e4, 4800.0, 45_000_000, 0.02, "estimate", "Chebyshev weights", False),
        ("two timescales", 400, 75.0, 120_000_000, 0.006, "estimate", "outer layer solved, filters learnt", False),
        ("closed form, Fourier", None, 14.0, 310_000_000, 0.0017, "computation", "one solve per frequency", True),
    ]
    row_keys = ("name", "value", "reason", "status")
    route_keys = ("name", "steps", "seconds", "bytes", "test_error", "status", "note", "chosen")
    return {
        "target_error": 0.02,
        "rows": [dict(zip(row_keys, row, strict=True)) for row in rows],
        "routes": [dict(zip(route_keys, route, strict=True)) for route in routes],
    }


def _loss(step: np.ndarray | float) -> Any:
    return 6410 * (0.35 * np.exp(-np.asarray(step) / 6) + 0.65 * (1 + np.asarray(step) / 12) ** -0.62)


def _error(step: np.ndarray | float) -> Any:
    return 0.98 * (1 + np.asarray(step) / 6) ** -0.245 + 0.002


def _forecast() -> dict[str, Any]:
    steps = np.unique(np.r_[0, np.geomspace(1, 10_000, 90).round()]).astype(int)
    loss, error, doubt = _loss(steps), _error(steps), 0.01 + 0.012 * np.log10(1 + steps)
    checked = []
    for step, loss_ratio, test_ratio in ((10, 1.002, 0.999), (30, 0.996, 1.001), (100, 0.991, 1.003)):
        checked.append(_check(step, loss_ratio, test_ratio))
    checked += [_check(300, 0.994, 1.0057), _check(1000, 0.9862, 1.0041)]
    return {
        "steps": steps.tolist(),
        "loss": loss.tolist(),
        "lower": (loss * (1 - doubt * (steps > 0))).tolist(),
        "upper": (loss * (1 + doubt * (steps > 0))).tolist(),
        "test_error": error.tolist(),
        "test_error_lower": (error * (1 - 0.5 * doubt)).tolist(),
        "test_error_upper": (error * (1 + 0.5 * doubt)).tolist(),
        "worst_case_loss": (loss[0] * (1 - 2.3e-7) ** steps).tolist(),
        "initial_loss": float(loss[0]),
        "step_size": 3.217e-4,
        "steps_to": {"0.1": 61_200, "0.02": 12_340_000},
        "best_stopping_step": 10_000,
        "worst_case_rate": 2.3e-7,
        "seconds": 52.0,
        "bytes": 41_000_000,
        "checked": checked,
    }


def _check(step: int, loss_ratio: float, test_ratio: float) -> dict[str, float]:
    loss, error = float(_loss(step)), float(_error(step))
    return {
        "step": step,
        "forecast_loss": loss,
        "measured_loss": loss / loss_ratio,
        "loss_ratio": loss_ratio,
        "forecast_test_error": error,
        "measured_test_error": error / test_ratio,
        "test_ratio": test_ratio,
    }


def _metrics(generator: np.random.Generator) -> list[dict[str, Any]]:
    lines = []
    for step in [*range(10), *range(10, 100, 5), *range(100, 1001, 20)]:
        drift = 1 + 0.004 * np.log10(1 + step) + 0.001 * generator.standard_normal()
        error = float(_error(step)) * (1 + 0.002 * generator.standard_normal()) if step % 10 == 0 else None
        lines.append({"step": step, "loss": float(_loss(step)) * drift, "test_error": error, "seconds": 0.048 * step})
    return lines


def _certificate(generator: np.random.Generator) -> dict[str, Any]:
    steps = [1, 3, 10, 30, 100, 300, 1000]
    measurements = [
        {
            "step": step,
            "trunk_distance": 0.0021 * step**0.33 * (1 + 0.03 * generator.standard_normal()),
            "branch_distance": 0.0009 * step**0.35 * (1 + 0.03 * generator.standard_normal()),
            "kernel_drift": 0.0011 * step**0.41 * (1 + 0.05 * generator.standard_normal()),
        }
        for step in steps
    ]
    checks = [
        ("weights' distance from start (trunk)", 0.021, 0.31, "", "guarantee", "the radius the theorem allows"),
        ("weights' distance from start (branch)", 0.0101, 0.055, "", "guarantee", "the radius the theorem allows"),
        ("kernel drift on probes", 0.0187, 0.05, "", "estimate", "change of the tangent kernel on random probes"),
        ("loss in the forecast band", 1.0, 1.0, "", "computation", "share of steps inside the band"),
        ("loss below the worst-case rate", 0.53, 1.0, "", "guarantee", "largest ratio of loss to the guaranteed bound"),
    ]
    keys = ("name", "value", "limit", "unit", "status", "meaning")
    return {
        "verdict": "held",
        "first_violation": None,
        "sentence": "All five checks held up to step 1000: the network stayed in the regime the forecast describes.",
        "checks": [{**dict(zip(keys, check, strict=True)), "held": True} for check in checks],
        "measurements": measurements,
    }


def _exact() -> dict[str, Any]:
    keys = ("form", "description", "held_out_error", "test_error", "fit_seconds", "predict_seconds", "residual")
    forms = [
        ("branch-trunk", "relu, input scale 0.5", 0.0461, 0.0442, 1.9, 0.31, 2.1e-9),
        ("fourier", "Matern 7/2, length 2, odd reflection", 0.0018, 0.0016, 14.2, 1.7, 3.4e-10),
    ]
    return {"chosen": "fourier", "forms": [dict(zip(keys, form, strict=True)) for form in forms]}


def _compression() -> dict[str, Any]:
    keys = ("name", "format", "numbers", "bytes", "test_error", "latency_seconds", "within_budget", "chosen", "note")
    rows = [
        ("teacher (infinite width)", "kernel", 128_000, 1_024_000, 0.0016, 0.011, False, False, "exact, not small"),
        ("pruned network", "float32", 41_200, 164_800, 0.031, 3.1e-4, False, False, "no gradient step"),
        ("student", "float32", 18_944, 75_776, 0.0072, 2.0e-4, True, True, ""),
        ("student", "int8", 18_944, 22_500, 0.0164, 1.4e-4, False, False, "int8 costs 0.9 % error"),
        ("small student", "float32", 6_400, 25_600, 0.0141, 1.1e-4, False, False, ""),
    ]
    agreements = (None, 2.1e-7, 3e-7, None, 2.6e-7)
    pairs = zip(rows, agreements, strict=True)
    return {
        "budget": {"error": 0.012, "numbers": 20_000, "bytes": None, "latency": None},
        "rows": [{**dict(zip(keys, row, strict=True)), "agreement": agreement} for row, agreement in pairs],
        "stages": [
            {"name": "prune", "error_before": 0.26, "error_after": 0.031, "seconds": 1.2},
            {"name": "distil", "error_before": 0.036, "error_after": 0.0072, "seconds": 71.0},
            {"name": "quantise", "error_before": 0.0072, "error_after": 0.0164, "seconds": 2.5},
        ],
    }


def _fields_1d(generator: np.random.Generator, points: int = 128) -> dict[str, np.ndarray]:
    grid = np.arange(points) / points
    waves = np.fft.rfftfreq(points, 1 / points)
    noise = generator.standard_normal((4, waves.size)) + 1j * generator.standard_normal((4, waves.size))
    start = np.fft.irfft(noise * 625 / (4 * np.pi**2 * waves**2 + 25) ** 2 * (waves > 0) * 40, points) * 8
    truth = _burgers(start, waves)
    sizes = np.array([0.0006, 0.0013, 0.0027, 0.0094])
    steepness = np.abs(np.gradient(truth, axis=1)) + 0.1 * truth.std()
    shape = steepness * np.fft.irfft(np.fft.rfft(generator.standard_normal((4, points))) * (waves < 20), points)
    shape *= np.linalg.norm(truth, axis=1, keepdims=True) / np.linalg.norm(shape, axis=1, keepdims=True)
    return {
        "inputs": start,
        "truth": truth,
        "prediction": truth + sizes[:, None] * shape,
        "compressed": truth + (3 * sizes[:, None] + 0.003) * np.roll(shape, 3, axis=1),
        "query_points": grid[:, None],
        "sensor_points": grid[:, None],
        "errors": sizes,
        "labels": np.array(["best", "median", "90th percentile", "worst"]),
    }


def _burgers(start: np.ndarray, waves: np.ndarray, steps: int = 400) -> np.ndarray:
    """Pseudo-spectral Burgers with an integrating factor and Heun's method, to time 1."""
    decay = np.exp(-0.0159 * (2 * np.pi * waves) ** 2 / steps)
    keep = waves < 2 / 3 * waves.max()

    def slope(spectrum: np.ndarray) -> np.ndarray:
        square = np.fft.irfft(spectrum, start.shape[1]) ** 2
        return -1j * np.pi * waves * keep * np.fft.rfft(square) / steps

    spectrum = np.fft.rfft(start)
    for _ in range(steps):
        first = slope(spectrum)
        second = slope(decay * (spectrum + first))
        spectrum = decay * spectrum + 0.5 * (decay * first + second)
    return np.fft.irfft(spectrum, start.shape[1])


def _fields_2d(generator: np.random.Generator, side: int = 29) -> dict[str, np.ndarray]:
    axis = np.linspace(0, 1, side)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    inputs, truth, shape = np.zeros((3, 4, side * side))
    for k in range(4):
        for i, j in np.ndindex(6, 6):
            a, b = generator.standard_normal(2)
            inputs[k] += a * np.cos(np.pi * i * x) * np.cos(np.pi * j * y) / (1 + i * i + j * j)
            truth[k] += (
                (a + 3 * (i + j == 0)) * np.sin(np.pi * (i + 1) * x) * np.sin(np.pi * (j + 1) * y) / (2 + i * i + j * j)
            )
            shape[k] += b * np.sin(np.pi * (i + 1) * x) * np.sin(np.pi * (j + 1) * y)
    inputs = np.where(inputs > 0, 12.0, 3.0)
    sizes = np.array([0.008, 0.017, 0.026, 0.047])
    shape *= np.linalg.norm(truth, axis=1, keepdims=True) / np.linalg.norm(shape, axis=1, keepdims=True)
    points = np.stack([x, y], axis=1)
    return {
        "inputs": inputs,
        "truth": truth,
        "prediction": truth + sizes[:, None] * shape,
        "query_points": points,
        "sensor_points": points,
        "errors": sizes,
        "labels": np.array(["best", "median", "90th percentile", "worst"]),
    }
