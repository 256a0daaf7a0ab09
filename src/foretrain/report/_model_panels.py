"""What the model page draws on: a curve over points of a line, or a map over a grid on a plane."""

import base64
import math
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError
from foretrain.data import OperatorDataset, periodic_grid_shape, regular_grid_shape
from foretrain.report._field_charts import _ANSWER, _INPUT

# Inputs with at most so many values, media of two materials for one, are painted with these and no others.
MOST_LEVELS = 4
SAME_MEAN = 0.02
NARROWEST, WIDEST = 0.015, 0.3


def encoded(values: Any) -> str:
    """Single precision in base64, exact for what a model file holds."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def input_panel(functions: OperatorDataset) -> dict[str, Any]:
    """The panel of the inputs, with what a reader may do to them.

    Raises:
        ForetrainError: points that are neither on a line nor a grid on a plane.
    """
    panel = _panel(functions.sensor_points, functions.inputs, "inputs", _INPUT)
    levels = np.unique(functions.inputs)
    shape = periodic_grid_shape(functions)
    means = functions.inputs.mean(axis=1)
    return panel | {
        "levels": levels.tolist() if len(levels) <= MOST_LEVELS else None,
        "periodic": shape is not None,
        "brush": _brush(functions, panel["shape"]),
        # A bump must not give functions a mean where those of training have one and the same.
        "fixed_mean": bool(np.std(means) <= SAME_MEAN * np.std(functions.inputs)),
        "spread": float(np.std(functions.inputs)),
    }


def output_panel(functions: OperatorDataset) -> dict[str, Any]:
    """The panel of the answers.

    Raises:
        ForetrainError: points that are neither on a line nor a grid on a plane.
    """
    return _panel(functions.query_points, functions.outputs, "outputs", _ANSWER)


def _panel(points: np.ndarray, values: np.ndarray, name: str, colours: tuple[str, ...]) -> dict[str, Any]:
    dimension = points.shape[1]
    shape = regular_grid_shape(points) if dimension == 2 else (len(points),) if dimension == 1 else None
    if shape is None or min(shape) < 2:
        raise ForetrainError(
            f"page: expected {name} at points of a line, or of a regular grid on a plane, came {len(points)} points in "
            f"{dimension} dimension{'s' * (dimension > 1)} that are neither; ship the model without a page"
        )
    return {
        "kind": "line" if dimension == 1 else "map",
        "shape": list(shape),
        "points": encoded(points),
        "low": points.min(axis=0).tolist(),
        "high": points.max(axis=0).tolist(),
        "range": [float(values.min()), float(values.max())],
        "colours": list(colours),
    }


def _brush(functions: OperatorDataset, shape: list[int]) -> float:
    """The inputs' own length of variation, sqrt(E u^2 / E |u'|^2), as a share of the panel's width."""
    grids = functions.inputs - functions.inputs.mean()
    if len(shape) == 1:
        order = np.argsort(functions.sensor_points[:, 0])
        grids = grids[:, order]
    grids = grids.reshape(len(grids), *shape)
    slopes = [np.diff(grids, axis=axis + 1) * (size - 1) for axis, size in enumerate(shape)]
    steepness = sum(float(np.mean(slope**2)) for slope in slopes) / len(shape)
    length = math.sqrt(float(np.mean(grids**2)) / steepness) if steepness > 0 else WIDEST
    return float(np.clip(length, NARROWEST, WIDEST / 2))
