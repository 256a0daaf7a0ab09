"""Functions on periodic grids of another number of points, and how many points they need."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from foretrain.data._dataset import OperatorDataset

Array = np.ndarray
FEWEST_POINTS = 8
SAME, LEVEL = 1e-6, 1e-2
"""Of the functions' root mean square: values at the two ends that differ by no more are one, if they are this large."""


@dataclass(frozen=True)
class PeriodicGrid:
    """A regular grid of a circle or torus, as files list it: with its end point once, or at both ends of an axis.

    Attributes:
        listed: points along each axis in the data.
        repeated: whether the last of them is the first again.
    """

    listed: tuple[int, ...]
    repeated: tuple[bool, ...]

    @classmethod
    def of(cls, data: OperatorDataset, listed: tuple[int, ...]) -> "PeriodicGrid":
        """Ends are repeated where inputs and outputs of all functions have one value at both."""
        repeated = np.ones(len(listed), bool)
        for values in (data.inputs, data.outputs):
            functions, size = values.reshape(-1, *listed), np.sqrt(np.mean(values**2))
            for axis in range(len(listed)):
                first, last = np.take(functions, 0, axis + 1), np.take(functions, -1, axis + 1)
                # Functions that vanish at both ends of a box have one value there too.
                repeated[axis] &= np.abs(first - last).max() <= SAME * size
                repeated[axis] &= np.sqrt(np.mean(first**2)) >= LEVEL * size
        return cls(listed, tuple(bool(each) for each in repeated))

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis, every one counted once."""
        return tuple(size - again for size, again in zip(self.listed, self.repeated, strict=True))

    @property
    def kept(self) -> Int[Array, " points"]:
        """Numbers of the listed points that are not repetitions."""
        inside = np.indices(self.shape).reshape(len(self.shape), -1)
        return np.asarray(np.ravel_multi_index(tuple(inside), self.listed))

    def own(self, values: Float[Array, "functions listed"]) -> Float[Array, "functions points"]:
        """Values at the grid's own points."""
        return values[:, self.kept] if any(self.repeated) else values

    def all_listed(self, values: Float[Array, "functions points"]) -> Float[Array, "functions listed"]:
        """Values at all points as the data list them."""
        if not any(self.repeated):
            return values
        index = [axis % size for axis, size in zip(np.indices(self.listed), self.shape, strict=True)]
        return values[:, np.ravel_multi_index(tuple(index), self.shape).ravel()]

    def own_points_of(self, data: OperatorDataset) -> OperatorDataset:
        """The data without repetitions."""
        points = data.query_points[self.kept]
        return replace(
            data,
            inputs=self.own(data.inputs),
            outputs=self.own(data.outputs),
            sensor_points=points,
            query_points=points,
        )


def resample(
    values: Float[Array, "functions points"], grid_shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> Float[Array, "functions new_points"]:
    """The trigonometric interpolants of functions on one periodic grid, at the points of another one.

    Waves that the smaller of the two grids cannot tell apart, |k| >= n / 2, are left out.
    """
    if new_shape == grid_shape:
        return values
    axes = tuple(range(1, 1 + len(grid_shape)))
    spectrum = np.fft.fftn(np.reshape(values, (-1, *grid_shape)), axes=axes)
    for axis, (size, new_size) in enumerate(zip(grid_shape, new_shape, strict=True), 1):
        if size != new_size:
            spectrum = _other_size(spectrum, axis, new_size)
    factor = math.prod(new_shape) / math.prod(grid_shape)
    return factor * np.fft.ifftn(spectrum, axes=axes).real.reshape(len(values), -1)


def sufficient_resolution(
    outputs: Float[Array, "functions points"], grid_shape: tuple[int, ...], lost: float
) -> tuple[int, ...]:
    """The coarsest grid on which the outputs lose no more than `lost` in the mean relative L2 norm.

    It has the same share of the points along every axis, counts that factor into 2, 3 and 5; `grid_shape` if none does.
    """
    axes = tuple(range(1, 1 + len(grid_shape)))
    power = np.abs(np.fft.fftn(np.reshape(outputs, (-1, *grid_shape)), axes=axes)) ** 2
    waves = np.meshgrid(*[np.abs(np.fft.fftfreq(size)) for size in grid_shape], indexing="ij")
    highest = np.max(waves, axis=0)
    total = np.sum(power, axis=axes)
    total = np.where(total > 0, total, 1.0)
    for size in range(FEWEST_POINTS, max(grid_shape), 2):
        share = size / max(grid_shape)
        shape = tuple(max(FEWEST_POINTS, 2 * math.ceil(share * each / 2)) for each in grid_shape)
        if not all(_is_smooth(each) for each in shape) or any(map(int.__ge__, shape, grid_shape)):
            continue
        beyond = np.sum(power, axis=axes, where=highest >= share / 2) / total
        if np.mean(np.sqrt(beyond)) <= lost:
            return shape
    return grid_shape


def _other_size(spectrum: Array, axis: int, new_size: int) -> Array:
    kept = (min(spectrum.shape[axis], new_size) - 1) // 2
    waves = np.r_[0 : kept + 1, -kept:0]
    changed = np.zeros((*spectrum.shape[:axis], new_size, *spectrum.shape[axis + 1 :]), complex)
    place = (slice(None),) * axis + (waves,)
    changed[place] = spectrum[place]
    return changed


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1
