"""How fast the modes of functions on a grid fall off: rough and smooth data told apart."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float

Array = np.ndarray
ROUNDING = 1e-13
"""Shares of the strongest octave below this are rounding."""


@dataclass(frozen=True)
class PowerSpectrum:
    """Mean power of a mode in each octave of the wavenumber: [1, 2), [2, 4), ... waves across the domain.

    `decay` is the exponent p of the fit power ~ k^-p; None where fewer than two octaves stand out of rounding.
    """

    wavenumbers: tuple[float, ...]
    power: tuple[float, ...]
    decay: float | None


def power_spectrum(
    values: Float[Array, "functions points"], shape: tuple[int, ...], periodic: bool
) -> PowerSpectrum | None:
    """The spectrum of functions on a regular grid, their mean taken off; None if they do not vary.

    Fourier modes on periodic grids, else cosine modes, which do not see a jump from one end to the other.
    """
    functions = (values - values.mean(axis=0)).reshape(len(values), *shape)
    axes = tuple(range(1, functions.ndim))
    if periodic:
        power = np.mean(np.abs(scipy.fft.fftn(functions, axes=axes)) ** 2, axis=0)
        numbers = [np.abs(np.fft.fftfreq(size, 1 / size)) for size in shape]
    else:
        power = np.mean(scipy.fft.dctn(functions, axes=axes, norm="ortho") ** 2, axis=0)
        numbers = [np.arange(size) / 2 for size in shape]
    wavenumber = np.sqrt(sum(grid**2 for grid in np.meshgrid(*numbers, indexing="ij", sparse=True)))
    octave = np.floor(np.log2(np.maximum(wavenumber, 0.25))).astype(int)
    # Corners of the grid, beyond its largest wave along one axis, are octaves only in part.
    numbered = range(max(1, int(np.log2(max(max(grid) for grid in numbers) or 1)) + 1))
    means = [float(power[octave == number].mean()) if np.any(octave == number) else 0.0 for number in numbered]
    largest = max(means)
    if largest <= 0:
        return None
    centres = np.array([2.0**number * np.sqrt(2) for number in numbered])
    heard = np.array(means) > ROUNDING * largest
    decay = None
    if heard.sum() >= 2:
        decay = float(-np.polyfit(np.log(centres[heard]), np.log(np.array(means)[heard]), 1)[0])
    return PowerSpectrum(tuple(centres.tolist()), tuple(mean / largest for mean in means), decay)
