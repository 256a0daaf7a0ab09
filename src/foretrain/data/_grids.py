"""What the points tell: whether they form a regular grid, and whether functions on it close up periodically."""

import numpy as np
from jaxtyping import Float

from foretrain.data._dataset import OperatorDataset


def regular_grid_shape(points: Float[np.ndarray, "points dimension"]) -> tuple[int, ...] | None:
    """Sizes of the axes if the points are a regular grid listed row by row (last coordinate fastest), else None."""
    axes = [np.unique(np.round(coordinate, 10)) for coordinate in points.T]
    shape = tuple(len(axis) for axis in axes)
    if int(np.prod(shape)) != len(points) or any(size < 2 for size in shape):
        return None
    spacings = [np.diff(axis) for axis in axes]
    if any(np.ptp(spacing) > 1e-6 * spacing.mean() for spacing in spacings):
        return None
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(len(points), -1)
    return shape if np.allclose(grid, points, atol=1e-8 * max(1.0, np.abs(points).max())) else None


def periodic_grid_shape(data: OperatorDataset) -> tuple[int, ...] | None:
    """Sizes of the axes if inputs and outputs live on one regular grid and close up across its ends, else None.

    A function sampled without its repeated end point jumps, from the last point to the first, about as much as between
    neighbours. The test is the root-mean-square jump across the seam against the root-mean-square jump between
    neighbours, which must not be twice as large, along every axis, for inputs and for outputs.
    **This is evidence, not proof:** what is built on it must be checked on held-out functions.
    """
    if data.sensor_points.shape != data.query_points.shape or not np.allclose(data.sensor_points, data.query_points):
        return None
    shape = regular_grid_shape(data.query_points)
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
