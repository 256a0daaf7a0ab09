"""Heat conduction in a rod whose ends are kept cold."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.fft import dct

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._half_waves import cosines as _cosines
from foretrain.problems._half_waves import gaussian_field as _gaussian_field
from foretrain.problems._half_waves import sines as _sines

Conductivity = Literal["variable", "constant"]

TIMES = {"variable": 1, "constant": 16}
LEAST_LENGTH_SCALE, LARGEST_LENGTH_SCALE = 0.02, 1.0
LARGEST_CONTRAST = 100.0
LEAST_MODES, MOST_MODES = 64, 1024
"""Sines that a solution starts out with, and at which the attempt to resolve it ends."""
TAIL = 1e-9
"""What the last eighth of the sines may hold of the solution; the relative error is then below 1e-8."""
LEAST_REMAINDER = 1e-30
"""Of the initial temperature: less would leave the range of single precision, in which networks compute."""
SHORTEST_DURATION = 1e-30
"""Below what sines of any number last, and above zero, which rounding can reach."""
LONGEST_TIME = 1000.0
"""Times the diffusivity: no heat is left by then."""
MATRIX_ENTRIES_AT_ONCE = 2**18
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""


def heat(
    samples: int = 1200,
    conductivity: Conductivity = "variable",
    resolution: int = 64,
    key: int = 0,
    *,
    diffusivity: float = 0.05,
    contrast: float = 4.0,
    length_scale: float = 0.1,
    time: float = 1.0,
    times: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Conductivity of a rod to its temperature some time after its ends were cooled; or the linear heat equation.

        s_t = (a s_x)_x   on [0, 1],   s = 0 at both ends,
        variable: a -> s,        a = diffusivity contrast^(psi / 2),   s(., 0) = 1,   psi even about both ends,
        constant: s(., 0) -> s,  a = diffusivity,                      s(., 0) = psi, odd about both ends

    with psi the Gaussian field of covariance exp(-(x - y)^2 / (2 length_scale^2)), reflected at both ends with the sign
    that makes it even or odd: well inside its variance is one, at an end two or zero. The rod's temperature is one
    before its ends are cooled.

    Solved in double precision by sums of sines, exactly in time. Those of "constant" are the exact solution. Those of
    "variable" are a Galerkin method that converges exponentially, as the even a keeps the odd extension of s smooth;
    every function gets as many as it needs for **a relative error of at most 1e-8** (`validation/advection_heat.py`).

    **Only "variable" tells how well a method learns nonlinear operators:** after 1,000 functions of the default the
    relative error is 27 % for the mean, 15 % for a linear model. It commutes with the reflection x -> 1 - x, not with
    translations. Later times are harder, in the relative error of single functions: what is left of the heat decreases
    exponentially in the conductivity.

    Arguments:
        samples: how many pairs of functions.
        conductivity: "variable" or "constant".
        resolution: points of the returned grid, both ends included, at least 8.
        key: seed; the same key gives the same fields psi whatever the settings but `length_scale`.
        diffusivity: the conductivity, or its median; only its product with `time` matters to the temperatures.
        contrast: for "variable", ratio of a at one standard deviation of psi above its mean to one below, above 1 and
            at most 100.
        length_scale: over which the input varies, from 0.02 to 1.
        time: the last time.
        times: at how many equidistant times, the last of them `time`, the solution is given; query points are x for
            one time and (t, x), row by row, for more. By default one for "variable" and 16 for "constant".

    Raises:
        ForetrainError: if a size is out of range, the solution cannot be resolved, or no heat would be left.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: Carslaw and Jaeger, "Conduction of heat in solids" (1959), for the rod; set-ups of our own.
    """
    if conductivity not in TIMES:
        raise ForetrainError(f'heat: expected a conductivity "variable" or "constant", came {conductivity!r}')
    count = TIMES[conductivity] if times is None else times
    if samples < 2 or resolution < 8 or count < 1:
        raise ForetrainError(
            f"heat: expected samples >= 2, resolution >= 8 and times >= 1, came {samples}, {resolution} and {count}"
        )
    if not diffusivity > 0 or not time > 0 or not diffusivity * time <= LONGEST_TIME:
        raise ForetrainError(
            f"heat: expected a diffusivity and a time above 0 and their product at most {LONGEST_TIME:g}, came "
            f"{diffusivity:g} and {time:g}"
        )
    if not 1 < contrast <= LARGEST_CONTRAST or not LEAST_LENGTH_SCALE <= length_scale <= LARGEST_LENGTH_SCALE:
        raise ForetrainError(
            f"heat: expected a contrast above 1 and at most {LARGEST_CONTRAST:g} and a length scale from "
            f"{LEAST_LENGTH_SCALE:g} to {LARGEST_LENGTH_SCALE:g}, came {contrast:g} and {length_scale:g}"
        )
    require_memory(
        BYTES_FOR_EACH_VALUE * samples * resolution * (1 + count), "heat", "ask for fewer samples, times or points"
    )
    grid, elapsed = np.linspace(0.0, 1.0, resolution), time * np.arange(1, count + 1) / count
    field = _gaussian_field(samples, length_scale, np.random.default_rng(key))
    if conductivity == "variable":
        exponents = np.log(contrast) / 2 * field
        inputs = diffusivity * np.exp(exponents @ _cosines(field.shape[1], grid))
        outputs = _cooled_rods(exponents, diffusivity * elapsed, grid, progress)
    else:
        inputs = field[:, 1:] @ _sines(field.shape[1] - 1, grid)
        decay = np.exp(-np.outer(diffusivity * elapsed, (np.pi * np.arange(1, field.shape[1])) ** 2))
        spectra = field[:, None, 1:] * decay
        _check_remainders(np.linalg.norm(spectra, axis=2))
        outputs = spectra @ _sines(field.shape[1] - 1, grid)
    query_points = np.stack(np.meshgrid(elapsed, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    return OperatorDataset(
        inputs,
        outputs.reshape(samples, -1),
        grid,
        grid if count == 1 else query_points,
        name=f"Heat, {conductivity} conductivity",
        description={
            "equation": "s_t = (a s_x)_x on [0, 1], s = 0 at both ends, "
            + ("a -> s" if conductivity == "variable" else "s(., 0) -> s")
            + (f"(., {time:g})" if count == 1 else f" at {count} times up to {time:g}"),
            "problem": "heat",
            "conductivity": conductivity,
            "diffusivity": diffusivity,
            "contrast": contrast if conductivity == "variable" else 1.0,
            "length_scale": length_scale,
            "time": time,
            "times": count,
            "key": key,
        },
    )


def _cooled_rods(
    exponents: Float[np.ndarray, "samples modes"],
    elapsed: Float[np.ndarray, " times"],
    grid: Float[np.ndarray, " points"],
    progress: Progress,
) -> Float[np.ndarray, "samples times points"]:
    """Temperatures for a = exp(sum of cosines), each by as many sines as it takes until the last of them are idle."""
    temperatures = np.empty((len(exponents), len(elapsed), len(grid)))
    waiting, modes, done = np.arange(len(exponents)), LEAST_MODES, 0
    while len(waiting):
        sines, cosines = _sines(modes, grid), _cosines(exponents.shape[1], np.linspace(0.0, 1.0, 4 * modes + 1))
        unresolved = []
        for rows in np.array_split(waiting, int(np.ceil(len(waiting) * modes**2 / MATRIX_ENTRIES_AT_ONCE))):
            progress("simulating heat conduction", done, len(exponents))
            spectra = _galerkin_solution(np.exp(exponents[rows] @ cosines), elapsed)
            resolved = _largest_tail(spectra) <= TAIL
            if modes == MOST_MODES and not resolved.all():
                raise ForetrainError(
                    f"heat: expected {MOST_MODES} sines to resolve the solution, came a function that needs more; ask "
                    "for a smaller contrast, a larger length scale or a later time"
                )
            temperatures[rows[resolved]] = spectra[resolved] @ sines
            unresolved.append(rows[~resolved])
            done += int(resolved.sum())
        waiting, modes = np.concatenate(unresolved), 2 * modes
    progress("simulating heat conduction", len(exponents), len(exponents))
    return temperatures


def _largest_tail(spectra: Float[np.ndarray, "rows times modes"]) -> Float[np.ndarray, " rows"]:
    """What the last eighth of the sines hold of each solution, at the time when they hold most."""
    remainders = np.linalg.norm(spectra, axis=2)
    _check_remainders(remainders)
    tails = np.linalg.norm(spectra[..., -(spectra.shape[2] // 8) :], axis=2)
    return (tails / remainders).max(axis=1)


def _check_remainders(remainders: Float[np.ndarray, "rows times"]) -> None:
    if not remainders.min() >= LEAST_REMAINDER:
        raise ForetrainError(
            f"heat: expected at least {LEAST_REMAINDER:g} of the heat to be left, came {remainders.min():.1e} in one "
            "of the functions; ask for a smaller diffusivity, time or contrast"
        )


def _galerkin_solution(
    medium: Float[np.ndarray, "rows nodes"], elapsed: Float[np.ndarray, " times"]
) -> Float[np.ndarray, "rows times sines"]:
    """Coefficients of sqrt(2) sin(pi k x) of the rod that starts at one, for a at equidistant nodes, four to a sine.

    The matrix of the equation is D C D with D = diag(pi k) and C = (c_{|j-k|} + c_{j+k}), c_m the integral of
    a cos(pi m x). Its eigenvectors, which exponentials in time come from, are those of its inverse, whose largest
    eigenvalues belong to the heat that stays longest: rounding is then relative to the solution, however little is
    left, where the matrix itself would bring in rounding relative to its fastest decay.
    """
    intervals = medium.shape[1] - 1
    numbers = np.arange(1, intervals // 4 + 1)
    integrals = dct(medium, type=1, axis=1) / (2 * intervals)
    stiffness = integrals[:, np.abs(numbers[:, None] - numbers)] + integrals[:, numbers[:, None] + numbers]
    factors = np.linalg.solve(np.linalg.cholesky(stiffness), np.diag(1 / (np.pi * numbers)))
    durations, vectors = np.linalg.eigh(factors.transpose(0, 2, 1) @ factors)
    rates = 1 / np.maximum(durations, SHORTEST_DURATION)
    initial = np.sqrt(2) * (1 - (-1.0) ** numbers) / (np.pi * numbers)
    decayed = np.exp(-elapsed[:, None] * rates[:, None, :]) * (initial @ vectors)[:, None, :]
    return decayed @ vectors.transpose(0, 2, 1)
