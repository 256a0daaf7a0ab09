"""Forecast beside measurement: how far apart they are, and where."""

from dataclasses import dataclass

import numpy as np

from foretrain.report._run_folder import Record, RunFolder

TOLERANCE = 0.05  # a forecast further than this from the measurement is called off, in words


@dataclass(frozen=True)
class Gap:
    """The largest relative distance |forecast / measured - 1| over the checked steps, and its step."""

    value: float
    step: int

    @property
    def is_off(self) -> bool:
        return self.value > TOLERANCE


def ratio(row: Record, quantity: str) -> float | None:
    """forecast / measured of `quantity` ("loss" or "test_error") at one checked step, or None if not measured."""
    stored = row.get("loss_ratio" if quantity == "loss" else "test_ratio")
    if stored is not None:
        return float(stored)
    forecast, measured = row.get(f"forecast_{quantity}"), row.get(f"measured_{quantity}")
    return forecast / measured if forecast is not None and measured else None


def checked_rows(run: RunFolder) -> list[Record]:
    """The steps at which the forecast was compared with the run, in order; empty before training."""
    rows = (run.forecast or {}).get("checked") or []
    return sorted(rows, key=lambda row: row["step"])


def largest_gap(rows: list[Record], quantity: str) -> Gap | None:
    """The worst checked step for `quantity`, or None if it was never measured."""
    gaps = [Gap(abs(value - 1), row["step"]) for row in rows if (value := ratio(row, quantity)) is not None]
    return max(gaps, key=lambda gap: gap.value, default=None)


def measured_points(run: RunFolder, quantity: str) -> tuple[list[int], list[float]]:
    """Steps and finite measured values of `quantity`, in order; after a resume the later line counts."""
    values = {row["step"]: row.get(quantity) for row in run.metrics or []}
    for row in checked_rows(run):
        values.setdefault(row["step"], row.get(f"measured_{quantity}"))
    finite = {step: value for step, value in values.items() if value is not None and np.isfinite(value)}
    steps = sorted(finite)
    return steps, [finite[step] for step in steps]


def interpolate(steps: list[int], values: list[float | None], at: list[int] | list[float]) -> np.ndarray:
    """The curve `values` over `steps` read off at other steps, straight in log(1 + step); NaN outside the curve."""
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not known:
        return np.full(len(at), np.nan)
    positions, heights = np.array(known, dtype=float).T
    wanted = np.log1p(np.maximum(np.asarray(at, dtype=float), 0))
    return np.interp(wanted, np.log1p(np.maximum(positions, 0)), heights, left=np.nan, right=np.nan)


def band(forecast: Record, quantity: str) -> tuple[list[float | None], list[float | None]] | None:
    """The lower and upper curve of the forecast `quantity`, or None where no band was computed."""
    prefix = "" if quantity == "loss" else "test_error_"
    lower, upper = forecast.get(f"{prefix}lower"), forecast.get(f"{prefix}upper")
    return (lower, upper) if lower and upper else None


def inside_band(run: RunFolder, quantity: str) -> tuple[int, int] | None:
    """How many measured points lie inside the forecast's band, of how many; None if there is nothing to count."""
    edges = band(run.forecast or {}, quantity)
    steps, values = measured_points(run, quantity)
    if edges is None or not steps or run.forecast is None:
        return None
    lower, upper = (interpolate(run.forecast["steps"], edge, steps) for edge in edges)
    covered = np.isfinite(lower) & np.isfinite(upper)
    # A band of zero width (the initial loss is known exactly) must not reject its own centre by a rounding error.
    slack = 1e-9 * np.abs(values)
    inside = covered & (np.array(values) >= lower - slack) & (np.array(values) <= upper + slack)
    return (int(inside.sum()), int(covered.sum())) if covered.any() else None
