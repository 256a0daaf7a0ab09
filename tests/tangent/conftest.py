"""A translation-equivariant operator that needs no simulation."""

import numpy as np
import pytest

from foretrain.data import OperatorDataset


def blurred_tanh(samples, points, key=0):
    """u -> G * tanh(2 u) on the unit circle, G a Gaussian blur; u a random field with decaying coefficients.

    It commutes with translations and with the odd reflection u(x) -> -u(-x), as Burgers' equation does.
    """
    waves = np.arange(points // 2)
    rng = np.random.default_rng(key)
    coefficients = rng.normal(size=(samples, waves.size)) + 1j * rng.normal(size=(samples, waves.size))
    coefficients[:, 0] = 0
    fine = 8 * points
    inputs = np.fft.irfft(coefficients / (1 + waves**2 / 4) ** 2, n=fine, axis=1) * fine / 2
    spectrum = np.fft.rfft(np.tanh(2 * inputs), axis=1)
    outputs = np.fft.irfft(spectrum * np.exp(-(np.arange(fine // 2 + 1) ** 2) / 18), n=fine, axis=1)
    return OperatorDataset(inputs[:, ::8], outputs[:, ::8])


@pytest.fixture(scope="session")
def periodic_data():
    """60 functions on 16 points of the circle."""
    return blurred_tanh(60, 16)
