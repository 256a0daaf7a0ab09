"""Advection of discontinuous functions around the unit circle."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset

Setup = Literal["I", "II"]

RESOLUTIONS = {"I": 40, "II": 200}
TIMES = {"I": 1.0, "II": 0.5}
"""As published."""
HARMONICS = 50
"""A cosine and a sine of each: the 100 modes of the published field."""
INVERSE_LENGTH = 3.0
LONGEST_TIME = 1000.0
"""Beyond, rounding in the number of turns would move the jumps."""
DRAWS_AT_ONCE = 1000
MOST_DRAWS = 50
"""For each function asked for, before too few are distinct to go on."""
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, the field they are the sign of, and the copies that become the dataset."""


def advection(
    samples: int = 1200,
    setup: Setup = "II",
    resolution: int | None = None,
    key: int = 0,
    *,
    time: float | None = None,
    repeat_end: bool = True,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Discontinuous initial state to the same state carried along, by the published set-ups I and II.

        u_t + u_x = 0   on the unit circle,   so that   u(x, t) = u(x - t, 0) exactly,
        I:  u(., 0) = height on an interval, 0 elsewhere,   height ~ U[1, 2], width ~ U[.3, .6], centre ~ U[.3, .7],
        II: u(., 0) = sign of sum_{1<=k<=50} sqrt(2) / (4 pi^2 k^2 + 9) (a_k cos 2 pi k x + b_k sin 2 pi k x)

    with a_k, b_k independent standard normal. I asks for the states at all times, query points (t, x) row by row, II
    for the state at one. No scheme is involved: initial states are evaluated at shifted points.

    **Neither set-up tells how well a method learns nonlinear operators.** The map is linear and commutes with
    translations. Where the grid moves onto itself (set-up I as published, even `resolution` without `repeat_end` in II)
    outputs are inputs in another order, and a linear model is exact. In set-up II as published it moves half a spacing:
    a jump between two sensors leaves one output undetermined, at even odds, and no model whatever gets below a
    relative error of about sqrt(jumps / points), 11.2 % on average. The linear model published, 11.3 %, is there.

    Arguments:
        samples: how many pairs of functions.
        setup: "I" or "II".
        resolution: points of the grid of x, and of that of t in I, at least 16; published: 40 in I, 200 in II.
        key: seed; the same key gives the same initial states whatever the other settings. **Of functions that agree
            at all points of the grid only the first is kept,** which `description` counts: 3 % in II by default.
        time: the later time, the last in I; published: 1 in I, 1/2 in II.
        repeat_end: list x = 1 beside x = 0, as published, though they are one point of the circle. Without it, a grid
            of 199 points holds what the published one of 200 does, and closes up as methods for circles expect.

    Raises:
        ForetrainError: if a size is too small or there are not so many distinct functions on so coarse a grid.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: Lu et al., "A comprehensive and fair comparison of two neural operators" (CMAME 2022), for I; de Hoop,
    Huang, Qian and Stuart, "The cost-accuracy trade-off in operator learning with neural networks" (2022), for II,
    whose 40,000 functions are half of them repetitions. Figures: `validation/advection_heat.py`.
    """
    if setup not in RESOLUTIONS:
        raise ForetrainError(f'advection: expected a setup "I" or "II", came {setup!r}')
    points = RESOLUTIONS[setup] if resolution is None else resolution
    later = TIMES[setup] if time is None else time
    if samples < 2 or points < 16 or not 0 < later <= LONGEST_TIME:
        raise ForetrainError(
            f"advection: expected samples >= 2, resolution >= 16 and a time above 0 and at most {LONGEST_TIME:g}, came "
            f"{samples}, {points} and {later:g}"
        )
    values = points + points ** (2 if setup == "I" else 1)
    require_memory(BYTES_FOR_EACH_VALUE * samples * values, "advection", "ask for fewer samples or a coarser grid")
    grid = np.arange(points) / (points - 1 if repeat_end else points)
    progress("drawing initial states", 0, samples)
    if setup == "I":
        skipped, query_points = 0, np.stack(np.meshgrid(later * grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
        waves = np.random.default_rng(key).random((samples, 3))
        inputs = _square_waves(waves, grid)
        outputs = _square_waves(waves, query_points[:, 1] - query_points[:, 0])
    else:
        fields, skipped = _distinct_fields(samples, grid, key, progress)
        query_points = grid[:, None]
        inputs, outputs = _signs(fields, grid), _signs(fields, grid - later)
    progress("drawing initial states", samples, samples)
    return OperatorDataset(
        inputs,
        outputs,
        grid,
        query_points,
        name=f"Advection {setup}",
        description={
            "equation": "u_t + u_x = 0 on the unit circle, u(., 0) -> u"
            + (f" up to time {later:g}" if setup == "I" else f"(., {later:g})"),
            "problem": "advection",
            "setup": setup,
            "time": later,
            "repeat_end": repeat_end,
            "key": key,
            "skipped": skipped,
        },
    )


def _square_waves(
    waves: Float[np.ndarray, "functions 3"], points: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "functions points"]:
    """Square waves at any points of the line, wound around the circle; heights, widths, centres are given on [0, 1]."""
    height, width, centre = (waves * [1.0, 0.3, 0.4] + [1.0, 0.3, 0.3]).T[:, :, None]
    past_the_left_end = (points % 1.0 - (centre - width / 2)) % 1.0
    return np.where(past_the_left_end <= width, height, 0.0)


def _signs(
    fields: Float[np.ndarray, "functions modes"], points: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "functions points"]:
    """Signs, 1 or -1, of the fields with those standard normal coefficients, at any points of the line."""
    harmonics = 2 * np.pi * np.arange(1, HARMONICS + 1)
    angles = np.outer(harmonics, points % 1.0)
    modes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The root of two of all modes alike does not change the sign.
    modes /= (harmonics**2 + INVERSE_LENGTH**2)[:, None, None]
    return np.where(fields @ modes.reshape(2 * HARMONICS, -1) > 0, 1.0, -1.0)


def _distinct_fields(
    samples: int, grid: Float[np.ndarray, " points"], key: int, progress: Progress
) -> tuple[Float[np.ndarray, "samples modes"], int]:
    """Coefficients of the first so many fields whose signs on the grid differ, and how many others were skipped."""
    rng, seen = np.random.default_rng(key), set[bytes]()
    kept: list[Float[np.ndarray, "rows modes"]] = []
    drawn = 0
    while len(seen) < samples and drawn < MOST_DRAWS * samples:
        progress("drawing initial states", len(seen), samples)
        fields = rng.standard_normal((DRAWS_AT_ONCE, 2 * HARMONICS))
        new = []
        for row, signs in enumerate(np.packbits(_signs(fields, grid) > 0, axis=1)):
            if len(seen) == samples:
                break
            drawn += 1
            if signs.tobytes() not in seen:
                seen.add(signs.tobytes())
                new.append(row)
        kept.append(fields[new])
    if len(seen) < samples:
        raise ForetrainError(
            f"advection: expected {samples} distinct functions on a grid of {len(grid)} points, came {len(seen)} in "
            f"{drawn} draws; ask for fewer samples or a finer grid"
        )
    return np.concatenate(kept), drawn - samples
