"""A pendulum that is pushed."""

import numpy as np
from jaxtyping import Float

from foretrain._foundation import ForetrainError, Progress, ignore_progress, require_memory
from foretrain.data import OperatorDataset
from foretrain.problems._half_waves import cosines, gaussian_field

LEAST_SHARE, LARGEST_SHARE = 0.02, 1.0
LARGEST_AMPLITUDE = 20.0
LONGEST_DURATION = 100.0
LARGEST_STEP = 0.01
FUNCTIONS_AT_ONCE = 500
BYTES_FOR_EACH_VALUE = 48
"""Inputs and outputs, and the copies that become the dataset."""


def pendulum(
    samples: int = 1200,
    resolution: int = 64,
    key: int = 0,
    *,
    duration: float = 6.0,
    gravity: float = 1.0,
    damping: float = 0.0,
    amplitude: float = 0.3,
    length_scale: float = 1.0,
    time_steps: int | None = None,
    progress: Progress = ignore_progress,
) -> OperatorDataset:
    """Push of a pendulum over time to its angle over time.

        s'' + damping s' + gravity sin s = u   on [0, duration],   s(0) = s'(0) = 0,   u = amplitude psi,

    psi the Gaussian field of covariance exp(-(t - r)^2 / (2 length_scale^2)), reflected at both ends to be even.
    Solved by Runge-Kutta steps of fourth order in double precision; **the relative error is at most 1e-8 by default**
    (`validation/problems.py`).

    **Nonlinear as far as angles are large:** the published duration of 1 leaves them small, and the map nearly linear.
    After 1,000 functions of the default the relative error is 100 % for the mean, 14 % for a linear model. The map is
    causal and commutes with the sign.

    Arguments:
        samples: how many pairs of functions.
        resolution: times of the returned grid, both ends included, at least 8.
        key: seed; the same key gives the same fields psi whatever the settings but the ratio of `length_scale` to
            `duration`.
        duration: above 0 and at most 100; published: 1. A small swing takes 2 pi / sqrt(gravity).
        gravity: over the length of the pendulum, from 0 to 100; published: 1.
        damping: from 0 to 100.
        amplitude: of the push, above 0 and at most 20.
        length_scale: the time over which the push varies, from 0.02 to 1 of the duration; published: 0.2.
        time_steps: a multiple of `resolution` - 1; by default at least a hundred for each unit of time, more for a
            strong push, gravity or damping.

    Raises:
        ForetrainError: if a size is out of range.
        MemoryBudgetError: if the dataset would not fit into memory.

    Source: Lu, Jin, Pang, Zhang and Karniadakis, "Learning nonlinear operators via DeepONet" (2021), for the set-up
    with a duration of 1.
    """
    if samples < 2 or resolution < 8 or not 0 < duration <= LONGEST_DURATION:
        raise ForetrainError(
            f"pendulum: expected samples >= 2, resolution >= 8 and a duration above 0 and at most "
            f"{LONGEST_DURATION:g}, came {samples}, {resolution} and {duration:g}"
        )
    if not 0 <= gravity <= 100 or not 0 <= damping <= 100 or not 0 < amplitude <= LARGEST_AMPLITUDE:
        raise ForetrainError(
            f"pendulum: expected gravity and damping from 0 to 100 and an amplitude above 0 and at most "
            f"{LARGEST_AMPLITUDE:g}, came {gravity:g}, {damping:g} and {amplitude:g}"
        )
    if not LEAST_SHARE * duration <= length_scale <= LARGEST_SHARE * duration:
        raise ForetrainError(
            f"pendulum: expected a length scale from {LEAST_SHARE * duration:g} to {LARGEST_SHARE * duration:g} for "
            f"this duration, came {length_scale:g}"
        )
    fastest = max(1.0, np.sqrt(gravity), damping, np.sqrt(amplitude), LEAST_SHARE * 10 / length_scale)
    needed = max(100.0, duration / LARGEST_STEP * fastest)
    steps = (resolution - 1) * int(np.ceil(needed / (resolution - 1))) if time_steps is None else time_steps
    if steps < resolution - 1 or steps % (resolution - 1):
        raise ForetrainError(f"pendulum: expected time steps that are a multiple of {resolution - 1}, came {steps}")
    require_memory(
        BYTES_FOR_EACH_VALUE * 2 * samples * resolution + 32 * FUNCTIONS_AT_ONCE * steps,
        "pendulum",
        "ask for fewer samples or times",
    )
    field = amplitude * gaussian_field(samples, length_scale / duration, np.random.default_rng(key))
    shapes, stride = cosines(field.shape[1], np.linspace(0.0, 1.0, 2 * steps + 1)), steps // (resolution - 1)
    inputs, outputs = np.empty((2, samples, resolution))
    for start in range(0, samples, FUNCTIONS_AT_ONCE):
        progress("simulating pendulums", start, samples)
        rows = slice(start, start + FUNCTIONS_AT_ONCE)
        # Columns are functions, so that every step works on memory in one piece.
        push = shapes.T @ field[rows].T
        inputs[rows] = push[:: 2 * stride].T
        outputs[rows] = _angles(push, duration / steps, gravity, damping)[::stride].T
    progress("simulating pendulums", samples, samples)
    times = np.linspace(0.0, duration, resolution)
    return OperatorDataset(
        inputs,
        outputs,
        times,
        times,
        name="Pendulum",
        description={
            "equation": "s'' + damping s' + gravity sin s = u, s(0) = s'(0) = 0, u -> s",
            "problem": "pendulum",
            "duration": duration,
            "gravity": gravity,
            "damping": damping,
            "amplitude": amplitude,
            "length_scale": length_scale,
            "time_steps": steps,
            "key": key,
        },
    )


def _angles(
    push: Float[np.ndarray, "half_steps functions"], step: float, gravity: float, damping: float
) -> Float[np.ndarray, "times functions"]:
    """Angles after every step, for the push at every half step."""

    def acceleration(
        angle: Float[np.ndarray, " functions"], speed: Float[np.ndarray, " functions"], row: int
    ) -> Float[np.ndarray, " functions"]:
        return push[row] - gravity * np.sin(angle) - damping * speed

    angles = np.zeros(((len(push) + 1) // 2, push.shape[1]))
    angle = speed = angles[0]
    for index in range(1, len(angles)):
        row = 2 * index - 2
        first = acceleration(angle, speed, row)
        second_speed = speed + step / 2 * first
        second = acceleration(angle + step / 2 * speed, second_speed, row + 1)
        third_speed = speed + step / 2 * second
        third = acceleration(angle + step / 2 * second_speed, third_speed, row + 1)
        fourth_speed = speed + step * third
        fourth = acceleration(angle + step * third_speed, fourth_speed, row + 2)
        angle = angle + step / 6 * (speed + 2 * second_speed + 2 * third_speed + fourth_speed)
        speed = speed + step / 6 * (first + 2 * second + 2 * third + fourth)
        angles[index] = angle
    return angles
