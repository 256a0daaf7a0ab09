"""Poisson's equation in the unit square, with and without a term that makes it nonlinear."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.fft import dstn

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._half_waves import field_deviations, sines

Equation = Literal["cubic", "linear"]

LEAST_LENGTH_SCALE, LARGEST_LENGTH_SCALE = 0.05, 1.0
LARGEST_AMPLITUDE = 1e4
INTERVALS_IN_A_LENGTH = 8
LEAST_INTERVALS = 64
TOLERANCE = 1e-11
CORRECTION_TOLERANCE = 1e-3
"""Of each step of Newton's method: what it leaves, the next one finds."""
MOST_STEPS, MOST_ITERATIONS = 50, 200
SMALLEST = 1e-300
FUNCTIONS_AT_ONCE = 8
"""As many as stay in a processor's cache."""
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""
BYTES_FOR_EACH_NODE = 200
"""Vectors of Newton's method and of conjugate gradients, of one function."""


def poisson(
    samples: int = 1200,
    equation: Equation = "cubic",
    resolution: int = 32,
    key: int = 0,
    *,
    amplitude: float = 400.0,
    length_scale: float = 0.2,
    simulation_resolution: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Source to the solution of Poisson's equation, or of the same with a cubic reaction.

        linear: -Laplace s = f,   cubic: -Laplace s + s^3 = f   on the unit square,   s = 0 on its boundary,
        f = amplitude psi,   psi of covariance exp(-|x - y|^2 / (2 length_scale^2)), reflected at all sides to be odd

    Solved in double precision by sines, which the odd f makes converge exponentially: at once for "linear", where
    every sine is divided by its eigenvalue, by Newton's method for "cubic", read off at `resolution` x `resolution`
    nodes, boundary included, listed row by row. **The relative error is at most 1e-8** (`validation/problems.py`).

    **"linear" is too easy to judge by:** a linear model is exact after as many functions as the field has modes.
    "cubic" is as nonlinear as the amplitude is large: after 1,000 functions of the default the relative error is 100 %
    for the mean, 21 % for a linear model. Both commute with the symmetries of the square and with the sign.

    Arguments:
        samples: how many pairs of functions.
        equation: "cubic" or "linear".
        resolution: nodes along each side of the returned grid, both ends included, at least 8.
        key: seed; the same key gives the same fields psi whatever the settings but `length_scale`.
        amplitude: of the source, above 0 and at most 10,000.
        length_scale: over which the source varies, from 0.05 to 1.
        simulation_resolution: nodes along each side of the simulation's grid; one less must be a multiple of
            `resolution` - 1. By default at least 65, and eight to a length scale.

    Raises:
        ForetrainError: if a size is out of range, the grids do not nest or the solver does not converge.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: set-ups of our own; Concus and Golub (1973) for the preconditioner of Newton's method.
    """
    if equation not in ("cubic", "linear"):
        raise ForetrainError(f'poisson: expected an equation "cubic" or "linear", came {equation!r}')
    if samples < 2 or resolution < 8 or not 0 < amplitude <= LARGEST_AMPLITUDE:
        raise ForetrainError(
            f"poisson: expected samples >= 2, resolution >= 8 and an amplitude above 0 and at most "
            f"{LARGEST_AMPLITUDE:g}, came {samples}, {resolution} and {amplitude:g}"
        )
    if not LEAST_LENGTH_SCALE <= length_scale <= LARGEST_LENGTH_SCALE:
        raise ForetrainError(
            f"poisson: expected a length scale from {LEAST_LENGTH_SCALE:g} to {LARGEST_LENGTH_SCALE:g}, came "
            f"{length_scale:g}"
        )
    nodes = _nested_resolution(resolution, length_scale) if simulation_resolution is None else simulation_resolution
    if nodes < resolution or (nodes - 1) % (resolution - 1):
        raise ForetrainError(
            f"poisson: expected a simulation resolution that is one more than a multiple of {resolution - 1}, "
            f"came {nodes}"
        )
    require_memory(
        BYTES_FOR_EACH_VALUE * 2 * samples * resolution**2 + BYTES_FOR_EACH_NODE * FUNCTIONS_AT_ONCE * nodes**2,
        "solving Poisson's equation",
        "ask for fewer samples or a coarser grid",
    )
    deviations = field_deviations(length_scale)[1:]
    shapes, stride = sines(len(deviations), np.linspace(0.0, 1.0, nodes)), (nodes - 1) // (resolution - 1)
    eigenvalues = (np.pi * np.arange(1, nodes - 1)) ** 2
    solver = _CubicSolver(eigenvalues[:, None] + eigenvalues, 0.0 if equation == "linear" else 1.0)
    rng = np.random.default_rng(key)
    inputs, outputs = np.zeros((2, samples, resolution, resolution))
    for start in range(0, samples, FUNCTIONS_AT_ONCE):
        progress("solving Poisson's equation", start, samples)
        count = min(FUNCTIONS_AT_ONCE, samples - start)
        coefficients = rng.standard_normal((count, len(deviations), len(deviations)))
        sources = amplitude * shapes.T @ (coefficients * np.outer(deviations, deviations)) @ shapes
        solutions = np.zeros_like(sources)
        solutions[:, 1:-1, 1:-1] = solver.solve(sources[:, 1:-1, 1:-1])
        rows = slice(start, start + count)
        inputs[rows], outputs[rows] = sources[:, ::stride, ::stride], solutions[:, ::stride, ::stride]
    progress("solving Poisson's equation", samples, samples)
    grid = np.linspace(0.0, 1.0, resolution)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(
        inputs,
        outputs,
        points,
        points,
        name=f"Poisson, {equation}",
        description={
            "equation": f"-Laplace s{' + s^3' if equation == 'cubic' else ''} = f on the unit square, s = 0 on its "
            "boundary, f -> s",
            "problem": "poisson",
            "reaction": equation,
            "amplitude": amplitude,
            "length_scale": length_scale,
            "simulation_resolution": nodes,
            "key": key,
        },
    )


def _nested_resolution(resolution: int, length_scale: float) -> int:
    """Nodes of the least grid that contains the returned one and resolves the solution."""
    needed = max(LEAST_INTERVALS, INTERVALS_IN_A_LENGTH / length_scale)
    return 1 + (resolution - 1) * int(np.ceil(needed / (resolution - 1)))


class _CubicSolver:
    """-Laplace s + strength s^3 = f for the coefficients of sines, for several functions at once.

    Newton's method, every step of it by conjugate gradients preconditioned with the Laplace operator, which is
    diagonal: few of them are taken whatever the grid.
    """

    def __init__(self, eigenvalues: Float[np.ndarray, "inner inner"], strength: float) -> None:
        self._eigenvalues, self._strength = eigenvalues, strength

    def solve(self, source: Float[np.ndarray, "functions inner inner"]) -> Float[np.ndarray, "functions inner inner"]:
        """The solutions at the inner nodes, for the sources there."""
        force = _transform(source)
        spectrum = force / self._eigenvalues
        if self._strength == 0:
            return _transform(spectrum)
        size = _inner(force, force / self._eigenvalues)
        for _ in range(MOST_STEPS):
            solution = _transform(spectrum)
            residual = force - self._eigenvalues * spectrum - _transform(self._strength * solution**3)
            left = np.sqrt(_inner(residual, residual / self._eigenvalues) / size)
            if left.max() <= TOLERANCE:
                return solution
            spectrum += self._correction(3 * self._strength * solution**2, residual)
        raise ForetrainError(
            f"poisson: expected a relative residual of {TOLERANCE:g} after {MOST_STEPS} steps of Newton's method, came "
            f"{left.max():.1e}; ask for a smaller amplitude"
        )

    def _correction(
        self, weight: Float[np.ndarray, "functions inner inner"], residual: Float[np.ndarray, "functions inner inner"]
    ) -> Float[np.ndarray, "functions inner inner"]:
        """Of (-Laplace + weight) d = residual, to a thousandth."""
        correction = np.zeros_like(residual)
        search = residual / self._eigenvalues
        size = start = _inner(residual, search)
        for _ in range(MOST_ITERATIONS):
            if np.all(size <= CORRECTION_TOLERANCE**2 * start):
                break
            image = self._eigenvalues * search + _transform(weight * _transform(search))
            # A function whose residual has vanished keeps its place and is not divided by zero.
            step = (size / np.maximum(_inner(search, image), SMALLEST))[:, None, None]
            correction += step * search
            residual = residual - step * image
            corrected = residual / self._eigenvalues
            previous, size = size, _inner(residual, corrected)
            search = corrected + (size / np.maximum(previous, SMALLEST))[:, None, None] * search
        return correction


def _transform(values: Float[np.ndarray, "functions inner inner"]) -> Float[np.ndarray, "functions inner inner"]:
    """From nodes to orthonormal sines, and back again."""
    return dstn(values, type=1, axes=(1, 2), norm="ortho")


def _inner(
    left: Float[np.ndarray, "functions inner inner"], right: Float[np.ndarray, "functions inner inner"]
) -> Float[np.ndarray, " functions"]:
    return np.einsum("fij,fij->f", left, right)
