"""Viscous Burgers' equation on the unit circle."""

import exponax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, double_precision, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._gaussian_fields import periodic_gaussian_field

FUNCTIONS_AT_ONCE = 100
BYTES_FOR_EACH_VALUE = 64
"""Initial and final state, their spectra, and the stages of the time step."""


def burgers(
    samples: int = 1200,
    viscosity: float = 0.1 / (2 * np.pi),
    resolution: int = 128,
    key: int = 0,
    *,
    time: float = 1.0,
    simulation_resolution: int | None = None,
    time_steps: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Initial state to the state at a later time under Burgers' equation.

        u_t + u u_x = viscosity u_xx   on the unit circle,   u(., 0) ~ N(0, 625 (-Laplace + 25)^-2), zero mean.

    Solved by an exponential Runge-Kutta pseudo-spectral method (exponax) on a finer grid in double precision and read
    off at `resolution` points.

    Arguments:
        samples: how many pairs of functions.
        viscosity: the published set-up "0.1 on [0, 1]" is nearly linear; 0.1 / (2 pi) and 0.01 are not.
        resolution: points of the returned grid, at least 16.
        key: seed; the same key gives the same initial states whatever the viscosity.
        time: the later time.
        simulation_resolution: points of the simulation's grid, a multiple of `resolution`; by default fine enough to
            resolve shocks of width `viscosity` (at least 512).
        time_steps: by default enough for a relative error of about 1e-6 in time.

    Raises:
        ForetrainError: if a size is too small or the grids do not nest.
        MemoryBudgetError: if the simulation would not fit into memory.

    Source: Li et al., "Fourier neural operator" (ICLR 2021) for the set-up; Koehler et al., exponax, for the solver.
    """
    if samples < 2 or resolution < 16 or not 0 < viscosity < np.inf or not 0 < time < np.inf:
        raise ForetrainError(
            f"burgers: expected samples >= 2, resolution >= 16, viscosity > 0 and time > 0, came {samples}, "
            f"{resolution}, {viscosity:g} and {time:g}"
        )
    fine = _nested_resolution(resolution, viscosity) if simulation_resolution is None else simulation_resolution
    if fine < resolution or fine % resolution:
        raise ForetrainError(
            f"burgers: expected a simulation resolution that is a multiple of {resolution}, came {fine}"
        )
    steps = max(100, round(100 * time * fine / 512)) if time_steps is None else time_steps
    if steps < 1:
        raise ForetrainError(f"burgers: expected at least one time step, came {steps}")
    require_memory(BYTES_FOR_EACH_VALUE * samples * fine, "simulating Burgers' equation", "ask for a larger viscosity")
    # As many modes whatever the viscosity, so that the same key gives the same initial states.
    modes = _nested_resolution(resolution, np.inf) // 2 - 1
    initial = periodic_gaussian_field(samples, fine, 25.0, 25.0, 2.0, np.random.default_rng(key), modes)
    final = _solve(initial, viscosity, time, steps, progress)
    stride = fine // resolution
    return OperatorDataset(
        initial[:, ::stride],
        final[:, ::stride],
        np.arange(resolution) / resolution,
        np.arange(resolution) / resolution,
        name=f"Burgers, viscosity {viscosity:.4g}",
        description={
            "equation": "u_t + u u_x = viscosity u_xx on the unit circle, u(., 0) -> u(., " + f"{time:g})",
            "problem": "burgers",
            "viscosity": viscosity,
            "time": time,
            "simulation_resolution": fine,
            "time_steps": steps,
            "key": key,
        },
    )


def _nested_resolution(resolution: int, viscosity: float) -> int:
    """The least multiple of `resolution` with at least 512 points and about six across a shock layer."""
    needed = max(512, round(6.0 / viscosity))
    return resolution * int(np.ceil(needed / resolution))


@double_precision
def _solve(
    initial: Float[np.ndarray, "samples points"], viscosity: float, time: float, steps: int, progress: Progress
) -> Float[np.ndarray, "samples points"]:
    stepper = exponax.stepper.Burgers(1, 1.0, initial.shape[1], time / steps, diffusivity=viscosity, order=4)
    advance = jax.jit(jax.vmap(exponax.repeat(stepper, steps)))
    parts = []
    for start in range(0, len(initial), FUNCTIONS_AT_ONCE):
        progress("simulating Burgers' equation", start, len(initial))
        part = initial[start : start + FUNCTIONS_AT_ONCE]
        # One shape for every call, so that the solver is compiled once.
        padded = np.zeros((min(FUNCTIONS_AT_ONCE, len(initial)), initial.shape[1]))
        padded[: len(part)] = part
        parts.append(np.asarray(advance(jnp.asarray(padded)[:, None, :]))[: len(part), 0, :])
    progress("simulating Burgers' equation", len(initial), len(initial))
    return np.concatenate(parts)
