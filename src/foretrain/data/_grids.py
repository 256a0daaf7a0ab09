"""What the points tell: whether they form a regular grid, and whether functions on it close up periodically."""

import math

import numpy as np
from jaxtyping import Float

from foretrain.data._dataset import OperatorDataset


def regular_grid_shape(points: Float[np.ndarray, "points dimension"]) -> tuple[int, ...] | None:
    """Sizes of the axes if the points are a regular grid listed row by row (last coordinate fastest), else None.

    Points may be off by a thousandth of the spacing, so that coordinates kept in single precision pass.
    """
    extent = np.ptp(points, axis=0)
    if not np.all(extent > 0):
        return None
    position = (points - points.min(axis=0)) / extent
    # Neighbours on any regular grid of so many points are further apart than this; rounding is not.
    apart = 0.5 / len(points)
    shape = tuple(1 + int(np.sum(np.diff(np.sort(axis)) > apart)) for axis in position.T)
    if math.prod(shape) != len(points):
        return None
    expected = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(points.shape)
    return shape if np.all(np.abs(position * (np.array(shape) - 1) - expected) < 1e-3) else None


def common_grid_shape(data: OperatorDataset) -> tuple[int, ...] | None:
    """Sizes of the axes if sensors and query points are one regular grid, else None."""
    if data.sensor_points.shape != data.query_points.shape:
        return None
    tolerance = 1e-6 * np.ptp(data.query_points, axis=0)
    if np.any(np.abs(data.sensor_points - data.query_points) > tolerance):
        return None
    return regular_grid_shape(data.query_points)


def periodic_grid_shape(data: OperatorDataset) -> tuple[int, ...] | None:
    """Sizes of the axes if inputs and outputs live on one regular grid and close up across its ends, else None.

    A function sampled without its repeated end point jumps, from the last point to the first, about as much as between
    neighbours. The test is the root-mean-square jump across the seam against the root-mean-square jump between
    neighbours, which must not be twice as large, along every axis, for inputs and for outputs.
    **This is evidence, not proof:** what is built on it must be checked on held-out functions.
    """
    shape = common_grid_shape(data)
    if shape is None:
        return None
    for values in (data.inputs, data.outputs):
        functions = values.reshape(len(values), *shape)
        for axis in range(1, functions.ndim):
            steps = np.diff(functions, axis=axis)
            seam = np.take(functions, 0, axis=axis) - np.take(functions, -1, axis=axis)
            if np.sqrt(np.mean(seam**2)) > 2.0 * np.sqrt(np.mean(steps**2)):
                return None
            # An end point listed twice (0 and 1 both on the grid) is a seam without any step: not a periodic sampling.
            if np.sqrt(np.mean(seam**2)) < 0.05 * np.sqrt(np.mean(steps**2)):
                return None
    return shape
