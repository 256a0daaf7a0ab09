"""Scaling and embedding: what a network sees in place of raw values and coordinates."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from foretrain.data._dataset import OperatorDataset
from foretrain.data._grids import periodic_grid_shape

Array = np.ndarray


def array_namespace(values: Any) -> Any:
    """The array library the values belong to (the array API's `__array_namespace__`), NumPy for plain sequences."""
    return values.__array_namespace__() if hasattr(values, "__array_namespace__") else np


@dataclass(frozen=True)
class Embedding:
    """Maps raw input functions and raw query points to what the branch and the trunk network see.

        u -> (input_scale * u, input_bias),      y -> (point_scale * axes(y), point_bias)

    where axes(y) is (cos 2 pi t, sin 2 pi t) for a periodic axis and 2 t - 1 for another, t = (y - lower) / period.

    **The constants matter:** without them the model is positively homogeneous, and two parallel inputs make the least
    eigenvalue of the tangent kernel zero (Xu, Li, Huang, arXiv 2412.05545).

    Attributes:
        input_scale: factor on the raw input values.
        input_bias, point_bias: the appended constants.
        point_scale: factor on the embedded coordinates.
        lower, period: start and length of each axis, [dimension].
        periodic: which axes close up.
    """

    input_scale: float
    lower: tuple[float, ...]
    period: tuple[float, ...]
    periodic: tuple[bool, ...]
    input_bias: float = 1.0
    point_scale: float = 1.0
    point_bias: float = 1.0

    def inputs(self, inputs: Any) -> Any:
        """The embedded input functions [functions, sensors + 1], NumPy or JAX as the argument is."""
        space = array_namespace(inputs)
        scaled = self.input_scale * space.asarray(inputs)
        constant = space.full((len(scaled), 1), self.input_bias, dtype=scaled.dtype)
        return space.concatenate([scaled, constant], axis=1)

    def points(self, points: Any) -> Any:
        """The embedded query points [points, features], NumPy or JAX as the argument is."""
        space = array_namespace(points)
        points = space.asarray(points)
        columns: list[Any] = []
        for axis, periodic in enumerate(self.periodic):
            position = (points[:, axis] - self.lower[axis]) / self.period[axis]
            if periodic:
                columns += [space.cos(2 * np.pi * position), space.sin(2 * np.pi * position)]
            else:
                columns.append(2 * position - 1)
        columns = [self.point_scale * column for column in columns]
        constant = space.full(len(points), self.point_bias, dtype=columns[0].dtype)
        return space.stack([*columns, constant], axis=1)


def choose_embedding(data: OperatorDataset, input_norm: float = 1.0, point_scale: float = 1.0) -> Embedding:
    """The embedding that suits the data: periodic axes where the grid closes up, inputs of a given typical length.

    Arguments:
        data: the training functions.
        input_norm: root mean square, over functions, of the Euclidean length of the scaled input vector.
        point_scale: factor on the embedded coordinates.
    """
    typical = float(np.sqrt(np.mean(np.sum(data.inputs**2, axis=1)))) or 1.0
    lower, upper = data.query_points.min(axis=0), data.query_points.max(axis=0)
    shape = periodic_grid_shape(data)
    if shape is not None:
        spacing = (upper - lower) / (np.asarray(shape) - 1)
        period = upper - lower + spacing
    else:
        period = np.where(upper > lower, upper - lower, 1.0)
    return Embedding(
        input_scale=input_norm / typical,
        lower=tuple(float(x) for x in lower),
        period=tuple(float(x) for x in period),
        periodic=(shape is not None,) * data.query_points.shape[1],
        point_scale=point_scale,
    )


@dataclass(frozen=True)
class OutputScale:
    """Outputs shifted and scaled to zero mean and unit root mean square: z = (s - offset) / scale."""

    offset: float
    scale: float

    @classmethod
    def of(cls, outputs: Float[Array, "functions points"]) -> "OutputScale":
        """The offset and scale that normalise these outputs."""
        return cls(float(np.mean(outputs)), float(np.std(outputs)))

    def normalise(self, outputs: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Physical values to normalised ones."""
        return (np.asarray(outputs, np.float64) - self.offset) / self.scale

    def restore(self, normalised: Float[Array, "functions points"]) -> Float[Array, "functions points"]:
        """Normalised values to physical ones."""
        return np.asarray(normalised, np.float64) * self.scale + self.offset
