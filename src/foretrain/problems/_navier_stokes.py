"""Two-dimensional Navier-Stokes equations of a forced fluid on a periodic square."""

import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import irfft2, rfft2

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset

LARGEST_WAVE_NUMBER = 32
"""Its square: a hundred real modes lie at or below it, as many as published."""
INVERSE_LENGTH = 3.0
POWER = 4.0
INITIAL_STATE_KEY = 1
"""Of the one state from which all functions start, whatever their key."""
LEAST_RESOLUTION = 64
LARGEST_AMPLITUDE = 30.0
REACH = 1200.0
"""Amplitude over viscosity up to which the least resolution will do."""
LARGEST_STEP = 0.5
MILD_AMPLITUDE = 5.0
"""Up to which the largest step will do."""
CONTOUR_POINTS = 32
FUNCTIONS_AT_ONCE = 8
"""As many as stay in a processor's cache."""
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""
BYTES_FOR_EACH_NODE = 400
"""Stages, derivatives and spectra of a function that is being simulated."""


def navier_stokes(
    samples: int = 1200,
    viscosity: float = 1 / 40,
    resolution: int = 64,
    key: int = 0,
    *,
    time: float = 10.0,
    amplitude: float = 1.0,
    simulation_resolution: int | None = None,
    time_steps: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Forcing of a fluid to its vorticity at a later time.

        w_t + v . grad w = viscosity Laplace w + f   on the torus [0, 2 pi)^2,   v = (s_y, -s_x),   -Laplace s = w,
        f ~ amplitude N(0, (-Laplace + 9)^-4), zero mean, its hundred longest waves;   w(., 0) one draw of the same

    f is the curl of the force. Solved by a pseudo-spectral method with the two-thirds rule against aliasing and
    exponential Runge-Kutta steps of fourth order, in double precision, and read off at `resolution` x `resolution`
    points, listed row by row. **As f and w(., 0) are sums of a hundred waves the solution is smooth:** the relative
    error is at most 1e-6 on the grid and with the steps taken by default, 4e-8 as published (`validation/problems.py`).

    **The published amplitude is mildly nonlinear:** after 1,000 functions a linear model has a relative error of 5.9 %,
    at an amplitude of 10 one of 40 %. The map does not commute with translations, for the initial state is fixed.

    Arguments:
        samples: how many pairs of functions.
        viscosity: published: 1/40.
        resolution: points along each side of the returned grid, at least 16; published: 64.
        key: seed; the same key gives the same forcing whatever the other settings.
        time: the later time; published: 10.
        amplitude: factor of forcing and initial state, above 0 and at most 30; published: 1.
        simulation_resolution: points along each side of the simulation's grid, a multiple of `resolution`; by default
            at least 64, and more where amplitude over viscosity is above 1,200.
        time_steps: by default two for each unit of time, more in proportion where the amplitude is above 5.

    Raises:
        ForetrainError: if a size is out of range, the grids do not nest, or the steps are too long for the flow.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: de Hoop, Huang, Qian and Stuart, "The cost-accuracy trade-off in operator learning with neural networks"
    (2022), for the set-up; Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs" (2005), for the steps.
    """
    if samples < 2 or resolution < 16 or not 0 < viscosity < np.inf or not 0 < time < np.inf:
        raise ForetrainError(
            f"navier_stokes: expected samples >= 2, resolution >= 16, viscosity > 0 and time > 0, came {samples}, "
            f"{resolution}, {viscosity:g} and {time:g}"
        )
    if not 0 < amplitude <= LARGEST_AMPLITUDE:
        raise ForetrainError(
            f"navier_stokes: expected an amplitude above 0 and at most {LARGEST_AMPLITUDE:g}, came {amplitude:g}"
        )
    points = _nested_resolution(resolution, amplitude / viscosity)
    points = points if simulation_resolution is None else simulation_resolution
    if points < resolution or points % resolution:
        raise ForetrainError(
            f"navier_stokes: expected a simulation resolution that is a multiple of {resolution}, came {points}"
        )
    steps = _enough_steps(time, amplitude) if time_steps is None else time_steps
    if steps < 1:
        raise ForetrainError(f"navier_stokes: expected at least one time step, came {steps}")
    require_memory(
        BYTES_FOR_EACH_VALUE * 2 * samples * resolution**2 + BYTES_FOR_EACH_NODE * FUNCTIONS_AT_ONCE * points**2,
        "simulating the Navier-Stokes equations",
        "ask for fewer samples or a coarser grid",
    )
    waves = len(_wave_vectors())
    initial = amplitude * _field(np.random.default_rng(INITIAL_STATE_KEY).standard_normal((1, 2, waves)), points)
    coefficients = np.random.default_rng(key).standard_normal((samples, 2, waves))
    stepper, stride = _VorticityStepper(points, viscosity, time / steps), points // resolution
    inputs, outputs = np.empty((2, samples, resolution, resolution))
    for start in range(0, samples, FUNCTIONS_AT_ONCE):
        progress("simulating the Navier-Stokes equations", start, samples)
        rows = slice(start, start + FUNCTIONS_AT_ONCE)
        forcing = amplitude * _field(coefficients[rows], points)
        inputs[rows] = forcing[:, ::stride, ::stride]
        outputs[rows] = stepper.advance(np.repeat(initial, len(forcing), axis=0), forcing, steps)[:, ::stride, ::stride]
    progress("simulating the Navier-Stokes equations", samples, samples)
    grid = 2 * np.pi * np.arange(resolution) / resolution
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(
        inputs,
        outputs,
        places,
        places,
        name=f"Navier-Stokes, viscosity {viscosity:.4g}",
        description={
            "equation": "w_t + v . grad w = viscosity Laplace w + f on the torus, f -> w(., " + f"{time:g})",
            "problem": "navier_stokes",
            "viscosity": viscosity,
            "time": time,
            "amplitude": amplitude,
            "simulation_resolution": points,
            "time_steps": steps,
            "key": key,
        },
    )


def _nested_resolution(resolution: int, reach: float) -> int:
    """The least multiple of `resolution` that is fine enough for the amplitude over the viscosity."""
    needed = LEAST_RESOLUTION * max(1.0, np.sqrt(reach / REACH))
    return resolution * int(np.ceil(needed / resolution))


def _enough_steps(time: float, amplitude: float) -> int:
    return int(np.ceil(time / LARGEST_STEP * max(1.0, amplitude / MILD_AMPLITUDE)))


def _wave_vectors() -> Float[np.ndarray, "waves 2"]:
    """One of each pair (k, -k) of wave vectors up to the largest, the longest waves first."""
    reach = np.arange(-int(LARGEST_WAVE_NUMBER**0.5), int(LARGEST_WAVE_NUMBER**0.5) + 1)
    vectors = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    square, total = (vectors**2).sum(axis=1), vectors.sum(axis=1)
    half = (total > 0) | ((total == 0) & (vectors[:, 0] > 0))
    kept = half & (square <= LARGEST_WAVE_NUMBER)
    return vectors[kept][np.argsort(square[kept], kind="stable")]


def _field(
    coefficients: Float[np.ndarray, "functions 2 waves"], points: int
) -> Float[np.ndarray, "functions points points"]:
    """Sum of the waves with those standard normal coefficients of cosines and sines."""
    vectors = _wave_vectors()
    deviations = (np.sum(vectors**2, axis=1) + INVERSE_LENGTH**2) ** (-POWER / 2) / (np.sqrt(2) * np.pi)
    grid = 2 * np.pi * np.arange(points) / points
    across, along = (np.exp(1j * np.outer(component, grid)) for component in vectors.T)
    amplitudes = deviations * (coefficients[:, 0] - 1j * coefficients[:, 1])
    # The real part of a product of two matrices is two real products, at half the work of the complex one.
    left = (amplitudes[:, None, :] * across.T).reshape(-1, len(vectors))
    values = left.real @ along.real - left.imag @ along.imag
    return values.reshape(len(coefficients), points, points)


class _VorticityStepper:
    """Exponential Runge-Kutta steps of fourth order for w_t = viscosity Laplace w + (f - v . grad w)."""

    def __init__(self, points: int, viscosity: float, step: float) -> None:
        self._points = points
        across = np.fft.fftfreq(points, 1 / points)[:, None]
        along = np.fft.rfftfreq(points, 1 / points)[None, :]
        square = across**2 + along**2
        inverse = 1 / np.where(square == 0, 1.0, square)
        inverse[0, 0] = 0.0
        # A derivative of the wave that alternates from point to point is not on the grid.
        across, along = (np.where(np.abs(number) * 2 == points, 0.0, number) for number in (across, along))
        self._across, self._along = 1j * across, 1j * along
        self._speed_across, self._speed_along = 1j * along * inverse, -1j * across * inverse
        # The two-thirds rule: products of what is kept alias only onto what is not.
        self._kept = (np.abs(np.fft.fftfreq(points)) < 1 / 3)[:, None] & (np.fft.rfftfreq(points) < 1 / 3)[None, :]
        exponent = -viscosity * step * square
        self._whole, self._half = np.exp(exponent), np.exp(exponent / 2)
        self._stage, self._first, self._middle, self._last = _phi_weights(exponent, step)

    def advance(
        self,
        vorticity: Float[np.ndarray, "functions points points"],
        forcing: Float[np.ndarray, "functions points points"],
        steps: int,
    ) -> Float[np.ndarray, "functions points points"]:
        """The vorticity so many steps later."""
        state, force = rfft2(vorticity) * self._kept, rfft2(forcing) * self._kept
        # What overflows is reported below, in words.
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                state = self._step(state, force)
        vorticity = irfft2(state, s=(self._points, self._points))
        if not np.isfinite(vorticity).all():
            raise ForetrainError(
                f"navier_stokes: expected a stable simulation, came one that diverged in {steps} steps; ask for more "
                "time steps, a smaller amplitude or a larger viscosity"
            )
        return vorticity

    def _step(
        self, state: Complex[np.ndarray, "functions points half"], force: Complex[np.ndarray, "functions points half"]
    ) -> Complex[np.ndarray, "functions points half"]:
        start = self._rate(state, force)
        halfway = self._half * state
        first = halfway + self._stage * start
        first_rate = self._rate(first, force)
        second_rate = self._rate(halfway + self._stage * first_rate, force)
        third_rate = self._rate(self._half * first + self._stage * (2 * second_rate - start), force)
        return (
            self._whole * state
            + self._first * start
            + self._middle * (first_rate + second_rate)
            + self._last * third_rate
        )

    def _rate(
        self, state: Complex[np.ndarray, "functions points half"], force: Complex[np.ndarray, "functions points half"]
    ) -> Complex[np.ndarray, "functions points half"]:
        """f - v . grad w."""
        shape = (self._points, self._points)
        carried = irfft2(self._speed_across * state, s=shape)
        carried *= irfft2(self._across * state, s=shape)
        along = irfft2(self._speed_along * state, s=shape)
        along *= irfft2(self._along * state, s=shape)
        carried += along
        return force - rfft2(carried) * self._kept


def _phi_weights(
    exponent: Float[np.ndarray, "points half"], step: float
) -> tuple[Float[np.ndarray, "points half"], ...]:
    """Weights of the stages; means over circles in the complex plane, for the formulas cancel near zero."""
    circle = np.exp(2j * np.pi * (np.arange(CONTOUR_POINTS) + 0.5) / CONTOUR_POINTS)
    # Most exponents recur: the weights are needed once for each.
    distinct, places = np.unique(exponent, return_inverse=True)
    z = distinct[:, None] + circle
    weights = (
        (np.exp(z / 2) - 1) / z,
        (-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3,
        2 * (2 + z + np.exp(z) * (z - 2)) / z**3,
        (-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3,
    )
    return tuple(step * weight.mean(axis=1).real[places].reshape(exponent.shape) for weight in weights)
