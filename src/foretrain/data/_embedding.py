"""Scaling and embedding: what a network sees in place of raw values and coordinates."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from foretrain.data._dataset import OperatorDataset
from foretrain.data._grids import periodic_grid_shape

Array = np.ndarray


def array_namespace(values: Any) -> Any:
    """The array library the values belong to (the array API's `__array_namespace__`), NumPy for plain sequences."""
    return values.__array_namespace__() if hasattr(values, "__array_namespace__") else np


@dataclass(frozen=True)
class InputPrior:
    """A spectral prior on the weights of the first branch layer: smooth filters are likelier than rough ones.

        variance of the weight on mode k  =  (1 + (|k| / mode_scale)^2)^(-decay)

    A network with white weights behind the filter sqrt(variance) in the modes of the input is the same network.

    **Assumption:** the sensors form a regular grid.

    Attributes:
        grid_shape: sensors along each axis.
        mode_scale: wave number from which on the weights decay.
        decay: exponent.
        basis: "cosine" (any domain) or "fourier" (periodic axes).
    """

    grid_shape: tuple[int, ...]
    mode_scale: float
    decay: float = 1.0
    basis: Literal["cosine", "fourier"] = "cosine"

    def filter(self, inputs: Any) -> Any:
        """Weighted coefficients of the inputs [functions, sensors] in the basis, NumPy or JAX as the argument is."""
        space = array_namespace(inputs)
        values = 1.0 * space.asarray(inputs)  # whole numbers would round the transform's entries
        functions = values.reshape(len(values), *self.grid_shape)
        squared = np.zeros(self.grid_shape)
        for axis, size in enumerate(self.grid_shape):
            matrix, wave_numbers = _modes(size, self.basis)
            functions = space.moveaxis(
                space.tensordot(functions, space.asarray(matrix, dtype=values.dtype), axes=(axis + 1, 1)), -1, axis + 1
            )
            squared = squared + np.expand_dims(
                wave_numbers**2, [other for other in range(squared.ndim) if other != axis]
            )
        weights = (1 + squared / self.mode_scale**2) ** (-self.decay / 2)
        return functions.reshape(values.shape) * space.asarray(weights.reshape(-1), dtype=values.dtype)


@functools.lru_cache(maxsize=16)
def _modes(size: int, basis: str) -> tuple[Float[Array, "modes points"], Float[Array, " modes"]]:
    """An orthogonal transform and its wave numbers, in full periods over the axis for either basis."""
    points, numbers = np.arange(size), np.arange(size)
    if basis == "cosine":
        matrix = np.cos(np.pi * np.outer(numbers, points + 0.5) / size) * np.sqrt(2 / size)
        matrix[0] /= np.sqrt(2)
        return matrix, numbers / 2
    waves = (numbers + 1) // 2
    angles = 2 * np.pi * np.outer(waves, points) / size
    matrix = np.where((numbers % 2 == 1)[:, None], np.cos(angles), np.sin(angles)) * np.sqrt(2 / size)
    matrix[0] = 1 / np.sqrt(size)
    if size % 2 == 0:
        matrix[-1] /= np.sqrt(2)
    return matrix, waves.astype(float)


@dataclass(frozen=True)
class Embedding:
    """Maps raw input functions and raw query points to what the branch and the trunk network see.

        u -> (input_scale * prior(u), input_bias),      y -> (point_scale * axes(y), point_bias)

    where prior(u) is u, or its coefficients weighted by a spectral prior, and axes(y) is (cos 2 pi t, sin 2 pi t) for a
    periodic axis and 2 t - 1 for another, t = (y - lower) / period.

    **The constants matter:** without them the model is positively homogeneous, and two parallel inputs make the least
    eigenvalue of the tangent kernel zero (Xu, Li, Huang, arXiv 2412.05545).

    Attributes:
        input_scale: factor on the raw input values.
        input_bias, point_bias: the appended constants.
        point_scale: factor on the embedded coordinates.
        lower, period: start and length of each axis, [dimension].
        periodic: which axes close up.
        prior: spectral prior on the input weights, or None for white weights.
    """

    input_scale: float
    lower: tuple[float, ...]
    period: tuple[float, ...]
    periodic: tuple[bool, ...]
    input_bias: float = 1.0
    point_scale: float = 1.0
    point_bias: float = 1.0
    prior: InputPrior | None = None

    def inputs(self, inputs: Any) -> Any:
        """The embedded input functions [functions, sensors + 1], NumPy or JAX as the argument is."""
        space = array_namespace(inputs)
        values = space.asarray(inputs)
        scaled = self.input_scale * (values if self.prior is None else self.prior.filter(values))
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


@dataclass(frozen=True)
class RawValues:
    """No embedding: the network sees values and coordinates as they are, as a user's own module does."""

    def inputs(self, inputs: Any) -> Any:
        """The input functions themselves."""
        return array_namespace(inputs).asarray(inputs)

    def points(self, points: Any) -> Any:
        """The query points themselves."""
        return array_namespace(points).asarray(points)


def choose_embedding(
    data: OperatorDataset, input_norm: float = 1.0, point_scale: float = 1.0, prior: InputPrior | None = None
) -> Embedding:
    """The embedding that suits the data: periodic axes where the grid closes up, inputs of a given typical length.

    Arguments:
        data: the training functions.
        input_norm: root mean square, over functions, of the Euclidean length of the scaled input vector.
        point_scale: factor on the embedded coordinates.
        prior: spectral prior on the input weights.
    """
    filtered = data.inputs if prior is None else prior.filter(data.inputs)
    typical = float(np.sqrt(np.mean(np.sum(filtered**2, axis=1)))) or 1.0
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
        prior=prior,
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
