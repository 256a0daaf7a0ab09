"""Cosines and sines of half waves on [0, 1], and the smooth Gaussian fields, reflected at both ends, they add up to."""

import numpy as np
from jaxtyping import Float


def gaussian_field(samples: int, length_scale: float, rng: np.random.Generator) -> Float[np.ndarray, "samples modes"]:
    """Coefficients of psi: of the constant, then of sqrt(2) cos or sqrt(2) sin of pi x, 2 pi x, ...

    psi is the field of covariance exp(-(x - y)^2 / (2 length_scale^2)), reflected at both ends with the sign that makes
    it even (cosines) or odd (sines, without the first coefficient). Variances are the Fourier transform of the
    covariance; modes below rounding are left out.
    """
    deviations = field_deviations(length_scale)
    return rng.standard_normal((samples, len(deviations))) * deviations


def field_deviations(length_scale: float) -> Float[np.ndarray, " modes"]:
    """Standard deviations of the coefficients of psi."""
    wave_numbers = np.pi * np.arange(1 + int(np.ceil(4 / length_scale)))
    return np.sqrt(np.sqrt(2 * np.pi) * length_scale * np.exp(-((length_scale * wave_numbers) ** 2) / 2))


def cosines(modes: int, points: Float[np.ndarray, " points"]) -> Float[np.ndarray, "modes points"]:
    """1, then sqrt(2) cos of pi x, 2 pi x, ..."""
    numbers = np.arange(modes)
    return np.sqrt(np.where(numbers == 0, 1, 2))[:, None] * np.cos(np.pi * np.outer(numbers, points))


def sines(modes: int, points: Float[np.ndarray, " points"]) -> Float[np.ndarray, "modes points"]:
    """sqrt(2) sin of pi x, 2 pi x, ..."""
    values = np.sqrt(2) * np.sin(np.pi * np.outer(np.arange(1, modes + 1), points))
    # The sine of a multiple of pi is not zero in floating point, the function at an end is.
    values[:, (points == 0) | (points == 1)] = 0.0
    return values
