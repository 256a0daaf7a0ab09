"""The Fourier form with given hyper-parameters: solve once, predict anywhere."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foretrain._foundation import Progress, ignore_progress
from foretrain.data import OperatorDataset, OutputScale, PeriodicGrid, resample
from foretrain.tangent._circulant import apply_blocks, inverse_transform, transform
from foretrain.tangent._fourier_kernel import FilteredFunctions, FourierKernel, FourierSettings
from foretrain.tangent._fourier_variance import posterior_variance

Array = np.ndarray


@dataclass(frozen=True)
class FourierSolution:
    """G(u)(y) = sum_j sum_y' kappa_{u,j}(y - y') alpha_j(y'), frequency by frequency.

    Functions come and go on the data's grid; the kernel's may be coarser (`FourierSettings.resolution`).
    """

    kernel: FourierKernel
    functions: FilteredFunctions
    coefficients: Float[Array, "frequencies functions"]
    train: OperatorDataset
    scale: OutputScale
    relative_residual: float
    jitter: tuple[float, float]
    grid: PeriodicGrid

    @classmethod
    def solve(
        cls,
        train: OperatorDataset,
        settings: FourierSettings,
        scale: OutputScale,
        grid_shape: tuple[int, ...],
        progress: Progress = ignore_progress,
    ) -> "FourierSolution":
        """Solves on all training functions."""
        if settings.reflection < 0:
            # A constant changes sign with the function: only zero commutes with an odd reflection.
            scale = OutputScale(0.0, scale.scale)
        grid = PeriodicGrid.of(train, grid_shape)
        coarse = settings.resolution or grid.shape
        inputs = resample(grid.own(train.inputs), grid.shape, coarse)
        target = scale.normalise(resample(grid.own(train.outputs), grid.shape, coarse))
        kernel = FourierKernel.for_inputs(settings, inputs, coarse)
        functions = kernel.filter(inputs)
        solution = kernel.gram(functions, progress).solve_with_report(target, progress)
        coefficients = transform(solution.value, coarse)
        said = solution.relative_residual, solution.jitter
        return cls(kernel, functions, coefficients, train, scale, *said, grid)

    def predict(self, inputs: Array, points: Array | None, progress: Progress = ignore_progress) -> Array:
        """Values in physical units; off the grid by translating the input, which an equivariant operator allows.

        Otherwise (`FourierSettings.place`) they are the trigonometric interpolant of those on the grid.
        """
        return self._anywhere(inputs, points, lambda moved: self._on_grid(moved, progress))

    def std(self, inputs: Array, points: Array | None) -> Array:
        """Posterior standard deviation in physical units, amplitude by maximum marginal likelihood.

        Builds and factorises the training functions' kernel again, since the solution does not keep it: the time and
        the memory of `solve`, for any number of inputs.
        """
        gram = self.kernel.gram(self.functions)
        target = self.scale.normalise(self._coarse(self.grid.own(self.train.outputs)))
        amplitude = float(np.sum(target * inverse_transform(self.coefficients, self.kernel.grid_shape))) / target.size

        def deviation(moved: Array) -> Array:
            functions = self.kernel.filter(self._coarse(moved))
            variance = self._fine(posterior_variance(self.kernel, gram, self.functions, functions))
            return self.scale.scale * np.sqrt(amplitude * np.maximum(variance, 0))

        return self._anywhere(inputs, points, deviation)

    def _anywhere(self, inputs: Array, points: Array | None, on_grid: Callable[[Array], Array]) -> Array:
        own, inputs = self.train.query_points, self.grid.own(inputs)
        if points is None or (points.shape == own.shape and np.allclose(points, own)):
            return self.grid.all_listed(on_grid(inputs))
        lower, spacing, shape = own.min(axis=0), self._spacing, np.asarray(self.grid.shape)
        position = (points - lower) / spacing
        index = np.floor(position + 1e-9).astype(int)
        offsets = np.round(position - index, 9)
        values = np.empty((len(inputs), len(points)))
        for offset in np.unique(offsets, axis=0):
            chosen = np.flatnonzero(np.all(offsets == offset, axis=1))
            if self.kernel.settings.place:
                shifted = translate(on_grid(inputs), self.grid.shape, offset)
            else:
                shifted = on_grid(translate(inputs, self.grid.shape, offset))
            values[:, chosen] = shifted[:, np.ravel_multi_index(tuple((index[chosen] % shape).T), tuple(shape))]
        return values

    @property
    def _spacing(self) -> Array:
        own = self.train.query_points
        return (own.max(axis=0) - own.min(axis=0)) / (np.asarray(self.grid.listed) - 1)

    def _coarse(self, values: Array) -> Array:
        return resample(values, self.grid.shape, self.kernel.grid_shape)

    def _fine(self, values: Array) -> Array:
        return resample(values, self.kernel.grid_shape, self.grid.shape)

    def _on_grid(self, inputs: Array, progress: Progress) -> Array:
        functions = self.kernel.filter(self._coarse(inputs))
        sign = self.kernel.settings.reflection
        total = np.zeros((len(self.coefficients), len(inputs)), dtype=complex)

        def add(rows: slice, columns: slice, tile: Array) -> None:
            total[:, rows] += apply_blocks(tile, None, 1, self.coefficients[:, columns])

        def add_reflected(rows: slice, columns: slice, tile: Array) -> None:
            total[:, rows] += sign * apply_blocks(tile, None, 1, np.conj(self.coefficients[:, columns]))

        self.kernel.between(functions, self.functions, add, progress=progress)
        if sign:
            self.kernel.between(functions, self.functions.reflected(sign), add_reflected, progress=progress)
            total /= 2
        return self.scale.restore(self._fine(inverse_transform(total, self.kernel.grid_shape)))


def translate(
    inputs: Float[Array, "functions points"], grid_shape: tuple[int, ...], offset: Float[Array, " dimension"]
) -> Float[Array, "functions points"]:
    """u(x) -> u(x + offset), offset in grid spacings, by trigonometric interpolation."""
    spectrum = transform(inputs, grid_shape)
    frequencies = [np.fft.fftfreq(size) for size in grid_shape[:-1]] + [np.fft.rfftfreq(grid_shape[-1])]
    mesh = np.meshgrid(*frequencies, indexing="ij")
    phase = sum(axis * shift for axis, shift in zip(mesh, offset, strict=True))
    return inverse_transform(spectrum * np.exp(2j * np.pi * np.asarray(phase).reshape(-1, 1)), grid_shape)
