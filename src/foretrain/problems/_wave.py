"""Waves on a string whose ends are held."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.fft import dct

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._half_waves import cosines, gaussian_field, sines

Given = Literal["speed", "displacement", "velocity"]

LEAST_LENGTH_SCALE, LARGEST_LENGTH_SCALE = 0.02, 1.0
LEAST_PULSE, LARGEST_PULSE = 0.02, 0.2
LARGEST_CONTRAST = 20.0
LONGEST_WAY = 100.0
"""Lengths of the string that waves may run: beyond, rounding of their phases would show."""
LEAST_MODES, MOST_MODES = 64, 1024
"""Sines that a solution starts out with, and at which the attempt to resolve it ends."""
TAIL = 1e-9
"""What the last eighth of the sines may hold of the solution; the relative error is then below 1e-7."""
MATRIX_ENTRIES_AT_ONCE = 2**18
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""


def wave(
    samples: int = 1200,
    given: Given = "speed",
    resolution: int = 64,
    key: int = 0,
    *,
    speed: float = 1.0,
    contrast: float = 1.2,
    length_scale: float = 0.2,
    pulse_width: float = 0.1,
    time: float = 1.0,
    times: int = 1,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Speed of waves on a string to how far the string is out some time after it was let go; or the linear problem.

        s_tt = (c^2 s_x)_x   on [0, 1],   s = 0 at both ends,
        speed: c -> s,                    c = speed contrast^(psi / 2),   s(., 0) a pulse at the middle,   s_t(., 0) = 0
        displacement: s(., 0) -> s,       c = speed,                      s(., 0) = psi,   s_t(., 0) = 0
        velocity: s_t(., 0) -> s,         c = speed,                      s(., 0) = 0,     s_t(., 0) = psi

    with psi the Gaussian field of covariance exp(-(x - y)^2 / (2 length_scale^2)), reflected at both ends so that it is
    even for speeds and odd for the others, and exp(-(x - 1/2)^2 / (2 pulse_width^2)) for the pulse, reflected alike.

    Solved in double precision by sums of sines, exactly in time; **the energy is conserved to rounding.** Sums for a
    constant speed are the exact solution. Those for a field of speeds are a Galerkin method that converges
    exponentially; every function gets as many as it needs for **a relative error of at most 1e-7**
    (`validation/problems.py`).

    **Only "speed" tells how well a method learns nonlinear operators;** the other two maps are linear, and a linear
    model is exact after as many functions as the field has modes. "speed" commutes with the reflection x -> 1 - x.
    After 1,000 functions of the default the relative error is 30 % for the mean, 19 % for a linear model.

    Arguments:
        samples: how many pairs of functions.
        given: "speed", "displacement" or "velocity".
        resolution: points of the returned grid, both ends included, at least 8.
        key: seed; the same key gives the same fields psi whatever the settings but `length_scale`.
        speed: of waves, or its median; only its product with `time` matters.
        contrast: for "speed", ratio of c at one standard deviation of psi above its mean to one below, above 1 and at
            most 20.
        length_scale: over which the input varies, from 0.02 to 1.
        pulse_width: for "speed", from 0.02 to 0.2.
        time: the last time.
        times: at how many equidistant times, the last of them `time`, the solution is given; query points are x for
            one time and (t, x), row by row, for more.

    Raises:
        ForetrainError: if a size is out of range or the solution cannot be resolved.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: Morse, "Vibration and sound" (1936), for the string; set-ups of our own.
    """
    if given not in ("speed", "displacement", "velocity"):
        raise ForetrainError(f'wave: expected "speed", "displacement" or "velocity" to be given, came {given!r}')
    if samples < 2 or resolution < 8 or times < 1:
        raise ForetrainError(
            f"wave: expected samples >= 2, resolution >= 8 and times >= 1, came {samples}, {resolution} and {times}"
        )
    if not speed > 0 or not time > 0 or not speed * time <= LONGEST_WAY:
        raise ForetrainError(
            f"wave: expected a speed and a time above 0 and their product at most {LONGEST_WAY:g}, came {speed:g} and "
            f"{time:g}"
        )
    if not 1 < contrast <= LARGEST_CONTRAST or not LEAST_LENGTH_SCALE <= length_scale <= LARGEST_LENGTH_SCALE:
        raise ForetrainError(
            f"wave: expected a contrast above 1 and at most {LARGEST_CONTRAST:g} and a length scale from "
            f"{LEAST_LENGTH_SCALE:g} to {LARGEST_LENGTH_SCALE:g}, came {contrast:g} and {length_scale:g}"
        )
    if not LEAST_PULSE <= pulse_width <= LARGEST_PULSE:
        raise ForetrainError(
            f"wave: expected a pulse width from {LEAST_PULSE:g} to {LARGEST_PULSE:g}, came {pulse_width:g}"
        )
    require_memory(
        BYTES_FOR_EACH_VALUE * samples * resolution * (1 + times), "wave", "ask for fewer samples, times or points"
    )
    grid, elapsed = np.linspace(0.0, 1.0, resolution), time * np.arange(1, times + 1) / times
    field = gaussian_field(samples, length_scale, np.random.default_rng(key))
    if given == "speed":
        exponents = np.log(contrast) / 2 * field
        inputs = speed * np.exp(exponents @ cosines(field.shape[1], grid))
        outputs = _strings(exponents, pulse_width, speed * elapsed, grid, progress)
    else:
        shapes, numbers = sines(field.shape[1] - 1, grid), np.pi * np.arange(1, field.shape[1])
        phases = speed * np.outer(elapsed, numbers)
        swing = np.cos(phases) if given == "displacement" else np.sin(phases) / (speed * numbers)
        inputs, outputs = field[:, 1:] @ shapes, (field[:, None, 1:] * swing) @ shapes
    query_points = np.stack(np.meshgrid(elapsed, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    start = {"speed": "c", "displacement": "s(., 0)", "velocity": "s_t(., 0)"}[given]
    return OperatorDataset(
        inputs,
        outputs.reshape(samples, -1),
        grid,
        grid if times == 1 else query_points,
        name=f"Wave, {given} given",
        description={
            "equation": f"s_tt = (c^2 s_x)_x on [0, 1], s = 0 at both ends, {start} -> s"
            + (f"(., {time:g})" if times == 1 else f" at {times} times up to {time:g}"),
            "problem": "wave",
            "given": given,
            "speed": speed,
            "contrast": contrast if given == "speed" else 1.0,
            "length_scale": length_scale,
            "pulse_width": pulse_width if given == "speed" else None,
            "time": time,
            "times": times,
            "key": key,
        },
    )


def _strings(
    exponents: Float[np.ndarray, "samples modes"],
    pulse_width: float,
    elapsed: Float[np.ndarray, " times"],
    grid: Float[np.ndarray, " points"],
    progress: Progress,
) -> Float[np.ndarray, "samples times points"]:
    """Strings for c = exp(sum of cosines), each by as many sines as it takes until the last of them are idle."""
    strings = np.empty((len(exponents), len(elapsed), len(grid)))
    waiting, modes, done = np.arange(len(exponents)), LEAST_MODES, 0
    while len(waiting):
        shapes, fields = sines(modes, grid), cosines(exponents.shape[1], np.linspace(0.0, 1.0, 4 * modes + 1))
        unresolved = []
        for rows in np.array_split(waiting, int(np.ceil(len(waiting) * modes**2 / MATRIX_ENTRIES_AT_ONCE))):
            progress("simulating waves", done, len(exponents))
            spectra = galerkin_waves(np.exp(2 * exponents[rows] @ fields), pulse(modes, pulse_width), elapsed)
            tails = np.linalg.norm(spectra[..., -(modes // 8) :], axis=2) / np.linalg.norm(spectra, axis=2)
            resolved = tails.max(axis=1) <= TAIL
            if modes == MOST_MODES and not resolved.all():
                raise ForetrainError(
                    f"wave: expected {MOST_MODES} sines to resolve the solution, came a function that needs more; ask "
                    "for a smaller contrast, a larger length scale or a wider pulse"
                )
            strings[rows[resolved]] = spectra[resolved] @ shapes
            unresolved.append(rows[~resolved])
            done += int(resolved.sum())
        waiting, modes = np.concatenate(unresolved), 2 * modes
    progress("simulating waves", len(exponents), len(exponents))
    return strings


def pulse(modes: int, width: float) -> Float[np.ndarray, " modes"]:
    """Coefficients of the pulse in the middle, and of its reflections, in sqrt(2) sin of pi x, 2 pi x, ..."""
    numbers = np.pi * np.arange(1, modes + 1)
    middle = np.resize([1.0, 0.0, -1.0, 0.0], modes)
    return 2 * np.sqrt(np.pi) * width * np.exp(-((numbers * width) ** 2) / 2) * middle


def galerkin_waves(
    squares: Float[np.ndarray, "rows nodes"], start: Float[np.ndarray, " sines"], elapsed: Float[np.ndarray, " times"]
) -> Float[np.ndarray, "rows times sines"]:
    """Coefficients of strings let go from `start`, for c^2 at equidistant nodes, four to a sine.

    The matrix of the equation is D C D with D = diag(pi k) and C = (c_{|j-k|} + c_{j+k}), c_m the integral of
    c^2 cos(pi m x); every eigenvector swings at the root of its eigenvalue.
    """
    intervals = squares.shape[1] - 1
    numbers = np.arange(1, intervals // 4 + 1)
    integrals = dct(squares, type=1, axis=1) / (2 * intervals)
    stiffness = integrals[:, np.abs(numbers[:, None] - numbers)] + integrals[:, numbers[:, None] + numbers]
    stiffness *= np.pi**2 * np.outer(numbers, numbers)
    eigenvalues, vectors = np.linalg.eigh(stiffness)
    swings = np.cos(elapsed[:, None] * np.sqrt(np.maximum(eigenvalues, 0.0))[:, None, :])
    return (swings * (start @ vectors)[:, None, :]) @ vectors.transpose(0, 2, 1)
